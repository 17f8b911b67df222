"""The points of a past scan that join a scan, in its frame."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import GridConfig, ScanRecord
from pass2d.train.stacks.choose import PastScan
from pass2d.train.stacks.config import StackConfig

T = TypeVar("T", bound=np.generic)


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
    moved = target_from_source[:, :3] @ xyz.astype(np.float64)
    moved += target_from_source[:, 3:]
    return moved.astype(np.float32)


def past_record(
    record: ScanRecord,
    past: PastScan,
    *,
    config: StackConfig,
    current_xyz: NDArray[np.float32],
    classes: NDArray[np.uint8] | None = None,
    volume: GridConfig | None = None,
) -> ScanRecord:
    """The points of a past scan that enter a stack, in the current frame.

    Args:
        record: of the past scan, with the points outside the volume.
        past: where and when it was.
        config: which points enter, and the time channel.
        current_xyz: (3, N) the current scan's points.
        classes: (n_raw,) training ids without motion of the past scan's points in the raw file's
            order, for ``points = "steps"``.
        volume: only points inside it enter; None: all.

    Returns:
        Points in the order of the raw file; no pictures, no hashes.
    """
    assert record.outside_xyz is not None
    assert record.outside_signal is not None
    # Points inside the volume, then those outside.
    stored = np.concatenate([record.xyz, record.outside_xyz], axis=1)
    moved = moved_points(stored, target_from_source=past.current_from_past)
    keeps = is_measured(stored)
    if volume is not None:
        keeps &= inside_volume(moved, grid=volume)
    if config.points == "shared-voxels":
        keeps &= shares_voxel(moved, current_xyz, voxel_m=config.voxel_m)
    rows = _rows_in_file_order(record)
    enters = keeps.take(rows)
    if config.points == "steps":
        assert classes is not None
        enters &= enters_by_step(classes, lag=past.lag, steps=config.steps)
    if not enters.all():
        rows = rows.take(np.flatnonzero(enters))

    def of_rows(inside: NDArray[T] | None, outside: NDArray[T] | None) -> NDArray[T] | None:
        if inside is None:
            return None
        rest = np.zeros(record.n_raw - record.n, inside.dtype) if outside is None else outside
        return np.concatenate([inside, rest]).take(rows)

    signal = of_rows(record.signal, record.outside_signal)
    assert signal is not None
    own_time = of_rows(record.time, record.outside_time)
    return ScanRecord(
        scan_id=record.scan_id,
        n_raw=len(rows),
        xyz=moved.take(rows, axis=1),  # four times as fast as an index
        signal=signal,
        raw_index=np.arange(len(rows), dtype=np.int32),
        label=of_rows(record.label, record.outside_label),
        instance=of_rows(record.instance, None),
        time=_times(len(rows), past, config, own_time),
    )


def _rows_in_file_order(record: ScanRecord) -> NDArray[np.intp]:
    """(n_raw,) where each point of the raw file lies: among those inside, then those outside."""
    rows = np.full(record.n_raw, -1, np.intp)
    rows[record.raw_index] = np.arange(record.n)
    rows[np.flatnonzero(rows < 0)] = np.arange(record.n, record.n_raw)
    return rows


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
    """(N,) whether points of these classes enter from a scan so long ago. Source: TASeg."""
    enters = np.array([step > 0 and lag % step == 0 for step in steps])
    return np.asarray(enters.take(classes))


def shares_voxel(
    xyz: NDArray[np.float32], current_xyz: NDArray[np.float32], *, voxel_m: float
) -> NDArray[np.bool_]:
    """(N,) whether points (3, N) lie in a voxel that has a point of the current scan."""
    cells = np.floor(np.concatenate([current_xyz, xyz], axis=1) / voxel_m).astype(np.int64)
    cells -= cells.min(axis=1, keepdims=True, initial=0)
    sizes = cells.max(axis=1, initial=0) + 1
    keys = np.ravel_multi_index(tuple(cells), tuple(sizes.tolist()))
    n = current_xyz.shape[1]
    current = np.sort(keys[:n])  # and a look-up: half the time of np.isin
    if not n:
        return np.zeros(len(keys), np.bool_)
    place = np.searchsorted(current, keys[n:])
    return np.asarray(current.take(place, mode="clip") == keys[n:])


def _times(
    n: int, past: PastScan, config: StackConfig, own_s: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """(n,) of the time channel; ``own_s`` is that of added sweeps, in seconds."""
    if not config.has_time:
        return None
    value = {"flag": 1.0, "lag": float(past.lag), "seconds": past.seconds}[config.time]
    times = np.full(n, value, np.float32)
    return times if own_s is None else times + own_s
