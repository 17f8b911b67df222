"""The voxels of a sparse U-Net at strides 1, 2, 4, 8, 16, and the tables between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pass2d.models.backends.interface import Backend, ConvTable, Volume
from pass2d.models.inputs import TensorRecord
from pass2d.models.voxel_keys import KeyPacking, VoxelIndex


@dataclass(frozen=True, kw_only=True)
class StrideLevel(TensorRecord):
    """The voxels of a batch at one stride."""

    stride: int
    """Input cells along the side of a voxel: 1, 2, 4, 8, 16."""
    coords: Tensor
    """(V, 4) int32: batch, x, y, z in units of the stride, in the backend's order of rows."""
    index: VoxelIndex
    """Finds a voxel's row by such coordinates."""
    around: ConvTable
    """Neighbours, for 3x3x3 convolutions."""
    down: ConvTable | None
    """To the next level; None at the last."""
    up: ConvTable | None
    """From the next level back; None at the last."""
    far_around: ConvTable | None = None
    """Neighbours up to two cells away, for 5x5x5 convolutions; None where there are none."""


def build_levels(
    coords: Tensor,
    *,
    extent: tuple[int, int, int],
    batch_size: int,
    backend: Backend,
    n_levels: int = 5,
    has_wide_stem: bool = False,
) -> tuple[StrideLevel, ...]:
    """Halve the resolution repeatedly, and build the tables that the layers need.

    Args:
        coords: (V, 4) int32 distinct voxels: batch, x, y, z, sorted in that order.
        extent: cells along x, y, z; coordinates are at least 0 and below it.
        batch_size: samples.
        backend: makes the tables.
        n_levels: how many, the given one included.
        has_wide_stem: whether the finest level has 5x5x5 convolutions.

    Returns:
        From fine to coarse. Waits for the device: call it before the forward pass.
    """
    levels = []
    for number in range(n_levels):
        volume = Volume(extent=extent, batch_size=batch_size)
        packing = KeyPacking(extent=extent, batch_size=batch_size)
        halving = None if number == n_levels - 1 else backend.halve(coords, volume)
        levels.append(
            StrideLevel(
                stride=2**number,
                coords=coords,
                index=VoxelIndex.build(coords, packing=packing),
                around=backend.neighbours(coords, volume),
                down=None if halving is None else halving.down,
                up=None if halving is None else halving.up,
                far_around=backend.neighbours(coords, volume, size=5)
                if has_wide_stem and number == 0
                else None,
            )
        )
        if halving is not None:
            coords, extent = halving.coords, halved(extent)
    return tuple(levels)


def halved(extent: tuple[int, int, int]) -> tuple[int, int, int]:
    """Cells along x, y, z at twice the stride."""
    x, y, z = ((cells + 1) // 2 for cells in extent)
    return x, y, z
