"""Nearest points by a k-d tree, with a defined result among equally near ones. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types

MOST_ANSWERS = 1 << 22
"""Most neighbours requested from a tree at once, as many points may be at one position."""
_EQUAL = 1 + 1e-12
"""Distances within this factor may be the same distance, rounded differently."""


def nearest_by_tree(
    tree: cKDTree, queries: NDArray[np.float32], *, workers: int = 1, most: int = MOST_ANSWERS
) -> NDArray[np.int64]:
    """Find the nearest point of each query; among equally near ones, the lowest row.

    Args:
        tree: Of N > 0 points.
        queries: (Q, 3) metres, finite.
        workers: Threads that search the tree.
        most: See `MOST_ANSWERS`.

    Returns:
        (Q,) rows, those of `pass2d.models.nearest.nearest_by_distance`.
    """
    nearest = np.empty(len(queries), np.int64)
    asked, k = np.arange(len(queries)), 2
    while len(asked):
        k, still = min(k, tree.n), [asked[:0]]
        for part in np.array_split(asked, -(-len(asked) * k // most)):
            distance, rows = tree.query(queries[part], k=np.arange(1, k + 1), workers=workers)
            nearest[part] = rows[:, 0]
            is_near = distance <= distance[:, :1] * _EQUAL
            several = np.flatnonzero(is_near[:, 1:2])
            if len(several):
                nearest[part[several]] = _lowest(tree, queries[part[several]], rows[several])
            if k < tree.n:
                still.append(part[is_near[:, -1]])
        asked, k = np.concatenate(still), 4 * k
    return nearest


def _lowest(
    tree: cKDTree, queries: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(Q,) the lowest of the nearest among (Q, k) rows."""
    x, y, z = np.moveaxis(tree.data[rows] - queries[:, None].astype(np.float64), -1, 0)
    distance = np.sqrt(x * x + y * y + z * z)
    is_nearest = distance == distance.min(axis=1, keepdims=True)
    return np.where(is_nearest, rows, tree.n).min(axis=1)
