"""Which points a mix takes: bands of pitch, half circles, squares (docs/maths.md, section 12)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_INSIDE_RAD = 1e-5
"""Pitch is clamped so far inside the field of view."""


def pitch_bands(
    xyz: NDArray[np.float32], n_bands: int, *, low_rad: float, high_rad: float
) -> NDArray[np.int64]:
    """Number equal bands of pitch from the top down; what lies beyond joins the outer ones.

    Args:
        xyz: (3, N) metres.
        n_bands: How many.
        low_rad: Where the field of view begins.
        high_rad: Where it ends.

    Returns:
        (N,) 0 for the top band. A band contains its upper edge, not its lower one.

    Source: Kong et al., LaserMix for Semi-Supervised LiDAR Semantic Segmentation, CVPR 2023.
    """
    x, y, z = xyz
    pitch = np.arctan2(z, np.sqrt(x * x + y * y))
    pitch = np.clip(pitch, low_rad + _INSIDE_RAD, high_rad - _INSIDE_RAD)
    edges = np.linspace(high_rad, low_rad, n_bands + 1)
    return np.searchsorted(-edges[1:-1], -pitch, side="right")


def in_half_circle(xyz: NDArray[np.float32], start_rad: float) -> NDArray[np.bool_]:
    """Tell the points of half a turn; both borders lie outside.

    Args:
        xyz: (3, N) metres.
        start_rad: -pi .. 0; yaw is measured clockwise seen from above, -atan2(y, x).

    Source: Xiao et al., PolarMix, NeurIPS 2022.
    """
    yaw = -np.arctan2(xyz[1], xyz[0])
    return (yaw > start_rad) & (yaw < start_rad + np.pi)


def turned_about_z(xyz: NDArray[np.float32], angle_rad: float) -> NDArray[np.float32]:
    """(3, N) points turned counter-clockwise seen from above."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return (turn @ xyz).astype(np.float32)


def square_owners(
    clouds: Sequence[NDArray[np.float32]], *, side_m: float, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], ...]:
    """Share out the ground square by square; squares that the first cloud leaves empty stay empty.

    Args:
        clouds: Each (3, N_i) metres.
        side_m: Of a square, in metres.
        rng: Draws the owner of each square among the clouds with points in it, all equally likely.

    Returns:
        Per cloud (N_i,) which points it keeps.

    Source: valeoai/VaViT, PillarMix.
    """
    squares = [_square_numbers(xyz, side_m) for xyz in clouds]
    known, place = np.unique(np.concatenate(squares), return_inverse=True)
    parts = np.split(place, np.cumsum([len(square) for square in squares])[:-1])
    is_there = np.stack([np.bincount(part, minlength=len(known)) > 0 for part in parts])
    is_shared = is_there[0] & (is_there.sum(0) > 1)
    drawn = np.zeros(len(known), np.int64)
    drawn[is_shared] = rng.integers(0, is_there.sum(0)[is_shared])
    # The owner is the cloud of that rank among those that are there.
    rank = np.cumsum(is_there, axis=0) - 1
    owner = ((rank == drawn) & is_there).argmax(0)
    owner[~is_there[0]] = -1
    return tuple(owner[part] == number for number, part in enumerate(parts))


def _square_numbers(xyz: NDArray[np.float32], side_m: float) -> NDArray[np.int64]:
    """(N,) one number per square, in the order of (x, y): sorted faster than pairs."""
    x, y = np.floor(xyz[:2] / np.float32(side_m)).astype(np.int64)
    return (x << 32) + y
