"""Sparse convolutions on plain feature tensors, in the layout that all backends share.

The layers do not choose an algorithm: the batch's tables do, so a checkpoint works with every
backend and device.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from pass2d.models.backends.interface import ConvTable, ConvWeights
from pass2d.models.sparse_unets.stride_levels import StrideLevel


class SparseConv(nn.Module, abc.ABC):
    """Base: a kernel of 125, 27 or 8 offsets, without bias."""

    def __init__(self, n_in: int, n_out: int, *, size: int, fan: int) -> None:
        """Initialise with uniform values within ±1/sqrt(fan * offsets), as the original library."""
        super().__init__()
        bound = (fan * size**3) ** -0.5
        self.weight = nn.Parameter(
            torch.empty(n_out, size, size, size, n_in).uniform_(-bound, bound)
        )
        """(C_out, x, y, z, C_in)."""

    def forward(self, features: Tensor, level: StrideLevel) -> Tensor:
        """Rows of (C_in,) to rows of (C_out,); `level` is the finer one where two meet."""
        table = self.table(level)
        assert table is not None, "the level has no table for this layer"
        return table.convolve(features, self.weight)

    def infer(
        self,
        features: Tensor,
        level: StrideLevel,
        weights: ConvWeights,
        *,
        residual: Tensor | None = None,
    ) -> Tensor:
        """With folded weights, then a ReLU; see `ConvTable.infer`."""
        table = self.table(level)
        assert table is not None, "the coarsest level has none below it"
        return table.infer(features, weights, residual=residual, slope=0)

    @staticmethod
    @abc.abstractmethod
    def table(level: StrideLevel) -> ConvTable | None:
        """The level's table for this kind of layer."""


class NeighbourConv(SparseConv):
    """Submanifold 3x3x3: the voxels stay the same."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=3, fan=n_in)

    @staticmethod
    def table(level: StrideLevel) -> ConvTable | None:
        """(V, C_in) to (V, C_out)."""
        return level.around


class WideConv(SparseConv):
    """Submanifold 5x5x5, on levels that were built for it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=5, fan=n_in)

    @staticmethod
    def table(level: StrideLevel) -> ConvTable | None:
        """(V, C_in) to (V, C_out)."""
        return level.far_around


class DownConv(SparseConv):
    """Size 2, stride 2: to the next coarser level."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=2, fan=n_in)

    @staticmethod
    def table(level: StrideLevel) -> ConvTable | None:
        """(V, C_in) at `level` to (V_coarser, C_out)."""
        return level.down


class UpConv(SparseConv):
    """The transpose of `DownConv`: back to the voxels of the finer level."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=2, fan=n_out)

    @staticmethod
    def table(level: StrideLevel) -> ConvTable | None:
        """(V_coarser, C_in) to (V, C_out) at `level`, the finer one."""
        return level.up
