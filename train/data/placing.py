"""Where and how instance CutMix places objects (docs/maths.md, section 12)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELL_M = 1.0
"""Edge of the cells with at most one object each."""


def ground_places(
    xyz: NDArray[np.float32], is_ground: NDArray[np.bool_], *, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Points of the ground on which objects may be placed, in random order.

    In each cell of 1 m, counted from the scan's lowest x, y, z, one point is drawn, each equally
    likely, and used if it is ground.

    Args:
        xyz: (3, N) metres.
        is_ground: (N,).
        rng: Draws the order of the points, then that of the places.

    Returns:
        (3, P) places.
    """
    order = rng.permutation(xyz.shape[1])
    places = first_in_cells(xyz, order, among=is_ground)
    return xyz[:, places[rng.permutation(len(places))]]


def first_in_cells(
    xyz: NDArray[np.float32],
    order: NDArray[np.integer],
    *,
    among: NDArray[np.bool_],
    most_cells: int = 1 << 24,
) -> NDArray[np.int64]:
    """The point of each occupied cell that comes first in an order, if it is one of some points.

    Args:
        xyz: (3, N) metres.
        order: (N,) a permutation of the points.
        among: (N,) which of them are returned if they come first.
        most_cells: up to this number, a table of all cells is used; above it, cells are sorted.

    Returns:
        (C,) points, in the order of their cells by x, y, z.
    """
    if not xyz.shape[1]:
        return np.zeros(0, np.int64)
    cells = xyz - xyz.min(1, keepdims=True)
    cells /= np.float32(CELL_M)
    n_x, n_y, n_z = (int(n) + 1 for n in cells.max(1))
    if n_x * n_y * n_z > most_cells:
        x, y, z = cells.astype(np.int64)
        _, place = np.unique(((x * n_y + y) * n_z + z)[order], return_index=True)
        first = order[place].astype(np.int64)
        return first[among[first]]
    key, y, z = cells.astype(np.int32)
    key *= n_y
    key += y
    key *= n_z
    key += z
    # Of several points of a cell the last one written stays, which is the first in the order.
    backwards = order[::-1].astype(np.int32)
    table = np.empty(n_x * n_y * n_z, np.int32)
    table[key.take(backwards).astype(np.intp)] = backwards
    rows = np.flatnonzero(among)
    own = key.take(rows)
    is_first = np.flatnonzero(table.take(own) == rows)
    return rows.take(is_first[np.argsort(own.take(is_first))])


def thing_maps(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 3, 3) maps for column vectors: flip x or y, rotate about z, scale by 0.9 to 1.1."""
    mirrored, u = rng.integers(0, 2, n), rng.uniform(0, 1, (2, n))
    angle, factor = (2 * u[0] - 1) * np.pi, 1 + 0.1 * (2 * u[1] - 1)
    cos, sin = np.cos(angle), np.sin(angle)
    sign_x, sign_y = np.where(mirrored == 0, -1.0, 1.0), np.where(mirrored == 1, -1.0, 1.0)
    maps = np.zeros((n, 3, 3))
    maps[:, 0, 0], maps[:, 0, 1] = cos * sign_x, -sin * sign_y
    maps[:, 1, 0], maps[:, 1, 1] = sin * sign_x, cos * sign_y
    maps[:, 2, 2] = 1
    return maps * factor[:, None, None]
