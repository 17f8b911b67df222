"""Whether rows of calibrated_sensor and ego_pose can be those of sensors on a vehicle.

Real nuScenes and PandaSet: quaternions of length 1 to 1e-15, sensors 1.6 to 2.3 m from the
vehicle's origin, cameras at most 19 degrees off the direction that their channel says.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.stages.camera_sense import intrinsics_fault, size_fault
from pass2d.pipeline.stages.ego_motion import Pose

AHEAD_DEG = {
    "CAM_FRONT": 0.0,
    "CAM_FRONT_LEFT": 55.0,
    "CAM_FRONT_RIGHT": -55.0,
    "CAM_BACK_LEFT": 110.0,
    "CAM_BACK_RIGHT": -110.0,
    "CAM_BACK": 180.0,
}
"""Direction of each channel's camera: from the vehicle's x (forward) towards its y (left)."""
_LENGTH_OFF = 0.02
"""Of a quaternion from 1: more than rounding to two decimals."""
_FARTHEST_M = 20.0
"""A sensor from the vehicle's origin."""
_ABOVE_M = 1.0
"""A camera above a lidar on a car."""
_MOST_TURNED_DEG = 60.0
_MOST_OFF_DEG = 40.0
_FASTEST_M_S, _JUMP_M = 100.0, 20.0


class Fault(NamedTuple):
    """What is impossible about one row."""

    field: str
    found: str
    expected: str


def pose_fault(pose: Pose) -> Fault | None:
    """Why a pose is impossible; None if it is possible."""
    length = math.hypot(*pose.rotation_wxyz)
    if abs(length - 1) > _LENGTH_OFF:
        found = f"a quaternion of length {length:.4g}"
        return Fault("rotation", found, "length 1, in the order w, x, y, z")
    return None


def tilt_fault(pose: Pose, what: str) -> Fault | None:
    """Why an impossible tilt of the vehicle, or of a lidar on it, is one; None if it is possible.

    A quaternion in the order x, y, z, w shows by it.
    """
    tilt = _angle_deg(pose.matrix()[:3, 2], (0.0, 0.0, 1.0))
    if tilt <= _MOST_TURNED_DEG:
        return None
    return Fault(
        "rotation", f"{what} tilted by {tilt:.0f} degrees", "z upwards, in the order w, x, y, z"
    )


@functools.lru_cache(maxsize=4096)
def mount_fault(ego_from_sensor: Pose, intrinsics: tuple[float, ...]) -> Fault | None:
    """Why the mounting of a sensor on a vehicle is impossible; None if it is possible.

    Args:
        ego_from_sensor: its place.
        intrinsics: (3, 3) row by row; empty of a lidar.
    """
    if fault := pose_fault(ego_from_sensor):
        return fault
    away = math.hypot(*ego_from_sensor.translation_m)
    if away > _FARTHEST_M:
        found = f"a sensor {away:,.4g} m from the vehicle's origin"
        return Fault("translation", found, f"metres, {_FARTHEST_M:.0f} at most")
    if not intrinsics:
        return tilt_fault(ego_from_sensor, "a lidar")
    return _camera_fault(ego_from_sensor, intrinsics)


def _camera_fault(ego_from_camera: Pose, intrinsics: tuple[float, ...]) -> Fault | None:
    if not any(ego_from_camera.translation_m):
        return Fault("translation", "zeros", "the camera's position on the vehicle, in metres")
    if bad := intrinsics_fault(np.array(intrinsics).reshape(3, 3)):
        expected = "focal lengths and the middle of the picture, in pixels"
        return Fault("camera_intrinsic", bad, expected)
    turned = _angle_deg(ego_from_camera.matrix()[:3, 1], (0.0, 0.0, -1.0))
    if turned > _MOST_TURNED_DEG:
        found = f"a camera whose pictures are turned by {turned:.0f} degrees"
        return Fault("rotation", found, "the vehicle's frame from the camera's, whose y is down")
    return None


@functools.lru_cache(maxsize=4096)
def picture_fault(intrinsics: tuple[float, ...], hw: tuple[int, int]) -> Fault | None:
    """Why intrinsics, plausible in themselves, do not fit pictures of a size."""
    if not all(hw):
        return None
    bad = size_fault(np.array(intrinsics).reshape(3, 3), image_hw=hw)
    return bad and Fault("camera_intrinsic", bad.found, bad.expected)


def zeroed_lidar_fault(lidar: Pose, camera: Pose) -> Fault | None:
    """Why a lidar cannot sit at the vehicle's origin: its cameras are far above.

    Where the vehicle's frame is the lidar's own, they are beside and below it.
    """
    if any(lidar.translation_m) or camera.translation_m[2] <= _ABOVE_M:
        return None
    found = f"zeros, with a camera {camera.translation_m[2]:.2f} m above"
    return Fault("translation", found, "the lidar's position on the vehicle, in metres")


def jump_fault(here: Pose, there: Pose, *, time_s: float) -> Fault | None:
    """Why a vehicle cannot have moved between two poses in so short a time."""
    moved = math.dist(here.translation_m, there.translation_m)
    if moved <= _JUMP_M + _FASTEST_M_S * abs(time_s):
        return None
    found = f"a vehicle {moved:,.4g} m from where it is {abs(time_s):.3f} s away"
    return Fault("translation", found, "one drive, in metres")


def direction_fault(channel: str, ego_from_camera: Pose) -> Fault | None:
    """What is suspicious about the direction of a channel's camera."""
    if channel not in AHEAD_DEG:
        return None
    angle = np.deg2rad(AHEAD_DEG[channel])
    off = _angle_deg(ego_from_camera.matrix()[:3, 2], (np.cos(angle), np.sin(angle), 0.0))
    if off <= _MOST_OFF_DEG:
        return None
    found = f"a camera that looks {off:.0f} degrees away from where {channel} does"
    return Fault("rotation", found, f"{_MOST_OFF_DEG:.0f} degrees at most")


def _angle_deg(a: NDArray[np.float64], b: tuple[float, float, float]) -> float:
    """Between two directions of length 1."""
    return float(np.degrees(np.arccos(np.clip(a @ np.array(b), -1, 1))))
