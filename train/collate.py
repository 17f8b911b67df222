"""Decoded scans to one batch on the host: crops, what a mix appends, what lies where."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.schema import CameraView, ScanRecord
from train.batch import Crop, LoadedScan, RawBatch
from train.draw import AugmentConfig, ScanDraw
from train.lattice import CachedHash

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


def instances_of(record: ScanRecord, draw: ScanDraw) -> ScanRecord:
    """The points of a second scan that the mix augmentation appends: those with an instance id.

    Its own dropout comes first: a dropped point is a copy of point 0, instance id included.
    """
    assert record.instance is not None
    assert record.label is not None
    chance = np.random.default_rng(draw.point_seed)
    source = np.arange(record.n)
    if record.n:
        source[chance.random(record.n) < draw.drop_ratio] = 0
    rows = source[record.instance[source] != 0]
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
    scans: Sequence[LoadedScan], *, with_images: bool, size_hw: tuple[int, int], allocate: Allocate
) -> RawBatch:
    """Lay scans end to end.

    Args:
        scans: in the order of the batch.
        with_images: whether the network takes pictures.
        size_hw: of the cropped pictures.
        allocate: where the arrays go, e.g. pinned memory that is used again.
    """
    parts = [part for scan in scans for part in _parts(scan)]
    segment_starts = _starts([count_points(record) for record, _ in parts])
    scan_starts = _starts([sum(count_points(r) for r, _ in _parts(scan)) for scan in scans])
    total = segment_starts[-1]
    has_time = any(record.time is not None for record, _ in parts)
    channels = allocate("channels", (5 if has_time else 4, total), torch.float32)
    has_labels = all(record.label is not None for record, _ in parts)
    labels = allocate("labels", (total,), torch.uint8) if has_labels else None
    for (record, _), start in zip(parts, segment_starts, strict=False):
        _fill_points(record, channels.numpy(), None if labels is None else labels.numpy(), start)
    images, seen, image_scan = _collate_images(scans, scan_starts, with_images, size_hw, allocate)
    return RawBatch(
        positions=tuple(scan.position for scan in scans),
        draws=tuple(scan.draw for scan in scans),
        channels=channels,
        labels=labels,
        scan_starts=scan_starts,
        segment_starts=segment_starts,
        own_counts=tuple(count_points(scan.record) for scan in scans),
        linear=torch.tensor([draw.linear for _, draw in parts], dtype=torch.float32),
        shift_m=torch.tensor([draw.shift_m for _, draw in parts], dtype=torch.float32),
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


def _parts(scan: LoadedScan) -> list[tuple[ScanRecord, ScanDraw]]:
    own = [(scan.record, scan.draw)]
    if scan.partner is not None and scan.partner_draw is not None:
        own.append((scan.partner, scan.partner_draw))
    return own


def _starts(counts: Sequence[int]) -> tuple[int, ...]:
    return (0, *np.cumsum(counts).tolist())


def _fill_points(
    record: ScanRecord,
    channels: NDArray[np.float32],
    labels: NDArray[np.uint8] | None,
    start: int,
) -> None:
    """Kept points alone, or all of the raw file in its order.

    Networks that take all ask for neither pixels nor hashes, but for a voxel's first point.
    """
    inside: slice | NDArray[np.int64] = slice(start, start + record.n)
    if record.outside_xyz is not None and record.outside_signal is not None:
        is_outside = np.ones(count_points(record), np.bool_)
        is_outside[record.raw_index] = False
        outside = start + np.flatnonzero(is_outside)
        inside = start + record.raw_index.astype(np.int64)
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
    scans: Sequence[LoadedScan],
    scan_starts: Sequence[int],
    with_images: bool,
    size_hw: tuple[int, int],
    allocate: Allocate,
) -> tuple[Tensor | None, tuple[Tensor | None, Tensor | None, Tensor | None], tuple[int, ...]]:
    """Pictures, (image_index, pixel_rc, point_index), and the scan of each picture."""
    if not with_images:
        return None, (None, None, None), ()
    views: list[tuple[int, CameraView, Crop]] = [
        (index, view, scan.crop)
        for index, scan in enumerate(scans)
        for view in scan.record.cameras
        if scan.crop is not None and view.image is not None
    ]
    images = allocate("images", (len(views), *size_hw, 3), torch.uint8)
    inside = [visible_in_crop(view, crop) for _, view, crop in views]
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


def visible_in_crop(view: CameraView, crop: Crop) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The points that the crop still shows: (M',) rows of the scan, (2, M') pixels in the crop."""
    pixel_rc = view.pixel_rc.astype(np.int32)
    pixel_rc[0] -= crop.top
    pixel_rc[1] -= crop.left
    stays = (pixel_rc[0] >= 0) & (pixel_rc[1] >= 0) & (pixel_rc[1] < crop.width)
    return view.point_index[stays], pixel_rc[:, stays]


def _collate_hashes(
    scans: Sequence[LoadedScan], total: int, allocate: Allocate
) -> tuple[CachedHash, ...]:
    hashes = []
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
