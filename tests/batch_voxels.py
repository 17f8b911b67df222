"""Voxels of a batch from its points, in the form that batches carry."""

from __future__ import annotations

from torch import Tensor

from pass2d.models.inputs import Grid, ScaleVoxels
from pass2d.models.twodpass.hierarchy import Level, build_levels, inverse_of


def voxelize(
    points: Tensor, offsets: Tensor, *, grid: Grid, scales: tuple[int, ...]
) -> tuple[ScaleVoxels, ...]:
    """One record per scale; without labels."""
    return as_scale_voxels(build_levels(points, offsets, grid=grid, scales=scales))


def as_scale_voxels(levels: tuple[Level, ...]) -> tuple[ScaleVoxels, ...]:
    """The same of levels that are built."""
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
