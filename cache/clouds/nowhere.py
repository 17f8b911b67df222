"""Where the points of a raw file lie for which it gives no finite numbers.

Organised clouds have a row for every beam, also for those that saw nothing. Such rows stay rows of
the raw file, so that labels and predictions fit it, and are finite, so that they harm no network;
they are in no volume, and no statistics count them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOWHERE = (0.0, 0.0, 1000.0)
"""Metres: straight above the sensor, farther than any sees. Their signal and label are 0."""


def is_measured(xyz: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,) whether points (3, N) are measured ones."""
    return (xyz[2] != NOWHERE[2]) | (xyz[0] != NOWHERE[0]) | (xyz[1] != NOWHERE[1])
