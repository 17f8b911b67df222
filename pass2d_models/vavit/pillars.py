"""What VaViT is shown of one scan, in NumPy: for programs without torch.

`thinning.py` does the same for a batch on its device. Written out for other languages in
docs/onnx.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types

MOST_CELLS = 2**21
"""Along an axis: three of them fit into one int64."""

INPUTS = {
    "features": "points",
    "neighbours": "points",
    "pillar_of_point": "points",
    "pillar_xy": "pillars",
}
"""What an exported network takes of a `PillarScan`, and the name of its first axis."""


@dataclass(frozen=True, kw_only=True)
class PillarPreprocessing:
    """How a scan becomes the inputs of an exported network."""

    kind: Literal["pillars"] = "pillars"
    cell_m: float
    """Side of the cells of which one point each stays, in metres."""
    pillar_m: float
    """Side of a pillar, in metres."""
    neighbours: int
    """Nearest points of each point, the point itself not counted."""
    features: tuple[str, ...] = ("signal", "x", "y", "z", "range")
    """Columns of the features; x, y, z and range in metres."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not (self.cell_m > 0 and self.pillar_m > 0 and self.neighbours > 0):
            raise ValueError(f"cells, pillars and neighbours must be above 0: {self}")


@dataclass(frozen=True, kw_only=True)
class PillarScan:
    """One scan as thinned points and pillars."""

    features: NDArray[np.float32]
    """(K, 5) signal, x, y, z, range."""
    neighbours: NDArray[np.int64]
    """(K, k) rows of the nearest thinned points, the nearest first."""
    pillar_of_point: NDArray[np.int64]
    """(K,)."""
    pillar_xy: NDArray[np.float32]
    """(P, 2) centres in metres, sorted by x, then y."""
    row_of_point: NDArray[np.int64]
    """(N,) the thinned point that answers for each point."""


def pillar_scan(points: NDArray[np.float32], how: PillarPreprocessing) -> PillarScan:
    """Thin a scan, find neighbours and pillars; as the network does itself in evaluation.

    Args:
        points: (N, 4) x, y, z in metres, signal; N > 0.
        how: Sizes.

    Raises:
        ShapeError: Coordinates that are not finite or span too many cells.
    """
    xyz = points[:, :3]
    thinned = points[thin_rows(xyz, cell_m=how.cell_m)]
    near = np.ascontiguousarray(thinned[:, :3])
    tree = tree_of(near)
    columns = np.floor(near[:, :2] / np.float32(how.pillar_m)).astype(np.int64)
    pillars, pillar_of_point = np.unique(columns, axis=0, return_inverse=True)
    return PillarScan(
        features=np.column_stack(
            [thinned[:, 3], near, np.sqrt(np.square(near).sum(axis=1, dtype=np.float32))]
        ),
        neighbours=tree_rows(tree, near, k=how.neighbours + 1)[:, 1:],
        pillar_of_point=pillar_of_point.reshape(-1),
        pillar_xy=(pillars.astype(np.float32) + np.float32(0.5)) * np.float32(how.pillar_m),
        row_of_point=tree_rows(tree, xyz, k=1)[:, 0],
    )


def thin_rows(xyz: NDArray[np.float32], *, cell_m: float) -> NDArray[np.int64]:
    """(K,) the first row of each occupied cell, sorted by cell (x, y, z).

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
    keys = (x * MOST_CELLS + y) * MOST_CELLS + z
    return np.unique(keys, return_index=True)[1]


def tree_of(xyz: NDArray[np.float32]) -> cKDTree:
    """A tree for points that are asked for in the order of cells.

    Near ones find its pages in the processor's cache: balancing does not pay.
    """
    from scipy.spatial import cKDTree  # half a second to import; other networks never ask

    return cKDTree(xyz, balanced_tree=False)


def tree_rows(tree: cKDTree, queries: NDArray[np.float32], *, k: int) -> NDArray[np.int64]:
    """(Q, k) rows of the nearest points, nearest first; of few the farthest repeats."""
    there = min(k, tree.n)
    rows = np.asarray(tree.query(queries, k=np.arange(1, there + 1))[1], np.int64)
    return np.pad(rows, ((0, 0), (0, k - there)), mode="edge") if there < k else rows
