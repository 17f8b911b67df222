"""The stages combined for one scan: from files to records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.fields import FIELDS
from pass2d.cache.motion import motion_lookup
from pass2d.cache.schema import SCALES, CameraView, DatasetInfo, GridConfig, ScanRecord, VoxelLevel
from pass2d.common.thinning import ThinnedScan
from pass2d.corruptions.registry import KNOWN, Variant, table_of
from pass2d.pipeline.corrupted import variant_of
from pass2d.pipeline.doubts import picture_doubts, require_in_volume
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.corrupt import CorruptedPoints, corrupt_points
from pass2d.pipeline.stages.counts import count_labels, count_ranges
from pass2d.pipeline.stages.images import decode_rgb, resize_bilinear
from pass2d.pipeline.stages.projection import (
    VisiblePoints,
    pixels_after_resize,
    project_points,
    project_points_by_depth,
    recorded_points,
)
from pass2d.pipeline.stages.raw_file import read_file
from pass2d.pipeline.stages.read import (
    ScanArrays,
    invalid_rows,
    read_label_file,
    read_point_file,
    read_scan,
    read_sweep,
)
from pass2d.pipeline.stages.scan_formats import scan_format
from pass2d.pipeline.stages.sweeps import add_sweep
from pass2d.pipeline.stages.thinning import thin_raw_scan
from pass2d.pipeline.stages.volume import split_volume
from pass2d.pipeline.stages.voxels import voxelize

CODE_VERSIONS = {"lidar": 1, "camera": 1, "voxel": 1, "motion": 1, "thinned": 1}
"""Part of a shard's key: raise a number when the same input gives different content."""


class ScanCounts(NamedTuple):
    """The counts of a scan for statistics."""

    label_histogram: NDArray[np.int64]
    """(C,) kept points per training id; zeros without labels."""
    range_histogram: NDArray[np.int64]
    """(R,) points of the raw file per bin of ``cache.statistics.RANGE_EDGES_M``."""


def lidar_record(scan: ScanSource, info: DatasetInfo) -> ScanRecord:
    """Read, check, label, corrupt (data sets of pass2d-C) and cut a scan's points.

    Args:
        scan: where its files are.
        info: label table, volume and file layout of the data set.

    Returns:
        The scan with its outside points, without cameras and voxels.

    Raises:
        ProblemError: a file is missing, empty, truncated, inconsistent, holds unknown labels or no
            point in the volume.
    """
    points, label, instance = _read(scan, info)
    require_in_volume(points, info=info, file=scan.points)
    raw = np.ascontiguousarray(points[:, :4].T)
    variant = variant_of(info)
    if variant is not None:
        after = _corrupted(scan, points, info, variant, label=label, instance=instance)
        raw, label, instance = after.points, after.label, after.instance
    n_own, time = raw.shape[1], None
    if info.sweeps:
        raw, time = _with_sweeps(raw, scan, info, variant)
    rows = split_volume(raw[:3], grid=info.grid)
    kept, outside = raw.take(rows.inside, axis=1), raw.take(rows.outside, axis=1)
    outside_label = None
    if label is not None and instance is not None:
        # Points of sweeps have no label: 0 is ignored.
        unlabelled = (0, raw.shape[1] - n_own)
        label = np.pad(label, unlabelled)
        label, outside_label = label[rows.inside], label[rows.outside]
        instance = np.pad(instance, unlabelled)[rows.inside]
    return ScanRecord(
        scan_id=scan.scan_id,
        n_raw=raw.shape[1],
        xyz=kept[:3],
        signal=kept[3],
        raw_index=rows.inside,
        label=label,
        instance=instance,
        time=None if time is None else time[rows.inside],
        outside_xyz=outside[:3],
        outside_signal=outside[3],
        outside_label=outside_label,
        outside_time=None if time is None else time[rows.outside],
        extra={spec.name: spec.compute(kept) for spec in FIELDS.values() if spec.compute},
    )


def camera_views(
    scan: ScanSource, lidar: ScanRecord, info: DatasetInfo
) -> tuple[CameraView | None, ...]:
    """Decode a scan's pictures and find the points visible in each.

    Args:
        scan: where its pictures are, and the calibration.
        lidar: the same scan's points; ``xyz``, ``time`` and ``raw_index`` are used. Points of added
            sweeps have no pixel, as moving objects are elsewhere in the picture.
        info: of the data set.

    Returns:
        One per camera; None where a picture or the calibration is missing.

    Raises:
        ProblemError: a picture is missing or does not decode.
    """
    if scan.image_from_lidar is None:
        return (None,) * len(scan.images)
    own = None if lidar.time is None else np.flatnonzero(lidar.time == 0).astype(np.int32)
    xyz = lidar.xyz if own is None else np.ascontiguousarray(lidar.xyz[:, own])
    rows = lidar.raw_index if own is None else lidar.raw_index[own]
    views = [
        None if file is None else _camera_view(scan, camera, xyz, rows, info)
        for camera, file in enumerate(scan.images)
    ]
    if own is not None:
        views = [v and replace(v, point_index=own[v.point_index]) for v in views]
    return tuple(views)


def voxel_levels(lidar: ScanRecord, *, grid: GridConfig) -> tuple[VoxelLevel, ...]:
    """Hash a scan's kept points at every scale of ``SCALES``.

    Args:
        lidar: ``xyz``, ``label`` and ``time`` are used; points of added sweeps have no vote.
        grid: the volume's cells.

    Returns:
        One level per scale.
    """
    votes = None if lidar.time is None else lidar.time == 0
    return voxelize(lidar.xyz, lidar.label, grid=grid, scales=SCALES, has_vote=votes)


def thinned_points(lidar: ScanRecord) -> ThinnedScan | None:
    """Thin a scan's points and find their neighbours; None if that is impossible.

    Args:
        lidar: with the points outside the volume; coordinates and rows are used.
    """
    assert lidar.outside_xyz is not None
    return thin_raw_scan(lidar.raw_order().laid(lidar.xyz, lidar.outside_xyz))


def motion_record(scan: ScanSource, lidar: ScanRecord, info: DatasetInfo) -> ScanRecord | None:
    """Which of a scan's points move, by its label file.

    Args:
        scan: where its files are.
        lidar: the same scan's points.
        info: of the data set.

    Returns:
        The record with `motion` and `outside_motion`; None without labels, or if labels do not tell
        motion.

    Raises:
        ProblemError: as `lidar_record`.
    """
    if not info.facts.moving or scan.labels is None or lidar.label is None:
        return None
    is_dropped = None
    if info.drops_invalid:
        is_dropped = invalid_rows(read_point_file(scan.points, info, scan_id=scan.scan_id))
    raw_labels = read_label_file(scan.labels, info, scan_id=scan.scan_id, is_dropped=is_dropped)
    motion = motion_lookup(info.labels, info.facts)[raw_labels.astype(np.uint16)]
    if is_dropped is not None:
        motion = motion[~is_dropped] if info.corruption is not None else motion * ~is_dropped
    variant = variant_of(info)
    if variant is not None:  # the corruption drops and adds points
        points, label, instance = _read(scan, info)
        after = _corrupted(scan, points, info, variant, label=label, instance=instance)
        motion = np.where(after.source >= 0, motion[after.source], np.uint8(0))
    motion = np.pad(motion, (0, lidar.n_raw - len(motion)))  # points of sweeps have no labels
    outside = lidar.raw_order().outside
    return replace(lidar, motion=motion[lidar.raw_index], outside_motion=motion[outside])


def scan_counts(lidar: ScanRecord, info: DatasetInfo) -> ScanCounts:
    """Count a scan's points by label and by range.

    Args:
        lidar: of ``lidar_record``; its outside points count for the ranges.
        info: the number of classes.
    """
    ranges = count_ranges(lidar.xyz)
    if lidar.outside_xyz is not None:
        there = is_measured(lidar.outside_xyz)
        ranges = ranges + count_ranges(lidar.outside_xyz[:, there])
    label = lidar.label
    if label is not None and lidar.time is not None:
        label = label[lidar.time == 0]
    return ScanCounts(
        label_histogram=count_labels(label, n_classes=info.labels.n_classes),
        range_histogram=ranges,
    )


def visible_points(
    scan: ScanSource,
    camera: int,
    xyz: NDArray[np.float32],
    info: DatasetInfo,
    *,
    rows: NDArray[np.integer],
    image_hw: tuple[int, int],
) -> VisiblePoints:
    """The points of a calibrated scan that a camera sees, by the data set's rule.

    Args:
        scan: calibrated.
        camera: of which there is a picture.
        xyz: (3, N) metres.
        info: of the data set.
        rows: (N,) row of each point in the raw file, increasing.
        image_hw: height and width of the picture as taken.

    Raises:
        ProblemError: the file that says the pixels cannot be read.
    """
    assert scan.image_from_lidar is not None, scan.scan_id
    file, form = scan.images[camera], scan_format(info)
    if scan.camera_rule == "recorded" and file and form and form.pixels:
        point_rows, pixel_rc = form.pixels(file, scan.scan_id, camera)
        return recorded_points(point_rows, pixel_rc, rows=rows, image_hw=image_hw)
    project = project_points if scan.camera_rule == "x_ahead" else project_points_by_depth
    return project(
        xyz,
        image_from_lidar=np.array(scan.image_from_lidar[camera], np.float64).reshape(3, 4),
        image_hw=image_hw,
    )


def view_doubts(
    scan: ScanSource, lidar: ScanRecord, views: Sequence[CameraView | None]
) -> list[Problem]:
    """What is unlikely about a scan's pictures, given ``camera_views`` of it."""
    xyz = lidar.xyz if lidar.time is None else lidar.xyz[:, lidar.time == 0]
    found: list[Problem] = []
    for camera, view in enumerate(views):
        if view is None or view.image is None or view.taken_hw is None:
            continue
        n_visible = len(view.point_index)
        found += picture_doubts(
            scan, camera, xyz, image=view.image, image_hw=view.taken_hw, n_visible=n_visible
        )
    return found


def read_picture(scan: ScanSource, camera: int, info: DatasetInfo) -> NDArray[np.uint8]:
    """Read and decode a picture as it was taken, (H, W, 3).

    Raises:
        ProblemError: it is missing, does not decode, or is of another size than the calibration.
    """
    file = scan.images[camera]
    assert file is not None, scan.scan_id
    form = scan_format(info)
    data = read_file(file) if form is None else form.picture(file, scan.scan_id, camera)
    image = decode_rgb(data, file=file)
    height, width, _ = image.shape
    expected = scan.taken_hw[camera] if scan.taken_hw else (0, 0)
    if any(expected) and expected != (height, width):
        raise ProblemError.of(
            file=file,
            found=f"a picture of {width}x{height} pixels",
            expected=f"{expected[1]}x{expected[0]}, the size in its calibration",
            remedy="Was it resized, or is it of another camera? Download it again.",
        )
    return image


def pictures_at_hand(scan: ScanSource, info: DatasetInfo) -> list[NDArray[np.uint8] | None]:
    """(H, W, 3) of each camera as taken; None where there is no picture, or none that decodes."""
    found: list[NDArray[np.uint8] | None] = []
    for camera, file in enumerate(scan.images):
        image = None
        if file is not None:
            with suppress(ProblemError):
                image = read_picture(scan, camera, info)
        found.append(image)
    return found


def _read(scan: ScanSource, info: DatasetInfo) -> ScanArrays:
    return read_scan(
        scan.points, scan.labels, info, panoptic_file=scan.panoptic, scan_id=scan.scan_id
    )


def _corrupted(
    scan: ScanSource,
    points: NDArray[np.float32],
    info: DatasetInfo,
    variant: Variant,
    *,
    label: NDArray[np.uint8] | None = None,
    instance: NDArray[np.uint32] | None = None,
    part: int = 0,
) -> CorruptedPoints:
    return corrupt_points(
        points,
        label=label,
        instance=instance,
        variant=variant,
        table=table_of(info),
        sequence=scan.sequence,
        frame_index=scan.frame_index,
        part=part,
    )


def _with_sweeps(
    raw: NDArray[np.float32], scan: ScanSource, info: DatasetInfo, variant: Variant | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scan's points followed by those of earlier sweeps, and the time of all.

    Sweeps are corrupted as the scan is, each where it was measured; but a corruption that needs
    labels leaves them as they are.
    """
    parts, times = [raw], [np.zeros(raw.shape[1], np.float32)]
    for place, sweep in enumerate(scan.sweeps, start=1):
        points = read_sweep(sweep.points, info)
        if variant is not None and not KNOWN[variant.name].needs_labels:
            points = _corrupted(scan, points, info, variant, part=place).points.T
        matrix = np.array(sweep.lidar_from_sweep).reshape(3, 4)
        parts.append(add_sweep(points, lidar_from_sweep=matrix))
        times.append(np.full(parts[-1].shape[1], sweep.time_s, np.float32))
    return np.concatenate(parts, axis=1), np.concatenate(times)


def _camera_view(
    scan: ScanSource,
    camera: int,
    xyz: NDArray[np.float32],
    rows: NDArray[np.integer],
    info: DatasetInfo,
) -> CameraView:
    assert scan.image_from_lidar is not None, scan.scan_id
    image = read_picture(scan, camera, info)
    taken_hw = (image.shape[0], image.shape[1])
    seen = visible_points(scan, camera, xyz, info, rows=rows, image_hw=taken_hw)
    pixel_rc = seen.pixel_rc
    if scan.stored_hw is not None and scan.stored_hw != taken_hw:
        image = resize_bilinear(image, size_hw=scan.stored_hw)
        pixel_rc = pixels_after_resize(pixel_rc, image_hw=taken_hw, stored_hw=scan.stored_hw)
    return CameraView(
        image=image, point_index=seen.point_index, pixel_rc=pixel_rc, taken_hw=taken_hw
    )
