"""Which points a mix takes: bands of pitch, half circles, squares (docs/maths.md, section 12)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_INSIDE_RAD = 1e-5
"""Margin by which pitch is clamped inside the field of view."""
_NEAR = 1e-5
"""Within this distance of a border, in radians, angles are computed: the fast test is in
float32."""

MOST_SQUARES = 1 << 16
"""A cloud of 1,900 m; float32 is exact up to this number."""


def pitch_bands(
    xyz: NDArray[np.float32], n_bands: int, *, low_rad: float, high_rad: float
) -> NDArray[np.uint8]:
    """Number equal bands of pitch from the top down; points beyond belong to the outer bands.

    Args:
        xyz: (3, N) metres.
        n_bands: How many.
        low_rad: Where the field of view begins.
        high_rad: Where it ends; both less than a quarter of a turn from the horizon.

    Returns:
        (N,) 0 for the top band. A band contains its upper edge, not its lower one.

    Source: Kong et al., LaserMix for Semi-Supervised LiDAR Semantic Segmentation, CVPR 2023.
    """
    edges = np.linspace(high_rad, low_rad, n_bands + 1)
    # Slopes have the same order as angles, and are cheaper.
    slope = _ground_m(xyz)
    np.maximum(slope, np.finfo(np.float32).tiny, out=slope)
    np.divide(xyz[2], slope, out=slope)
    # Counted with edges a little lower, and a little higher: where the two differ, angles decide.
    bands, higher = np.zeros((2, len(slope)), np.uint8)
    is_below = np.empty(len(slope), np.bool_)
    for edge in np.tan(edges[1:-1]):
        near = _NEAR * (1 + edge * edge)
        for counts, limit in ((bands, edge - near), (higher, edge + near)):
            np.less_equal(slope, np.float32(limit), out=is_below)
            np.add(counts, is_below.view(np.uint8), out=counts)
    rows = np.flatnonzero(bands != higher)
    near_points = xyz.take(rows, axis=1)
    pitch = np.arctan2(near_points[2], _ground_m(near_points))
    pitch = np.clip(pitch, low_rad + _INSIDE_RAD, high_rad - _INSIDE_RAD)
    bands[rows] = np.searchsorted(-edges[1:-1], -pitch, side="right")
    return bands


def _ground_m(xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) distance of (3, N) points from the z axis."""
    squared, y_squared = np.square(xyz[:2])
    squared += y_squared
    return np.sqrt(squared, out=squared)


def in_half_circle(xyz: NDArray[np.float32], start_rad: float) -> NDArray[np.bool_]:
    """Find the points within half a turn, both borders excluded.

    Args:
        xyz: (3, N) metres.
        start_rad: -pi .. 0; yaw is measured clockwise seen from above, -atan2(y, x).

    Source: Xiao et al., PolarMix, NeurIPS 2022.
    """
    x, y = xyz[:2]
    # Twice the area of the triangle of start and point: no angle for each point.
    beyond_m = np.float32(-np.sin(start_rad)) * x - np.float32(np.cos(start_rad)) * y
    is_inside: NDArray[np.bool_] = beyond_m > 0
    rows = np.flatnonzero(np.abs(beyond_m) <= _NEAR * (np.abs(x) + np.abs(y)))
    yaw = -np.arctan2(y[rows], x[rows])
    is_inside[rows] = (yaw > start_rad) & (yaw < start_rad + np.pi)
    return is_inside


def turned_about_z(xyz: NDArray[np.float32], angle_rad: float) -> NDArray[np.float32]:
    """(3, N) points turned counter-clockwise seen from above."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return (turn @ xyz).astype(np.float32)


def square_owners(
    clouds: Sequence[NDArray[np.float32]],
    *,
    side_m: float,
    rng: np.random.Generator,
    most_squares: int = MOST_SQUARES,
) -> tuple[NDArray[np.bool_], ...]:
    """Share out the ground square by square; squares that the first cloud leaves empty stay empty.

    Args:
        clouds: Each (3, N_i) metres.
        side_m: Of a square, in metres.
        rng: Draws the owner of each square among the clouds with points in it, all equally likely.
        most_squares: Up to so many a table is filled; else points are sorted, more slowly.

    Returns:
        Per cloud (N_i,) which points it keeps.

    Source: valeoai/VaViT, PillarMix.
    """
    parts, n_squares = _square_numbers(clouds, side_m, most_squares)
    is_there = np.stack([np.bincount(part, minlength=n_squares) > 0 for part in parts])
    is_shared = is_there[0] & (is_there.sum(0) > 1)
    drawn = np.zeros(n_squares, np.int64)
    drawn[is_shared] = rng.integers(0, is_there.sum(0)[is_shared])
    # The owner is the cloud of that rank among those that are there.
    rank = np.cumsum(is_there, axis=0) - 1
    owner = ((rank == drawn) & is_there).argmax(0)
    owner[~is_there[0]] = -1
    return tuple((owner == number).take(part) for number, part in enumerate(parts))


def _square_numbers(
    clouds: Sequence[NDArray[np.float32]], side_m: float, most_squares: int
) -> tuple[list[NDArray[np.int64]], int]:
    """Per cloud (N_i,) the square of each point, in the order of (x, y), and how many there are."""
    corners = [xyz[:2] / np.float32(side_m) for xyz in clouds]
    for corner in corners:
        np.floor(corner, out=corner)
    low_x, low_y = np.min([corner.min(1, initial=0) for corner in corners], axis=0)
    high_x, high_y = np.max([corner.max(1, initial=0) for corner in corners], axis=0)
    n_x, n_y = high_x - low_x + 1, high_y - low_y + 1
    if n_x * n_y <= most_squares:  # a table of all that could be is faster than to sort points
        for corner in corners:  # exact: float32 counts up to 2^24
            corner[0] *= n_y
            corner[0] += corner[1]
            corner[0] -= low_x * n_y + low_y
        return [corner[0].astype(np.int64) for corner in corners], int(n_x * n_y)
    numbers = [(x << 32) + y for x, y in (corner.astype(np.int64) for corner in corners)]
    known, place = np.unique(np.concatenate(numbers), return_inverse=True)
    return np.split(place, np.cumsum([len(part) for part in numbers])[:-1]), len(known)
