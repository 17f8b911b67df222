"""The stages tied together for one scan: files in, records out."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.schema import SCALES, CameraView, DatasetInfo, GridConfig, ScanRecord, VoxelLevel
from pass2d.common.files import read_whole
from pass2d.corruptions.registry import NEEDS_LABELS, Variant
from pass2d.pipeline.corrupted import variant_of
from pass2d.pipeline.doubts import picture_doubts, require_in_volume
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.corrupt import CorruptedPoints, corrupt_points
from pass2d.pipeline.stages.counts import count_labels, count_ranges
from pass2d.pipeline.stages.images import decode_rgb, resize_bilinear
from pass2d.pipeline.stages.label_types import require_label_type
from pass2d.pipeline.stages.labels import instance_ids, map_labels
from pass2d.pipeline.stages.projection import (
    VisiblePoints,
    pixels_after_resize,
    project_points,
    project_points_by_depth,
)
from pass2d.pipeline.stages.read import (
    decode_points,
    decode_raw_labels,
    drop_invalid,
    require_finite,
    require_layout,
    require_same_length,
)
from pass2d.pipeline.stages.sweeps import add_sweep
from pass2d.pipeline.stages.volume import split_volume
from pass2d.pipeline.stages.voxels import voxelize

STAGE_CODE_VERSIONS = {"lidar": 1, "camera": 1, "voxel": 1}
"""Part of a stage's key: raise a number when that stage's output changes for the same input."""


class ScanCounts(NamedTuple):
    """What statistics need of a scan."""

    label_histogram: NDArray[np.int64]
    """(C,) kept points per training id; zeros without labels."""
    range_histogram: NDArray[np.int64]
    """(R,) points of the raw file per bin of ``cache.statistics.RANGE_EDGES_M``."""


def lidar_arrays(scan: ScanSource, info: DatasetInfo) -> ScanRecord:
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
    points = read_points(scan.points, info)
    label, instance = _labels_of(scan, len(points), info)
    if info.drops_invalid:
        points, label, instance = _without_invalid(points, label, instance, info)
    require_finite(points, file=scan.points)
    require_in_volume(points, info=info, file=scan.points)
    raw = np.ascontiguousarray(points[:, :4].T)
    variant = variant_of(info)
    if variant is not None:
        raw, label, instance = _corrupted(
            scan, points, info, variant, label=label, instance=instance
        )
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
    )


def camera_arrays(scan: ScanSource, lidar: ScanRecord) -> tuple[CameraView | None, ...]:
    """Decode a scan's pictures and find the points that each shows.

    Args:
        scan: where its pictures are, and the calibration.
        lidar: the same scan's points; ``xyz`` and ``time`` are used. Points of added sweeps have no
            pixel: a thing that moves is elsewhere in the picture.

    Returns:
        One per camera; None where a picture or the calibration is missing.

    Raises:
        ProblemError: a picture is missing or does not decode.
    """
    if scan.image_from_lidar is None:
        return (None,) * len(scan.images)
    own = None if lidar.time is None else np.flatnonzero(lidar.time == 0).astype(np.int32)
    xyz = lidar.xyz if own is None else np.ascontiguousarray(lidar.xyz[:, own])
    views = [
        None if file is None else _camera_view(scan, camera, xyz)
        for camera, file in enumerate(scan.images)
    ]
    if own is not None:
        views = [v and replace(v, point_index=own[v.point_index]) for v in views]
    return tuple(views)


def voxel_arrays(
    lidar: ScanRecord, *, grid: GridConfig, scales: Sequence[int] = SCALES
) -> tuple[VoxelLevel, ...]:
    """Hash a scan's kept points at every scale.

    Args:
        lidar: ``xyz``, ``label`` and ``time`` are used; points of added sweeps have no vote.
        grid: the volume's cells.
        scales: in the order of the result.

    Returns:
        One level per scale.
    """
    votes = None if lidar.time is None else lidar.time == 0
    return voxelize(lidar.xyz, lidar.label, grid=grid, scales=scales, has_vote=votes)


def scan_counts(lidar: ScanRecord, info: DatasetInfo) -> ScanCounts:
    """Count a scan's points by label and by range.

    Args:
        lidar: of ``lidar_arrays``; its outside points count for the ranges.
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


def read_points(file: Path, info: DatasetInfo) -> NDArray[np.float32]:
    """Read a point file as it is, (R, columns), read-only.

    Raises:
        ProblemError: it is missing, truncated, or clearly of another number of columns.
    """
    data = read_file(file)
    require_layout(data, columns=info.raw_columns, file=file)
    return decode_points(data, columns=info.raw_columns, file=file)


def read_raw_labels(
    file: Path, info: DatasetInfo, *, n_points: int | None = None
) -> NDArray[np.uint32]:
    """Read a label file as it is, (R,).

    Raises:
        ProblemError: it is missing, truncated, or seems to be of another type; where the number of
            the scan's points is known, sizes of other types are known, too.
    """
    data = read_file(file)
    label_bytes = 4 if info.layout == "semantickitti" else 1
    require_label_type(
        data, n_points=n_points, label_bytes=label_bytes, table=info.labels, file=file
    )
    return decode_raw_labels(data, label_bytes=label_bytes, file=file)


_NO_FILE = frozenset(
    {
        *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM),
        *(errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG),
    }
)


def read_file(file: Path) -> bytes:
    """Read a whole file of the raw data set.

    Raises:
        ProblemError: it is missing, a folder, a pipe or not readable. Other failures of the disk
            or the network stay an OSError: they may pass, and the runner tries again.
    """
    try:
        return read_whole(file)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise ProblemError(
            Problem(
                file=file,
                found=(error.strerror or type(error).__name__).lower(),
                expected="a readable file",
                remedy=(
                    "Change its permissions."
                    if isinstance(error, PermissionError)
                    else "Was it moved, or is it a link to nowhere? List the data set again."
                ),
            )
        ) from error


def visible_points(
    scan: ScanSource, camera: int, xyz: NDArray[np.float32], *, image_hw: tuple[int, int]
) -> VisiblePoints:
    """The points (3, N) of a calibrated scan that a camera sees, as its data set has it."""
    assert scan.image_from_lidar is not None, scan.scan_id
    project = project_points if scan.camera_model == "kitti" else project_points_by_depth
    return project(
        xyz,
        image_from_lidar=np.array(scan.image_from_lidar[camera], np.float64).reshape(3, 4),
        image_hw=image_hw,
    )


def view_doubts(
    scan: ScanSource, lidar: ScanRecord, views: Sequence[CameraView | None]
) -> list[Problem]:
    """What is unlikely about a scan's pictures, given ``camera_arrays`` of it."""
    xyz = lidar.xyz if lidar.time is None else lidar.xyz[:, lidar.time == 0]
    found: list[Problem] = []
    for camera, view in enumerate(views):
        if view is None or view.image is None:
            continue
        taken_hw = scan.taken_hw[camera] if scan.taken_hw else view.image.shape[:2]
        if all(taken_hw):
            n_visible = len(view.point_index)
            found += picture_doubts(scan, camera, xyz, image_hw=taken_hw, n_visible=n_visible)
    return found


def read_picture(scan: ScanSource, camera: int) -> NDArray[np.uint8]:
    """Read and decode a picture as it was taken, (H, W, 3).

    Raises:
        ProblemError: it is missing, does not decode, or is of another size than the calibration.
    """
    file = scan.images[camera]
    assert file is not None, scan.scan_id
    image = decode_rgb(read_file(file), file=file)
    height, width, _ = image.shape
    expected = scan.taken_hw[camera] if scan.taken_hw else (0, 0)
    if any(expected) and expected != (height, width):
        raise ProblemError(
            Problem(
                file=file,
                found=f"a picture of {width}x{height} pixels",
                expected=f"{expected[1]}x{expected[0]}, which its calibration is for",
                remedy="Was it resized, or is it of another camera? Download it again.",
            )
        )
    return image


def _labels_of(
    scan: ScanSource, n_points: int, info: DatasetInfo
) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint32] | None]:
    """(R,) training ids and instance ids of a scan's own points; None without a label file."""
    if scan.labels is None:
        return None, None
    raw_labels = read_raw_labels(scan.labels, info, n_points=n_points)
    require_same_length(
        n_points=n_points,
        n_labels=len(raw_labels),
        points_file=scan.points,
        labels_file=scan.labels,
    )
    label = map_labels(raw_labels, table=info.labels, file=scan.labels)
    return label, instance_ids(raw_labels)


def _without_invalid(
    points: NDArray[np.float32],
    label: NDArray[np.uint8] | None,
    instance: NDArray[np.uint32] | None,
    info: DatasetInfo,
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.uint32] | None]:
    """Points with finite numbers; of rows that have none the label is ignored.

    A corrupted scan has rows of its own: there they leave.
    """
    points, is_invalid = drop_invalid(points)
    if not is_invalid.any():
        return points, label, instance
    if info.corruption is not None:
        points = points[~is_invalid]
        label = None if label is None else label[~is_invalid]
        instance = None if instance is None else instance[~is_invalid]
    elif label is not None and instance is not None:
        label, instance = label.copy(), instance.copy()
        label[is_invalid], instance[is_invalid] = 0, 0
    return points, label, instance


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
        layout=info.layout,
        sequence=scan.sequence,
        frame_index=scan.frame_index,
        part=part,
    )


def _with_sweeps(
    raw: NDArray[np.float32], scan: ScanSource, info: DatasetInfo, variant: Variant | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scan's points with those of earlier sweeps behind them, and the time of all.

    Sweeps are corrupted as the scan is, each where it was measured; but a corruption that needs
    labels leaves them as they are.
    """
    parts, times = [raw], [np.zeros(raw.shape[1], np.float32)]
    for place, sweep in enumerate(scan.sweeps, start=1):
        points = read_points(sweep.points, info)
        if info.drops_invalid:
            points = points[np.isfinite(points).all(axis=1)]
        require_finite(points, file=sweep.points)
        if variant is not None and variant.name not in NEEDS_LABELS:
            points = _corrupted(scan, points, info, variant, part=place).points.T
        matrix = np.array(sweep.lidar_from_sweep).reshape(3, 4)
        parts.append(add_sweep(points, lidar_from_sweep=matrix))
        times.append(np.full(parts[-1].shape[1], sweep.time_s, np.float32))
    return np.concatenate(parts, axis=1), np.concatenate(times)


def _camera_view(scan: ScanSource, camera: int, xyz: NDArray[np.float32]) -> CameraView:
    assert scan.image_from_lidar is not None, scan.scan_id
    image = read_picture(scan, camera)
    taken_hw = image.shape[:2]
    seen = visible_points(scan, camera, xyz, image_hw=taken_hw)
    pixel_rc = seen.pixel_rc
    if scan.stored_hw is not None and scan.stored_hw != taken_hw:
        image = resize_bilinear(image, size_hw=scan.stored_hw)
        pixel_rc = pixels_after_resize(pixel_rc, image_hw=taken_hw, stored_hw=scan.stored_hw)
    return CameraView(image=image, point_index=seen.point_index, pixel_rc=pixel_rc)
