"""From decoded scans to one batch on the host: crops, dropout, concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.schema import CameraView, ScanRecord
from pass2d.train.data.batch import RawBatch
from pass2d.train.data.dropout import DropoutKind, KeptPoints, kept_points
from pass2d.train.data.lattice import CachedHash
from pass2d.train.data.memory import Allocate, heap
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import Crop, LoadedScan, ScanDraw, count_points
from pass2d.train.data.thinned import RawThinned, ThinningPlan, found, joined


def common_crop(config: AugmentConfig, image_hw: NDArray[np.integer]) -> tuple[int, int]:
    """The size of all cropped pictures of a run.

    Args:
        config: asks for a size.
        image_hw: (S, 2) sizes of the stored pictures; none with 0.

    Returns:
        Height and width: as configured, or the largest multiples of 16 that fit into every picture;
        0 if a picture is smaller than that. A size that is resized afterwards need not be a
        multiple of 16.
    """
    smallest = image_hw.min(0)
    if config.crop_hw is None and config.resize_hw is not None:
        return int(smallest[0]), int(smallest[1])
    wanted = config.crop_hw or (math.inf, math.inf)
    height, width = (int(min(w, s // 16 * 16)) for w, s in zip(wanted, smallest, strict=True))
    return height, width


def place_crop(size_hw: tuple[int, int], *, image_hw: tuple[int, int], share: float) -> Crop:
    """Place the crop at the bottom of a picture; ``share`` 0..1 selects the left edge uniformly."""
    height, width = size_hw
    room = image_hw[1] - width
    return Crop(
        top=image_hw[0] - height,
        left=min(int(share * (room + 1)), room),
        height=height,
        width=width,
    )


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """A part of a scan and which of its points are kept."""

    record: ScanRecord
    draw: ScanDraw
    kept: KeptPoints


def collate(
    scans: Sequence[LoadedScan],
    *,
    with_images: bool,
    size_hw: tuple[int, int],
    allocate: Allocate = heap,
    dropout: DropoutKind = "copy",
    thinning: ThinningPlan | None = None,
) -> RawBatch:
    """Concatenate scans, without the points that are dropped.

    Points that a mix added with an augmentation of their own are dropped separately.

    Args:
        scans: in the order of the batch; scans merged by a mix are one.
        with_images: whether the network takes pictures.
        size_hw: of the cropped pictures.
        allocate: provides the arrays, e.g. in reused pinned memory.
        dropout: what becomes of dropped points.
        thinning: for networks that take thinned points; None for others.

    Raises:
        ShapeError: a scan spans too many cells to be thinned.
    """
    # Points that move together are contiguous: a scan, then what was added to it, then the next.
    by_scan = [_segments(scan, dropout) for scan in scans]
    segments = [segment for of_scan in by_scan for segment in of_scan]
    segment_starts = _starts([segment.kept.count for segment in segments])
    scan_starts = _starts([sum(s.kept.count for s in of_scan) for of_scan in by_scan])
    total = segment_starts[-1]

    # Coordinates, signals and labels of the points that stay.
    has_time = any(segment.record.time is not None for segment in segments)
    channels = allocate("channels", (5 if has_time else 4, total), torch.float32)
    has_labels = all(segment.record.label is not None for segment in segments)
    labels = allocate("labels", (total,), torch.uint8) if has_labels else None
    for segment, (start, stop) in zip(segments, pairwise(segment_starts), strict=True):
        rows = slice(start, stop)
        _fill_kept(
            segment, channels.numpy()[:, rows], labels if labels is None else labels.numpy()[rows]
        )

    # Pixels, at the new rows of their points; added points have none.
    images, seen, image_scan = _collate_images(
        scans if with_images else None,
        kept=[of_scan[0].kept for of_scan in by_scan],
        scan_starts=scan_starts,
        size_hw=size_hw,
        allocate=allocate,
    )
    return RawBatch(
        positions=tuple(place for scan in scans for place in (scan.position, *scan.paired)),
        draws=tuple(scan.draw for scan in scans),
        channels=channels,
        labels=labels,
        scan_starts=scan_starts,
        segment_starts=segment_starts,
        repeated=tuple(
            (start, 1 + segment.kept.copies)
            for segment, start in zip(segments, segment_starts[:-1], strict=True)
            if segment.kept.copies
        ),
        linear=torch.tensor([s.draw.linear for s in segments], dtype=torch.float32),
        shift_m=torch.tensor([s.draw.shift_m for s in segments], dtype=torch.float32),
        images=images,
        image_scan=image_scan,
        image_index=seen[0],
        pixel_rc=seen[1],
        point_index=seen[2],
        hashes=_collate_hashes(scans, total, allocate),
        thinned=_collate_thinned(
            by_scan, channels.numpy()[:3], scan_starts, plan=thinning, allocate=allocate
        ),
    )


def _segments(scan: LoadedScan, dropout: DropoutKind) -> list[_Segment]:
    return [
        _Segment(
            record=part.record,
            draw=part.draw,
            kept=kept_points(
                count_points(part.record),
                ratio=part.draw.drop_ratio,
                seed=part.draw.point_seed,
                kind=dropout,
            ),
        )
        for part in scan.parts
    ]


def _starts(counts: Sequence[int]) -> tuple[int, ...]:
    return (0, *np.cumsum(counts).tolist())


def _fill_kept(
    segment: _Segment, channels: NDArray[np.float32], labels: NDArray[np.uint8] | None
) -> None:
    """Fill (4 or 5, K) channels and (K,) labels with the points that stay."""
    record, rows = segment.record, segment.kept.rows
    if rows is None:
        _fill_points(record, channels, labels)
        return
    every: list[NDArray[np.float32]] = [*record.xyz, record.signal]
    label = record.label
    if record.time is not None:
        every.append(record.time)
    elif len(channels) > 4:  # points that a mix pasted without a time belong to the current scan
        every.append(np.zeros(record.n, np.float32))
    if record.outside_xyz is not None:
        whole = np.empty((len(channels), segment.kept.n), np.float32)
        label = None if labels is None else np.empty(segment.kept.n, np.uint8)
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
    if record.outside_xyz is not None and record.outside_signal is not None:
        order = record.raw_order()
        order.laid(record.xyz, record.outside_xyz, out=channels[:3])
        order.laid(record.signal, record.outside_signal, out=channels[3])
        if record.time is not None:
            order.laid(record.time, record.outside_time, out=channels[4])
        if labels is not None and record.label is not None:
            order.laid(record.label, record.outside_label, out=labels)
    else:
        channels[:3] = record.xyz
        channels[3] = record.signal
        if record.time is not None:
            channels[4] = record.time
        if labels is not None and record.label is not None:
            labels[:] = record.label
    if record.time is None:
        channels[4:] = 0


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
        # The reader has cut the columns already; only rows are left to cut.
        images.numpy()[slot] = view.image[crop.top :]
        image_index.numpy()[part] = slot
        pixel_rc.numpy()[:, part] = pixels
        point_index.numpy()[part] = rows + scan_starts[scan]
    return images, (image_index, pixel_rc, point_index), tuple(scan for scan, _, _ in views)


def visible_in_crop(
    view: CameraView, crop: Crop, kept: KeptPoints
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The kept points that are visible in the crop.

    A dropped point's own pixel does not count, as it is a copy of point 0.

    Returns:
        (M',) places among the points that stay, (2, M') pixels in the crop.
    """
    pixel_rc = view.pixel_rc.astype(np.int32)
    pixel_rc[0] -= crop.top
    pixel_rc[1] -= crop.left
    place = kept.places(view.point_index)
    stays = (pixel_rc[0] >= 0) & (pixel_rc[1] >= 0) & (pixel_rc[1] < crop.width) & (place >= 0)
    return place[stays], pixel_rc[:, stays]


def _collate_thinned(
    scans: Sequence[Sequence[_Segment]],
    xyz: NDArray[np.float32],
    scan_starts: Sequence[int],
    *,
    plan: ThinningPlan | None,
    allocate: Allocate,
) -> RawThinned | None:
    """Thinned points from the cache, or computed here; None if the network uses none.

    Args:
        scans: the segments of each scan.
        xyz: (3, N) metres, of the points that stay.
        scan_starts: (B + 1,) columns where scans begin, then N.
        plan: how.
        allocate: where the arrays go.
    """
    if plan is None or 0 in np.diff(scan_starts):
        return None
    thinned = [
        segments[0].record.thinned
        or found(xyz[:, start:stop], [(part.draw, part.kept.count) for part in segments], plan=plan)
        for segments, (start, stop) in zip(scans, pairwise(scan_starts), strict=True)
    ]
    return joined(thinned, scan_starts=scan_starts, config=plan.config, allocate=allocate)


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
        # Voxels are counted within each scan: `lattice.scale_voxels` joins them on the device.
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
