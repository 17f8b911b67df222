"""From pixels of a range image to points: beams, columns, motion during a revolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def beam_inclinations(
    values: NDArray[np.float64] | None, *, low: float, high: float, height: int
) -> NDArray[np.float64]:
    """Elevation of each row of a range image, from the top.

    Args:
        values: (H,) radians as calibrated, from the lowest beam; None: evenly spaced.
        low: radians, the lower edge of evenly spaced beams.
        high: their upper edge.
        height: H.

    Returns:
        (H,) radians, falling.
    """
    if values is None:
        values = low + (0.5 + np.arange(height)) / height * (high - low)
    return values[::-1]


def column_azimuths(width: int, *, yaw: float) -> NDArray[np.float64]:
    """Azimuth of each column in the lidar's frame: the picture's middle looks along the vehicle.

    Args:
        width: columns; they go clockwise from behind.
        yaw: radians, of the lidar in the vehicle.

    Returns:
        (W,) radians.
    """
    return (2 * (np.arange(width, 0, -1) - 0.5) / width - 1) * np.pi - yaw


def range_image_points(
    range_m: NDArray[np.float32],
    *,
    inclinations: NDArray[np.float64],
    vehicle_from_lidar: NDArray[np.float64],
    pixel_pose: NDArray[np.float32] | None = None,
    world_from_vehicle: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Points of the pixels that measured something.

    Args:
        range_m: (H, W) metres; 0 or less where nothing came back.
        inclinations: (H,) radians, of the rows from the top.
        vehicle_from_lidar: (4, 4).
        pixel_pose: (H, W, 6) roll, pitch, yaw, x, y, z of the vehicle in the world as each pixel
            was measured; None: the vehicle stood.
        world_from_vehicle: (4, 4) of the frame; needed with ``pixel_pose``.

    Returns:
        (P, 3) metres in the frame's vehicle frame, row by row of the image.
    """
    row, column = np.nonzero(range_m > 0)
    yaw = float(np.arctan2(vehicle_from_lidar[1, 0], vehicle_from_lidar[0, 0]))
    elevation = inclinations[row]
    azimuth = column_azimuths(range_m.shape[1], yaw=yaw)[column]
    distance = range_m[row, column].astype(np.float64)
    level = distance * np.cos(elevation)
    xyz = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), distance * np.sin(elevation)])
    xyz = vehicle_from_lidar[:3, :3] @ xyz + vehicle_from_lidar[:3, 3:]
    if pixel_pose is not None and world_from_vehicle is not None:
        # The vehicle frame of the pixel's own time, to the world, back to that of the frame.
        pose = pixel_pose[row, column].astype(np.float64)
        world = np.einsum("pij,jp->ip", rotations(pose[:, :3]), xyz) + pose[:, 3:].T
        rotation, shift = world_from_vehicle[:3, :3], world_from_vehicle[:3, 3:]
        xyz = rotation.T @ (world - shift)
    return np.ascontiguousarray(xyz.T, dtype=np.float32)


def rotations(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, 3, 3) about x by roll, then y by pitch, then z by yaw, of (P, 3) radians."""
    sin_roll, sin_pitch, sin_yaw = np.sin(angles).T
    cos_roll, cos_pitch, cos_yaw = np.cos(angles).T
    return np.stack(
        [
            cos_yaw * cos_pitch,
            cos_yaw * sin_pitch * sin_roll - sin_yaw * cos_roll,
            cos_yaw * sin_pitch * cos_roll + sin_yaw * sin_roll,
            sin_yaw * cos_pitch,
            sin_yaw * sin_pitch * sin_roll + cos_yaw * cos_roll,
            sin_yaw * sin_pitch * cos_roll - cos_yaw * sin_roll,
            -sin_pitch,
            cos_pitch * sin_roll,
            cos_pitch * cos_roll,
        ],
        axis=1,
    ).reshape(-1, 3, 3)
