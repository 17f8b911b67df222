"""Scans as an evaluation wants them, and what goes through the network together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import GridConfig, ScanRecord
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Progress
from pass2d.models.network import Network
from pass2d.train.data.lattice import ScanHash
from pass2d.train.data.raw_scan import outside_labels, raw_order
from pass2d.train.data.sampling import SYMMETRIES, grid_symmetries
from pass2d.train.inference.logits import Outside, PassSize, nearest_index
from pass2d.train.inference.metric import BAND_EDGES_M
from pass2d.train.inference.votes import VotePlan


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
    hashes: tuple[ScanHash, ...] | None = None
    """Of the cache, for lattice votes."""


def eval_scan(
    record: ScanRecord,
    *,
    uses_volume: bool,
    outside: Outside,
    hashes: tuple[ScanHash, ...] | None = None,
) -> EvalScan:
    """Lay out a scan for evaluation.

    Args:
        record: With labels, and with the points outside the volume.
        uses_volume: Whether the network sees only the points inside the volume; else it sees all
            points in the raw file's order.
        outside: What the other points are given.
        hashes: Of the cache, for lattice votes.

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
        hashes=hashes,
    )


def planned_passes(
    reader: CacheReader,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    uses_volume: bool,
    size: PassSize,
) -> list[list[int]]:
    """Put scans together up to a size, by their number of points; one always goes, however large.

    Returns:
        Places in ``positions``, pass by pass.
    """
    n_points = reader.scans.n if uses_volume else reader.scans.n_raw
    passes: list[list[int]] = []
    points = 0
    for place, position in enumerate(positions):
        more = int(n_points[position])
        if not passes or points + more > size.points or len(passes[-1]) == size.scans:
            passes.append([])
            points = 0
        passes[-1].append(place)
        points += more
    return passes


def batches(scans: Iterator[EvalScan], size: PassSize) -> Iterator[list[EvalScan]]:
    """Put scans together as they come, up to a size; one always goes, however large."""
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


def hashed_scales(
    network: Network, grid: GridConfig, plans: Sequence[VotePlan], progress: Progress
) -> tuple[int, ...]:
    """The scales whose cached hashes lattice votes use; () for other votes, and where none fit."""
    if all(plan.kind != "lattice" for plan in plans):
        return ()
    own = network.grid
    reason = ""
    if not network.scales:
        reason = f"{network.kind} makes voxels of its own"
    elif (own.low, own.high, own.shape) != (grid.low, grid.high, grid.shape):
        reason = "the network's grid is not the cache's"
    elif len(grid_symmetries(grid)) < len(SYMMETRIES):
        reason = "the grid is not square and centred in x and y"
    if reason:
        progress.say(f"lattice votes voxelise each scan anew: {reason}")
        return ()
    return network.scales
