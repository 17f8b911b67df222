"""A frame of the Waymo Open Dataset v2: points, labels, pictures and pixels from Parquet.

Component and segment name a file: `SPLIT/lidar/SEGMENT.parquet`. The points of a scan are those of
the lidar on the roof: pixels of the first return, row by row, then those of the second.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.parquet_rows import Holds, numbers, read_columns, rows_of
from pass2d.pipeline.stages.range_image import beam_inclinations, range_image_points

SUFFIX = ".parquet"
TIME = "key.frame_timestamp_micros"
LASER, CAMERA = "key.laser_name", "key.camera_name"
TOP = 1
"""The lidar on the roof: the only one with labels."""
LIDAR, POSE, VEHICLE = "lidar", "lidar_pose", "vehicle_pose"
LIDAR_CALIBRATION, LABELS = "lidar_calibration", "lidar_segmentation"
PICTURES, PROJECTION = "camera_image", "lidar_camera_projection"
CAMERA_CALIBRATION = "camera_calibration"
BESIDE_LIDAR = (POSE, VEHICLE, LIDAR_CALIBRATION)
"""Components that points are made of, beside `lidar`."""
BESIDE_CAMERA = (PROJECTION, LIDAR)
RETURNS = (1, 2)
_ROTATION_TOLERANCE = 1e-3
"""Of the product of a rotation and its transpose."""

_LIDAR = "[LiDARComponent].range_image_return{}"
_LABEL = "[LiDARSegmentationLabelComponent].range_image_return{}"
_PROJECTED = "[LiDARCameraProjectionComponent].range_image_return{}"
_POSE = "[LiDARPoseComponent].range_image_return1"
_WORLD = "[VehiclePoseComponent].world_from_vehicle.transform"
_EXTRINSIC = "[LiDARCalibrationComponent].extrinsic.transform"
_BEAMS = "[LiDARCalibrationComponent].beam_inclination"
_PICTURE = "[CameraImageComponent].image"


def sibling(file: Path, component: str) -> Path:
    """The file of the same segment in another component."""
    return file.parent.parent / component / file.name


def frame_points(file: Path, scan_id: str) -> NDArray[np.float32]:
    """Read a frame's points.

    Args:
        file: of the component `lidar`.
        scan_id: SEGMENT/TIMESTAMP.

    Returns:
        (R, 4) x, y, z in metres, in the vehicle frame of the frame; intensity.

    Raises:
        ProblemError: a file of the segment is missing or damaged, or lacks the frame.
        OSError: reading failed in a way that may pass.
    """
    images = _range_images(file, scan_id)
    vehicle_from_lidar, beams, low, high = _calibration(sibling(file, LIDAR_CALIBRATION))
    pose = _images(sibling(file, POSE), (_POSE,), scan_id, np.float32, channels=6)[0]
    world = _pose(sibling(file, VEHICLE), scan_id)
    points = []
    for image in images:
        if pose is not None and not np.isfinite(pose).all():
            raise _odd(sibling(file, POSE), (), "finite numbers")
        if pose is not None and pose.shape[:2] != image.shape[:2]:
            raise _odd(sibling(file, POSE), pose.shape, f"{image.shape[:2]}, as the range image")
        if beams is not None and len(beams) != len(image):
            where = sibling(file, LIDAR_CALIBRATION)
            raise _odd(where, beams.shape, f"{len(image)} beams, as the range image has rows")
        xyz = range_image_points(
            image[..., 0],
            inclinations=beam_inclinations(beams, low=low, high=high, height=len(image)),
            vehicle_from_lidar=vehicle_from_lidar,
            pixel_pose=pose,
            world_from_vehicle=world,
        )
        intensity = image[..., 1][image[..., 0] > 0]
        points.append(np.column_stack([xyz, intensity]).astype(np.float32, copy=False))
    return np.concatenate(points)


def frame_labels(file: Path, scan_id: str) -> NDArray[np.uint32]:
    """Read a frame's labels.

    Args:
        file: of the component `lidar_segmentation`.
        scan_id: SEGMENT/TIMESTAMP.

    Returns:
        (R,) class in the low 16 bits, instance id in the high ones, in the order of the points.

    Raises:
        ProblemError, OSError: as ``frame_points``.
    """
    parts = []
    for image, where in _returns(file, _LABEL, scan_id, np.int64, channels=2):
        instance, semantic = image[where].T
        parts.append((semantic & 0xFFFF | (instance & 0xFFFF) << 16).astype(np.uint32))
    return np.concatenate(parts)


def frame_pixels(
    file: Path, scan_id: str, camera: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of points on a picture, as stated by the data set.

    Args:
        file: of the component `camera_image`.
        scan_id: SEGMENT/TIMESTAMP.
        camera: from 0; its number in the files is one more.

    Returns:
        (M,) rows of the frame's points, and (2, M) row and column of their pixels.

    Raises:
        ProblemError, OSError: as ``frame_points``.
    """
    projected = _returns(sibling(file, PROJECTION), _PROJECTED, scan_id, np.int64, channels=6)
    table = np.concatenate([image[where] for image, where in projected])
    is_first, is_second = table[:, 0] == camera + 1, table[:, 3] == camera + 1
    rows = np.flatnonzero(is_first | is_second)
    chosen = np.where(is_first[rows, None], table[rows, 1:3], table[rows, 4:6])
    return rows, np.ascontiguousarray(chosen[:, ::-1].T)


def frame_picture(file: Path, scan_id: str, camera: int) -> bytes:
    """A picture as it is stored, a JPEG.

    Raises:
        ProblemError, OSError: as ``frame_points``.
    """
    rows = rows_of(file, keys=(TIME, CAMERA), columns={_PICTURE: Holds.BYTES})
    value = rows.row((_time(scan_id), camera + 1))[_PICTURE].as_py()
    return value or b""


def _time(scan_id: str) -> int:
    return int(scan_id.rpartition("/")[2])


def _returns(
    file: Path, column: str, scan_id: str, kind: type[np.generic], *, channels: int
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """An image per return, and which of its pixels are points."""
    found = []
    ranges = _range_images(sibling(file, LIDAR), scan_id)
    names = [column.format(n) for n in RETURNS[: len(ranges)]]
    for values, image in zip(
        _images(file, names, scan_id, kind, channels=channels), ranges, strict=True
    ):
        if values is None or values.shape[:2] != image.shape[:2]:
            shape = () if values is None else values.shape
            raise _odd(file, shape, f"{image.shape[:2]}, as the range image has it")
        found.append((values, image[..., 0] > 0))
    return found


class _Last(threading.local):
    """The range images that this thread read last: points, labels and pixels all need them."""

    key: tuple[object, ...] = ()
    images: tuple[NDArray[np.float32], ...] = ()


_LAST = _Last()


def _range_images(file: Path, scan_id: str) -> tuple[NDArray[np.float32], ...]:
    """(H, W, 4) range, intensity, elongation, no-label-zone of each return."""
    names = [_LIDAR.format(n) for n in RETURNS]
    stat = file.stat() if file.is_file() else None
    key = file, scan_id, None if stat is None else (stat.st_size, stat.st_mtime_ns)
    if _LAST.key != key:
        images = _images(file, names, scan_id, np.float32, channels=4)
        if images[0] is None:
            raise _odd(file, (), "a range image of the first return")
        _LAST.images = tuple(image for image in images if image is not None)
        _LAST.key = key
    return _LAST.images


def _images(
    file: Path, names: Sequence[str], scan_id: str, kind: type[np.generic], *, channels: int
) -> list[NDArray[Any] | None]:
    """(H, W, channels) images of a row, one per name; None where one is empty."""
    values = Holds.NUMBERS if np.issubdtype(kind, np.floating) else Holds.WHOLES
    parts = {"values": values, "shape": Holds.WHOLES}
    columns = {f"{name}.{part}": holds for name in names for part, holds in parts.items()}
    row = rows_of(file, keys=(TIME, LASER), columns=columns).row((_time(scan_id), TOP))
    found: list[NDArray[Any] | None] = []
    for name in names:
        image = numbers(row[f"{name}.values"], kind, file)
        shape = numbers(row[f"{name}.shape"], np.int64, file)
        if image is None or shape is None or not image.size:
            found.append(None)
            continue
        height_width = tuple(shape.tolist())
        is_sound = len(shape) == 3 and min(height_width) > 0 and shape[2] == channels
        if not is_sound or math.prod(height_width) != image.size:
            raise _odd(file, height_width, f"height, width, {channels} of {image.size}")
        found.append(image.reshape(height_width))
    return found


def _calibration(
    file: Path,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, float, float]:
    """vehicle_from_lidar (4, 4), inclinations from below or None, the lowest, the highest."""
    names = (_EXTRINSIC, f"{_BEAMS}.values", f"{_BEAMS}.min", f"{_BEAMS}.max")
    kinds = (Holds.NUMBERS, Holds.NUMBERS, Holds.NUMBER, Holds.NUMBER)
    columns = dict(zip(names, kinds, strict=True))
    row = rows_of(file, keys=(LASER,), columns=columns).row((TOP,))
    beams = numbers(row[names[1]], np.float64, file)
    low, high = row[names[2]].as_py(), row[names[3]].as_py()
    if beams is not None and not beams.size:
        beams = None
    edges = [value for value in (low, high) if value is not None]
    if not np.isfinite(edges if beams is None else beams).all() or (
        beams is None and len(edges) < 2
    ):
        raise _odd(file, (), "inclinations of the beams, or the lowest and highest")
    return _matrix(row[_EXTRINSIC], file), beams, low or 0.0, high or 0.0


def _pose(file: Path, scan_id: str) -> NDArray[np.float64]:
    columns = {_WORLD: Holds.NUMBERS}
    row = rows_of(file, keys=(TIME,), columns=columns).row((_time(scan_id),))
    return _matrix(row[_WORLD], file)


def _matrix(scalar: Any, file: Path) -> NDArray[np.float64]:
    values = numbers(scalar, np.float64, file)
    if values is None or values.size != 16 or not np.isfinite(values).all():
        raise _odd(file, () if values is None else values.shape, "16 finite numbers, a 4x4 matrix")
    matrix: NDArray[np.float64] = values.reshape(4, 4)
    turned = np.abs(matrix[:3, :3].T @ matrix[:3, :3] - np.eye(3)).max()
    if turned > _ROTATION_TOLERANCE or np.abs(matrix[3] - (0, 0, 0, 1)).max() > 0:
        raise _odd(file, values.shape, "a rotation and a position, a 4x4 matrix")
    return matrix


def segment_poses(file: Path) -> dict[int, NDArray[np.float64]]:
    """world_from_vehicle (4, 4) by timestamp in microseconds, in the order of time.

    Raises:
        ProblemError, OSError: as ``frame_points``.
    """
    table = read_columns(file, {TIME: Holds.WHOLE, _WORLD: Holds.NUMBERS})
    matrices = table[_WORLD].combine_chunks()
    return {
        time: _matrix(matrices[place], file)
        for time, place in sorted((t, i) for i, t in enumerate(table[TIME].to_pylist()))
    }


def segment_times(file: Path) -> list[int]:
    """Timestamps of the rows of a component, each once, in their order.

    Raises:
        ProblemError, OSError: as ``frame_points``.
    """
    return sorted(set(read_columns(file, {TIME: Holds.WHOLE})[TIME].to_pylist()))


def camera_matrices(file: Path) -> dict[int, tuple[NDArray[np.float64], tuple[int, int]]]:
    """Per camera from 0: (3, 4) pixels from vehicle metres without distortion, height and width.

    The pixels of points come from the data set's own projection, which accounts for distortion and
    rolling shutter; the matrix is used if points are moved.

    Raises:
        ProblemError, OSError: as ``frame_points``.
    """
    name = "[CameraCalibrationComponent]"
    focal = [f"{name}.intrinsic.{part}" for part in ("f_u", "f_v", "c_u", "c_v")]
    size = [f"{name}.height", f"{name}.width"]
    extrinsic = f"{name}.extrinsic.transform"
    kinds = {CAMERA: Holds.WHOLE, extrinsic: Holds.NUMBERS}
    kinds |= dict.fromkeys(focal, Holds.NUMBER) | dict.fromkeys(size, Holds.WHOLE)
    table = read_columns(file, kinds)
    columns = {key: table[key].to_pylist() for key in (CAMERA, *focal, *size)}
    matrices = table[extrinsic].combine_chunks()
    found = {}
    for place, camera in enumerate(columns[CAMERA]):
        f_u, f_v, c_u, c_v = (columns[key][place] for key in focal)
        # Of the files x looks ahead and y to the left; of a picture x is right and y is down.
        image_from_camera = np.array(
            [[c_u, -f_u, 0, 0], [c_v, 0, -f_v, 0], [1, 0, 0, 0]], np.float64
        )
        camera_from_vehicle = np.linalg.inv(_matrix(matrices[place], file))
        height, width = (columns[key][place] for key in size)
        if not (np.isfinite([f_u, f_v, c_u, c_v]).all() and min(f_u, f_v, height, width) > 0):
            raise _odd(file, (), "finite focal lengths and sizes above 0")
        found[camera - 1] = image_from_camera @ camera_from_vehicle, (height, width)
    return found


def _odd(file: Path, found: tuple[int, ...], expected: str) -> ProblemError:
    return ProblemError.of(
        file=file,
        found=f"numbers of shape {found}" if found else "numbers that cannot be right, or none",
        expected=expected,
        remedy="Download the files of this segment again, all of one version.",
    )
