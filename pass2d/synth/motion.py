"""Motion of the sensors along the street."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.sensors import CameraModel, LidarModel, rotation
from pass2d.synth.street import Street

EGO_LANE_M = -1.75
"""Right-hand traffic: metres left of the centre line."""


def world_from_lidar(
    street: Street, lidar: LidarModel, *, time_s: float, speed_mps: float, sway: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pose of the sensor car's LiDAR.

    Args:
        street: the road it follows.
        lidar: gives the height.
        time_s: since the first scan.
        speed_mps: constant along the centre line.
        sway: (6,) phases of the slow rolling, pitching and weaving, radians.

    Returns:
        (4, 4) pose.
    """
    s = speed_mps * time_s
    weave = 0.25 * np.sin(0.09 * s + sway[0])
    x, y, heading = street.line.world_from_street(s, EGO_LANE_M + weave)
    roll = 0.008 * np.sin(0.21 * s + sway[1]) + 0.003 * np.sin(1.3 * s + sway[2])
    pitch = 0.009 * np.sin(0.17 * s + sway[3]) + 0.004 * np.sin(1.7 * s + sway[4])
    yaw = heading + 0.02 * np.sin(0.09 * s + sway[5])
    pose = np.eye(4)
    pose[:3, :3] = rotation(roll=roll, pitch=pitch, yaw=yaw)
    pose[:3, 3] = (x, y, lidar.mount_m + 0.02 * np.sin(0.4 * s + sway[2]))
    return pose


def camera_poses(
    world_from_lidars: NDArray[np.float64], camera: CameraModel
) -> NDArray[np.float64]:
    """Poses as KITTI writes them: camera 0 in the frame of the first camera 0.

    Args:
        world_from_lidars: (S, 4, 4) poses of the LiDAR.
        camera: gives ``Tr``.

    Returns:
        (S, 3, 4); the first is the identity.
    """
    world_from_cam0 = world_from_lidars @ np.linalg.inv(camera.cam0_from_lidar)
    first: NDArray[np.float64] = np.linalg.inv(world_from_cam0[0]) @ world_from_cam0
    return first[:, :3]
