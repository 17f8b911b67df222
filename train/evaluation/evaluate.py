"""Evaluation: every labelled raw point of a split, counted once, exactly (SPEC, section 8)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cache.schema import DatasetInfo
from pass2d.common.ahead import computed_ahead
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Progress, Silent
from pass2d.models.network import Network
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_from_checkpoint
from pass2d.train.data.check import require_usable, say_differences
from pass2d.train.data.lattice import scan_hashes
from pass2d.train.data.positions import labelled_positions, spread
from pass2d.train.distributed.process_group import Team, choose_device
from pass2d.train.evaluation.counts import EvalCounts, EvalReport, pass_result
from pass2d.train.inference.input_check import expectation
from pass2d.train.inference.logits import CachedVotes, Outside, pass_size, vote_logits
from pass2d.train.inference.metric import BAND_EDGES_M, allowed_scores, count_pairs
from pass2d.train.inference.scans import (
    EvalScan,
    eval_scan,
    hashed_scales,
    planned_passes,
)
from pass2d.train.inference.votes import NO_VOTES, VotePlan


def evaluate(
    checkpoint: Path,
    cache_root: Path | str,
    *,
    split: str = "val",
    dataset: str | None = None,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
    votes: VotePlan = NO_VOTES,
    outside: Outside = "nearest",
    team: Team | None = None,
    progress: Progress | None = None,
) -> EvalReport:
    """Evaluate a checkpoint on a split of a prepared data set.

    Args:
        checkpoint: An inference export or a training state.
        cache_root: What `pass2d prepare` wrote.
        split: "train", "val" or "test".
        dataset: Which data set, if the cache holds several.
        sequences: Only these; all of the split without.
        limit: At most so many scans, spread evenly over the split.
        votes: With votes the scans are evaluated without them as well.
        outside: See ``Outside``.
        team: The processes that share the work, and this one's device; alone, without, on the GPU
            if there is one. Each gets the whole report, the same whatever their number.
        progress: Is told of every scan.

    Raises:
        CheckpointError: It cannot be read.
        CacheError: No such cache, or damaged.
        ConfigError: No labelled scan is selected, no point lies in the volume or has a class, or
            the checkpoint is of other classes or another grid than the cache.
    """
    team = team or Team(device=choose_device("auto"))
    progress = progress or Silent()
    network, card = network_from_checkpoint(checkpoint, team.device)
    plans = (NO_VOTES,) if votes.kind == "none" else (NO_VOTES, votes)
    with CacheReader.open(cache_root, dataset=dataset) as reader:
        require_same_data(card, reader.info, checkpoint=checkpoint)
        if limit is None:
            reader.expect_all()
        positions, skipped = labelled_positions(reader, split, sequences=sequences)
        positions = positions[spread(len(positions), limit)]
        if skipped:
            progress.say(f"{skipped} scans of {split} have no labels and are left out")
        require_usable(reader, positions, split=split)
        say_differences(reader, positions, expectation(card), progress.say)
        start = time.perf_counter()
        counts = count_scans(
            network, reader, positions, plans=plans, outside=outside, team=team, progress=progress
        )
        for count in counts:
            count.reduce(team)
        seconds = time.perf_counter() - start
        scan_ids = [str(scan_id) for scan_id in reader.scans.scan_id[positions]]
        return EvalReport(
            info=reader.info,
            checkpoint=str(checkpoint),
            architecture=card.architecture,
            split=split,
            outside=outside if network.uses_volume else "predicted",
            scans=len(positions),
            scans_without_label=skipped,
            seconds=seconds,
            passes=tuple(
                pass_result(str(plan), count, reader.info, scan_ids=scan_ids)
                for plan, count in zip(plans, counts, strict=True)
            ),
        )


def evaluate_network(
    network: Network,
    reader: CacheReader,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    votes: VotePlan = NO_VOTES,
    outside: Outside = "nearest",
    team: Team | None = None,
    progress: Progress | None = None,
) -> EvalCounts:
    """Count a network's predictions on scans; in a run on several devices, on this one's share.

    Args:
        network: On its device; it is evaluated in eval mode and given back in the mode it was in.
        reader: An open cache with the network's classes and grid.
        positions: Rows of ``reader.scans``; all must have labels. The same for all processes.
        votes: How each scan is moved before each pass.
        outside: See ``Outside``.
        team: See ``evaluate``.
        progress: Is told of every scan.

    Returns:
        Counts on the network's device. ``reduce`` sums them over processes, ``scores`` reads both
        protocols.
    """
    return count_scans(
        network,
        reader,
        positions,
        plans=(votes,),
        outside=outside,
        team=team,
        progress=progress or Silent(),
    )[0]


def count_scans(
    network: Network,
    reader: CacheReader,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    plans: Sequence[VotePlan],
    outside: Outside,
    progress: Progress,
    team: Team | None = None,
) -> tuple[EvalCounts, ...]:
    """As `evaluate_network`, for several vote plans at once: each scan is read once."""
    device = next(network.parameters()).device
    rank, world = (0, 1) if team is None else (team.rank, team.world)
    size, n_classes = pass_size(device), reader.info.labels.n_classes
    counts = tuple(
        EvalCounts.empty(n_classes, device, sees_outside=not network.uses_volume) for _ in plans
    )
    # What goes through the network together is the same for any number of processes, and so are
    # the last digits of the logits.
    planned = planned_passes(reader, positions, uses_volume=network.uses_volume, size=size)
    passes = planned[rank::world]
    scales = hashed_scales(network, reader.info.grid, plans, progress)

    def load(place: int) -> EvalScan:
        record = reader.read(
            int(positions[place]), Fields(label=True, outside=True, voxels=bool(scales))
        )
        return eval_scan(
            record,
            uses_volume=network.uses_volume,
            outside=outside,
            hashes=scan_hashes(record.voxels, scales=scales, grid=reader.info.grid)
            if scales
            else None,
        )

    was_training = network.training
    network.eval()
    progress.start("evaluate", total=len(positions), unit="scans")
    n_anew = 0
    try:
        scans = computed_ahead(load, [place for places in passes for place in places])
        for turn, places in enumerate(passes):
            batch = [next(scans) for _ in places]
            n_anew += sum(scan.hashes is None and len(scan.points) > 0 for scan in batch)
            _count_batch(
                network, batch, places=places, info=reader.info, plans=plans, counts=counts
            )
            of_all = planned[turn * world : (turn + 1) * world]
            progress.advance(sum(map(len, of_all)))
    finally:
        network.train(was_training)
    if scales and n_anew:
        progress.say(
            f"{n_anew} scans were voxelised anew for lattice votes: their hashes are not in the "
            "cache, or a point lies on the upper border of the volume"
        )
    return counts


def _count_batch(
    network: Network,
    batch: Sequence[EvalScan],
    *,
    places: Sequence[int],
    info: DatasetInfo,
    plans: Sequence[VotePlan],
    counts: Sequence[EvalCounts],
) -> None:
    device = counts[0].total.device
    points = [scan.points.to(device, non_blocking=True) for scan in batch]
    hashes = CachedVotes(
        grid=info.grid,
        scans=[scan.hashes and tuple(item.to(device) for item in scan.hashes) for scan in batch],
    )
    for plan, count in zip(plans, counts, strict=True):
        votes = [plan.of(scan.scan_id) for scan in batch]
        logits = vote_logits(network, points, votes, size=pass_size(device), hashes=hashes)
        for place, scan, scan_logits in zip(places, batch, logits, strict=True):
            allowed = allowed_scores(scan_logits, info)
            count.add(place, _count_scan(scan, allowed, info.labels.n_classes))


def require_same_data(card: Card, info: DatasetInfo, *, checkpoint: Path) -> None:
    """Refuse a checkpoint whose classes or volume are not those of the data.

    Raises:
        ConfigError: Naming what differs.
    """
    own, theirs = card.info, info
    if own.labels.names != theirs.labels.names:
        raise ConfigError(
            f"{checkpoint}: trained on the {own.labels.n_classes - 1} classes of {own.name} "
            f"({', '.join(own.labels.names[1:4])}, ...), but the cache holds the "
            f"{theirs.labels.n_classes - 1} of {theirs.name} "
            f"({', '.join(theirs.labels.names[1:4])}, ...). Choose another with --dataset."
        )
    if (own.sweeps > 0) != (theirs.sweeps > 0):
        raise ConfigError(
            f"{checkpoint}: trained on scans with {own.sweeps} added sweeps, but the cache was "
            f"prepared with {theirs.sweeps}. Prepare the data set with --sweeps {own.sweeps}."
        )
    if own.grid != theirs.grid and card.preprocessing.in_volume_only:
        raise ConfigError(
            f"{checkpoint}: trained in the volume {own.grid.low} to {own.grid.high} with "
            f"{own.grid.shape} cells, but the cache was prepared for {theirs.grid.low} to "
            f"{theirs.grid.high} with {theirs.grid.shape}. Prepare the data set for that grid."
        )


def _count_scan(scan: EvalScan, logits: Tensor, n_classes: int) -> Tensor:
    predictions = logits.argmax(dim=1)
    n_others = len(scan.labels) - len(predictions)
    if scan.copied_from is not None:
        others = predictions[scan.copied_from.to(predictions.device)]
    else:
        others = predictions.new_zeros(n_others)
    return count_pairs(
        scan.labels.to(predictions.device),
        torch.cat([predictions, others]),
        n_classes=n_classes,
        group=scan.group.to(predictions.device),
        n_groups=2 * (len(BAND_EDGES_M) + 1),
    )
