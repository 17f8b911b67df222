"""Voxels of all scales and how they overlap, from one sort of the points.

A *piece* of level t is a distinct combination of cells of the scales t, t + 1, ... that some point
has: points of one piece of level 0 lie in the same voxel at every scale. Pieces are sorted by the
voxel of their own scale, so its voxels are runs of pieces; the pieces of level t + 1 are found by
sorting those of level t, which get fewer each time. All else (inverses, point counts of overlaps,
labels) is read off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.inputs import Grid, ScaleVoxels
from pass2d.models.twodpass.cells import CellPlan, plan_cells, root_cells, scale_cells

INT32_MAX = 2**31 - 1
MOST_CELLS = 2**48
"""Leaves 15 bits of an int64 key to what tells the pieces of a voxel apart."""


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
    """(N,) int64 scan of each point."""
    counts = offsets[1:] - offsets[:-1]
    scans = torch.arange(len(counts), device=offsets.device)
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
        voxels: Known voxels of these very points at all of the scales, whose cells then serve.
        weights: (N,) points that each row counts for; None: one each.

    Raises:
        ShapeError: The points lie so far apart that no key can count the cells between them.
    """
    plan = plan_cells(grid.shape, scales)
    roots = known_cells(voxels, plan=plan) if voxels else root_cells(points, plan=plan, grid=grid)
    extremes = [torch.stack(torch.aminmax(root)) for root in roots]
    bounds = torch.stack(extremes, dim=1).tolist()  # where the GPU is waited for
    n_scans = len(offsets) - 1
    batch = batch_index(offsets, n=len(points)).to(torch.int32)
    count = None if weights is None else weights.to(torch.int64)
    levels = []
    # From here on a row is a piece of the level before, at first a point: `roots`, `batch` and
    # `count` hold one entry per row, and get shorter with every level.
    for t in range(len(scales)):
        origin, shape = _frame(plan, bounds, level=t, n_scans=n_scans)
        # One key per row: its voxel of this scale in the high bits, and in the low ones what tells
        # apart the coarser cells within that voxel.
        key = _voxel_key(roots, batch, plan=plan, level=t, origin=origin, shape=shape)
        bits = _parity_bits(roots, plan=plan, level=t)
        largest = (n_scans * shape[0] * shape[1] * shape[2]) << len(plan.parities[t])
        runs = sort_runs((key << len(plan.parities[t])) | bits, largest=largest)
        level, first = _level(runs, roots, batch, count, plan=plan, t=t, origin=origin, shape=shape)
        levels.append(level)
        # On with one row per piece: all rows of a piece lie in the same cells of what is to come.
        roots = torch.stack([root.index_select(0, first) for root in roots])
        batch, count = batch.index_select(0, first), level.count
    return tuple(levels)


def known_cells(voxels: tuple[ScaleVoxels, ...], *, plan: CellPlan) -> Tensor:
    """(roots, N) int32 cells of the points along the roots' axes, from their voxels."""
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
    roots: Tensor,
    batch: Tensor,
    *,
    plan: CellPlan,
    level: int,
    origin: tuple[int, int, int],
    shape: tuple[int, int, int],
) -> Tensor:
    """(Q,) int64, in the order of (batch, x, y, z)."""
    x, y, z = scale_cells(roots, plan=plan, level=level)
    flat = batch.to(torch.int64) * shape[0]
    flat = (flat + (x - origin[0])) * shape[1]
    flat = (flat + (y - origin[1])) * shape[2]
    return flat + (z - origin[2])


def _parity_bits(roots: Tensor, *, plan: CellPlan, level: int) -> Tensor:
    bits = torch.zeros(roots.shape[1], dtype=torch.int32, device=roots.device)
    for cell in plan.parities[level]:
        bits = (bits << 1) | ((roots[cell.root] >> cell.shift) & 1)
    return bits


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A sorted key cut into runs of equal values."""

    order: Tensor
    key: Tensor
    """(P,) of each run."""
    offsets: Tensor
    """(P + 1,)"""
    run: Tensor
    """(Q,) run of each unsorted row."""


def sort_runs(key: Tensor, *, largest: int) -> Runs:
    """Sort a (Q,) integer key, all of it below `largest`, and cut it into runs of equal values."""
    # Half as many bytes take half the time of a radix sort; stable: sums keep one order for ever.
    narrow = key.to(torch.int32) if largest <= INT32_MAX else key
    ordered, order = torch.sort(narrow, stable=True)
    starts, run_of_sorted = _starts(ordered)
    run = torch.empty_like(order).scatter_(0, order, run_of_sorted)
    return Runs(
        order=order,
        key=ordered.index_select(0, starts),
        offsets=_close(starts, len(key)),
        run=run,
    )


def _starts(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """First row of each run of equal values, and the run of each row."""
    is_start = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[1:], ordered[:-1], out=is_start[1:])
    return torch.nonzero(is_start)[:, 0], torch.cumsum(is_start, 0) - 1


def _close(starts: Tensor, n: int) -> Tensor:
    return torch.cat([starts, starts.new_full((1,), n)])


def _level(
    runs: Runs,
    roots: Tensor,
    batch: Tensor,
    count: Tensor | None,
    *,
    plan: CellPlan,
    t: int,
    origin: tuple[int, int, int],
    shape: tuple[int, int, int],
) -> tuple[Level, Tensor]:
    """The level of sorted pieces, and one row of the level before for each piece."""
    # Pieces are sorted by voxel: a voxel is a run of pieces that share the key's high bits.
    starts, voxel = _starts(runs.key >> len(plan.parities[t]))
    voxel_offsets = _close(starts, len(runs.key))
    # Any row of a piece stands for it, any piece of a voxel for the voxel.
    first = runs.order.index_select(0, runs.offsets[:-1])
    one = first.index_select(0, starts)
    x, y, z = (cell.index_select(0, one) for cell in scale_cells(roots, plan=plan, level=t))
    scan = batch.index_select(0, one)
    coords = torch.stack([scan, z - origin[2], y - origin[1], x - origin[0]], dim=1)
    if count is None:
        total = runs.offsets[1:] - runs.offsets[:-1]
    else:
        total = torch.zeros(len(first), dtype=torch.int64, device=count.device)
        total.scatter_add_(0, runs.run, count)
    level = Level(
        scale=plan.scales[t],
        origin=origin,
        shape=shape,
        coords=coords,
        voxel=voxel,
        voxel_offsets=voxel_offsets,
        count=total,
        order=runs.order,
        offsets=runs.offsets,
        piece=runs.run,
    )
    return level, first


def inverse_of(levels: tuple[Level, ...], t: int, *, rows: Tensor | None = None) -> Tensor:
    """Voxel of level t of each point, or of the points named by `rows`."""
    return levels[t].voxel.index_select(0, piece_of(levels, t, rows=rows))


def piece_of(levels: tuple[Level, ...], t: int, *, rows: Tensor | None = None) -> Tensor:
    """Piece of level t of each point, or of the points named by `rows`."""
    piece = levels[0].piece if rows is None else levels[0].piece.index_select(0, rows)
    for level in levels[1 : t + 1]:
        piece = level.piece.index_select(0, piece)
    return piece


def as_scale_voxels(levels: tuple[Level, ...]) -> tuple[ScaleVoxels, ...]:
    """The levels in the form that batches carry."""
    return tuple(
        ScaleVoxels(
            scale=level.scale,
            coords=level.coords,
            inverse=inverse_of(levels, t),
            origin=level.origin,
            shape=(level.shape[2], level.shape[1], level.shape[0]),
        )
        for t, level in enumerate(levels)
    )
