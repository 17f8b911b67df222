"""Which points are inside the volume: the only such check (docs/maths.md, section 2.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import GridConfig
from pass2d.common.errors import ShapeError


def inside_volume(xyz: NDArray[np.float32], *, grid: GridConfig) -> NDArray[np.bool_]:
    """Tell for each point whether it lies strictly inside the volume on each axis.

    Args:
        xyz: (3, N) metres, lidar frame. A point with a NaN is not inside.
        grid: The volume; its cells are not used here.

    Returns:
        (N,) True for the points to keep.

    Raises:
        ShapeError: ``xyz`` is not (3, N).
    """
    if xyz.ndim != 2 or xyz.shape[0] != 3:
        raise ShapeError("xyz", expected="(3, N)", got=xyz.shape)
    inside = np.ones(xyz.shape[1], np.bool_)
    for values, low, high in zip(xyz, grid.low, grid.high, strict=True):
        inside &= (values > low) & (values < high)
    return inside
