"""Point dropout (docs/maths.md, section 2.3): decided on the host, before a scan is laid out.

The published code overwrites a dropped point with a copy of point 0 and then projects: the copies
see what point 0 sees, and every mean and every loss counts them. Here they are no rows of their
own: point 0 stands for all of them, with a weight. The numbers are the same, with fewer points and
without a voxel of ten thousand equal ones, which a GPU sums one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DropoutKind = Literal["copy", "remove"]


@dataclass(frozen=True, kw_only=True)
class KeptPoints:
    """The points of a scan that dropout leaves."""

    n: int
    """Points before."""
    rows: NDArray[np.int64] | None = None
    """(K,) those that stay, ascending, the first one always among them; None: all."""
    copies: int = 0
    """Dropped points that the first one stands for, beside itself."""

    @property
    def count(self) -> int:
        """K."""
        return self.n if self.rows is None else len(self.rows)

    def places(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """(M,) points before -> (M,) where they lie among those that stay; -1: dropped."""
        if self.rows is None:
            return rows
        place = np.full(self.n, -1, np.int32)
        place[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return place[rows]


def kept_points(n: int, *, ratio: float, seed: int, kind: DropoutKind) -> KeptPoints:
    """Decide which points of a scan are dropped.

    Args:
        n: its points; the first of them is never lost: "copy" would make it a copy of itself, and
            "remove" leaves no scan without a point.
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
