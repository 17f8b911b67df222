"""The points of a past scan that join a scan, in its frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import GridConfig, ScanRecord
from pass2d.train.stacks.choose import PastScan
from pass2d.train.stacks.config import StackConfig

T = TypeVar("T", bound=np.generic)
_BLOCK = 1 << 13


def moved_points(
    xyz: NDArray[np.float32], *, target_from_source: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Move points by a (3, 4) matrix: computed in float64, kept in float32.

    Args:
        xyz: (3, N) metres.
        target_from_source: (3, 4).

    Returns:
        (3, N) metres.
    """
    out = np.empty_like(xyz)
    # x, y, z, 1 of few points at a time, which stay in the processor's cache.
    source, moved = np.ones((4, _BLOCK)), np.empty((3, _BLOCK))
    for start in range(0, xyz.shape[1], _BLOCK):
        part = xyz[:, start : start + _BLOCK]
        n = part.shape[1]
        source[:3, :n] = part
        np.matmul(target_from_source, source[:, :n], out=moved[:, :n])
        out[:, start : start + n] = moved[:, :n]
    return out


def past_record(
    record: ScanRecord,
    past: PastScan,
    *,
    config: StackConfig,
    shared: SharedVoxels | None = None,
    classes: NDArray[np.uint8] | None = None,
    volume: GridConfig | None = None,
) -> ScanRecord:
    """The points of a past scan that enter a stack, in the current frame.

    Args:
        record: of the past scan, with the points outside the volume.
        past: where and when it was.
        config: which points enter, and the time channel.
        shared: of the current scan, for ``points = "shared-voxels"``.
        classes: (n_raw,) training ids without motion of the past scan's points in the raw file's
            order, for ``points = "steps"``.
        volume: only points inside it enter; None: all.

    Returns:
        Points in the order of the raw file; no pictures, no hashes.
    """
    assert record.outside_xyz is not None
    order = record.raw_order()
    xyz = order.laid(record.xyz, record.outside_xyz)
    # What does not depend on position is decided before points are transformed.
    enters = is_measured(xyz)
    if config.points == "steps":
        assert classes is not None
        enters &= enters_by_step(classes, lag=past.lag, steps=config.steps)
    rows = np.flatnonzero(enters)
    if len(rows) < len(enters):
        xyz = xyz.take(rows, axis=1)  # four times as fast as an index
    xyz = moved_points(xyz, target_from_source=past.current_from_past)
    if volume is not None or config.points == "shared-voxels":
        stays = np.ones(len(rows), np.bool_) if volume is None else inside_volume(xyz, grid=volume)
        if config.points == "shared-voxels":
            assert shared is not None
            stays &= shared.hold(xyz)
        place = np.flatnonzero(stays)
        rows, xyz = rows.take(place), xyz.take(place, axis=1)

    def of_rows(inside: NDArray[T], outside: NDArray[T] | None) -> NDArray[T]:
        values = order.laid(inside, outside)
        return values if len(rows) == len(values) else values.take(rows)

    label, instance, time = record.label, record.instance, record.time
    assert record.outside_signal is not None
    return ScanRecord(
        scan_id=record.scan_id,
        n_raw=len(rows),
        xyz=xyz,
        signal=of_rows(record.signal, record.outside_signal),
        raw_index=np.arange(len(rows), dtype=np.int32),
        label=None if label is None else of_rows(label, record.outside_label),
        instance=None if instance is None else of_rows(instance, None),
        time=_times(
            len(rows), past, config, None if time is None else of_rows(time, record.outside_time)
        ),
    )


def with_time(record: ScanRecord, config: StackConfig) -> ScanRecord:
    """The current scan of a stack: its time is 0, where points have a time."""
    if not config.has_time or record.time is not None:
        return record
    outside = record.outside_signal
    return replace(
        record,
        time=np.zeros(record.n, np.float32),
        outside_time=None if outside is None else np.zeros(len(outside), np.float32),
    )


def point_rows(record: ScanRecord) -> NDArray[np.float32]:
    """(N, 4) x, y, z, signal of a record's points, (N, 5) with their time."""
    columns = [*record.xyz, record.signal]
    return np.column_stack(columns if record.time is None else [*columns, record.time])


def enters_by_step(
    classes: NDArray[np.uint8], *, lag: int, steps: tuple[int, ...]
) -> NDArray[np.bool_]:
    """(N,) whether points of these classes enter from a scan with this lag. Source: TASeg."""
    enters = np.array([step > 0 and lag % step == 0 for step in steps])
    return np.asarray(enters.take(classes))


@dataclass(frozen=True)
class SharedVoxels:
    """The voxels that contain a point of the current scan."""

    voxel_m: float
    low: NDArray[np.int64]
    """(3,) the lowest cell of each axis."""
    size: tuple[int, ...]
    """(3,) cells from there on."""
    keys: NDArray[np.int64]
    """(V,) numbers of the voxels within that box, ascending."""

    @classmethod
    def of(cls, xyz: NDArray[np.float32], *, voxel_m: float) -> SharedVoxels:
        """The voxels of a scan's points (3, N)."""
        cells = np.floor(xyz / voxel_m).astype(np.int64)
        low = cells.min(axis=1, keepdims=True, initial=0)
        cells -= low
        size = tuple((cells.max(axis=1, initial=0) + 1).tolist())
        keys = np.unique(np.ravel_multi_index(tuple(cells), size))
        return cls(voxel_m=voxel_m, low=low[:, 0], size=size, keys=keys)

    def hold(self, xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(N,) whether points (3, N) lie in one of them."""
        cells = np.floor(xyz / self.voxel_m).astype(np.int64)
        cells -= self.low[:, None]
        holds = ((cells >= 0) & (cells < np.array(self.size)[:, None])).all(axis=0)
        rows = np.flatnonzero(holds)
        if len(self.keys):  # a lookup: half the time of np.isin
            keys = np.ravel_multi_index(tuple(cells.take(rows, axis=1)), self.size)
            place = np.searchsorted(self.keys, keys)
            holds[rows] = self.keys.take(place, mode="clip") == keys
        else:
            holds[:] = False
        return holds


def shared_voxels(xyz: NDArray[np.float32], config: StackConfig) -> SharedVoxels | None:
    """Those of the current scan's points (3, N), where past points enter by them."""
    if config.points != "shared-voxels":
        return None
    return SharedVoxels.of(xyz, voxel_m=config.voxel_m)


def _times(
    n: int, past: PastScan, config: StackConfig, own_s: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """(n,) of the time channel; ``own_s`` is that of added sweeps, in seconds."""
    if not config.has_time:
        return None
    value = {"flag": 1.0, "lag": float(past.lag), "seconds": past.seconds}[config.time]
    times = np.full(n, value, np.float32)
    return times if own_s is None else times + own_s
