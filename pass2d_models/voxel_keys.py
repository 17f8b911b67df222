"""One int64 number per voxel, so that voxels are sorted and looked up in 1-D.

Every axis is padded by one cell on both sides, so that a neighbour outside the volume has a number
of its own: a lookup never finds a voxel of another row, column or sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.inputs import TensorRecord, host_values

_MAX_KEY = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class KeyPacking:
    """The mapping of (batch, x, y, z) to one number, with the same sort order."""

    extent: tuple[int, int, int]
    """Cells along x, y, z; coordinates run from 0 to extent - 1."""
    batch_size: int
    """Samples."""

    def __post_init__(self) -> None:
        """Refuse a volume whose voxels do not fit into 63 bits."""
        if self.batch_size * math.prod(size + 2 for size in self.extent) > _MAX_KEY:
            raise ShapeError(
                "the extent of the points",
                expected="a volume of fewer than 2^63 voxels; are the coordinates metres?",
                got=f"{self.extent} voxels in {self.batch_size} samples",
            )

    @property
    def steps(self) -> tuple[int, int, int]:
        """Difference of two keys that are one cell apart along x, y, z."""
        _, size_y, size_z = (size + 2 for size in self.extent)
        return size_y * size_z, size_z, 1

    def pack(self, coords: Tensor) -> Tensor:
        """Number the cells.

        Args:
            coords: (V, 4) integers: batch, x, y, z, each axis from -1 to extent.

        Returns:
            (V,) int64.
        """
        batch, x, y, z = coords.long().unbind(1)
        step_x, step_y, _ = self.steps
        return (batch * (self.extent[0] + 2) + x + 1) * step_x + (y + 1) * step_y + z + 1


@dataclass(frozen=True, kw_only=True)
class VoxelIndex(TensorRecord):
    """Finds the row of a voxel by its coordinates."""

    keys: Tensor
    """(V,) int64, ascending."""
    rows: Tensor
    """(V,) int64: row of the voxel that has the key."""
    packing: KeyPacking

    @classmethod
    def build(cls, coords: Tensor, *, packing: KeyPacking) -> VoxelIndex:
        """Index distinct voxels in any order.

        Args:
            coords: (V, 4) int32: batch, x, y, z.
            packing: numbers them.
        """
        keys, rows = torch.sort(packing.pack(coords))
        return cls(keys=keys, rows=rows, packing=packing)

    def find(self, coords: Tensor) -> Tensor:
        """Look voxels up.

        Args:
            coords: (Q, 4) integers: batch, x, y, z; any values on x, y, z.

        Returns:
            (Q,) int64 row of each voxel, -1 where there is none.
        """
        limit = host_values(self.packing.extent, coords.device)
        inside = ((coords[:, 1:] >= 0) & (coords[:, 1:] < limit)).all(1)
        return torch.where(inside, self.find_keys(self.packing.pack(coords)), -1)

    def find_keys(self, wanted: Tensor) -> Tensor:
        """Look voxels up by their numbers.

        Args:
            wanted: int64 of any shape, of cells from -1 to extent along each axis.

        Returns:
            int64 row of each voxel, -1 where there is none.
        """
        place = torch.searchsorted(self.keys, wanted).clamp_(max=max(len(self.keys) - 1, 0))
        return torch.where(self.keys[place] == wanted, self.rows[place], -1)


def batch_of_rows(offsets: Tensor, *, n_rows: int, device: torch.device) -> Tensor:
    """(N,) int64 sample of each row, from (B + 1,) offsets; does not wait for the device."""
    rows = torch.arange(n_rows, device=device)
    return torch.searchsorted(offsets[1:].to(device, non_blocking=True), rows, right=True)


def count_rows(of: Tensor, *, n: int) -> Tensor:
    """(n,) int64: how often each number below n occurs; does not wait, as torch.bincount does."""
    return of.new_zeros(n).scatter_add_(0, of, torch.ones_like(of))


def first_of_each(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values in ascending order, by one stable sort.

    Args:
        keys: (N,) int64.

    Returns:
        (M,) int64 first row with each value, and (N,) int64 place of each row's value.
    """
    ordered, order = torch.sort(keys, stable=True)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    inverse = torch.empty_like(order)
    inverse[order] = is_new.cumsum(0) - 1
    return order[is_new], inverse
