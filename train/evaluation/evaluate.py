"""Evaluation: every labelled raw point of a split, counted once (docs/maths.md, section 8)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.motion import tells_motion, with_moving_classes
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.common.prefetch import PAUSE, Pause
from pass2d.common.progress import Progress, Silent
from pass2d.models.network import Network
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.data.check import require_usable, say_differences
from pass2d.train.data.positions import evenly_spaced, labelled_positions
from pass2d.train.distributed.process_group import ProcessGroup, choose_device
from pass2d.train.evaluation.counts import EvalCounts, EvalReport, pass_result
from pass2d.train.inference.input_check import expectation
from pass2d.train.inference.labels import label_scans
from pass2d.train.inference.metric import BAND_EDGES_M, count_pairs
from pass2d.train.inference.passes import OutsidePolicy, PassSize, packed, pass_size
from pass2d.train.inference.scans import CachedScans, EvalScan, eval_scan
from pass2d.train.inference.tasks import chosen_tasks, n_counted
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan
from pass2d.train.stacks.choose import require_poses
from pass2d.train.stacks.config import SINGLE_SCAN, StackConfig


def evaluate(
    checkpoint: Path | str | TrainedNetwork,
    cache_root: Path | str,
    *,
    split: str = "val",
    dataset: str | None = None,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    votes: VotePlan = SINGLE_PASS,
    outside: OutsidePolicy = "nearest",
    group: ProcessGroup | None = None,
    progress: Progress | None = None,
) -> EvalReport:
    """Evaluate a checkpoint on a split of a prepared data set.

    Args:
        checkpoint: An inference export or a training state, or one that is loaded already.
        cache_root: What `pass2d prepare` wrote.
        split: "train", "val" or "test".
        dataset: Which data set, if the cache holds several.
        sequences: Only these; by default all of the split.
        limit: At most this many scans, evenly spaced over the split.
        tasks: Names of `tasks.Task`; the report is of the first, with the scores of the others. By
            default all tasks of the network, its own classes first.
        votes: With votes the scans are evaluated without them as well.
        outside: See ``OutsidePolicy``.
        group: The processes that share the work, and this one's device. By default this process
            works alone, on the GPU if there is one. Each gets the whole report, the
            same whatever their number.
        progress: Receives every scan.

    Raises:
        CheckpointError: It cannot be read.
        CacheError: No such cache, or damaged.
        ConfigError: No labelled scan is selected, no point lies in the volume or has a class, the
            checkpoint has other classes or another grid than the cache, or a task is not one of the
            network's.
    """
    group = group or ProcessGroup(device=choose_device("auto"))
    progress = progress or Silent()
    trained = trained_network(checkpoint, group.device)
    network, card = trained.network, trained.card
    plans = (SINGLE_PASS,) if votes.kind == "none" else (SINGLE_PASS, votes)
    with CacheReader.open(cache_root, dataset=dataset) as reader:
        fit_classes(reader, card)
        info = require_same_data(trained, reader.info)
        chosen = chosen_tasks(info, tasks, source=trained.source)
        if limit is None:
            reader.expect_all()
        positions, skipped = labelled_positions(reader, split, sequences=sequences)
        positions = positions[evenly_spaced(len(positions), limit)]
        if skipped:
            progress.say(f"{skipped} scans of {split} have no labels and are left out")
        require_usable(reader, positions, split=split)
        require_poses(reader.scans, positions, card.stack, where=str(reader.root))
        say_differences(reader, positions, expectation(card), progress.say)
        start = time.perf_counter()
        counts = count_scans(
            network,
            reader,
            positions,
            plans=plans,
            outside=outside,
            info=info,
            group=group,
            progress=progress,
            stack=card.stack,
        )
        for count in counts:
            count.reduce(group)
        seconds = time.perf_counter() - start
        scan_ids = [str(scan_id) for scan_id in reader.scans.scan_id[positions]]
        return EvalReport(
            info=replace(info, labels=chosen[0].labels),
            checkpoint=str(trained.source),
            architecture=card.architecture,
            split=split,
            outside=outside if network.uses_volume else "predicted",
            scans=len(positions),
            scans_without_label=skipped,
            seconds=seconds,
            passes=tuple(
                pass_result(str(plan), count, info, scan_ids=scan_ids, tasks=chosen)
                for plan, count in zip(plans, counts, strict=True)
            ),
        )


def evaluate_network(
    network: Network,
    reader: CacheReader,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    outside: OutsidePolicy = "nearest",
    group: ProcessGroup | None = None,
    size: PassSize | None = None,
    progress: Progress | None = None,
    stack: StackConfig = SINGLE_SCAN,
) -> EvalCounts:
    """`count_scans` without votes, for the scans at (P,) positions."""
    return count_scans(
        network,
        reader,
        positions,
        plans=(SINGLE_PASS,),
        outside=outside,
        group=group,
        size=size,
        progress=progress or Silent(),
        stack=stack,
    )[0]


def count_scans(
    network: Network,
    reader: CacheReader,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    plans: Sequence[VotePlan],
    outside: OutsidePolicy,
    progress: Progress,
    info: DatasetInfo | None = None,
    group: ProcessGroup | None = None,
    size: PassSize | None = None,
    stack: StackConfig = SINGLE_SCAN,
) -> tuple[EvalCounts, ...]:
    """Count a network's predictions on scans; in a run on several devices, on this one's share.

    Args:
        network: On its device; it is evaluated in eval mode and given back in the mode it was in.
        reader: An open cache with the network's classes and grid.
        positions: Rows of ``reader.scans``; all must have labels. The same for all processes.
        plans: How each scan is moved before each pass; each scan is read once for all of them.
        outside: See ``OutsidePolicy``.
        progress: Receives every scan.
        info: With the classes that the network tells; by default those of the cache.
        group: See ``evaluate``.
        size: How much goes through the network at once; by default what suits its device.
        stack: The past scans that join each scan, as the network was trained.

    Returns:
        Counts per plan, on the network's device. ``reduce`` sums them over processes, ``scores``
        reads both protocols.
    """
    device = next(network.parameters()).device
    rank, world = (0, 1) if group is None else (group.rank, group.world)
    size, info = size or pass_size(device), info or reader.info
    n_ids = n_counted(info)
    counts = tuple(
        EvalCounts.empty(n_ids, device, sees_outside=not network.uses_volume) for _ in plans
    )
    # What goes through the network together is the same for any number of processes, and so are
    # the last digits of the logits.
    n_points = reader.scans.n if network.uses_volume else reader.scans.n_raw
    planned = list(
        packed(range(len(positions)), size, points=lambda place: int(n_points[positions[place]]))
    )
    cached = CachedScans(
        reader, network, plans=plans, outside=outside, progress=progress, stack=stack
    )

    def load(place: int | None) -> EvalScan | Pause:
        if place is None:
            return PAUSE
        record, scan = cached.read(int(positions[place]), label=True)
        return eval_scan(record, scan, info=info, place=place)

    own = (place for places in planned[rank::world] for place in (*places, None))
    n_packs = 0
    progress.start("evaluate", total=len(positions), unit="scans")
    with closing(label_scans(network, own, load, info=info, plans=plans, size=size)) as labelled:
        for found in labelled:
            scan = found.item
            if isinstance(scan, Pause):  # a pack is done, here and in the other processes
                of_all = planned[n_packs * world : (n_packs + 1) * world]
                progress.advance(sum(map(len, of_all)))
                n_packs += 1
                continue
            for count, answer in zip(counts, found.passes, strict=True):
                count.add(scan.place, count_scan(scan, answer.labels, n_ids))
    cached.say_unhashed(progress)
    return counts


def count_scan(scan: EvalScan, predictions: Tensor, n_ids: int) -> Tensor:
    """(2 x bands, F, F) points of a scan by group, label and prediction; see ``EvalScan``."""
    return count_pairs(
        scan.labels.to(predictions.device),
        predictions,
        n_classes=n_ids,
        group=scan.group.to(predictions.device),
        n_groups=2 * (len(BAND_EDGES_M) + 1),
    )


def fit_classes(reader: CacheReader, card: Card) -> None:
    """Switch a cache to moving classes if the network has them.

    Raises:
        CacheError: The cache has no motion of points.
    """
    if tells_motion(card.info):
        reader.tell_motion()


def require_same_data(trained: TrainedNetwork, info: DatasetInfo) -> DatasetInfo:
    """Refuse a network whose classes or volume are not those of the data.

    Returns:
        The data set's description with the network's classes: those with motion if it was trained
        on them.

    Raises:
        ConfigError: Naming what differs.
    """
    own, checkpoint = trained.card.info, trained.source
    theirs = with_moving_classes(info) if tells_motion(own) else info
    if own.labels.names != theirs.labels.names:
        raise ConfigError(
            f"{checkpoint}: trained on the {own.labels.n_classes - 1} classes of {own.name} "
            f"({', '.join(own.labels.names[1:4])}, ...), but the cache holds the "
            f"{theirs.labels.n_classes - 1} of {theirs.name} "
            f"({', '.join(theirs.labels.names[1:4])}, ...). Choose another by `dataset`."
        )
    if (own.sweeps > 0) != (theirs.sweeps > 0):
        raise ConfigError(
            f"{checkpoint}: trained on scans with {own.sweeps} added sweeps, but the cache was "
            f"prepared with {theirs.sweeps}. Prepare the data set with `sweeps={own.sweeps}`."
        )
    if own.grid != theirs.grid and trained.card.preprocessing.in_volume_only:
        raise ConfigError(
            f"{checkpoint}: trained in the volume {own.grid.low} to {own.grid.high} with "
            f"{own.grid.shape} cells, but the cache was prepared for {theirs.grid.low} to "
            f"{theirs.grid.high} with {theirs.grid.shape}. Prepare the data set for that grid."
        )
    return theirs
