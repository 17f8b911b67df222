"""A scan before it becomes part of a batch: its points as stored, and its random draws.

Points are moved later, on the device: mixes and augmentations see coordinates in the sensor's
frame.
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
    """Seed of the generator that decides which points are dropped."""
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
    """The corruption that is applied to the scan first."""
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
    """Positions of the batch's scans that a mix has merged into this one."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The scan itself, then what was added."""
        return (Part(record=self.record, draw=self.draw), *self.added)

    @property
    def n(self) -> int:
        """N, the points of all parts, including those outside the volume if they were read."""
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
        """(N,) instance ids, 0 for none; only if they were read."""
        return _joined([_known(whole_record(part.record).instance) for part in self.parts])

    def whole(self) -> LoadedScan:
        """The scan with the points of each part in the order of the raw file."""
        own, *added = (replace(part, record=whole_record(part.record)) for part in self.parts)
        return replace(self, record=own.record, added=tuple(added))

    def kept(self, is_kept: NDArray[np.bool_]) -> LoadedScan:
        """The scan with only some of its points, which keep their pixels.

        Args:
            is_kept: (N,) in the order of `xyz`.
        """
        return self.mixed(is_kept)

    def moved_to(self, xyz: NDArray[np.float32]) -> LoadedScan:
        """The scan with its points moved to (3, N) new coordinates, in the order of `xyz`."""
        stops = np.cumsum([count_points(part.record) for part in self.parts])[:-1]
        own, *added = (
            replace(
                part,
                record=replace(whole_record(part.record), xyz=there, voxels=(), thinned=None),
            )
            for part, there in zip(self.parts, np.split(xyz, stops, axis=1), strict=True)
        )
        return replace(self, record=own.record, added=tuple(added))

    def joined(self, *others: LoadedScan) -> LoadedScan:
        """The scan and the points of others, which have no pixels here."""
        return self.mixed(None, *((other, None) for other in others))

    def mixed(
        self,
        is_kept: NDArray[np.bool_] | None,
        *others: tuple[LoadedScan, NDArray[np.bool_] | None],
    ) -> LoadedScan:
        """Some points of the scan and some of others: `kept` and `joined` with a single copy.

        Points with the scan's own draw become points of the scan; others are moved and dropped
        separately, by their draw.

        Args:
            is_kept: (N,) which of its points are kept, in the order of `xyz`; None: all.
            others: scans, and which points of each, likewise; they have no pixels here.
        """
        if is_kept is None and not others:
            return self
        own, *added = _chosen(self, is_kept)
        joining = [own]
        for scan, taken in others:
            for part, of_part in _chosen(scan, taken):
                bare = replace(
                    part, record=replace(part.record, cameras=(), voxels=(), thinned=None)
                )
                (joining if part.draw == self.draw else added).append((bare, of_part))
        record = self.record
        if is_kept is not None or len(joining) > 1:
            record = gathered([(part.record, chosen) for part, chosen in joining])
        parts = (
            part if chosen is None else replace(part, record=gathered([(part.record, chosen)]))
            for part, chosen in added
        )
        return replace(self, record=record, added=tuple(parts))


_Mask = NDArray[np.bool_] | None
"""Which points; None: all."""


def _chosen(scan: LoadedScan, is_chosen: _Mask) -> list[tuple[Part, _Mask]]:
    """The parts of a scan, and which points of each."""
    if is_chosen is None:
        return [(part, None) for part in scan.parts]
    stops = np.cumsum([count_points(part.record) for part in scan.parts])[:-1]
    return list(zip(scan.parts, np.split(is_chosen, stops), strict=True))


def count_points(record: ScanRecord) -> int:
    """Points of a record, those outside the volume included when they were read."""
    outside = 0 if record.outside_signal is None else len(record.outside_signal)
    return record.n + outside


def whole_record(record: ScanRecord) -> ScanRecord:
    """A record of all points that were read, in the order of the raw file."""
    if record.outside_xyz is None or record.outside_signal is None:
        return record
    order = record.raw_order()
    label, instance, time = record.label, record.instance, record.time
    return replace(
        record,
        xyz=order.laid(record.xyz, record.outside_xyz),
        signal=order.laid(record.signal, record.outside_signal),
        raw_index=np.arange(record.n_raw, dtype=np.int32),
        label=None if label is None else order.laid(label, record.outside_label),
        instance=None if instance is None else order.laid(instance, None),
        time=None if time is None else order.laid(time, record.outside_time),
        cameras=views_at(record.cameras, record.raw_index),
        voxels=(),
        outside_xyz=None,
        outside_signal=None,
        outside_label=None,
        outside_time=None,
    )


def without_dropped(record: ScanRecord) -> ScanRecord:
    """Leave out the rows of the raw file without a measured point, for training."""
    if record.outside_xyz is None:
        return record
    stays = is_measured(record.outside_xyz)
    if stays.all():
        return record
    leaves = record.raw_order().outside[~stays]
    rows = record.raw_index - np.searchsorted(leaves, record.raw_index)
    is_left = np.ones(record.n_raw, bool)
    is_left[leaves] = False

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
        thinned=None if record.thinned is None else record.thinned.of_points(is_left),
    )


def gathered(chosen: Sequence[tuple[ScanRecord, _Mask]]) -> ScanRecord:
    """Points of records as one record, in this order; the first one's name and pictures.

    Args:
        chosen: records, and which points of `whole_record` of each. Voxel hashes and neighbours
            are left out, which would be stale.
    """
    records = [whole_record(record) for record, _ in chosen]
    rows = [None if mask is None else np.flatnonzero(mask) for _, mask in chosen]
    counts = [
        record.n if of_record is None else len(of_record)
        for record, of_record in zip(records, rows, strict=True)
    ]
    stops = np.cumsum(counts).tolist()
    n, is_one = stops[-1], len(records) == 1

    def laid(channels: list[NDArray[T]], out: NDArray[T] | None = None) -> NDArray[T]:
        out = np.empty(n, channels[0].dtype) if out is None else out
        for values, of_record, count, stop in zip(channels, rows, counts, stops, strict=True):
            part = out[stop - count : stop]
            if of_record is None:
                part[:] = values
            else:
                np.take(values, of_record, out=part, mode="clip")
        return out

    def known(channels: list[NDArray[T] | None]) -> NDArray[T] | None:
        there = [values for values in channels if values is not None]
        return laid(there) if len(there) == len(channels) else None

    first, is_kept = records[0], chosen[0][1]
    cameras = first.cameras
    if cameras and is_kept is not None:
        cameras = views_at(cameras, np.cumsum(is_kept, dtype=np.int32) * is_kept - 1)
    xyz = np.empty((3, n), np.float32)
    for axis, out in enumerate(xyz):
        laid([record.xyz[axis] for record in records], out)
    return replace(
        first,
        n_raw=first.n_raw if is_one else n,
        xyz=xyz,
        signal=laid([record.signal for record in records]),
        raw_index=laid([first.raw_index]) if is_one else np.arange(n, dtype=np.int32),
        label=known([record.label for record in records]),
        instance=known([record.instance for record in records]),
        time=known([record.time for record in records]),
        cameras=cameras,
        voxels=(),
        thinned=None,
    )


def views_at(views: Sequence[CameraView], row: NDArray[np.int32]) -> tuple[CameraView, ...]:
    """Views after a renumbering of their points.

    Args:
        views: of a record.
        row: (N,) new row of each of its points; -1: the point and its pixel are dropped.
    """
    moved = []
    for view in views:
        place = row[view.point_index]
        stays = np.flatnonzero(place >= 0)
        moved.append(
            replace(view, point_index=place[stays], pixel_rc=view.pixel_rc.take(stays, axis=1))
        )
    return tuple(moved)


def _joined(values: Sequence[NDArray[T]]) -> NDArray[T]:
    """Arrays along their last axis; a single one as it is."""
    return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)


def _known(values: NDArray[T] | None) -> NDArray[T]:
    assert values is not None, "not read: see needs_instances"
    return values
