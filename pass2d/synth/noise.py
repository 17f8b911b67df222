"""Numbers that look random but belong to a place: the same for the LiDAR and the camera."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TABLE_SIZE = 256


def hash_cells(*cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hash whole-numbered coordinates.

    Args:
        cells: arrays of one shape holding whole numbers below 2**31 in size.

    Returns:
        float32 of that shape, evenly spread over [0, 1).
    """
    mixed = np.zeros(cells[0].shape, np.uint32)
    for cell, prime in zip(cells, (0x8DA6B343, 0xD8163841, 0xCB1AB31F), strict=False):
        mixed ^= cell.astype(np.int32).view(np.uint32) * np.uint32(prime)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3C6D)
    mixed ^= mixed >> np.uint32(12)
    mixed *= np.uint32(0x297A2D39)
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float32]:
    """Smooth noise that repeats every TABLE_SIZE cells, mean 0, deviation 1."""
    white = np.random.default_rng(20).standard_normal((TABLE_SIZE, TABLE_SIZE))
    smooth = white
    for axis in (0, 1):
        smooth = smooth + np.roll(smooth, 1, axis) + np.roll(smooth, -1, axis)
    table: NDArray[np.float32] = ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
    return table


def smooth_noise(
    x: NDArray[np.float32], y: NDArray[np.float32], *, cell_m: float
) -> NDArray[np.float32]:
    """Look up noise that varies over about three cells.

    Args:
        x: (K,) metres.
        y: (K,) metres.
        cell_m: size of a cell of the table in metres.

    Returns:
        (K,) float32, mean 0, deviation 1.
    """
    scale = np.float32(1 / cell_m)
    column = np.floor(x * scale).astype(np.int32) & (TABLE_SIZE - 1)
    row = np.floor(y * scale).astype(np.int32) & (TABLE_SIZE - 1)
    return _table()[row, column]
