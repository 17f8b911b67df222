"""Divides a raw scan into the points inside the volume and the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import GridConfig


class VolumeSplit(NamedTuple):
    """Rows of a raw scan on either side of the volume's border; together all rows."""

    inside: NDArray[np.int32]
    """(N,) rows of the kept points, increasing: their index in the raw scan."""
    outside: NDArray[np.int32]
    """(O,) rows of the others, increasing."""


def split_volume(xyz: NDArray[np.float32], *, grid: GridConfig) -> VolumeSplit:
    """Divide points into those strictly inside the volume and the others.

    Args:
        xyz: (3, R) metres, lidar frame, every point of the raw scan.
        grid: the volume; its cells are not used here.

    Returns:
        The rows of both parts.

    Raises:
        ShapeError: ``xyz`` is not (3, R).

    Source: docs/maths.md, section 2, step 1; the rule's home is ``cache.volume``.
    """
    inside = inside_volume(xyz, grid=grid)
    return VolumeSplit(
        inside=np.flatnonzero(inside).astype(np.int32),
        outside=np.flatnonzero(~inside).astype(np.int32),
    )
