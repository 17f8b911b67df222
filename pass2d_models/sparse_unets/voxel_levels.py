"""The voxels of a sparse U-Net at strides 1, 2, 4, 8, 16 and how they feed each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.models.inputs import TensorRecord
from pass2d.models.sparse_unets.conv_tables import (
    ConvTable,
    child_pairs,
    gemm_table,
    neighbour_pairs,
)
from pass2d.models.sparse_unets.voxel_keys import KeyPacking, VoxelIndex


@dataclass(frozen=True, kw_only=True)
class VoxelLevel(TensorRecord):
    """The voxels of a batch at one stride."""

    stride: int
    """Input cells along the side of a voxel: 1, 2, 4, 8, 16."""
    coords: Tensor
    """(V, 4) int32: batch, x, y, z in units of the stride. On the CPU sorted in that order."""
    index: VoxelIndex
    """Finds a voxel's row by such coordinates."""
    around: ConvTable
    """Neighbours, for 3x3x3 convolutions."""
    down: ConvTable | None
    """To the next level; None at the last."""


def build_levels(
    coords: Tensor, *, extent: tuple[int, int, int], batch_size: int, n_levels: int = 5
) -> tuple[VoxelLevel, ...]:
    """Halve the resolution again and again, and index what each layer needs.

    Args:
        coords: (V, 4) int32 distinct voxels: batch, x, y, z, sorted in that order.
        extent: cells along x, y, z; coordinates are at least 0 and below it.
        batch_size: samples.
        n_levels: how many, the given one included.

    Returns:
        From fine to coarse. Waits for the device: call it before the forward pass.
    """
    levels = []
    for level in range(n_levels):
        packing = KeyPacking(extent=extent, batch_size=batch_size)
        index = VoxelIndex.build(coords, packing=packing)
        extent = halved(extent)
        parent_packing = KeyPacking(extent=extent, batch_size=batch_size)
        is_last = level == n_levels - 1
        around: ConvTable
        down: ConvTable | None = None
        coarser = coords
        if coords.device.type == "cuda" and len(coords) > 0:
            around, _ = gemm_table(coords, extent=packing.extent, batch_size=batch_size, size=3)
            if not is_last:
                down, coarser = gemm_table(
                    coords, extent=packing.extent, batch_size=batch_size, size=2
                )
        else:
            around = neighbour_pairs(index.keys, packing=packing)
            if not is_last:
                down, coarser = _parents(coords, packing=parent_packing)
        levels.append(
            VoxelLevel(stride=2**level, coords=coords, index=index, around=around, down=down)
        )
        coords = coarser
    return tuple(levels)


def halved(extent: tuple[int, int, int]) -> tuple[int, int, int]:
    """Cells along x, y, z at twice the stride."""
    x, y, z = ((cells + 1) // 2 for cells in extent)
    return x, y, z


def _parents(coords: Tensor, *, packing: KeyPacking) -> tuple[ConvTable, Tensor]:
    """The table to the next level and that level's (V, 4) int32 sorted voxels."""
    of_child = torch.cat([coords[:, :1], coords[:, 1:] >> 1], 1)
    keys = packing.pack(of_child)
    distinct, parent = torch.unique(keys, return_inverse=True)
    coarser = coords.new_empty((len(distinct), 4))
    coarser[parent] = of_child
    return child_pairs(coords, parent, n_parents=len(distinct)), coarser
