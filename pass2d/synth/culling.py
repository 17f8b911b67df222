"""Which rays of a sensor can meet a solid: bounds by azimuth and elevation, or in the picture."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.parts import Solids
from pass2d.synth.sensors import CameraModel, RayGrid, Windows, world_from_camera
from pass2d.synth.shapes import Shape


class _Bounds(NamedTuple):
    """Upright boxes around P solids, seen from a sensor."""

    corner_xy: NDArray[np.float64]
    """(P, 4, 2) metres from the sensor."""
    low_z: NDArray[np.float64]
    high_z: NDArray[np.float64]
    """(P,) metres above the sensor."""
    near_xy: NDArray[np.float64]
    """(P,) level distance to the box; 0 above or below it."""


def solid_corners(solids: Solids) -> NDArray[np.float64]:
    """Corners of upright boxes around solids: (P, 8, 3) metres, world frame."""
    bounds = _bounds(solids, (0.0, 0.0, 0.0))
    return _box_corners(bounds)


def _box_corners(bounds: _Bounds) -> NDArray[np.float64]:
    shape = (len(bounds.low_z), 4, 1)
    return np.concatenate(
        [
            np.concatenate([bounds.corner_xy, np.broadcast_to(z[:, None, None], shape)], axis=2)
            for z in (bounds.low_z, bounds.high_z)
        ],
        axis=1,
    )


def _bounds(solids: Solids, origin: tuple[float, float, float]) -> _Bounds:
    grown = np.where(solids.shape == Shape.TAPERED, np.maximum(solids.params.max(axis=1), 1), 1)
    half = solids.half.astype(np.float64) * np.column_stack([grown, grown, np.ones_like(grown)])
    away = solids.center - np.array(origin)
    cos, sin = np.cos(solids.yaw), np.sin(solids.yaw)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float64)
    local = signs[None] * half[:, None, :2]
    turned_x = cos[:, None] * local[..., 0] - sin[:, None] * local[..., 1]
    turned_y = sin[:, None] * local[..., 0] + cos[:, None] * local[..., 1]
    corner = np.stack([turned_x, turned_y], axis=-1) + away[:, None, :2]
    gap_x = np.abs(cos * away[:, 0] + sin * away[:, 1]) - half[:, 0]
    gap_y = np.abs(-sin * away[:, 0] + cos * away[:, 1]) - half[:, 1]
    near = np.hypot(np.maximum(gap_x, 0), np.maximum(gap_y, 0))
    return _Bounds(corner, away[:, 2] - half[:, 2], away[:, 2] + half[:, 2], near)


def _nearest(bounds: _Bounds) -> NDArray[np.float64]:
    gap_z = np.maximum(np.maximum(bounds.low_z, -bounds.high_z), 0)
    nearest: NDArray[np.float64] = np.hypot(bounds.near_xy, gap_z)
    return nearest


def circle_windows(grid: RayGrid, solids: Solids, *, yaw: float) -> Windows:
    """Bound solids in the grid of a spinning LiDAR.

    Args:
        grid: its rays; rows ordered from the top.
        solids: the world.
        yaw: heading of the sensor, radians.

    Returns:
        Windows that hold every ray that meets the solid (and some that do not).
    """
    height, columns = grid.shape
    bounds = _bounds(solids, grid.origin)
    step = 2 * np.pi / columns
    nominal = (np.arange(columns) + 0.5) * step + yaw
    # Roll and pitch bend the rows and columns of the grid: measure by how much.
    bent = _wrapped(np.arctan2(grid.direction.y, grid.direction.x) - nominal)
    slack = float(np.abs(bent).max())
    middle = bounds.corner_xy.mean(axis=1)
    azimuth = np.arctan2(middle[:, 1], middle[:, 0])
    spread = _wrapped(
        np.arctan2(bounds.corner_xy[..., 1], bounds.corner_xy[..., 0]) - azimuth[:, None]
    )
    low, high = spread.min(axis=1) - slack, spread.max(axis=1) + slack
    around = (bounds.near_xy < 0.05) | (high - low > 2 * np.pi - 2 * step)
    start = np.floor(np.mod(azimuth + low - yaw, 2 * np.pi) / step - 0.5).astype(np.intp)
    count = np.ceil((high - low) / step).astype(np.intp) + 2
    start = np.where(around, 0, np.mod(start, columns))
    count = np.where(around, columns, np.minimum(count, columns))
    rows = _elevation_rows(grid, bounds)
    return Windows(rows[0], np.minimum(rows[1], height), start, start + count, _nearest(bounds))


def _elevation_rows(grid: RayGrid, bounds: _Bounds) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    far = np.hypot(bounds.corner_xy[..., 0], bounds.corner_xy[..., 1]).max(axis=1)
    near = np.maximum(bounds.near_xy, 1e-3)
    highest = np.arctan2(bounds.high_z, np.where(bounds.high_z > 0, near, far))
    lowest = np.arctan2(bounds.low_z, np.where(bounds.low_z < 0, near, far))
    lower_edge = np.arcsin(grid.direction.z.min(axis=1))
    upper_edge = np.arcsin(grid.direction.z.max(axis=1))
    return (
        np.searchsorted(-lower_edge, -highest - 1e-5, "left"),
        np.searchsorted(-upper_edge, -lowest + 1e-5, "right"),
    )


def _wrapped(angle: NDArray[np.floating]) -> NDArray[np.float64]:
    wrapped: NDArray[np.float64] = np.mod(angle + np.pi, 2 * np.pi) - np.pi
    return wrapped


def picture_windows(
    grid: RayGrid, solids: Solids, *, model: CameraModel, world_from_lidar: NDArray[np.float64]
) -> Windows:
    """Bound solids in a picture.

    Args:
        grid: the camera's rays.
        solids: the world.
        model: the camera.
        world_from_lidar: (4, 4) pose of the LiDAR at that time.

    Returns:
        Windows that hold every ray that meets the solid; the whole picture for solids that reach
        from in front of the camera to behind it.
    """
    height, width = grid.shape
    bounds = _bounds(solids, grid.origin)
    world_from_cam = world_from_camera(model, world_from_lidar)[:3, :3]
    x, y, depth = np.moveaxis(_box_corners(bounds) @ world_from_cam, -1, 0)
    intrinsics = model.image_from_cam0[:, :3]
    safe = np.maximum(depth, 0.05)
    u = intrinsics[0, 0] * x / safe + intrinsics[0, 2]
    v = intrinsics[1, 1] * y / safe + intrinsics[1, 2]
    crossing = depth.min(axis=1) < 0.05
    behind = depth.max(axis=1) < 0.05
    edges = []
    for value, size in ((v, height), (u, width)):
        start = np.where(crossing, 0, np.clip(np.floor(value.min(axis=1)), 0, size))
        stop = np.where(crossing, size, np.clip(np.ceil(value.max(axis=1)) + 1, 0, size))
        edges += [
            np.where(behind, 0, start).astype(np.intp),
            np.where(behind, 0, stop).astype(np.intp),
        ]
    return Windows(edges[0], edges[1], edges[2], edges[3], _nearest(bounds))
