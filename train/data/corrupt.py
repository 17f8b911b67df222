"""Corruptions as augmentation of scans from the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import DatasetInfo, ScanRecord
from pass2d.corruptions.cloud import Cloud, Corrupted
from pass2d.corruptions.registry import Variant, corrupt, table_of
from pass2d.train.data.scan import views_at, whole_record


def corrupted_record(
    record: ScanRecord, *, variant: Variant, seed: int, info: DatasetInfo
) -> ScanRecord:
    """Corrupt a scan that was read from the cache.

    It uses the points that were read: without those outside the volume, a corruption sees only the
    volume. Beams are derived from the order of points or from their elevation, as the cache has
    none. Points of added sweeps are corrupted as if they were the scan's own.

    Args:
        record: with labels; instances are used where they were read.
        variant: what to do.
        seed: of the generator of all random numbers.
        info: layout and volume.

    Returns:
        The points in the volume (and the others, if they were read). Points keep their pixels;
        added points have no pixel, label or instance. Hashes, which would be stale, are left out.
        The record itself is returned if nothing would be left in the volume.
    """
    whole = whole_record(record)
    table = table_of(info)
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
    return replace(
        record,
        n_raw=len(inside),
        xyz=after.xyz[:, rows],
        signal=after.signal[rows],
        raw_index=rows.astype(np.int32),
        label=None if label is None else label[rows],
        instance=instance,
        time=None if time is None else time[rows],
        cameras=views_at(whole.cameras, _new_rows(after, rows, n_before=cloud.n)),
        voxels=(),
        thinned=None,
        outside_xyz=after.xyz[:, others] if has_outside else None,
        outside_signal=after.signal[others] if has_outside else None,
        outside_label=label[others] if has_outside and label is not None else None,
        outside_time=time[others] if has_outside and time is not None else None,
    )


def _new_rows(after: Corrupted, rows: NDArray[np.int64], *, n_before: int) -> NDArray[np.int32]:
    """(n_before,) index of each point among ``rows`` of the corrupted scan; -1 if it is gone."""
    source = after.source[rows]
    is_there = source >= 0
    new_row = np.full(n_before, -1, np.int32)
    new_row[source[is_there]] = np.flatnonzero(is_there)
    return new_row
