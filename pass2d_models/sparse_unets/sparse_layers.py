"""Sparse convolutions on plain feature tensors; weights lie as spconv stores them.

The layers carry no algorithm: the tables made for the batch's device choose it, so one checkpoint
serves CPU and CUDA.
"""

from __future__ import annotations

import abc

import torch
from spconv.core import ConvAlgo
from spconv.pytorch import functional
from torch import Tensor, nn

from pass2d.models.sparse import takes_bf16
from pass2d.models.sparse_unets.conv_tables import ConvTable, GemmTable, PairTable
from pass2d.models.sparse_unets.voxel_levels import VoxelLevel


class SparseConv(nn.Module, abc.ABC):
    """Base: a kernel of 27 or 8 offsets, without bias."""

    def __init__(self, n_in: int, n_out: int, *, size: int, fan: int) -> None:
        """Start with uniform values within ±1/sqrt(fan * offsets), as the original library.

        spconv's own start is another one.
        """
        super().__init__()
        bound = (fan * size**3) ** -0.5
        self.weight = nn.Parameter(
            torch.empty(n_out, size, size, size, n_in).uniform_(-bound, bound)
        )
        """(C_out, x, y, z, C_in)."""

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """Rows of (C_in,) to rows of (C_out,); `level` is the finer one where two meet."""
        device = features.device
        if device.type == "cpu" or takes_bf16(device):
            # spconv computes with the weight's type only there, and nowhere with bfloat16.
            with torch.autocast(device.type, enabled=False):
                return self.convolve(features.to(self.weight.dtype).contiguous(), level)
        return self.convolve(features.contiguous(), level)

    @abc.abstractmethod
    def convolve(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """`forward` on contiguous features of a type that spconv takes."""


class NeighbourConv(SparseConv):
    """Submanifold 3x3x3: the voxels stay."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=3, fan=n_in)

    def convolve(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """(V, C_in) to (V, C_out)."""
        table = level.around
        if isinstance(table, PairTable):
            return functional.indice_subm_conv(
                features,
                self.weight,
                table.pairs,
                table.counts,
                table.n_out,
                ConvAlgo.Native,
            )
        return _implicit_gemm(features, self.weight, table, is_submanifold=True)


class DownConv(SparseConv):
    """Size 2, stride 2: to the next coarser level."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=2, fan=n_in)

    def convolve(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """(V, C_in) at `level` to (V_coarser, C_out)."""
        table = _table(level)
        if isinstance(table, PairTable):
            return functional.indice_conv(
                features,
                self.weight,
                table.pairs,
                table.counts,
                table.n_out,
                ConvAlgo.Native,
            )
        return _implicit_gemm(features, self.weight, table, is_submanifold=False)


class UpConv(SparseConv):
    """The transpose of `DownConv`: back to the voxels of the finer level."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, size=2, fan=n_out)

    def convolve(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """(V_coarser, C_in) to (V, C_out) at `level`, the finer one."""
        table = _table(level)
        n_fine = len(level.coords)
        if isinstance(table, PairTable):
            return functional.indice_inverse_conv(
                features,
                self.weight,
                table.pairs,
                table.counts,
                n_fine,
                ConvAlgo.Native,
            )
        backwards = GemmTable(
            pair_fwd=table.pair_bwd,
            pair_bwd=table.pair_fwd,
            pair_mask_fwd=table.pair_mask_bwd,
            pair_mask_bwd=table.pair_mask_fwd,
            mask_argsort_fwd=table.mask_argsort_bwd,
            mask_argsort_bwd=table.mask_argsort_fwd,
            masks=table.masks,
            n_out=n_fine,
        )
        return _implicit_gemm(features, self.weight, backwards, is_submanifold=False)


def _table(level: VoxelLevel) -> ConvTable:
    assert level.down is not None, "the coarsest level has none below it"
    return level.down


def _implicit_gemm(
    features: Tensor, weight: Tensor, table: GemmTable, *, is_submanifold: bool
) -> Tensor:
    return functional.implicit_gemm(
        features,
        weight,
        table.pair_fwd,
        table.pair_bwd,
        list(table.pair_mask_fwd),
        list(table.pair_mask_bwd),
        list(table.mask_argsort_fwd),
        list(table.mask_argsort_bwd),
        table.n_out,
        list(table.masks),
        torch.is_grad_enabled(),
        is_submanifold,
    )
