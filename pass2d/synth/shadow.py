"""Shadows on the ground: what a lamp in the sun's direction does not reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.culling import solid_corners
from pass2d.synth.parts import Solids
from pass2d.synth.sensors import RayGrid, Windows
from pass2d.synth.shapes import Floats, Vectors
from pass2d.synth.trace import first_solids

LAMP_M = 120.0
"""Near enough for float32, far enough that shadows look parallel."""
AHEAD_M = (-4.0, 60.0)
ASIDE_M = (-24.0, 24.0)


@dataclass(frozen=True, kw_only=True)
class ShadowMap:
    """Shadow on a grid of ground cells in front of a sensor."""

    shade: Floats
    """(A, B) 0 lit .. 1 dark; rows go ahead, columns to the left."""
    map_from_world: NDArray[np.float64]
    """(2, 3) gives row and column of x, y, 1."""

    def at(self, x: Floats, y: Floats) -> Floats:
        """Shadow at places of the ground: (K,) metres each; beyond the map all is lit."""
        (a, b, c), (d, e, f) = self.map_from_world.astype(np.float32)
        row, column = a * x + b * y + c, d * x + e * y + f
        height, width = self.shade.shape
        inside = (row >= 0) & (row < height - 1) & (column >= 0) & (column < width - 1)
        row, column = np.where(inside, row, 0), np.where(inside, column, 0)
        r, k = row.astype(np.intp), column.astype(np.intp)
        down, right = row - r, column - k
        top = self.shade[r, k] * (1 - right) + self.shade[r, k + 1] * right
        bottom = self.shade[r + 1, k] * (1 - right) + self.shade[r + 1, k + 1] * right
        return np.where(inside, top * (1 - down) + bottom * down, np.float32(0))


def cast_shadow(
    solids: Solids,
    world_from_lidar: NDArray[np.float64],
    *,
    sun: tuple[float, float, float],
    cell_m: float,
) -> ShadowMap:
    """Find the shadows in front of a sensor.

    Args:
        solids: what throws them.
        world_from_lidar: (4, 4) pose.
        sun: unit vector towards it, world frame.
        cell_m: size of a cell of the map.

    Returns:
        The map, its edges softened over three cells.
    """
    yaw = np.arctan2(world_from_lidar[1, 0], world_from_lidar[0, 0])
    cos, sin = np.cos(yaw), np.sin(yaw)
    foot = world_from_lidar[:2, 3]
    rows = round((AHEAD_M[1] - AHEAD_M[0]) / cell_m)
    columns = round((ASIDE_M[1] - ASIDE_M[0]) / cell_m)
    turned = np.array([[cos, sin], [-sin, cos]])
    offset = -turned @ foot - np.array([AHEAD_M[0], ASIDE_M[0]])
    map_from_world = np.column_stack([turned, offset]) / cell_m
    ahead = AHEAD_M[0] + np.arange(rows)[:, None] * cell_m
    aside = ASIDE_M[0] + np.arange(columns)[None, :] * cell_m
    lamp = np.array(sun) * LAMP_M + np.array([*foot, 0])
    x = foot[0] + cos * ahead - sin * aside - lamp[0]
    y = foot[1] + sin * ahead + cos * aside - lamp[1]
    length = np.sqrt(x * x + y * y + lamp[2] ** 2)
    rays = Vectors(*((v / length).astype(np.float32) for v in (x, y, -lamp[2])))
    grid = RayGrid(origin=(lamp[0], lamp[1], lamp[2]), direction=rays, reach_m=2 * LAMP_M)
    owner = first_solids(grid, solids, _windows(grid, solids, map_from_world)).owner
    return ShadowMap(shade=_softened(owner >= 0), map_from_world=map_from_world)


def _windows(grid: RayGrid, solids: Solids, map_from_world: NDArray[np.float64]) -> Windows:
    """Bound the shadows of solids on the map."""
    corner = solid_corners(solids)
    lamp = np.array(grid.origin)
    # Corners below the ground throw no shadow; those near the lamp's height do not occur.
    drop = lamp[2] / (lamp[2] - np.clip(corner[..., 2], 0, 0.9 * lamp[2]))
    ground = lamp[:2] + (corner[..., :2] - lamp[:2]) * drop[..., None]
    at = ground @ map_from_world[:, :2].T + map_from_world[:, 2]
    low = np.floor(at.min(axis=1)).astype(np.intp)
    high = np.ceil(at.max(axis=1)).astype(np.intp) + 1
    row, column = (np.clip([low[:, i], high[:, i]], 0, grid.shape[i]) for i in (0, 1))
    # The first shadow is as dark as any: no order by distance is needed.
    return Windows(row[0], row[1], column[0], column[1], np.zeros(len(solids)))


def _softened(dark: NDArray[np.bool_]) -> Floats:
    shade: Floats = dark.astype(np.float32)
    for axis in (0, 1):
        around = np.roll(shade, 1, axis) + np.roll(shade, -1, axis)
        shade = np.float32(0.5) * shade + np.float32(0.25) * around
    return shade
