"""Labels of every raw point of prepared scans, one scan after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cache.schema import ScanRecord
from pass2d.common.ahead import computed_ahead
from pass2d.models.network import Network
from pass2d.train.data.raw_scan import raw_order
from pass2d.train.inference.logits import Outside, pass_size, vote_logits
from pass2d.train.inference.scans import EvalScan, batches, eval_scan
from pass2d.train.inference.votes import VotePlan


@dataclass(frozen=True, kw_only=True)
class ScanPrediction:
    """What the network says of one scan."""

    position: int
    """Row of the reader's scan table."""
    labels: NDArray[np.uint8]
    """(n,) training ids in the raw file's order: 1 and up, 0 without an answer; of the scan's own
    points where sweeps were added."""


@dataclass(frozen=True, kw_only=True)
class _Loaded(EvalScan):
    position: int
    order: NDArray[np.int64]
    """(n_raw,) places of the raw points among those inside and those outside the volume."""
    n_own: int


def predicted_scans(
    network: Network,
    reader: CacheReader,
    positions: Sequence[int],
    *,
    votes: VotePlan,
    outside: Outside,
) -> Iterator[ScanPrediction]:
    """Predict scans in the order given; reading runs ahead, memory holds a few scans.

    Args:
        network: On its device; in eval mode meanwhile.
        reader: An open cache with the network's grid.
        positions: Rows of ``reader.scans``; labels are not needed.
        votes: How each scan is moved before each pass.
        outside: What points outside the volume are given.
    """
    device = next(network.parameters()).device
    size = pass_size(device)

    def load(position: int) -> EvalScan:
        record = reader.read(position, Fields(label=False, outside=True))
        return _loaded(record, position, uses_volume=network.uses_volume, outside=outside)

    network.eval()
    for batch in batches(computed_ahead(load, positions), size):
        points = [scan.points.to(device, non_blocking=True) for scan in batch]
        plans = [votes.of(scan.scan_id) for scan in batch]
        for scan, logits in zip(batch, vote_logits(network, points, plans, size=size), strict=True):
            assert isinstance(scan, _Loaded)
            # Class 0 is no answer that a server counts: the best of the others is given.
            answer = (logits[:, 1:].argmax(dim=1) + 1).to("cpu").numpy()
            yield _spread(scan, answer.astype(np.uint8))


def _loaded(record: ScanRecord, position: int, *, uses_volume: bool, outside: Outside) -> _Loaded:
    unlabelled = replace(record, label=np.zeros(record.n, np.uint8))
    scan = eval_scan(unlabelled, uses_volume=uses_volume, outside=outside)
    order = raw_order(record)
    n_own = record.n_raw
    if record.time is not None and record.outside_time is not None:
        # Added sweeps come after the scan's own points, which alone were measured at time 0.
        time = np.concatenate([record.time, record.outside_time])[order]
        n_own = int(np.count_nonzero(time == 0))
    return _Loaded(**vars(scan), position=position, order=order, n_own=n_own)


def _spread(scan: _Loaded, answer: NDArray[np.uint8]) -> ScanPrediction:
    """From the points that the network saw to all raw points, in the file's order."""
    n_raw = len(scan.order)
    if len(answer) == n_raw:
        # Networks without a volume saw all points; with one and nothing outside the order is that
        # of the raw file, too.
        return ScanPrediction(position=scan.position, labels=answer[: scan.n_own])
    others = np.zeros(n_raw - len(answer), np.uint8)
    if scan.copied_from is not None:
        others = answer[scan.copied_from.numpy()]
    labels = np.concatenate([answer, others])[scan.order]
    return ScanPrediction(position=scan.position, labels=labels[: scan.n_own])
