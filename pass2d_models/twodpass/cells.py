"""The voxel rule: the cell of each scale's grid that contains a point (docs/maths.md, section 3).

The grids of different scales do not nest in general, but along one axis two grids whose cell counts
differ by a power of two do, and exactly so in float32. Only the others, the roots, are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pass2d.models.inputs import Grid


@dataclass(frozen=True, kw_only=True)
class AxisCell:
    """How the cell along one axis follows from a root: ``roots[root] >> shift``."""

    root: int
    shift: int


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What to compute for a list of scales."""

    scales: tuple[int, ...]
    """Increasing."""
    shapes: tuple[tuple[int, int, int], ...]
    """x, y, z cells of the volume at each scale."""
    roots: tuple[tuple[int, int], ...]
    """(axis, cells along it) of each root."""
    axes: tuple[tuple[AxisCell, AxisCell, AxisCell], ...]
    """x, y, z of each scale."""
    parities: tuple[tuple[AxisCell, ...], ...]
    """Per scale: a cell of this scale overlaps at most two cells of each coarser grid along an
    axis, so that these cells' lowest bits distinguish all combinations of coarser cells within
    it."""


@lru_cache(maxsize=64)
def plan_cells(grid_shape: tuple[int, int, int], scales: tuple[int, ...]) -> CellPlan:
    """Find the roots for a grid and increasing scales.

    Args:
        grid_shape: x, y, z cells at scale 1.
        scales: Strictly increasing.
    """
    # ceil: 1000 / 16 -> 63, a coarse cell is not a union of fine ones
    shapes = [tuple(-(-cells // scale) for cells in grid_shape) for scale in scales]
    roots: list[tuple[int, int]] = []
    axes = []
    for shape in shapes:
        found = []
        for axis, cells in enumerate(shape):
            known = _root_of(roots, axis=axis, cells=cells)
            if known is None:
                known = AxisCell(root=len(roots), shift=0)
                roots.append((axis, cells))
            found.append(known)
        axes.append(tuple(found))
    return CellPlan(
        scales=scales,
        shapes=tuple((x, y, z) for x, y, z in shapes),
        roots=tuple(roots),
        axes=tuple((x, y, z) for x, y, z in axes),
        parities=tuple(_parities(axes, level) for level in range(len(scales))),
    )


def _root_of(roots: list[tuple[int, int]], *, axis: int, cells: int) -> AxisCell | None:
    for root, (root_axis, root_cells) in enumerate(roots):
        for shift in range(root_cells.bit_length()):
            if root_axis == axis and cells << shift == root_cells:
                return AxisCell(root=root, shift=shift)
    return None


def _parities(axes: list[tuple[AxisCell, ...]], level: int) -> tuple[AxisCell, ...]:
    finest: dict[int, int] = {}
    for coarser in axes[level + 1 :]:
        for cell in coarser:
            finest[cell.root] = min(cell.shift, finest.get(cell.root, cell.shift))
    own = {cell.root for cell in axes[level]}  # nested in this scale's cell: nothing to distinguish
    return tuple(AxisCell(root=r, shift=s) for r, s in finest.items() if r not in own)


def root_cells(xyz: Tensor, *, plan: CellPlan, grid: Grid) -> Tensor:
    """Cells of points along the roots' axes.

    Args:
        xyz: (N, 3 or more) float32 metres.
        plan: Of this grid.
        grid: The volume.

    Returns:
        (roots, N) int32; negative or beyond the grid for points outside the volume.

    Source: docs/maths.md, section 3: ``n (p - min) / (max - min)`` in float32, in this order;
    floor, which equals the original's truncation inside the volume.
    """
    axes = [axis for axis, _ in plan.roots]
    low, high = torch.tensor([grid.low, grid.high], dtype=torch.float32)[:, axes]
    n = torch.tensor([cells for _, cells in plan.roots], dtype=torch.float32)
    # Tensors, not numbers: CUDA would multiply by a number's reciprocal, which moves points.
    factors = torch.stack([low, n, high - low])[..., None].to(xyz.device, non_blocking=True)
    along = torch.stack([xyz[:, axis] for axis in axes])
    return along.sub_(factors[0]).mul_(factors[1]).div_(factors[2]).floor_().to(torch.int32)


def scale_cells(roots: Tensor, *, plan: CellPlan, level: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, z cells, (N,) int32 each, of one of the plan's scales from the roots' cells."""
    x, y, z = (_shifted(roots, cell) for cell in plan.axes[level])
    return x, y, z


def parity_bit(roots: Tensor, cell: AxisCell) -> Tensor:
    """(N,) int32 0 or 1: the lowest bit of a cell."""
    return _shifted(roots, cell) & 1


def _shifted(roots: Tensor, cell: AxisCell) -> Tensor:
    row = roots[cell.root]
    return row >> cell.shift if cell.shift else row
