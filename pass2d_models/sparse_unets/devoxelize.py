"""SPVCNN's point branch: interpolated voxels, averaged points (docs/maths.md, section 6).

The tables depend only on the coordinates and are built before the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pass2d.models.inputs import TensorRecord, host_values
from pass2d.models.voxel_keys import VoxelIndex, count_rows

_NO_CORNER = 1e-8
"""Added to the sum of a point's weights: a point without any voxel around it reads zeros."""


@dataclass(frozen=True, kw_only=True)
class Corners(TensorRecord):
    """The voxels around each point, for trilinear interpolation."""

    rows: Tensor
    """(M, 8) int64 voxel at base + (dx, dy, dz), k = 4 dx + 2 dy + dz; any where weight is 0."""
    weight: Tensor
    """(M, 8) float32; they add up to 1, or are all 0."""

    @classmethod
    def find(cls, positions: Tensor, batch: Tensor, *, index: VoxelIndex, stride: int) -> Corners:
        """Look the corners up.

        Args:
            positions: (M, 3) float32 x, y, z in input cells, from 0 to the extent.
            batch: (M,) int64 sample of each point.
            index: the voxels of one stride.
            stride: of these voxels, in input cells.
        """
        scaled = positions / stride
        base = scaled.floor()
        part = scaled - base
        corners = [(k >> 2 & 1, k >> 1 & 1, k & 1) for k in range(8)]
        step_x, step_y, step_z = index.packing.steps
        shifts = [dx * step_x + dy * step_y + dz * step_z for dx, dy, dz in corners]
        # Positions lie within the extent, so that all corners have keys of their own.
        key = index.packing.pack(torch.cat([batch[:, None], base.long()], 1))
        row = index.find_keys(key[:, None] + host_values(shifts, key.device))
        is_upper = host_values(corners, positions.device, dtype=torch.bool)
        weight = torch.where(is_upper, part[:, None], 1 - part[:, None]).prod(2)
        weight = torch.where(row >= 0, weight, 0)
        weight = weight / (weight.sum(1, keepdim=True) + _NO_CORNER)
        return cls(rows=row.clamp_(min=0), weight=weight)

    def read(self, features: Tensor) -> Tensor:
        """(V, C) features of voxels to (M, C) of points; the weights get no gradient."""
        weight = self.weight.to(features.dtype)
        return functional.embedding_bag(self.rows, features, mode="sum", per_sample_weights=weight)


@dataclass(frozen=True, kw_only=True)
class Cells(TensorRecord):
    """The voxel that each point lies in, for averaging."""

    row: Tensor
    """(M,) int64; V for a point without a voxel."""
    share: Tensor
    """(V, 1) float32: one divided by the points of the voxel; 0 without points."""

    @classmethod
    def find(cls, positions: Tensor, batch: Tensor, *, index: VoxelIndex, stride: int) -> Cells:
        """Look the voxels up; the arguments are those of `Corners.find`."""
        cell = (positions / stride).floor().long()
        found = index.find(torch.cat([batch[:, None], cell], 1))
        n_voxels = len(index.keys)
        row = torch.where(found >= 0, found, n_voxels)
        count = count_rows(row, n=n_voxels + 1)[:n_voxels]
        share = torch.where(count > 0, 1 / count, 0).float()
        return cls(row=row, share=share[:, None])

    def average(self, features: Tensor) -> Tensor:
        """(M, C) features of points to (V, C): the mean of each voxel's points, 0 without any."""
        n_voxels = len(self.share)
        # Hundreds of rows may meet in one voxel: half precision would lose the sum.
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        total = wide.new_zeros((n_voxels + 1, features.shape[1])).index_add(0, self.row, wide)
        return (total[:n_voxels] * self.share).to(features.dtype)
