"""From nuScenes' poses to one matrix per camera; the vehicle moves between scan and picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a frame lies in another one, as the tables ego_pose and calibrated_sensor write it."""

    rotation_wxyz: tuple[float, float, float, float]
    """Quaternion, the real part first; need not be of length 1."""
    translation_m: tuple[float, float, float]
    """The origin, in the other frame."""

    def matrix(self) -> NDArray[np.float64]:
        """(4, 4) ``outer_from_inner``: from this frame to the one it is given in; read-only."""
        return _matrix(self.rotation_wxyz, self.translation_m)


@functools.lru_cache(maxsize=4096)
def _matrix(
    rotation_wxyz: tuple[float, float, float, float], translation_m: tuple[float, float, float]
) -> NDArray[np.float64]:
    # Remembered: a sensor's place holds for a thousand scans, a scan's pose for six cameras.
    w, x, y, z = np.array(rotation_wxyz) / np.linalg.norm(rotation_wxyz)
    outer_from_inner = np.eye(4)
    outer_from_inner[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    outer_from_inner[:3, 3] = translation_m
    outer_from_inner.flags.writeable = False
    return outer_from_inner


def image_from_lidar_through_world(
    *,
    ego_from_lidar: Pose,
    world_from_ego_at_scan: Pose,
    world_from_ego_at_image: Pose,
    ego_from_camera: Pose,
    intrinsics: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compose lidar -> ego -> world -> ego at the picture's time -> camera -> pixel.

    In float64 and composed before any point is moved: world coordinates are kilometres, and
    float32 steps through them are centimetres off.

    Args:
        ego_from_lidar: of the lidar's calibrated_sensor.
        world_from_ego_at_scan: ego_pose of the lidar's sample_data.
        world_from_ego_at_image: ego_pose of the picture's sample_data.
        ego_from_camera: of the camera's calibrated_sensor.
        intrinsics: (3, 3) camera_intrinsic.

    Returns:
        (3, 4) homogeneous pixels from lidar metres; its third row gives the depth in metres.

    Source: docs/maths.md, section 2, step 2.
    """
    world_from_lidar = world_from_ego_at_scan.matrix() @ ego_from_lidar.matrix()
    world_from_camera = world_from_ego_at_image.matrix() @ ego_from_camera.matrix()
    camera_from_lidar = np.linalg.inv(world_from_camera) @ world_from_lidar
    return intrinsics @ camera_from_lidar[:3]


def lidar_from_sweep_through_world(
    *,
    ego_from_lidar: Pose,
    world_from_ego_at_scan: Pose,
    ego_from_lidar_at_sweep: Pose,
    world_from_ego_at_sweep: Pose,
) -> NDArray[np.float64]:
    """Compose the transform from an earlier revolution of the lidar to that of a scan.

    Args:
        ego_from_lidar: of the scan's calibrated_sensor.
        world_from_ego_at_scan: ego_pose of the scan.
        ego_from_lidar_at_sweep: of the sweep's calibrated_sensor, usually the same.
        world_from_ego_at_sweep: ego_pose of the sweep.

    Returns:
        (3, 4): the scan's lidar frame from the sweep's. Objects that moved meanwhile are displaced.
    """
    world_from_lidar = world_from_ego_at_scan.matrix() @ ego_from_lidar.matrix()
    world_from_sweep = world_from_ego_at_sweep.matrix() @ ego_from_lidar_at_sweep.matrix()
    lidar_from_sweep: NDArray[np.float64] = np.linalg.inv(world_from_lidar) @ world_from_sweep
    return lidar_from_sweep[:3]
