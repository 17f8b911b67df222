"""One point per cell, its nearest neighbours, and the thinned point for each raw point.

These are inputs of VaViT (docs/maths.md, "VaViT"). Here because `prepare` stores them, the stream's
threads compute them, and networks use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError
from pass2d.common.nearest import nearest_by_tree

if TYPE_CHECKING:
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types

MOST_CELLS = 2**21
"""Along an axis: three of them fit into one int64."""


@dataclass(frozen=True, kw_only=True)
class ThinningConfig:
    """How a scan is thinned."""

    cell_m: float
    """Side of the cells in which one point each is kept, in metres."""
    neighbours: int
    """Nearest neighbours of each thinned point, the point itself excluded."""

    def __str__(self) -> str:
        """For messages: "16 neighbours in cells of 0.1 m"."""
        return f"{self.neighbours} neighbours in cells of {self.cell_m:g} m"


@dataclass(frozen=True, kw_only=True)
class ThinnedScan:
    """A scan of N points, thinned to K."""

    rows: NDArray[np.integer]
    """(K,) the kept points, sorted by cell (x, y, z)."""
    apart: NDArray[np.integer]
    """(k, K): index of each neighbour among the K points minus the point's own, nearest first:
    small numbers, as nearby cells mostly have nearby indices."""
    answers: NDArray[np.integer]
    """(N,) index among the K points of the thinned point for each point."""

    def of_points(self, is_left: NDArray[np.bool_]) -> ThinnedScan:
        """The same without points that were not thinned; ``is_left`` (N,) marks the others."""
        if is_left.all():
            return self
        rank = np.cumsum(is_left) - 1
        return ThinnedScan(rows=rank[self.rows], apart=self.apart, answers=self.answers[is_left])


def thinned_scan(
    xyz: NDArray[np.float32],
    config: ThinningConfig,
    *,
    rng: np.random.Generator | None = None,
    workers: int = 1,
) -> ThinnedScan:
    """Thin a scan and find neighbours.

    Args:
        xyz: (N, 3) metres, N > 0.
        config: Sizes.
        rng: Chooses the point of each cell, which represents all points of the cell; None: the
            first is chosen, and each point is represented by its nearest thinned point, as in
            evaluation.
        workers: Threads that search the tree; they do not affect the result.

    Raises:
        ShapeError: Coordinates that are not finite or span too many cells.
    """
    if rng is None:
        rows = thin_rows(xyz, cell_m=config.cell_m)
    else:
        order = rng.permutation(len(xyz))
        _, first, place = np.unique(
            cell_keys(xyz, cell_m=config.cell_m)[order], return_index=True, return_inverse=True
        )
        rows, answers = order[first], np.empty(len(xyz), np.int32)
        answers[order] = place
    near = np.ascontiguousarray(xyz[rows])
    tree = tree_of(near)
    places = tree_rows(tree, near, k=config.neighbours + 1, workers=workers)[:, 1:]
    if rng is None:
        answers = nearest_by_tree(tree, xyz, workers=workers).astype(np.int32)
    apart = np.empty(places.T.shape, np.int32)
    np.subtract(places.T, np.arange(len(rows)), out=apart, casting="unsafe")
    return ThinnedScan(rows=rows.astype(np.int32), apart=apart, answers=answers)


def cell_keys(xyz: NDArray[np.float32], *, cell_m: float) -> NDArray[np.int64]:
    """(N,) a number for each point's cell, in the order of (x, y, z).

    Cells count from the smallest x, y, z of the (N, 3) points, N > 0.

    Raises:
        ShapeError: Coordinates that are not finite or span too many cells.
    """
    cells = (xyz - xyz.min(axis=0)) / np.float32(cell_m)
    reach = float(cells.max())
    if not reach < MOST_CELLS:
        raise ShapeError(
            "x, y, z of the points",
            expected=f"finite metres, less than {MOST_CELLS * cell_m:.0f} apart",
            got=f"a distance of {reach * cell_m}",
        )
    x, y, z = cells.astype(np.int64).T
    return (x * MOST_CELLS + y) * MOST_CELLS + z


def thin_rows(xyz: NDArray[np.float32], *, cell_m: float) -> NDArray[np.int64]:
    """(K,) the first row of each occupied cell, sorted by cell (x, y, z); see `cell_keys`."""
    return np.unique(cell_keys(xyz, cell_m=cell_m), return_index=True)[1]


def tree_of(xyz: NDArray[np.float32]) -> cKDTree:
    """A k-d tree of (N, 3) points for queries in the order of cells.

    Nearby queries find its nodes in the processor's cache, so balancing does not pay off.
    """
    from scipy.spatial import cKDTree  # half a second to import; most commands never ask

    return cKDTree(xyz, balanced_tree=False)


def tree_rows(
    tree: cKDTree, queries: NDArray[np.float32], *, k: int, workers: int = 1
) -> NDArray[np.int64]:
    """(Q, k) rows of the nearest points to (Q, 3) queries, nearest first; the farthest repeats."""
    there = min(k, tree.n)
    found = tree.query(queries, k=np.arange(1, there + 1), workers=workers)[1]
    rows = np.asarray(found, np.int64)
    return np.pad(rows, ((0, 0), (0, k - there)), mode="edge") if there < k else rows
