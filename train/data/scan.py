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
        """(3, N) metres as stored, part by part, each in the raw file's order."""
        return np.concatenate([whole_record(part.record).xyz for part in self.parts], axis=1)

    @property
    def label(self) -> NDArray[np.uint8]:
        """(N,) training ids."""
        return np.concatenate([_known(whole_record(part.record).label) for part in self.parts])

    @property
    def instance(self) -> NDArray[np.uint32]:
        """(N,) instance ids, 0 none; only where they were asked for."""
        return np.concatenate([_known(whole_record(part.record).instance) for part in self.parts])

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

    def joined(self, other: LoadedScan) -> LoadedScan:
        """The scan and the points of another one, which have no pixels here.

        Points with the scan's own draw become points of the scan; others are moved and dropped
        apart, as their draw says.
        """
        record, added = self.record, list(self.added)
        for part in other.parts:
            if part.draw == self.draw:
                record = joined_records(record, part.record)
            else:
                added.append(replace(part, record=replace(part.record, cameras=(), voxels=())))
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
        xyz=record.xyz[:, rows],
        signal=record.signal[rows],
        raw_index=record.raw_index[rows],
        label=None if record.label is None else record.label[rows],
        instance=None if record.instance is None else record.instance[rows],
        time=None if record.time is None else record.time[rows],
        cameras=views_at(record.cameras, place),
        voxels=(),
    )


def joined_records(record: ScanRecord, other: ScanRecord) -> ScanRecord:
    """The points of two records as one, in this order; the first one's name and pictures."""
    record, other = whole_record(record), whole_record(other)
    n = record.n + other.n
    return replace(
        record,
        n_raw=n,
        xyz=np.concatenate([record.xyz, other.xyz], axis=1),
        signal=np.concatenate([record.signal, other.signal]),
        raw_index=np.arange(n, dtype=np.int32),
        label=_both(record.label, other.label),
        instance=_both(record.instance, other.instance),
        time=_both(record.time, other.time),
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


def _both(first: NDArray[T] | None, second: NDArray[T] | None) -> NDArray[T] | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _known(values: NDArray[T] | None) -> NDArray[T]:
    assert values is not None, "not read: see needs_instances"
    return values
