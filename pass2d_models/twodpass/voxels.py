"""Voxels as batches carry them: computed from points, or merged from the cache's hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.inputs import Grid, ScaleVoxels
from pass2d.models.segment import bag_sum, segment_sum
from pass2d.models.twodpass.cells import plan_cells
from pass2d.models.twodpass.hierarchy import Level, as_scale_voxels, build_levels


def voxelize(
    points: Tensor, offsets: Tensor, *, grid: Grid, scales: tuple[int, ...]
) -> tuple[ScaleVoxels, ...]:
    """Find the voxels of a batch at several scales (SPEC, section 3).

    Args:
        points: (N, 3 or more) float32, x, y, z in metres, N at least 1; may lie outside the volume.
        offsets: (B + 1,) int64: scan b owns rows offsets[b]:offsets[b + 1].
        grid: The volume and its finest grid.
        scales: Strictly increasing.

    Returns:
        One record per scale; without labels.

    Raises:
        ShapeError: Wrong shapes, no point, or points too far apart.
    """
    if points.ndim != 2 or points.shape[1] < 3 or len(points) == 0:
        raise ShapeError("points", expected="(N, 3 or more) with N > 0", got=tuple(points.shape))
    if list(scales) != sorted(set(scales)):
        raise ShapeError("scales", expected="strictly increasing", got=scales)
    offsets = offsets.to(points.device)
    return as_scale_voxels(build_levels(points, offsets, grid=grid, scales=scales))


@dataclass(frozen=True, kw_only=True)
class ScanLevel:
    """The voxel hash of one scan at one scale, as the cache stores it."""

    coords_xyz: Tensor
    """(V, 3) integer x, y, z cells, sorted lexicographically."""
    inverse: Tensor
    """(N,) integer voxel of each point."""
    label: Tensor | None
    """(V,) integer majority label; None without labels."""


def voxels_from_levels(
    scans: Sequence[Sequence[ScanLevel]], *, grid: Grid, scales: tuple[int, ...]
) -> tuple[ScaleVoxels, ...]:
    """Merge the hashes of B scans into those of the batch; what `voxelize` gives for their points.

    Args:
        scans: For each scan, one level per scale.
        grid: The volume; cached points lie inside, so the origin is 0.
        scales: Of the levels, in their order.
    """
    shapes = plan_cells(grid.shape, scales).shapes
    return tuple(
        _merge([scan[t] for scan in scans], scale=scale, volume=shapes[t])
        for t, scale in enumerate(scales)
    )


def _merge(levels: Sequence[ScanLevel], *, scale: int, volume: tuple[int, int, int]) -> ScaleVoxels:
    coords, inverse, labels = [], [], []
    n_voxels = 0
    for scan, level in enumerate(levels):
        zyx = level.coords_xyz.flip(1).to(torch.int32)
        coords.append(torch.cat([zyx.new_full((len(zyx), 1), scan), zyx], dim=1))
        inverse.append(level.inverse.to(torch.int64) + n_voxels)
        n_voxels += len(zyx)
        if level.label is not None:
            labels.append(level.label.to(torch.int64))
    merged = torch.cat(coords)
    # The float just below the upper border may fall into the cell just above the grid.
    top = merged[:, 1:].amax(0).tolist() if n_voxels else [0, 0, 0]
    x, y, z = volume
    return ScaleVoxels(
        scale=scale,
        coords=merged,
        inverse=torch.cat(inverse),
        origin=(0, 0, 0),
        shape=(max(z, top[0] + 1), max(y, top[1] + 1), max(x, top[2] + 1)),
        label=torch.cat(labels) if len(labels) == len(levels) else None,
    )


def piece_label_counts(
    levels: tuple[Level, ...], labels: Tensor, *, n_classes: int, votes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Count labels.

    Args:
        levels: Of the points.
        labels: (N,) int64.
        n_classes: C.
        votes: (N,) float32 whole numbers, how often each point counts; None: once.

    Returns:
        (P, C) float32 per level: points of each label in each piece.
    """
    first = levels[0]
    n_pieces = len(first.voxel)
    # float32 counts whole numbers exactly up to 16 million points
    flat = torch.zeros(n_pieces * n_classes, device=labels.device)
    votes = flat.new_ones(len(labels)) if votes is None else votes
    flat.scatter_add_(0, first.piece * n_classes + labels, votes)
    counts = [flat.view(n_pieces, n_classes)]
    for level in levels[1:]:
        counts.append(bag_sum(counts[-1], index=level.order, offsets=level.offsets, weight=None))
    return tuple(counts)


def voxel_labels(level: Level, piece_counts: Tensor) -> Tensor:
    """Most frequent label of each voxel, the ignored one counted too, the smallest in a tie.

    Args:
        level: The voxels.
        piece_counts: (P, C) of the level, see `piece_label_counts`.

    Returns:
        (V,) int64.
    """
    counts = segment_sum(piece_counts, level.voxel_offsets).to(torch.int64)
    n_classes = counts.shape[1]
    # argmax leaves open which of several largest it names
    rank = torch.arange(n_classes - 1, -1, -1, device=counts.device)
    return n_classes - 1 - (counts * n_classes + rank).amax(1) % n_classes
