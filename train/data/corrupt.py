"""Corruptions as augmentation: a scan from the cache as bad weather would have shown it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import CameraView, DatasetInfo, ScanRecord
from pass2d.corruptions.cloud import Cloud, Corrupted
from pass2d.corruptions.registry import Variant, corrupt, corruption_table

T = TypeVar("T", bound=np.generic)


def corrupted_record(
    record: ScanRecord, *, variant: Variant, seed: int, info: DatasetInfo
) -> ScanRecord:
    """Corrupt a scan that was read from the cache.

    Its points are those that were read: without the outside ones a corruption sees the volume only.
    Beams come from the order of points or from their elevation: the cache has none. Points of
    added sweeps are corrupted as if they were the scan's own.

    Args:
        record: with labels; instances are used where they were read.
        variant: what to do.
        seed: decides all that chance decides.
        info: layout and volume.

    Returns:
        The points in the volume (and the others, if they were read). Pixels stay with the points
        that they showed; added points have none, no label and no instance. Hashes are left out:
        they would be stale. The record itself when nothing would be left in the volume.
    """
    whole = _whole(record)
    table = corruption_table(info.layout)
    cloud = Cloud(
        xyz=whole.xyz,
        signal=whole.signal,
        label=whole.label,
        instance=whole.instance,
        sensor=table.sensor,
    )
    after = corrupt(cloud, variant, table=table, rng=np.random.default_rng(seed))
    inside = inside_volume(after.xyz, grid=info.grid)
    if not inside.any():
        return record
    rows, others = np.flatnonzero(inside), np.flatnonzero(~inside)
    label = None if whole.label is None else after.carried(whole.label)
    time = None if whole.time is None else after.carried(whole.time)
    instance = None
    if record.instance is not None and whole.instance is not None:
        instance = after.carried(whole.instance)[rows]
    has_outside = record.outside_xyz is not None
    views = _carried_views(record, after, rows, n_whole=cloud.n)
    return replace(
        record,
        n_raw=len(inside),
        xyz=after.xyz[:, rows],
        signal=after.signal[rows],
        raw_index=rows.astype(np.int32),
        label=None if label is None else label[rows],
        instance=instance,
        time=None if time is None else time[rows],
        cameras=views,
        voxels=(),
        outside_xyz=after.xyz[:, others] if has_outside else None,
        outside_signal=after.signal[others] if has_outside else None,
        outside_label=label[others] if has_outside and label is not None else None,
        outside_time=time[others] if has_outside and time is not None else None,
    )


def _whole(record: ScanRecord) -> ScanRecord:
    """All points that were read, in the raw file's order."""
    if record.outside_xyz is None or record.outside_signal is None:
        return record
    n = record.n + len(record.outside_signal)
    is_inside = np.zeros(n, bool)
    is_inside[record.raw_index] = True

    def joined(inside: NDArray[T], outside: NDArray[T] | None) -> NDArray[T]:
        values = np.zeros((*inside.shape[:-1], n), inside.dtype)
        values[..., is_inside] = inside
        if outside is not None:
            values[..., ~is_inside] = outside
        return values

    label, instance, time = record.label, record.instance, record.time
    return replace(
        record,
        xyz=joined(record.xyz, record.outside_xyz),
        signal=joined(record.signal, record.outside_signal),
        label=None if label is None else joined(label, record.outside_label),
        instance=None if instance is None else joined(instance, None),
        time=None if time is None else joined(time, record.outside_time),
    )


def _carried_views(
    record: ScanRecord, after: Corrupted, rows: NDArray[np.int64], *, n_whole: int
) -> tuple[CameraView, ...]:
    """The views, with the points that are still there at their new rows."""
    source = after.source[rows]
    is_there = source >= 0
    new_row = np.full(n_whole, -1, np.int64)
    new_row[source[is_there]] = np.flatnonzero(is_there)
    if n_whole > record.n:
        new_row = new_row[record.raw_index]
    views = []
    for view in record.cameras:
        place = new_row[view.point_index]
        stays = place >= 0
        views.append(
            replace(
                view,
                point_index=place[stays].astype(np.int32),
                pixel_rc=view.pixel_rc[:, stays],
            )
        )
    return tuple(views)
