"""Nearest points on any device, in bounded memory, with the same results as a k-d tree."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_DISTANCES = 1 << 23
"""Number of distances computed at once: 64 MiB, three times."""
QUERIES = 1024
"""Queries adjacent along x that are answered from one slab of points."""
_EVERY = 16
"""A bound is taken from every such point."""
CELLS = 256
"""Along the longer side of the points' rectangle in x and y."""


def nearest_by_distance(
    points: Tensor,
    queries: Tensor,
    *,
    within: Tensor | None = None,
    n_queries: int = QUERIES,
    most: int = MOST_DISTANCES,
) -> Tensor:
    """Find the nearest point of each query; among equally near ones, the lowest row.

    The distance to any point bounds that to the nearest: only points within that bound are
    examined.

    Args:
        points: (N, 3) metres, finite, N > 0.
        queries: (Q, 3) metres, finite.
        within: (Q,) float64 metres: there is a point within this distance. None: estimated from a
            few of the points.
        n_queries: See `QUERIES`.
        most: See `MOST_DISTANCES`.

    Returns:
        (Q,) int64 rows, by sqrt((dx dx + dy dy) + dz dz) in float64: those of
        `pass2d.common.nearest.nearest_by_tree`.

    Waits for the device: call it outside of the forward pass.
    """
    known, asked = points.double(), queries.double()
    if not len(asked):
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    rows = torch.arange(len(known), device=known.device)
    if within is None:
        within = _distance_and_row(known[::_EVERY], asked, most)[0]
        rows = _may_be_near(known, asked, _widened(within)).nonzero()[:, 0]
    reach = _widened(within)
    rows = rows[known[rows, 0].argsort()]
    along_x = known[rows, 0].contiguous()
    order = asked[:, 0].argsort()
    parts = order.split(n_queries)
    edges = torch.stack(
        [
            torch.stack([(asked[part, 0] - reach[part]).amin() for part in parts]),
            torch.stack([(asked[part, 0] + reach[part]).amax() for part in parts]),
        ]
    )
    firsts = torch.searchsorted(along_x, edges[0]).tolist()
    ends = torch.searchsorted(along_x, edges[1], right=True).tolist()
    nearest = torch.empty_like(order)
    for part, first, end in zip(parts, firsts, ends, strict=True):
        slab = rows[first:end].sort().values
        nearest[part] = slab[_distance_and_row(known[slab], asked[part], most)[1]]
    return nearest


def _distance_and_row(known: Tensor, asked: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Distance and row of the nearest of (N, 3) points for (Q, 3) others, all in float64."""
    x, y, z = known.unbind(1)
    found = []
    for part in asked.split(max(1, most // len(known))):
        # Product and sum separately, as on a CPU: a fused kernel would round only once.
        squares = (part[:, :1] - x).square_()
        squares += (part[:, 1:2] - y).square_()
        squares += (part[:, 2:] - z).square_()
        found.append(squares.sqrt_().min(1))  # the first of equal ones
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def _widened(distance: Tensor) -> Tensor:
    return distance * (1 + 1e-9) + 1e-9


def _may_be_near(known: Tensor, asked: Tensor, reach: Tensor) -> Tensor:
    """(N,) which points lie in a cell that a square around a query touches."""
    low = known[:, :2].amin(0)
    side = ((known[:, :2].amax(0) - low).amax() / CELLS).clamp(min=1e-6)
    width = CELLS + 4

    def cells(at: Tensor) -> Tensor:
        # Rounding keeps the order of numbers, so what lies in a square lies in its cells.
        return ((at - low) / side).floor().clamp(-1, CELLS + 1).long() + 1

    first, last = cells(asked[:, :2] - reach[:, None]), cells(asked[:, :2] + reach[:, None]) + 1
    # Each square adds one to its cells: marked at the corners, summed along both axes.
    corners = torch.zeros(width * width, dtype=torch.int64, device=known.device)
    for x, y, sign in ((first, first, 1), (last, first, -1), (first, last, -1), (last, last, 1)):
        corners.index_add_(0, x[:, 0] * width + y[:, 1], torch.full_like(x[:, 0], sign))
    is_touched = corners.view(width, width).cumsum(0).cumsum(1) > 0
    return is_touched[tuple(cells(known[:, :2]).unbind(1))]
