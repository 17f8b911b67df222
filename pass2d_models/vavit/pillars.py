"""VaViT's inputs for one scan, in NumPy, for programs without torch.

`thinning.py` does the same for a batch on its device; docs/onnx.md explains it for other languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pass2d.common.thinning import ThinningConfig, thinned_scan

INPUTS = {
    "features": "points",
    "neighbours": "points",
    "pillar_of_point": "points",
    "pillar_xy": "pillars",
}
"""The inputs of an exported network from a `PillarScan`, and the name of each first axis."""


@dataclass(frozen=True, kw_only=True)
class PillarPreprocessing:
    """How a scan becomes the inputs of an exported network."""

    kind: Literal["pillars"] = "pillars"
    cell_m: float
    """Side of the cells in which one point each is kept, in metres."""
    pillar_m: float
    """Side of a pillar, in metres."""
    neighbours: int
    """Nearest neighbours of each point, the point itself excluded."""
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
    """(N,) the thinned point whose logits each point takes."""


def pillar_scan(points: NDArray[np.float32], how: PillarPreprocessing) -> PillarScan:
    """Thin a scan, find neighbours and pillars; as the network does itself in evaluation.

    Args:
        points: (N, 4) x, y, z in metres, signal; N > 0.
        how: Sizes.

    Raises:
        ShapeError: Coordinates that are not finite or span too many cells.
    """
    config = ThinningConfig(cell_m=how.cell_m, neighbours=how.neighbours)
    scan = thinned_scan(points[:, :3], config)
    thinned = points[scan.rows]
    near = np.ascontiguousarray(thinned[:, :3])
    columns = np.floor(near[:, :2] / np.float32(how.pillar_m)).astype(np.int64)
    pillars, pillar_of_point = np.unique(columns, axis=0, return_inverse=True)
    return PillarScan(
        features=np.column_stack(
            [thinned[:, 3], near, np.sqrt(np.square(near).sum(axis=1, dtype=np.float32))]
        ),
        neighbours=(scan.apart + np.arange(len(near))).T,
        pillar_of_point=pillar_of_point.reshape(-1),
        pillar_xy=(pillars.astype(np.float32) + np.float32(0.5)) * np.float32(how.pillar_m),
        row_of_point=scan.answers.astype(np.int64),
    )
