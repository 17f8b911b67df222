"""The points of scans that a network takes, and how all points get its predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import SCALES, DatasetInfo, GridConfig, ScanRecord
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Progress
from pass2d.common.thinning import ThinnedScan
from pass2d.train.data.sampling import SYMMETRIES, grid_symmetries
from pass2d.train.inference.metric import BAND_EDGES_M
from pass2d.train.inference.passes import OutsidePolicy, nearest_index
from pass2d.train.inference.tasks import counted_labels
from pass2d.train.inference.votes import VotePlan
from pass2d.train.stacks.build import with_time
from pass2d.train.stacks.cached import CachedPast
from pass2d.train.stacks.config import SINGLE_SCAN, StackConfig

if TYPE_CHECKING:
    from torch import Tensor

    from pass2d.models.network import Network
    from pass2d.train.data.lattice import ScanHash

TREE_POINTS = 1_000_000
"""Among more, the nearest point is looked for in a random share of these."""


@dataclass(frozen=True, kw_only=True)
class ScanInput:
    """The K points of a scan that a network sees, and how the other N - K get their labels."""

    name: str
    """Seeds the random votes, so that a scan's labels do not depend on the other scans."""
    n: int
    """Points of the raw scan."""
    points: NDArray[np.float32]
    """(K, 4): x, y, z in metres, signal; (K, 5) and time, for data with added sweeps. (K + P, ...)
    followed by the points of past scans, which get no label."""
    rows: NDArray[np.int64]
    """(K,) the rows of the first K in the raw scan."""
    other_rows: NDArray[np.int64]
    """(O,) rows of the points that take another point's label; the remaining ones get none."""
    other_xyz: NDArray[np.float32]
    """(O, 3) their coordinates in metres."""
    copied_from: NDArray[np.int64] | None
    """(O,) index in ``rows`` of the point whose label each of them takes; None: the nearest, which
    is searched on the network's device."""
    hashes: tuple[ScanHash, ...] | None = None
    """Of the cache, for lattice votes."""
    thinned: ThinnedScan | None = None
    """Of the cache, of ``points``; for votes that leave them where they are."""


def scan_input(
    points: NDArray[np.float32],
    *,
    name: str,
    is_seen: NDArray[np.bool_],
    outside: OutsidePolicy,
    is_plausible: NDArray[np.bool_] | None = None,
    hashes: tuple[ScanHash, ...] | None = None,
    thinned: ThinnedScan | None = None,
    tree_points: int = TREE_POINTS,
    finds_nearest: bool = True,
) -> ScanInput:
    """Select the points of a scan that a network sees.

    Args:
        points: (N, 4 or 5) in the raw file's order.
        name: See ``ScanInput``.
        is_seen: (N,) whether the network sees the point; its numbers must be finite.
        outside: What the others are given.
        is_plausible: (N,) whether the coordinates are plausible; only such points take another
            point's label. By default all are.
        hashes: Of the points that are seen, in their order.
        thinned: Likewise.
        tree_points: See ``TREE_POINTS``.
        finds_nearest: Whether ``copied_from`` is found here.
    """
    rows = np.flatnonzero(is_seen)
    others = ~is_seen if is_plausible is None else is_plausible & ~is_seen
    other_rows = np.flatnonzero(others if outside == "nearest" and len(rows) else others[:0])
    seen, other_xyz = points[rows], points[other_rows, :3]
    return ScanInput(
        name=name,
        n=len(points),
        points=seen,
        rows=rows,
        other_rows=other_rows,
        other_xyz=other_xyz,
        copied_from=(
            nearest_seen(seen[:, :3].T, other_xyz.T, nearest_index, tree_points=tree_points)
            if finds_nearest
            else None
        ),
        hashes=hashes,
        thinned=thinned,
    )


def record_input(
    record: ScanRecord,
    *,
    uses_volume: bool,
    outside: OutsidePolicy,
    hashes: tuple[ScanHash, ...] | None = None,
    finds_nearest: bool = True,
) -> ScanInput:
    """Select the points of a prepared scan that a network sees.

    Args:
        record: With the points outside the volume.
        uses_volume: Whether the network sees only the points inside the volume; else it sees all
            that were measured.
        outside: What the other points are given.
        hashes: Of the cache, for lattice votes.
        finds_nearest: Whether ``copied_from`` is found here.
    """
    if not uses_volume:
        points = record.raw().points
        is_seen = is_measured(points[:, :3].T)
        return scan_input(
            points,
            name=record.scan_id,
            is_seen=is_seen,
            outside=outside,
            hashes=hashes,
            thinned=None if record.thinned is None else record.thinned.of_points(is_seen),
            finds_nearest=finds_nearest,
        )
    assert record.outside_xyz is not None
    other_rows = np.zeros(0, np.int64)
    if outside == "nearest" and record.n:
        other_rows = record.raw_order().outside
    channels = [record.xyz, record.signal[None]]
    if record.time is not None and record.outside_time is not None:
        channels.append(record.time[None])
    other_xyz = record.outside_xyz[:, : len(other_rows)]
    return ScanInput(
        name=record.scan_id,
        n=record.n_raw,
        points=np.ascontiguousarray(np.concatenate(channels).T, np.float32),
        rows=record.raw_index.astype(np.int64),
        other_rows=other_rows,
        other_xyz=other_xyz.T,
        copied_from=(nearest_seen(record.xyz, other_xyz, nearest_index) if finds_nearest else None),
        hashes=hashes,
    )


def is_on_cpu(network: Network) -> bool:
    """Whether nearest points are found while scans are read; another device finds them itself."""
    return next(network.parameters()).device.type == "cpu"


def nearest_seen(
    seen: NDArray[np.float32],
    others: NDArray[np.float32],
    find: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]],
    *,
    tree_points: int = TREE_POINTS,
) -> NDArray[np.int64]:
    """(O,) places of the nearest of (3, K) points for (3, O) others.

    Args:
        seen: Among them, or a random share of so many.
        others: Whose nearest ones are wanted.
        find: Of (3, N) points and (3, O) others the (O,) rows of the nearest.
        tree_points: See ``TREE_POINTS``.
    """
    if not others.shape[1]:
        return np.zeros(0, np.int64)
    asked = _random_share(seen.shape[1], tree_points)
    known = seen if len(asked) == seen.shape[1] else seen[:, asked]
    return asked[find(known, others)]


class CachedScans:
    """Prepared scans for a network, with their hashes where votes use them; called in threads."""

    def __init__(
        self,
        reader: CacheReader,
        network: Network,
        *,
        plans: Sequence[VotePlan],
        outside: OutsidePolicy,
        progress: Progress,
        stack: StackConfig = SINGLE_SCAN,
    ) -> None:
        self.reader = reader
        self._uses_volume, self._outside = network.uses_volume, outside
        self._finds_nearest = is_on_cpu(network)
        grid = reader.info.grid
        self._stack = stack
        self._past = CachedPast(reader, stack, volume=grid if network.uses_volume else None)
        self._scales = hashed_scales(network, grid, plans, progress, is_stacked=stack.past > 0)
        self._unhashed: set[int] = set()
        self._reads_thinned = reads_thinned(network, reader, progress, is_stacked=stack.past > 0)

    def read(self, position: int, *, label: bool) -> tuple[ScanRecord, ScanInput]:
        """Read one scan, as the cache has it and as the network takes it.

        Raises:
            CacheError: Missing or damaged data.
        """
        from pass2d.train.data.lattice import scan_hashes

        fields = Fields(
            label=label,
            outside=True,
            voxels=bool(self._scales),
            thinned=self._reads_thinned,
        )
        record, hashes = with_time(self.reader.read(position, fields), self._stack), None
        if self._scales:
            grid = self.reader.info.grid
            hashes = scan_hashes(record.voxels, scales=self._scales, grid=grid)
            if hashes is None and record.n:
                self._unhashed.add(position)
        scan = record_input(
            record,
            uses_volume=self._uses_volume,
            outside=self._outside,
            hashes=hashes,
            finds_nearest=self._finds_nearest,
        )
        if self._stack.past:
            past = self._past.points(position, scan.points[:, :3].T)
            scan = replace(scan, points=np.concatenate([scan.points, *past]))
        return record, scan

    def say_unhashed(self, progress: Progress) -> None:
        """Report how many scans had no usable hash, if any."""
        if self._unhashed:
            progress.say(
                f"{len(self._unhashed)} scans were voxelised from their points for lattice votes: "
                "their hashes are not in the cache, or a point lies on the volume's upper border"
            )


@dataclass(frozen=True, kw_only=True)
class EvalScan:
    """A scan ready for evaluation."""

    scan: ScanInput
    labels: Tensor
    """(N,) uint8, in the order of the raw file, see `tasks.counted_labels`."""
    group: Tensor
    """(N,) uint8: range band, plus the number of bands for points outside the volume."""
    place: int = 0
    """Among the scans to count."""


def eval_scan(
    record: ScanRecord, scan: ScanInput, *, info: DatasetInfo | None = None, place: int = 0
) -> EvalScan:
    """Add what is counted to a scan.

    Args:
        record: With labels, and with the points outside the volume.
        scan: Of the record.
        info: With the classes that the network tells; without, the record's labels are counted.
        place: See ``EvalScan``.

    Raises:
        ConfigError: The scan has no labels.
    """
    import torch

    order = record.raw_order()
    if record.label is None:
        raise ConfigError(f"scan {record.scan_id} has no labels: it cannot be evaluated")
    labels = order.laid(record.label, record.outside_label)
    if info is not None:
        motion = record.motion
        if motion is not None:
            motion = order.laid(motion, record.outside_motion)
        labels = counted_labels(labels, motion, info)
    assert record.outside_xyz is not None
    beyond = _bands(record.outside_xyz) + np.uint8(len(BAND_EDGES_M) + 1)
    return EvalScan(
        scan=scan,
        labels=torch.from_numpy(labels),
        group=torch.from_numpy(order.laid(_bands(record.xyz), beyond)),
        place=place,
    )


def _bands(xyz: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(N,) range band of (3, N) points."""
    squared = np.square(xyz[0], dtype=np.float64)
    for row in xyz[1:]:
        squared += np.square(row, dtype=np.float64)
    band = np.zeros(len(squared), np.uint8)
    for edge in BAND_EDGES_M:
        band += squared >= edge * edge
    return band


def hashed_scales(
    network: Network,
    grid: GridConfig,
    plans: Sequence[VotePlan],
    progress: Progress,
    *,
    is_stacked: bool = False,
) -> tuple[int, ...]:
    """The scales whose cached hashes lattice votes use; () for other votes, and where none fit."""
    if all(plan.kind != "lattice" for plan in plans):
        return ()
    own = network.grid
    reason = ""
    if is_stacked:
        reason = "several scans are stacked"
    elif not network.scales:
        reason = f"{network.kind} makes voxels of its own"
    elif missing := sorted(set(network.scales) - set(SCALES)):
        reason = f"the cache stores no voxels at scale {', '.join(map(str, missing))}"
    elif (own.low, own.high, own.shape) != (grid.low, grid.high, grid.shape):
        reason = "the network's grid is not the cache's"
    elif len(grid_symmetries(grid)) < len(SYMMETRIES):
        reason = "the grid is not square and centred in x and y"
    if reason:
        progress.say(f"lattice votes voxelise each scan from its points: {reason}")
        return ()
    return network.scales


def reads_thinned(
    network: Network, reader: CacheReader, progress: Progress, *, is_stacked: bool = False
) -> bool:
    """Whether the network can use the cache's neighbours; says why not if there are any."""
    from pass2d.train.data.thinned import why_not_stored

    if network.thinning is None or not reader.thinnings:
        return False
    reason = "several scans are stacked" if is_stacked else ""
    reason = reason or why_not_stored(reader, network.thinning)
    if reason:
        progress.say(f"neighbours are looked for in each scan: {reason}")
    return not reason


def _random_share(n: int, most: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(n)[:most] if n > most else np.arange(n)
