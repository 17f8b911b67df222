"""Cached voxel hashes on the device, also after one of the grid's symmetries.

A symmetry maps cells onto cells: cell x of n becomes n - 1 - x, or x and y are swapped. The groups
of points stay exactly those of the cache, so only their order is recomputed. A point exactly on the
border of two cells could move to the other cell if its mirrored coordinate were quantised again, as
cells are half open. The relabelled hash keeps it with its group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.cache.schema import GridConfig, VoxelLevel
from pass2d.models.inputs import ScaleVoxels, TensorRecord
from pass2d.train.data.sampling import SYMMETRIES


@dataclass(frozen=True, kw_only=True)
class CachedHash(TensorRecord):
    """The hashes of a batch at one scale, as they come from the cache."""

    scale: int
    coord: Tensor
    """(3, V) int16 x, y, z cell; scans end to end."""
    voxel_starts: tuple[int, ...]
    """(B + 1,) columns of `coord` where scans begin, then V."""
    tops: tuple[int, int, int]
    """Largest x, y, z cell: the float just below the border may lie in the cell above the grid."""
    label: Tensor | None
    """(V,) uint8 majority label."""
    inverse: Tensor
    """(N,) int32 voxel of each point, counted within its scan."""


@dataclass(frozen=True, kw_only=True)
class ScanHash(TensorRecord):
    """The hash of one scan at one scale."""

    scale: int
    coord: Tensor
    """(3, V) int16 x, y, z cell."""
    inverse: Tensor
    """(N,) int32 voxel of each point."""
    top: tuple[int, int, int]
    """Largest x, y, z cell."""


def scan_hashes(
    levels: Sequence[VoxelLevel], *, scales: Sequence[int], grid: GridConfig
) -> tuple[ScanHash, ...] | None:
    """A scan's hashes at the scales that a network needs.

    Returns:
        None where the cache lacks one of them, or a symmetry would leave the grid.
    """
    by_scale = {level.scale: level for level in levels}
    if not by_scale.keys() >= set(scales):
        return None
    wanted = [by_scale[scale] for scale in scales]
    if leaves_grid(wanted, grid) or not wanted[0].coord.shape[1]:
        return None
    return tuple(
        ScanHash(
            scale=level.scale,
            coord=torch.from_numpy(level.coord),
            inverse=torch.from_numpy(level.inverse),
            top=(int(level.coord[0].max()), int(level.coord[1].max()), int(level.coord[2].max())),
        )
        for level in wanted
    )


def voted_voxels(
    scans: Sequence[Sequence[ScanHash]],
    *,
    symmetries: Sequence[int],
    scan_starts: Sequence[int],
    grid: GridConfig,
) -> tuple[ScaleVoxels, ...]:
    """The voxels of a batch of scans, each after a symmetry; a scan may come several times.

    Args:
        scans: (B,) each with its hashes, finest first.
        symmetries: (B,) indices into `SYMMETRIES`.
        scan_starts: (B + 1,) point rows where scans begin, then N.
        grid: finest grid of the cache.
    """
    voxels = []
    for levels in zip(*scans, strict=True):
        starts = [0]
        for level in levels:
            starts.append(starts[-1] + level.coord.shape[1])
        x, y, z = (max(level.top[axis] for level in levels) for axis in range(3))
        joint = CachedHash(
            scale=levels[0].scale,
            coord=torch.cat([level.coord for level in levels], dim=1),
            voxel_starts=tuple(starts),
            tops=(x, y, z),
            label=None,
            inverse=torch.cat([level.inverse for level in levels]),
        )
        voxels.append(
            scale_voxels(joint, scan_starts=scan_starts, symmetries=symmetries, grid=grid)
        )
    return tuple(voxels)


def scale_voxels(
    cached: CachedHash,
    *,
    scan_starts: Sequence[int],
    symmetries: Sequence[int],
    grid: GridConfig,
) -> ScaleVoxels:
    """Join the hashes of a batch and apply each scan's symmetry.

    Args:
        cached: one scale.
        scan_starts: (B + 1,) point rows where scans begin, then N.
        symmetries: (B,) indices into `SYMMETRIES`; 0 is none, and the only one for a scan that
            `leaves_grid`.
        grid: finest grid of the cache.

    Returns:
        Voxels sorted by (batch, x, y, z).
    """
    # Cells of this scale; one more where a point lies on the upper border.
    cells = [math.ceil(side / cached.scale) for side in grid.shape]
    shape = [max(n, top + 1) for n, top in zip(cells, cached.tops, strict=True)]
    coords, inverses, orders = [], [], []
    for scan, symmetry in enumerate(symmetries):
        # This scan's voxels, and for each of its points the voxel that it lies in.
        start, stop = cached.voxel_starts[scan], cached.voxel_starts[scan + 1]
        xyz = cached.coord[:, start:stop].to(torch.int32)
        inverse = cached.inverse[scan_starts[scan] : scan_starts[scan + 1]].to(torch.int64)
        order = torch.arange(stop - start, device=xyz.device)
        if symmetry != 0:
            # Move the cells, sort them again by (x, y, z), and let the points follow.
            xyz = map_cells(xyz, symmetry=symmetry, cells=(cells[0], cells[1]))
            key = (xyz[0].to(torch.int64) * shape[1] + xyz[1]) * shape[2] + xyz[2]
            order = torch.argsort(key)
            xyz = xyz[:, order]
            rank = torch.empty_like(order)
            rank[order] = torch.arange(len(order), device=order.device)
            inverse = rank[inverse]
        # Networks take (batch, z, y, x), and voxels counted over the whole batch.
        coords.append(torch.stack([torch.full_like(xyz[0], scan), xyz[2], xyz[1], xyz[0]], 1))
        inverses.append(inverse + start)
        orders.append(order + start)
    label = cached.label
    return ScaleVoxels(
        scale=cached.scale,
        coords=torch.cat(coords),
        inverse=torch.cat(inverses),
        origin=(0, 0, 0),
        shape=(shape[2], shape[1], shape[0]),
        label=None if label is None else label[torch.cat(orders)].to(torch.int64),
    )


def leaves_grid(levels: Sequence[VoxelLevel], grid: GridConfig) -> bool:
    """Whether a point lies in the cell above the grid, as the float just below a border may.

    Its mirror image would lie in a cell below 0, which no hash of the cache can name.
    """
    return any(
        level.coord.shape[1] > 0 and int(level.coord[axis].max()) * level.scale >= grid.shape[axis]
        for level in levels
        for axis in (0, 1)
    )


def map_cells(xyz: Tensor, *, symmetry: int, cells: tuple[int, int]) -> Tensor:
    """Cells after a symmetry.

    Args:
        xyz: (3, V) int32.
        symmetry: index into `SYMMETRIES`.
        cells: along x and y; equal when the symmetry swaps them.

    Returns:
        (3, V) int32, in the order of `xyz`.
    """
    (a, b), (c, d) = SYMMETRIES[symmetry]
    # [x y] <- [x y] @ [[a, b], [c, d]]: new x is a x + c y, new y is b x + d y.
    x = _signed(xyz[0] if a else xyz[1], sign=a or c, cells=cells[0])
    y = _signed(xyz[1] if d else xyz[0], sign=d or b, cells=cells[1])
    return torch.stack([x, y, xyz[2]])


def _signed(cell: Tensor, *, sign: int, cells: int) -> Tensor:
    return cell if sign > 0 else cells - 1 - cell
