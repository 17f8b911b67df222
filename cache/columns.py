"""How many numbers a point of a ``.bin`` file has: the file does not say, the numbers do.

Home of that rule; `pipeline` refuses what it would read wrongly, `train` chooses by it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEW_POINTS = 64
"""Below this the columns' distributions say nothing."""
CLEAR = 0.15
"""How much the columns must differ. Real scans: 0.42 to 0.61 read rightly, below 0.03 wrongly."""
_SAMPLE_ROWS = 4000


def unlikeness(values: NDArray[np.float32], columns: int) -> float:
    """How much the columns differ in distribution: the largest distance from all of them together.

    Read with a wrong number of columns, each takes x, y, z and signal in turn, and all look alike.

    Args:
        values: (N x columns,) as they lie in the file.
        columns: Numbers per point.

    Returns:
        0..1, the Kolmogorov-Smirnov distance.
    """
    rows = values.reshape(-1, columns)
    if len(rows) > _SAMPLE_ROWS:  # by chance: any stride would favour some phase
        rows = rows[np.random.default_rng(0).integers(0, len(rows), _SAMPLE_ROWS)]
    together = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    edges = np.quantile(together, np.linspace(0, 1, 41))
    everywhere = np.searchsorted(np.sort(together.ravel()), edges, side="right") / together.size
    return max(
        float(np.abs(np.searchsorted(np.sort(c), edges, side="right") / len(c) - everywhere).max())
        for c in together.T
    )
