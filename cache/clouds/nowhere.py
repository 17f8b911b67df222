"""The position given to points whose coordinates in the raw file are not finite.

Organised clouds have a row for every beam, including those without a return. Such rows remain rows
of the raw file, so that labels and predictions match it, and become finite, so that they do no harm
in a network; they are outside every volume and are not counted in statistics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FARTHEST_M = 1000.0
"""No lidar measures a point beyond: such coordinates are as good as none."""
NOWHERE = (0.0, 0.0, 1000.0)
"""Metres: straight above the sensor, beyond any range. Signal and label are 0."""


def plausible_points(xyz: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,) whether points (3, N) have finite coordinates, none beyond ``FARTHEST_M``."""
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(xyz) <= FARTHEST_M).all(axis=0))


def is_measured(xyz: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,) whether points (3, N) are measured ones."""
    return (xyz[2] != NOWHERE[2]) | (xyz[0] != NOWHERE[0]) | (xyz[1] != NOWHERE[1])
