"""Voxels of all scales and how they overlap, from one sort of the points.

A *piece* of level t is a distinct combination of cells of the scales t, t + 1, ... that some point
has: points of one piece of level 0 lie in the same voxel at every scale. Pieces are sorted by the
voxel of their own scale, so its voxels are runs of pieces; the pieces of level t + 1 are found by
sorting those of level t, of which there are fewer each time. Everything else (inverses, point
counts of overlaps, labels) follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.inputs import Grid, ScaleVoxels, host_values
from pass2d.models.twodpass.cells import CellPlan, parity_bit, plan_cells, root_cells, scale_cells

INT32_MAX = 2**31 - 1
MOST_CELLS = 2**48
"""Leaves 15 bits of an int64 key to distinguish the pieces of a voxel."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """Pieces and voxels of one scale."""

    scale: int
    origin: tuple[int, int, int]
    """x, y, z cell that `coords` counts from; even."""
    shape: tuple[int, int, int]
    """x, y, z cells from the origin."""
    coords: Tensor
    """(V, 4) int32: batch, z, y, x from `origin`."""
    voxel: Tensor
    """(P,) int64 voxel of each piece, ascending."""
    voxel_offsets: Tensor
    """(V + 1,) int64: voxel v is the pieces voxel_offsets[v]:voxel_offsets[v + 1]."""
    count: Tensor
    """(P,) int64 points in each piece."""
    order: Tensor
    """(Q,) int64 pieces of the level before (level 0: points) sorted into those of this one."""
    offsets: Tensor
    """(P + 1,) int64: piece p is made of order[offsets[p]:offsets[p + 1]]."""
    piece: Tensor
    """(Q,) int64 piece of each piece of the level before (level 0: of each point)."""


def batch_index(offsets: Tensor, *, n: int) -> Tensor:
    """(N,) int32 scan of each point."""
    counts = offsets[1:] - offsets[:-1]
    scans = torch.arange(len(counts), dtype=torch.int32, device=offsets.device)
    return torch.repeat_interleave(scans, counts, output_size=n)


def build_levels(
    points: Tensor,
    offsets: Tensor,
    *,
    grid: Grid,
    scales: tuple[int, ...],
    voxels: tuple[ScaleVoxels, ...] = (),
    weights: Tensor | None = None,
) -> tuple[Level, ...]:
    """Voxelise a batch at several scales.

    Args:
        points: (N, 3 or more) float32, x, y, z in metres; N at least 1.
        offsets: (B + 1,) int64 on the same device.
        grid: The volume; points may lie outside of it.
        scales: Strictly increasing.
        voxels: Known voxels of exactly these points at all of the scales, whose cells are then
            used.
        weights: (N,) points that each row counts for; None: one each.

    Raises:
        ShapeError: The points lie so far apart that no key can count the cells between them.
    """
    plan = plan_cells(grid.shape, scales)
    roots = known_cells(voxels, plan=plan) if voxels else root_cells(points, plan=plan, grid=grid)
    bounds = torch.stack(torch.aminmax(roots, dim=1)).tolist()  # waits for the GPU
    n_scans = len(offsets) - 1
    batch = batch_index(offsets, n=len(points))
    count = None if weights is None else weights.to(torch.int64)
    frames = [_frame(plan, bounds, level=t, n_scans=n_scans) for t in range(len(scales))]
    lows = [(0, *reversed(origin)) for origin, _ in frames]
    origins = host_values(lows, points.device, dtype=torch.int32)
    levels = []
    # From here on a row is a piece of the level before, at first a point: `roots`, `batch` and
    # `count` hold one entry per row, and get shorter with every level.
    for t in range(len(scales)):
        origin, shape = frames[t]
        # One key per row: its voxel of this scale in the high bits, and in the low ones what tells
        # apart the coarser cells within that voxel.
        cells = scale_cells(roots, plan=plan, level=t)
        n_bits = len(plan.parities[t])
        largest = (n_scans * shape[0] * shape[1] * shape[2]) << n_bits
        key = _voxel_key(cells, batch.to(key_type(largest)), origin=origin, shape=shape)
        for cell in plan.parities[t]:
            key = torch.add(parity_bit(roots, cell), key, alpha=2)
        # Voxels are runs of pieces: of rows that share the high bits.
        pieces, of_voxels = cut_twice(sort_key(key), n_bits=n_bits)
        level, first = _level(
            pieces,
            of_voxels,
            (batch, *reversed(cells)),
            count,
            scale=scales[t],
            frame=frames[t],
            low=origins[t] if any(origin) else None,
        )
        levels.append(level)
        if t + 1 < len(scales):
            # Continue with one row per piece: its rows lie in the same cells of all coarser scales.
            roots = roots.gather(1, first.expand(len(roots), -1))
            batch, count = batch.index_select(0, first), level.count
    return tuple(levels)


def known_cells(voxels: tuple[ScaleVoxels, ...], *, plan: CellPlan) -> Tensor:
    """(roots, N) int32 cells of the points along the roots' axes, from their voxels.

    Raises:
        ShapeError: A scale of the plan is missing.
    """
    by_scale = {level.scale: level for level in voxels}
    if not set(plan.scales) <= set(by_scale):
        raise ShapeError("voxels", expected=f"scales {plan.scales}", got=tuple(by_scale))
    cells: dict[int, Tensor] = {}
    for scale, axes in zip(plan.scales, plan.axes, strict=True):
        level = by_scale[scale]
        for axis, cell in enumerate(axes):
            if cell.root not in cells:  # the finest scale that uses a root is the root itself
                column = level.coords[:, 3 - axis] + level.origin[axis]
                cells[cell.root] = column.index_select(0, level.inverse)
    return torch.stack([cells[root] for root in range(len(plan.roots))])


def _frame(
    plan: CellPlan, bounds: list[list[int]], *, level: int, n_scans: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Origin and shape that hold the volume and, beyond it, the points that left it."""
    low = [bounds[0][cell.root] >> cell.shift for cell in plan.axes[level]]
    high = [bounds[1][cell.root] >> cell.shift for cell in plan.axes[level]]
    # Even: the point branch groups cells by cell // 2, which an odd shift would change.
    origin = [min(0, cell & ~1) for cell in low]
    shape = [
        max(n, top + 1) - start
        for n, top, start in zip(plan.shapes[level], high, origin, strict=True)
    ]
    if n_scans * math.prod(shape) > MOST_CELLS:
        raise ShapeError(
            "the extent of the points",
            expected="a volume of fewer than 2^48 voxels; are the coordinates metres?",
            got=f"{shape[0]} x {shape[1]} x {shape[2]} voxels in {n_scans} scans",
        )
    return (origin[0], origin[1], origin[2]), (shape[0], shape[1], shape[2])


def _voxel_key(
    cells: tuple[Tensor, Tensor, Tensor],
    batch: Tensor,
    *,
    origin: tuple[int, int, int],
    shape: tuple[int, int, int],
) -> Tensor:
    """(Q,) of the batch's type, in the order of (batch, x, y, z)."""
    key = batch
    for cell, start, n in zip(cells, origin, shape, strict=True):
        key = torch.add(cell, key, alpha=n)
        key = key.sub_(start) if start else key
    return key


class SortedKey(NamedTuple):
    """A key in ascending order."""

    order: Tensor
    """(Q,) int64 rows."""
    ordered: Tensor
    """(Q,) the key of each."""


class Runs(NamedTuple):
    """A sorted key cut into runs of equal values."""

    order: Tensor
    """(Q,) int64 rows, sorted."""
    offsets: Tensor
    """(P + 1,) int64: run p is order[offsets[p]:offsets[p + 1]]."""
    run_of_sorted: Tensor
    """(Q + 1,) int64 run of each sorted row, then P."""

    def run_of_rows(self) -> Tensor:
        """(Q,) int64 run of each unsorted row."""
        return torch.empty_like(self.order).scatter_(0, self.order, self.run_of_sorted[:-1])


def key_type(largest: int) -> torch.dtype:
    """For keys below `largest`: half as many bytes take half the time of a radix sort."""
    return torch.int32 if largest <= INT32_MAX else torch.int64


def sort_key(key: Tensor) -> SortedKey:
    """Sort a (Q,) integer key."""
    ordered, order = torch.sort(key, stable=True)  # the order of sums never changes
    return SortedKey(order, ordered)


def cut_runs(keys: Sequence[SortedKey]) -> list[Runs]:
    """Cut sorted keys into runs of equal values; waits for the device once, for their numbers."""
    numbers, starts = [], []
    for key in keys:
        number, start = _numbered(key.ordered)
        numbers.append(number)
        starts.append(start)
    if not keys:
        return []
    counts = torch.stack([number[-1] for number in numbers]).tolist()
    cut = []
    for key, number, start, n in zip(keys, numbers, starts, counts, strict=True):
        cut.append(Runs(key.order, _run_starts(number, start, most=n), number.sub_(1)))
    return cut


def cut_twice(key: SortedKey, *, n_bits: int) -> tuple[Runs, Runs]:
    """Cut a sorted key into runs of equal values, and of equal values without their lowest bits."""
    number, start = _numbered(torch.stack([key.ordered, key.ordered >> n_bits]))
    fine, coarse = number[:, -1].tolist()
    offsets = _run_starts(number, start, most=fine)
    run = number.sub_(1)
    return Runs(key.order, offsets[0], run[0]), Runs(key.order, offsets[1, :coarse], run[1])


def _numbered(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Number of each sorted row's run, from 1, and whether a run starts there: (..., Q + 1) each.

    The last row is one more: the run that would follow.
    """
    shape = (*ordered.shape[:-1], ordered.shape[-1] + 1)
    is_start = torch.ones(shape, dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[..., 1:], ordered[..., :-1], out=is_start[..., 1:-1])
    return torch.cumsum(is_start, -1), is_start


def _run_starts(number: Tensor, is_start: Tensor, *, most: int) -> Tensor:
    """(..., most) int64 first row of each run; what follows the last one is left open."""
    rows = torch.arange(number.shape[-1], device=number.device)
    starts = number.new_empty((*number.shape[:-1], most + 1))
    # What is no start goes to the place before the first.
    starts.scatter_(-1, number * is_start, rows.expand(number.shape))
    return starts[..., 1:]


def _level(
    pieces: Runs,
    of_voxels: Runs,
    cells: tuple[Tensor, ...],
    count: Tensor | None,
    *,
    scale: int,
    frame: tuple[tuple[int, int, int], tuple[int, int, int]],
    low: Tensor | None,
) -> tuple[Level, Tensor]:
    """The level of sorted pieces, and one row of the level before for each piece.

    Args:
        pieces: Of the rows.
        of_voxels: Likewise.
        cells: (Q,) int32 each, of the rows: batch, z, y, x.
        count: (Q,) int64 points in each row.
        scale: Of the level.
        frame: Its origin and shape.
        low: (4,) int32 of the origin in the order of `cells`; None: zeros.
    """
    starts, voxel_starts = pieces.offsets[:-1], of_voxels.offsets[:-1]
    piece = pieces.run_of_rows()
    # Any row of a piece stands for it, and any of a voxel for the voxel.
    first = pieces.order.index_select(0, starts)
    one = pieces.order.index_select(0, voxel_starts)
    coords = torch.stack([cell.index_select(0, one) for cell in cells], dim=1)
    if low is not None:
        coords.sub_(low)
    if count is None:
        total = pieces.offsets[1:] - starts
    else:
        total = torch.zeros(len(first), dtype=torch.int64, device=count.device)
        total.scatter_add_(0, piece, count)
    level = Level(
        scale=scale,
        origin=frame[0],
        shape=frame[1],
        coords=coords,
        voxel=of_voxels.run_of_sorted.index_select(0, starts),
        voxel_offsets=pieces.run_of_sorted.index_select(0, of_voxels.offsets),
        count=total,
        order=pieces.order,
        offsets=pieces.offsets,
        piece=piece,
    )
    return level, first


def inverse_of(levels: tuple[Level, ...], t: int, *, rows: Tensor | None = None) -> Tensor:
    """(N,) int64 voxel of level t of each point, or (M,) of the points in `rows` (M,)."""
    return levels[t].voxel.index_select(0, piece_of(levels, t, rows=rows))


def piece_of(levels: tuple[Level, ...], t: int, *, rows: Tensor | None = None) -> Tensor:
    """(N,) int64 piece of level t of each point, or (M,) of the points in `rows` (M,)."""
    piece = levels[0].piece if rows is None else levels[0].piece.index_select(0, rows)
    for level in levels[1 : t + 1]:
        piece = level.piece.index_select(0, piece)
    return piece
