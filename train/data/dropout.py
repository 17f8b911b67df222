"""Point dropout (docs/maths.md, section 2.3), decided on the host before scans are concatenated.

The published code overwrites a dropped point with a copy of point 0 and then projects: the copies
have the pixel of point 0, and count in every mean and loss. Here the copies have no rows of their
own: point 0 represents all of them by a weight. The results are the same, with fewer points and
without a voxel of ten thousand equal points, which a GPU would sum one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DropoutKind = Literal["copy", "remove"]


@dataclass(frozen=True, kw_only=True)
class KeptPoints:
    """The points of a scan that remain after dropout."""

    n: int
    """Points before."""
    rows: NDArray[np.int64] | None = None
    """(K,) the kept points, ascending, always including the first; None: all."""
    copies: int = 0
    """Dropped points that the first one represents, besides itself."""

    @property
    def count(self) -> int:
        """K."""
        return self.n if self.rows is None else len(self.rows)

    def places(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """(M,) points before dropout -> (M,) their indices among the kept ones; -1: dropped."""
        if self.rows is None:
            return rows
        place = np.full(self.n, -1, np.int32)
        place[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return place[rows]


def kept_points(n: int, *, ratio: float, seed: int, kind: DropoutKind) -> KeptPoints:
    """Decide which points of a scan are dropped.

    Args:
        n: its points; the first is never dropped: "copy" would make it a copy of itself, and
            "remove" must leave at least one point.
        ratio: probability per point.
        seed: of the generator, so that a scan's points do not depend on its neighbours.
        kind: what becomes of them, see `AugmentConfig.dropout`.
    """
    if ratio <= 0 or n == 0:
        return KeptPoints(n=n)
    is_dropped = np.random.default_rng(seed).random(n) < ratio
    is_dropped[0] = False
    rows = np.flatnonzero(~is_dropped)
    return KeptPoints(n=n, rows=rows, copies=n - len(rows) if kind == "copy" else 0)
