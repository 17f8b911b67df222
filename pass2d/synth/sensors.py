"""The LiDAR and the camera: their rays, and which of them can meet a given box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.shapes import Vectors


@dataclass(frozen=True, kw_only=True)
class LidarModel:
    """A spinning LiDAR."""

    elevation_rad: NDArray[np.float64]
    """(B,) of the beams, top first."""
    columns: int
    """Shots of a beam per revolution."""
    mount_m: float = 1.73
    """Height above the ground."""
    reach_m: float = 100.0
    range_noise_m: float = 0.015
    """Standard deviation of a measured range."""


@dataclass(frozen=True, kw_only=True)
class CameraModel:
    """A pinhole camera."""

    image_from_cam0: NDArray[np.float64]
    """(3, 4) ``P2``; its fourth column shifts the camera away from camera 0."""
    cam0_from_lidar: NDArray[np.float64]
    """(4, 4) ``Tr``."""
    image_hw: tuple[int, int]
    """Pixels."""


class Windows(NamedTuple):
    """Rows and columns of the ray grid that can meet each of P boxes; rows[0] >= rows[1]: none."""

    row_start: NDArray[np.intp]
    row_stop: NDArray[np.intp]
    column_start: NDArray[np.intp]
    """0..columns - 1."""
    column_stop: NDArray[np.intp]
    """May pass the last column when the grid is a full circle: take it modulo the columns."""
    nearest_m: NDArray[np.float64]
    """Lower bound of the distance to the box."""


@dataclass(frozen=True, kw_only=True)
class RayGrid:
    """H x W rays from one point, in the world frame."""

    origin: tuple[float, float, float]
    """Metres."""
    direction: Vectors
    """(H, W) each, unit length."""
    reach_m: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        height, width = self.direction.x.shape
        return height, width


def hdl64_elevations(beams: int) -> NDArray[np.float64]:
    """Elevations like a Velodyne HDL-64E: +2 to -8.33 degrees dense, to -24.33 degrees coarse.

    Args:
        beams: how many; other numbers than 64 are spread over the same curve.

    Returns:
        (beams,) radians, highest first.

    Source: Velodyne HDL-64E S2 manual, vertical field of view.
    """
    upper = 2.0 - np.arange(32) / 3
    lower = -8.83 - np.arange(32) / 2
    table = np.concatenate([upper, lower])
    at = np.linspace(0, 63, beams) if beams > 1 else np.array([40.0])
    return np.deg2rad(np.interp(at, np.arange(64), table))


def kitti_camera(image_hw: tuple[int, int]) -> CameraModel:
    """KITTI's colour camera, its picture scaled to another size.

    Args:
        image_hw: height and width in pixels; 376 x 1241 is the original.

    Returns:
        The camera; P2 has KITTI's fourth column and Tr its lever arm.

    Source: KITTI odometry, calib.txt of sequence 00.
    """
    height, width = image_hw
    zoom = width / 1241
    focal = 718.856 * zoom
    projection = np.array(
        [
            [focal, 0, 607.1928 * zoom, 45.38225 * zoom],
            [0, focal, 185.2157 * height / 376, -0.1130887 * zoom],
            [0, 0, 1, 3.779761e-3],
        ]
    )
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], np.float64)
    tilt = rotation(roll=0.0081, pitch=0.0072, yaw=-0.0005)
    cam0_from_lidar = np.eye(4)
    cam0_from_lidar[:3, :3] = axes @ tilt
    cam0_from_lidar[:3, 3] = (-0.01198, -0.05404, -0.29220)
    return CameraModel(
        image_from_cam0=projection, cam0_from_lidar=cam0_from_lidar, image_hw=image_hw
    )


def rotation(*, roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """(3, 3) Rz(yaw) Ry(pitch) Rx(roll), radians."""
    (cr, cp, cy), (sr, sp, sy) = np.cos((roll, pitch, yaw)), np.sin((roll, pitch, yaw))
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def lidar_directions(model: LidarModel) -> Vectors:
    """Unit vectors in the lidar frame, (B, columns): azimuth from the front, to the left."""
    azimuth = (np.arange(model.columns) + 0.5) * (2 * np.pi / model.columns)
    flat, up = np.cos(model.elevation_rad)[:, None], np.sin(model.elevation_rad)[:, None]
    return Vectors(
        (flat * np.cos(azimuth)).astype(np.float32),
        (flat * np.sin(azimuth)).astype(np.float32),
        np.broadcast_to(up, (len(flat), model.columns)).astype(np.float32),
    )


def lidar_grid(model: LidarModel, world_from_lidar: NDArray[np.float64]) -> RayGrid:
    """Rays of one revolution.

    Args:
        model: the sensor.
        world_from_lidar: (4, 4) pose.

    Returns:
        (beams, columns) rays.
    """
    x, y, z = world_from_lidar[:3, 3].tolist()
    return RayGrid(
        origin=(x, y, z),
        direction=_turned(world_from_lidar[:3, :3], lidar_directions(model)),
        reach_m=model.reach_m,
    )


def world_from_camera(
    model: CameraModel, world_from_lidar: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pose of the camera itself (not camera 0): (4, 4)."""
    intrinsics = model.image_from_cam0[:, :3]
    camera_from_cam0 = np.eye(4)
    camera_from_cam0[:3, 3] = np.linalg.solve(intrinsics, model.image_from_cam0[:, 3])
    camera_from_lidar = camera_from_cam0 @ model.cam0_from_lidar
    pose: NDArray[np.float64] = world_from_lidar @ np.linalg.inv(camera_from_lidar)
    return pose


def camera_grid(model: CameraModel, world_from_lidar: NDArray[np.float64]) -> RayGrid:
    """Rays through the middles of the pixels.

    Args:
        model: the camera.
        world_from_lidar: (4, 4) pose of the LiDAR at that time.

    Returns:
        (H, W) rays.
    """
    height, width = model.image_hw
    intrinsics = model.image_from_cam0[:, :3]
    u = (np.arange(width) + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
    v = (np.arange(height) + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
    length = np.sqrt(u[None, :] ** 2 + v[:, None] ** 2 + 1)
    rays = Vectors(
        (u[None, :] / length).astype(np.float32),
        (v[:, None] / length).astype(np.float32),
        (1 / length).astype(np.float32),
    )
    pose = world_from_camera(model, world_from_lidar)
    x, y, z = pose[:3, 3].tolist()
    return RayGrid(origin=(x, y, z), direction=_turned(pose[:3, :3], rays), reach_m=150.0)


def _turned(target_from_source: NDArray[np.float64], v: Vectors) -> Vectors:
    r = target_from_source.astype(np.float32)
    return Vectors(*(r[i, 0] * v.x + r[i, 1] * v.y + r[i, 2] * v.z for i in range(3)))
