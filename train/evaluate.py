"""Evaluation: every labelled raw point of a split, counted once, exactly (SPEC, section 8)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import ConfigError
from cache.progress import Progress, Silent
from cache.reader import CacheReader, Fields
from cache.schema import DatasetInfo, ScanRecord
from pass2d_models.network import Network
from train.ahead import computed_ahead
from train.card import Card
from train.checkpoint import network_from_checkpoint
from train.eval_counts import BAND_EDGES_M, EvalCounts, EvalReport, pass_result
from train.infer import PassSize, nearest_index, pass_size, vote_logits
from train.metric import allowed_scores, count_pairs
from train.tta import VotePlan

Outside = Literal["nearest", "ignore"]
"""What points outside the volume are given: the label of the nearest predicted point, or none."""
OUTSIDE: tuple[Outside, ...] = ("nearest", "ignore")
NO_VOTES = VotePlan()


@dataclass(frozen=True, kw_only=True)
class EvalScan:
    """A scan ready for evaluation: N points for the network, O more that it does not see."""

    scan_id: str
    points: Tensor
    """(N, 4) float32: x, y, z in metres, signal; (N, 5) and time, for data with added sweeps."""
    labels: Tensor
    """(N + O,) uint8 training ids."""
    group: Tensor
    """(N + O,) uint8: range band, plus the number of bands for points outside the volume."""
    copied_from: Tensor | None
    """(O,) int64: the point whose prediction each of the others gets; None: they get none."""


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
    device: torch.device | None = None,
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
        device: The GPU if there is one, without.
        progress: Is told of every scan.

    Raises:
        CheckpointError: It cannot be read.
        CacheError: No such cache, or damaged.
        ConfigError: No labelled scan is selected, or the checkpoint is of other classes or another
            grid than the cache.
    """
    device = device or default_device()
    progress = progress or Silent()
    network, card = network_from_checkpoint(checkpoint, device)
    plans = (NO_VOTES,) if votes.kind == "none" else (NO_VOTES, votes)
    with CacheReader.open(cache_root, dataset=dataset) as reader:
        require_same_data(card, reader.info, checkpoint=checkpoint)
        positions, skipped = _labelled_positions(reader, split, sequences, limit)
        if skipped:
            progress.say(f"{skipped} scans of {split} have no labels and are left out")
        start = time.perf_counter()
        counts = count_scans(
            network, reader, positions, plans=plans, outside=outside, progress=progress
        )
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
    progress: Progress | None = None,
) -> EvalCounts:
    """Count a network's predictions on scans; in a run on several devices, on this rank's share.

    Args:
        network: On its device; it is evaluated in eval mode and given back in the mode it was in.
        reader: An open cache with the network's classes and grid.
        positions: Rows of ``reader.scans``; all must have labels.
        votes: How each scan is moved before each pass.
        outside: See ``Outside``.
        progress: Is told of every scan.

    Returns:
        Counts on the network's device. ``reduce`` sums them over ranks, ``scores`` reads both
        protocols.
    """
    return count_scans(
        network, reader, positions, plans=(votes,), outside=outside, progress=progress or Silent()
    )[0]


def count_scans(
    network: Network,
    reader: CacheReader,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    plans: Sequence[VotePlan],
    outside: Outside,
    progress: Progress,
) -> tuple[EvalCounts, ...]:
    """As `evaluate_network`, for several vote plans at once: each scan is read once."""
    device = next(network.parameters()).device
    n_classes = reader.info.labels.n_classes
    counts = tuple(EvalCounts.empty(n_classes, device) for _ in plans)

    def load(position: int) -> EvalScan:
        record = reader.read(position, Fields(label=True, outside=True))
        return eval_scan(record, uses_volume=network.uses_volume, outside=outside)

    was_training = network.training
    network.eval()
    progress.start("evaluate", total=len(positions), unit="scans")
    try:
        scans = computed_ahead(load, [int(position) for position in positions])
        for batch in batches(scans, pass_size(device)):
            points = [scan.points.to(device, non_blocking=True) for scan in batch]
            for plan, count in zip(plans, counts, strict=True):
                votes = [plan.of(scan.scan_id) for scan in batch]
                logits = vote_logits(network, points, votes, size=pass_size(device))
                for scan, scan_logits in zip(batch, logits, strict=True):
                    allowed = allowed_scores(scan_logits, reader.info)
                    count.add(_count_scan(scan, allowed, n_classes))
            progress.advance(len(batch))
    finally:
        network.train(was_training)
    return counts


def eval_scan(record: ScanRecord, *, uses_volume: bool, outside: Outside) -> EvalScan:
    """Lay out a scan for evaluation.

    Args:
        record: With labels, and with the points outside the volume.
        uses_volume: Whether the network sees only the points inside the volume; else it sees all
            points in the raw file's order.
        outside: What the other points are given.

    Raises:
        ConfigError: The scan has no labels.
    """
    assert record.outside_xyz is not None
    assert record.outside_signal is not None
    if record.label is None:
        raise ConfigError(f"scan {record.scan_id} has no labels: it cannot be evaluated")
    xyz = np.concatenate([record.xyz, record.outside_xyz], axis=1)
    signal = np.concatenate([record.signal, record.outside_signal])
    labels = np.concatenate([record.label, outside_labels(record)])
    band = np.digitize(np.sqrt(np.square(xyz.astype(np.float64)).sum(axis=0)), BAND_EDGES_M)
    band[record.n :] += len(BAND_EDGES_M) + 1
    order = np.arange(record.n_raw) if uses_volume else raw_order(record)
    n_seen = record.n if uses_volume else record.n_raw
    copied_from = None
    if uses_volume and outside == "nearest" and record.n:
        copied_from = torch.from_numpy(nearest_index(record.xyz, record.outside_xyz))
    channels = [xyz, signal[None]]
    if record.time is not None and record.outside_time is not None:
        channels.append(np.concatenate([record.time, record.outside_time])[None])
    points = np.concatenate(channels)[:, order[:n_seen]].T
    return EvalScan(
        scan_id=record.scan_id,
        points=torch.from_numpy(np.ascontiguousarray(points, np.float32)),
        labels=torch.from_numpy(labels[order]),
        group=torch.from_numpy(band[order].astype(np.uint8)),
        copied_from=copied_from,
    )


def batches(scans: Iterator[EvalScan], size: PassSize) -> Iterator[list[EvalScan]]:
    """Put scans together up to a size; one scan always goes, however large."""
    batch: list[EvalScan] = []
    points = 0
    for scan in scans:
        if batch and (points + len(scan.points) > size.points or len(batch) == size.scans):
            yield batch
            batch, points = [], 0
        batch.append(scan)
        points += len(scan.points)
    if batch:
        yield batch


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def _labelled_positions(
    reader: CacheReader, split: str, sequences: Sequence[str] | None, limit: int | None
) -> tuple[NDArray[np.int64], int]:
    selected = reader.select(split=split, sequences=sequences)
    labelled = selected[reader.scans.has_label[selected]]
    if not len(labelled):
        found = sorted(set(reader.scans.split[reader.scans.has_label].tolist()))
        of = "" if sequences is None else f" of the sequences {', '.join(sequences)}"
        raise ConfigError(
            f"{reader.root}: split {split!r} has {len(selected)} scans{of}, none with labels; "
            f"splits with labels: {', '.join(found) or 'none'}. Choose one with --split."
        )
    if limit is not None and limit < len(labelled):
        if limit < 1:
            raise ConfigError(f"limit must be at least 1 scan, got {limit}")
        labelled = labelled[np.linspace(0, len(labelled) - 1, limit).round().astype(np.int64)]
    return labelled, len(selected) - int(reader.scans.has_label[selected].sum())


def outside_labels(record: ScanRecord) -> NDArray[np.uint8]:
    """(O,) training ids of the points outside the volume; ignored where none are stored."""
    if record.outside_label is not None:
        return record.outside_label
    return np.zeros(record.n_raw - record.n, np.uint8)


def raw_order(record: ScanRecord) -> NDArray[np.int64]:
    """(n_raw,) rows of [points inside, points outside], in the order of the raw file."""
    is_inside = np.zeros(record.n_raw, np.bool_)
    is_inside[record.raw_index] = True
    order = np.empty(record.n_raw, np.int64)
    order[is_inside] = np.arange(record.n)
    order[~is_inside] = np.arange(record.n, record.n_raw)
    return order


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
