"""Decoded scans to one batch on the host: crops, what a mix appends, what lies where."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.schema import CameraView, ScanRecord
from pass2d.train.data.batch import Crop, LoadedScan, RawBatch
from pass2d.train.data.dropout import DropoutKind, KeptPoints, kept_points
from pass2d.train.data.lattice import CachedHash
from pass2d.train.data.sampling import AugmentConfig, ScanDraw

Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Gives memory for a field: name, shape, type."""


def heap(_name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`Allocate` from ordinary memory."""
    return torch.empty(shape, dtype=dtype)


def common_crop(config: AugmentConfig, image_hw: NDArray[np.integer]) -> tuple[int, int]:
    """The one size that all cropped pictures of a run have.

    Args:
        config: asks for a size.
        image_hw: (S, 2) sizes of the stored pictures; none with 0.

    Returns:
        Height and width: as asked, or the largest multiples of 16 that every picture holds; 0 when
        a picture is smaller than that. What is resized after need be no multiple of 16.
    """
    smallest = image_hw.min(0)
    if config.crop_hw is None and config.resize_hw is not None:
        return int(smallest[0]), int(smallest[1])
    wanted = config.crop_hw or (math.inf, math.inf)
    height, width = (int(min(w, s // 16 * 16)) for w, s in zip(wanted, smallest, strict=True))
    return height, width


def place_crop(size_hw: tuple[int, int], *, image_hw: tuple[int, int], share: float) -> Crop:
    """Lay the crop at the bottom of a picture; ``share`` 0..1 picks the left edge uniformly."""
    height, width = size_hw
    room = image_hw[1] - width
    return Crop(
        top=image_hw[0] - height,
        left=min(int(share * (room + 1)), room),
        height=height,
        width=width,
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What moves together: a scan, or what is mixed into one."""

    record: ScanRecord
    draw: ScanDraw
    kept: KeptPoints


def instances_of(record: ScanRecord) -> ScanRecord:
    """The points of a second scan that the mix augmentation appends: those with an instance id."""
    assert record.instance is not None
    assert record.label is not None
    rows = np.flatnonzero(record.instance)
    return ScanRecord(
        scan_id=record.scan_id,
        n_raw=record.n_raw,
        xyz=record.xyz[:, rows],
        signal=record.signal[rows],
        raw_index=record.raw_index[rows],
        label=record.label[rows],
        instance=record.instance[rows],
        time=None if record.time is None else record.time[rows],
    )


def collate(
    scans: Sequence[LoadedScan],
    *,
    with_images: bool,
    size_hw: tuple[int, int],
    allocate: Allocate,
    dropout: DropoutKind = "copy",
) -> RawBatch:
    """Lay scans end to end, without the points that are dropped.

    What is mixed in drops its points among themselves.

    Args:
        scans: in the order of the batch.
        with_images: whether the network takes pictures.
        size_hw: of the cropped pictures.
        allocate: where the arrays go, e.g. pinned memory that is used again.
        dropout: what becomes of dropped points.
    """
    by_scan = [_parts(scan, dropout) for scan in scans]
    parts = [part for of_scan in by_scan for part in of_scan]
    segment_starts = _starts([part.kept.count for part in parts])
    scan_starts = _starts([sum(part.kept.count for part in of_scan) for of_scan in by_scan])
    total = segment_starts[-1]
    has_time = any(part.record.time is not None for part in parts)
    channels = allocate("channels", (5 if has_time else 4, total), torch.float32)
    has_labels = all(part.record.label is not None for part in parts)
    labels = allocate("labels", (total,), torch.uint8) if has_labels else None
    for part, start, stop in zip(parts, segment_starts[:-1], segment_starts[1:], strict=True):
        rows = slice(start, stop)
        _fill_kept(
            part, channels.numpy()[:, rows], labels if labels is None else labels.numpy()[rows]
        )
    kept = [of_scan[0].kept for of_scan in by_scan]
    images, seen, image_scan = _collate_images(
        scans if with_images else None,
        kept=kept,
        scan_starts=scan_starts,
        size_hw=size_hw,
        allocate=allocate,
    )
    return RawBatch(
        positions=tuple(scan.position for scan in scans),
        draws=tuple(scan.draw for scan in scans),
        channels=channels,
        labels=labels,
        scan_starts=scan_starts,
        segment_starts=segment_starts,
        repeated=tuple(
            (start, 1 + part.kept.copies)
            for part, start in zip(parts, segment_starts[:-1], strict=True)
            if part.kept.copies
        ),
        linear=torch.tensor([part.draw.linear for part in parts], dtype=torch.float32),
        shift_m=torch.tensor([part.draw.shift_m for part in parts], dtype=torch.float32),
        images=images,
        image_scan=image_scan,
        image_index=seen[0],
        pixel_rc=seen[1],
        point_index=seen[2],
        hashes=_collate_hashes(scans, total, allocate),
    )


def count_points(record: ScanRecord) -> int:
    """Points of a record, those outside the volume included when they were read."""
    outside = 0 if record.outside_signal is None else len(record.outside_signal)
    return record.n + outside


def _parts(scan: LoadedScan, dropout: DropoutKind) -> list[_Part]:
    records = [(scan.record, scan.draw)]
    if scan.partner is not None and scan.partner_draw is not None:
        records.append((scan.partner, scan.partner_draw))
    return [
        _Part(
            record=record,
            draw=draw,
            kept=kept_points(
                count_points(record), ratio=draw.drop_ratio, seed=draw.point_seed, kind=dropout
            ),
        )
        for record, draw in records
    ]


def _starts(counts: Sequence[int]) -> tuple[int, ...]:
    return (0, *np.cumsum(counts).tolist())


def _fill_kept(
    part: _Part, channels: NDArray[np.float32], labels: NDArray[np.uint8] | None
) -> None:
    """Fill (4 or 5, K) channels and (K,) labels with the points that stay."""
    record, rows = part.record, part.kept.rows
    if rows is None:
        _fill_points(record, channels, labels)
        return
    every: list[NDArray[np.float32]] = [*record.xyz, record.signal]
    label = record.label
    if record.time is not None:
        every.append(record.time)
    if record.outside_xyz is not None:
        whole = np.empty((len(channels), part.kept.n), np.float32)
        label = None if labels is None else np.empty(part.kept.n, np.uint8)
        _fill_points(record, whole, label)
        every = list(whole)
    for source, target in zip(every, channels, strict=True):
        np.take(source, rows, out=target, mode="clip")
    if labels is not None and label is not None:
        np.take(label, rows, out=labels, mode="clip")


def _fill_points(
    record: ScanRecord, channels: NDArray[np.float32], labels: NDArray[np.uint8] | None
) -> None:
    """Points in the volume alone, or all of the raw file in its order.

    Networks that take all ask for neither pixels nor hashes, but for a voxel's first point.
    """
    inside: slice | NDArray[np.int32] = slice(None)
    if record.outside_xyz is not None and record.outside_signal is not None:
        is_outside = np.ones(count_points(record), np.bool_)
        is_outside[record.raw_index] = False
        outside = np.flatnonzero(is_outside)
        inside = record.raw_index
        channels[:3, outside] = record.outside_xyz
        channels[3, outside] = record.outside_signal
        if record.outside_time is not None:
            channels[4, outside] = record.outside_time
        if labels is not None:
            labels[outside] = 0 if record.outside_label is None else record.outside_label
    channels[:3, inside] = record.xyz
    channels[3, inside] = record.signal
    if record.time is not None:
        channels[4, inside] = record.time
    if labels is not None and record.label is not None:
        labels[inside] = record.label


def _collate_images(
    scans: Sequence[LoadedScan] | None,
    *,
    kept: Sequence[KeptPoints],
    scan_starts: Sequence[int],
    size_hw: tuple[int, int],
    allocate: Allocate,
) -> tuple[Tensor | None, tuple[Tensor | None, Tensor | None, Tensor | None], tuple[int, ...]]:
    """Pictures, (image_index, pixel_rc, point_index), and the scan of each picture."""
    if scans is None:
        return None, (None, None, None), ()
    views: list[tuple[int, CameraView, Crop]] = [
        (index, view, scan.crop)
        for index, scan in enumerate(scans)
        for view in scan.record.cameras
        if scan.crop is not None and view.image is not None
    ]
    images = allocate("images", (len(views), *size_hw, 3), torch.uint8)
    inside = [visible_in_crop(view, crop, kept[scan]) for scan, view, crop in views]
    starts = _starts([len(rows) for rows, _ in inside])
    image_index = allocate("image_index", (starts[-1],), torch.int32)
    pixel_rc = allocate("pixel_rc", (2, starts[-1]), torch.int32)
    point_index = allocate("point_index", (starts[-1],), torch.int32)
    for slot, ((scan, view, crop), (rows, pixels)) in enumerate(zip(views, inside, strict=True)):
        assert view.image is not None
        part = slice(starts[slot], starts[slot + 1])
        images.numpy()[slot] = view.image[crop.top :]
        image_index.numpy()[part] = slot
        pixel_rc.numpy()[:, part] = pixels
        point_index.numpy()[part] = rows + scan_starts[scan]
    return images, (image_index, pixel_rc, point_index), tuple(scan for scan, _, _ in views)


def visible_in_crop(
    view: CameraView, crop: Crop, kept: KeptPoints
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the crop still shows of the points that stay.

    A dropped point's own pixel shows nothing of it: it lies where point 0 does.

    Returns:
        (M',) places among the points that stay, (2, M') pixels in the crop.
    """
    pixel_rc = view.pixel_rc.astype(np.int32)
    pixel_rc[0] -= crop.top
    pixel_rc[1] -= crop.left
    place = kept.places(view.point_index)
    stays = (pixel_rc[0] >= 0) & (pixel_rc[1] >= 0) & (pixel_rc[1] < crop.width) & (place >= 0)
    return place[stays], pixel_rc[:, stays]


def _collate_hashes(
    scans: Sequence[LoadedScan], total: int, allocate: Allocate
) -> tuple[CachedHash, ...]:
    hashes = []
    assert not scans[0].record.voxels or total == sum(count_points(s.record) for s in scans)
    for index, level in enumerate(scans[0].record.voxels):
        levels = [scan.record.voxels[index] for scan in scans]
        starts = _starts([item.coord.shape[1] for item in levels])
        coord = allocate(f"coord{level.scale}", (3, starts[-1]), torch.int16)
        inverse = allocate(f"inverse{level.scale}", (total,), torch.int32)
        has_label = all(item.label is not None for item in levels)
        label = allocate(f"vlabel{level.scale}", (starts[-1],), torch.uint8) if has_label else None
        row = 0
        for item, start, stop in zip(levels, starts[:-1], starts[1:], strict=True):
            coord.numpy()[:, start:stop] = item.coord
            inverse.numpy()[row : row + len(item.inverse)] = item.inverse
            row += len(item.inverse)
            if label is not None and item.label is not None:
                label.numpy()[start:stop] = item.label
        hashes.append(
            CachedHash(
                scale=level.scale,
                coord=coord,
                voxel_starts=starts,
                tops=_tops(coord.numpy()),
                label=label,
                inverse=inverse,
            )
        )
    return tuple(hashes)


def _tops(coord: NDArray[np.int16]) -> tuple[int, int, int]:
    x, y, z = coord.max(1).tolist() if coord.shape[1] else (0, 0, 0)
    return x, y, z
