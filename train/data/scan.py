"""A scan on its way into a batch: its points as stored, and its random draws.

Points are moved later, on the device: mixes and augmentations see coordinates as the sensor gave
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.schema import CameraView, DatasetInfo, ScanRecord
from pass2d.corruptions.registry import Variant

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class ScanDraw:
    """The random draws for one scan in one epoch."""

    drop_ratio: float
    point_seed: int
    """Seeds the generator that decides point by point which are dropped."""
    linear: tuple[tuple[float, float, float], ...]
    """(3, 3): points are rows, xyz_after = xyz @ linear + shift."""
    shift_m: tuple[float, float, float]
    symmetry: int
    """Mode lattice: which of `sampling.SYMMETRIES` `linear` is; else 0."""
    camera_share: float
    """0..1: picks one of a scan's pictures."""
    crop_share: float
    """0..1: picks the left edge of the crop."""
    jitter: tuple[float, float, float]
    """Factors of brightness, contrast, saturation."""
    jitter_order: tuple[int, ...]
    """Permutation of 0, 1, 2."""
    is_mirrored: bool
    partner_share: float
    """0..1: picks the partner of the first group of mixes."""
    corruption: Variant | None = None
    """What is done to the scan before all else."""
    corruption_seed: int = 0
    """Seeds the corruption."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A rectangle of a stored picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def columns(self) -> tuple[int, int]:
        """[start, stop), for the reader."""
        return self.left, self.left + self.width


@dataclass(frozen=True, kw_only=True)
class Part:
    """Points that are dropped and moved together: a scan, or what a mix took from another one."""

    record: ScanRecord
    draw: ScanDraw
    lag: int = 0
    """How many scans ago it was taken, for the past scans of a stack; else 0."""


@dataclass(frozen=True, kw_only=True)
class LoadedScan:
    """One scan as the stream's threads read it; what mixes and augmentations take and return."""

    position: int
    """Row in the cache's scan table."""
    info: DatasetInfo
    """Class names, volume and layout of the data set."""
    record: ScanRecord
    draw: ScanDraw
    crop: Crop | None
    """Of the picture in `record`, whose columns are already cut; None without a picture."""
    added: tuple[Part, ...] = ()
    """The past scans of a stack, then what a mix added with an augmentation of its own."""
    paired: tuple[int, ...] = ()
    """Positions of the batch's scans that a mix has made part of this one."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The scan itself, then what was added."""
        return (Part(record=self.record, draw=self.draw), *self.added)

    @property
    def n(self) -> int:
        """N, the points of all parts; those outside the volume count where they were read."""
        return sum(count_points(part.record) for part in self.parts)

    @property
    def xyz(self) -> NDArray[np.float32]:
        """(3, N) metres as stored, part by part, each in the raw file's order; read-only."""
        return _joined([whole_record(part.record).xyz for part in self.parts])

    @property
    def label(self) -> NDArray[np.uint8]:
        """(N,) training ids."""
        return _joined([_known(whole_record(part.record).label) for part in self.parts])

    @property
    def instance(self) -> NDArray[np.uint32]:
        """(N,) instance ids, 0 none; only where they were asked for."""
        return _joined([_known(whole_record(part.record).instance) for part in self.parts])

    def whole(self) -> LoadedScan:
        """The scan with the points of each part in the raw file's order, laid so once for all."""
        own, *added = (replace(part, record=whole_record(part.record)) for part in self.parts)
        return replace(self, record=own.record, added=tuple(added))

    def kept(self, is_kept: NDArray[np.bool_]) -> LoadedScan:
        """The scan with only some of its points; pixels stay with the points that they show.

        Args:
            is_kept: (N,) in the order of `xyz`.
        """
        rest = list(np.split(is_kept, np.cumsum([count_points(p.record) for p in self.parts])[:-1]))
        own, *added = (
            replace(part, record=record_rows(part.record, np.flatnonzero(chosen)))
            for part, chosen in zip(self.parts, rest, strict=True)
        )
        return replace(self, record=own.record, added=tuple(added))

    def moved_to(self, xyz: NDArray[np.float32]) -> LoadedScan:
        """The scan with its points elsewhere, (3, N) in the order of `xyz`."""
        stops = np.cumsum([count_points(part.record) for part in self.parts])[:-1]
        own, *added = (
            replace(part, record=replace(whole_record(part.record), xyz=there, voxels=()))
            for part, there in zip(self.parts, np.split(xyz, stops, axis=1), strict=True)
        )
        return replace(self, record=own.record, added=tuple(added))

    def joined(self, *others: LoadedScan) -> LoadedScan:
        """The scan and the points of others, which have no pixels here.

        Points with the scan's own draw become points of the scan; others are moved and dropped
        apart, as their draw says.
        """
        records, added = [self.record], list(self.added)
        for part in (part for other in others for part in other.parts):
            if part.draw == self.draw:
                records.append(part.record)
            else:
                added.append(replace(part, record=replace(part.record, cameras=(), voxels=())))
        record = joined_records(records) if len(records) > 1 else self.record
        return replace(self, record=record, added=tuple(added))


def count_points(record: ScanRecord) -> int:
    """Points of a record, those outside the volume included when they were read."""
    outside = 0 if record.outside_signal is None else len(record.outside_signal)
    return record.n + outside


def whole_record(record: ScanRecord) -> ScanRecord:
    """A record whose points are all that were read, in the raw file's order."""
    if record.outside_xyz is None or record.outside_signal is None:
        return record
    n = count_points(record)
    is_outside = np.ones(n, bool)
    is_outside[record.raw_index] = False
    # Of each point its place among those inside, then those outside.
    place = np.empty(n, np.intp)
    place[record.raw_index] = np.arange(record.n)
    place[is_outside] = np.arange(record.n, n)

    def joined(inside: NDArray[T], outside: NDArray[T] | None) -> NDArray[T]:
        if outside is None:
            outside = np.zeros((*inside.shape[:-1], n - record.n), inside.dtype)
        return np.concatenate([inside, outside], axis=-1).take(place, axis=-1)

    label, instance, time = record.label, record.instance, record.time
    return replace(
        record,
        xyz=joined(record.xyz, record.outside_xyz),
        signal=joined(record.signal, record.outside_signal),
        raw_index=np.arange(n, dtype=np.int32),
        label=None if label is None else joined(label, record.outside_label),
        instance=None if instance is None else joined(instance, None),
        time=None if time is None else joined(time, record.outside_time),
        cameras=views_at(record.cameras, record.raw_index),
        voxels=(),
        outside_xyz=None,
        outside_signal=None,
        outside_label=None,
        outside_time=None,
    )


def without_dropped(record: ScanRecord) -> ScanRecord:
    """Leave out the rows of the raw file that hold no measured point, for training."""
    if record.outside_xyz is None:
        return record
    stays = is_measured(record.outside_xyz)
    if stays.all():
        return record
    is_outside = np.ones(record.n_raw, np.bool_)
    is_outside[record.raw_index] = False
    leaves = np.flatnonzero(is_outside)[~stays]
    rows = record.raw_index - np.searchsorted(leaves, record.raw_index)

    def rest(values: NDArray[T] | None) -> NDArray[T] | None:
        return None if values is None else values[..., stays]

    return replace(
        record,
        n_raw=record.n_raw - len(leaves),
        raw_index=rows.astype(np.int32),
        outside_xyz=rest(record.outside_xyz),
        outside_signal=rest(record.outside_signal),
        outside_label=rest(record.outside_label),
        outside_time=rest(record.outside_time),
        outside_motion=rest(record.outside_motion),
    )


def record_rows(record: ScanRecord, rows: NDArray[np.int64]) -> ScanRecord:
    """Some points of a record.

    Args:
        record: any; voxel hashes are left out, which would be stale.
        rows: of `whole_record`, ascending.
    """
    record = whole_record(record)
    place = np.full(record.n, -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    return replace(
        record,
        xyz=record.xyz.take(rows, axis=1),  # four times as fast as an index
        signal=record.signal.take(rows),
        raw_index=record.raw_index.take(rows),
        label=None if record.label is None else record.label.take(rows),
        instance=None if record.instance is None else record.instance.take(rows),
        time=None if record.time is None else record.time.take(rows),
        cameras=views_at(record.cameras, place),
        voxels=(),
    )


def joined_records(records: Sequence[ScanRecord]) -> ScanRecord:
    """The points of records as one, in this order; the first one's name and pictures."""
    records = [whole_record(record) for record in records]
    n = sum(record.n for record in records)
    return replace(
        records[0],
        n_raw=n,
        xyz=_joined([record.xyz for record in records]),
        signal=_joined([record.signal for record in records]),
        raw_index=np.arange(n, dtype=np.int32),
        label=_all([record.label for record in records]),
        instance=_all([record.instance for record in records]),
        time=_all([record.time for record in records]),
        voxels=(),
    )


def views_at(views: Sequence[CameraView], row: NDArray[np.int32]) -> tuple[CameraView, ...]:
    """Views after their points went to other rows.

    Args:
        views: of a record.
        row: (N,) new row of each of its points; -1: it is gone, and its pixel shows nothing.
    """
    moved = []
    for view in views:
        place = row[view.point_index]
        stays = place >= 0
        moved.append(replace(view, point_index=place[stays], pixel_rc=view.pixel_rc[:, stays]))
    return tuple(moved)


def _joined(values: Sequence[NDArray[T]]) -> NDArray[T]:
    """Arrays along their last axis; a single one as it is."""
    return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)


def _all(values: Sequence[NDArray[T] | None]) -> NDArray[T] | None:
    """Arrays joined; None where one is not known."""
    known = [value for value in values if value is not None]
    return _joined(known) if len(known) == len(values) else None


def _known(values: NDArray[T] | None) -> NDArray[T]:
    assert values is not None, "not read: see needs_instances"
    return values
