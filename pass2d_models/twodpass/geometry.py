"""What the 3D network needs to know about a batch's points: voxels and links between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pass2d.models.backends.interface import Backend, ConvTable, Volume
from pass2d.models.inputs import Grid, TensorRecord, host_values
from pass2d.models.twodpass.hierarchy import Level, Runs, SortedKey, cut_runs, key_type, sort_key
from pass2d.models.twodpass.links import Link, Rows, lookup_link, mean_link


@dataclass(frozen=True, kw_only=True)
class LevelGeometry(TensorRecord):
    """The voxels that a block convolves."""

    table: ConvTable
    """Neighbours of its voxels."""
    group_mean: Link
    """Voxels to groups of 2 x 2 x 2 cells of the same scan."""
    group_lookup: Link
    """Groups back to voxels."""


@dataclass(frozen=True, kw_only=True)
class Descent(TensorRecord):
    """From the sums of coarser scales to those that include this scale."""

    own: Link
    """Voxels of this level to its pieces."""
    coarser: Link | None
    """Pieces of the next level to those of this; None at the last."""


@dataclass(frozen=True, kw_only=True)
class Geometry(TensorRecord):
    """Points and voxels of a batch, for networks whose blocks go through several scales."""

    points: Tensor
    """(N, 4) float32, sorted by their voxel of scale 1."""
    point_voxel: Tensor
    """(N,) int64 that voxel, ascending."""
    point_mean: Link
    """Sorted points to voxels of scale 1."""
    corner: Tensor
    """(V, 3) float64 metres: the lower corner of each voxel of scale 1."""
    levels: tuple[LevelGeometry | None, ...]
    """Of each scale, finest first; None where no block starts."""
    links: tuple[Link, ...]
    """links[t]: mean by voxel of level t + 1 over the points of features of level t."""
    descents: tuple[Descent, ...]
    """Of the scales that the head sums, finest first."""


def build_geometry(
    points: Tensor,
    *,
    levels: tuple[Level, ...],
    grid: Grid,
    n_scans: int,
    head_level: int,
    convolved: Collection[int],
    backend: Backend,
    weights: Tensor | None = None,
) -> Geometry:
    """Derive all links from the levels.

    Args:
        points: (N, 4) float32 in the batch's order.
        levels: Of the points; the first has scale 1.
        grid: The volume.
        n_scans: B.
        head_level: First level whose features the head sees.
        convolved: Levels whose voxels are convolved.
        backend: Of the convolutions.
        weights: (N,) float32, how often each point counts, as the levels do; None: once.
    """
    first = levels[0]
    point_offsets = first.offsets.index_select(0, first.voxel_offsets)
    point_voxel = torch.repeat_interleave(
        torch.arange(len(first.coords), device=points.device),
        point_offsets[1:] - point_offsets[:-1],
        output_size=len(points),
    )
    return Geometry(
        points=points.index_select(0, first.order),
        point_voxel=point_voxel,
        point_mean=mean_link(
            point_voxel,
            order=None,
            offsets=point_offsets,
            weight=None if weights is None else weights.index_select(0, first.order),
        ),
        corner=_corner(first, grid),
        levels=_level_geometries(levels, n_scans=n_scans, convolved=convolved, backend=backend),
        links=_scale_links(levels),
        descents=tuple(
            _descent(levels[t], levels[t + 1] if t + 1 < len(levels) else None)
            for t in range(head_level, len(levels))
        ),
    )


def _corner(level: Level, grid: Grid) -> Tensor:
    device = level.coords.device
    low = host_values(grid.low, device, dtype=torch.float64)
    high = host_values(grid.high, device, dtype=torch.float64)
    size = (high - low) / host_values(grid.shape, device, dtype=torch.float64)
    cell = level.coords[:, 1:].flip(1) + host_values(level.origin, device)
    return cell * size + low


def _level_geometries(
    levels: Sequence[Level], *, n_scans: int, convolved: Collection[int], backend: Backend
) -> tuple[LevelGeometry | None, ...]:
    """Of the levels that are convolved; waits for the numbers of all their groups at once."""
    keys = [_group_key(level, n_scans=n_scans) for t, level in enumerate(levels) if t in convolved]
    groups = iter(cut_runs(keys))
    return tuple(
        _level_geometry(level, next(groups), n_scans=n_scans, backend=backend)
        if t in convolved
        else None
        for t, level in enumerate(levels)
    )


def _group_key(level: Level, *, n_scans: int) -> SortedKey:
    x, y, z = ((n + 1) // 2 for n in level.shape)
    largest = n_scans * x * y * z
    key = level.coords[:, 0].to(key_type(largest))
    cell_z, cell_y, cell_x = (level.coords[:, 1:] >> 1).unbind(1)
    for cell, n in ((cell_x, x), (cell_y, y), (cell_z, z)):
        key = torch.add(cell, key, alpha=n)
    return sort_key(key)


def _level_geometry(level: Level, groups: Runs, *, n_scans: int, backend: Backend) -> LevelGeometry:
    volume = Volume(
        extent=(level.shape[2], level.shape[1], level.shape[0]), batch_size=n_scans, axes="zyx"
    )
    group = groups.run_of_rows()
    return LevelGeometry(
        table=backend.neighbours(level.coords, volume),
        group_mean=mean_link(group, order=groups.order, offsets=groups.offsets),
        group_lookup=lookup_link(group, order=groups.order, offsets=groups.offsets),
    )


def _scale_links(levels: Sequence[Level]) -> tuple[Link, ...]:
    """Each piece of a level lies in one voxel of either scale; its point count is the weight."""
    counts = [level.count.to(torch.float32) for level in levels]
    pairs = zip(pairwise(levels), pairwise(counts), strict=True)
    return tuple(
        Link(
            forward=Rows(
                index=fine.voxel.index_select(0, coarse.order),
                offsets=coarse.offsets.index_select(0, coarse.voxel_offsets),
                weight=count.index_select(0, coarse.order),
            ),
            backward=Rows(
                index=coarse.voxel.index_select(0, coarse.piece),
                offsets=fine.voxel_offsets,
                weight=count,
            ),
            divisor=count.new_zeros(len(coarse.coords)).scatter_add_(0, coarse.voxel, of_coarse),
        )
        for (fine, coarse), (count, of_coarse) in pairs
    )


def _descent(level: Level, coarser: Level | None) -> Descent:
    return Descent(
        own=lookup_link(level.voxel, order=None, offsets=level.voxel_offsets),
        coarser=None
        if coarser is None
        else lookup_link(coarser.piece, order=coarser.order, offsets=coarser.offsets),
    )
