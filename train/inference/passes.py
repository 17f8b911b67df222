"""The size of a network's forward passes, and nearest points. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.common.nearest import nearest_by_tree
from pass2d.common.prefetch import Pause

if TYPE_CHECKING:
    import torch
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """The largest forward pass; a single scan is always allowed, however large."""

    points: int = 400_000
    scans: int = 8
    largest_scan: int | None = None
    """A scan of more points goes through the network in random shares, each of which shows the
    whole scene as a sensor would. None: every scan goes whole."""

    def parts(self, n_points: int) -> int:
        """Shares that a scan of so many points is cut into."""
        return 1 if self.largest_scan is None else max(1, -(-n_points // self.largest_scan))


DEFAULT_PASS_SIZE = PassSize()
CPU_PASS_SIZE = PassSize(points=150_000, scans=4)


def pass_size(device: torch.device) -> PassSize:
    """Large enough to keep a GPU busy; on a CPU more at once only takes more memory."""
    return DEFAULT_PASS_SIZE if device.type == "cuda" else CPU_PASS_SIZE


def packed(items: Iterable[T], size: PassSize, *, points: Callable[[T], int]) -> Iterator[list[T]]:
    """Pack items up to a size, in their order; a single one is always allowed, however large.

    Args:
        items: Scans, or anything with points; a ``Pause`` among them is returned alone, right after
            everything before it.
        size: The most that goes together.
        points: The points of an item that is no ``Pause``.
    """
    pack: list[T] = []
    total = 0
    for item in items:
        is_pause = isinstance(item, Pause)
        more = 0 if is_pause else points(item)
        if pack and (is_pause or total + more > size.points or len(pack) == size.scans):
            yield pack
            pack, total = [], 0
        if is_pause:
            yield [item]
            continue
        pack.append(item)
        total += more
    if pack:
        yield pack


OutsidePolicy = Literal["nearest", "ignore"]
"""The label of points outside the volume: that of the nearest predicted point, or none."""


_FEW_POINTS = 4096
"""So many are searched as they are."""
_EVERY = 32
"""A bound is taken from every such point."""
_CELLS = 256
"""Along the longer side of the points' rectangle in x and y."""


def nearest_index(points: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find the nearest point of each query; among equally near ones, the lowest row.

    Args:
        points: (3, N) metres, finite, N > 0.
        queries: (3, Q) metres, finite.

    Returns:
        (Q,) rows of ``points``.
    """
    if not queries.shape[1]:
        return np.zeros(0, np.int64)
    if points.shape[1] <= _FEW_POINTS:
        return nearest_by_tree(_tree(points), queries.T)
    # Any point is a bound on the distance: a tree of a few of them tells where to look at all.
    bound = _tree(points[:, ::_EVERY]).query(queries.T)[0]
    rows = np.flatnonzero(_may_be_near(points[:2], queries[:2], bound))
    return rows[nearest_by_tree(_tree(points[:, rows]), queries.T)]


def _tree(points: NDArray[np.float32]) -> cKDTree:
    """Of (3, N) points, for some thousand queries."""
    # Here: it takes half a second to import, and most runs never ask.
    from scipy.spatial import cKDTree

    # An unbalanced tree is made in half the time.
    return cKDTree(points.T, balanced_tree=False, compact_nodes=False)


def _may_be_near(
    known: NDArray[np.float32], asked: NDArray[np.float32], bound: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which points lie in a cell that a square around a query touches.

    Args:
        known: (2, N).
        asked: (2, Q).
        bound: (Q,) half the side of the square around each query.

    Returns:
        (N,); True for every point within a query's bound.
    """
    lows = known.min(axis=1)
    side = max(float((known.max(axis=1) - lows).max()) / _CELLS, 1e-6)
    x, y = ((known - lows[:, None]) / np.float32(side)).astype(np.intp)
    reach = bound * (1 + 1e-9) + 1e-9

    def cell(at: NDArray[np.float64]) -> NDArray[np.intp]:
        low = lows.astype(np.float64)[:, None]
        return np.clip(np.floor((at - low) / side), -2, _CELLS + 2).astype(np.intp) + 3

    # A cell more on each side: the points' own are rounded in float32.
    first, last = cell(asked - reach) - 1, cell(asked + reach) + 2
    # Each square adds one to its cells: marked at the corners, summed along both axes.
    corners = np.zeros((_CELLS + 8, _CELLS + 8), np.int64)
    for xs, ys, sign in (
        (first[0], first[1], 1),
        (last[0], first[1], -1),
        (first[0], last[1], -1),
        (last[0], last[1], 1),
    ):
        np.add.at(corners, (xs, ys), sign)
    is_touched = corners.cumsum(axis=0).cumsum(axis=1) > 0
    return np.take(is_touched, (x + 3) * len(corners) + y + 3)
