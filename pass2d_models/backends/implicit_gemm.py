"""Implicit GEMM on a GPU, which spconv and spconv-triton offer with the same functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.models.backends.interface import ConvTable, Halving, Volume, takes_bf16
from pass2d.models.backends.tf32 import is_tf32

_SHAPE_STEP = 2
"""A stride of 2 drops the last plane of an odd axis: shapes are even."""


class GemmLibrary(NamedTuple):
    """The modules of spconv, or of a library with the same functions."""

    ops: Any
    functional: Any
    constants: Any
    algorithms: Any
    """``ConvAlgo``."""
    sums: tuple[Any, ...] = ()
    """Further arguments of ``implicit_gemm``, by which float16 is summed in float32."""


@dataclass(frozen=True, kw_only=True)
class GemmTable(ConvTable):
    """What implicit GEMM reads, named as in spconv."""

    library: GemmLibrary
    pair_fwd: Tensor
    pair_bwd: Tensor
    pair_mask_fwd: tuple[Tensor, ...]
    pair_mask_bwd: tuple[Tensor, ...]
    mask_argsort_fwd: tuple[Tensor, ...]
    mask_argsort_bwd: tuple[Tensor, ...]
    masks: tuple[NDArray[np.uint32], ...]
    n_out: int
    is_submanifold: bool

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """See `ConvTable.convolve`; float16 under float16 autocast, never bfloat16."""
        if takes_bf16(features.device):
            # There are no bfloat16 kernels, and float16 would need a loss scaler: use float32.
            with torch.autocast(features.device.type, enabled=False):
                return self._convolve(features.to(weight.dtype), weight)
        return self._convolve(features, weight)

    def _convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        self.library.constants.SPCONV_ALLOW_TF32 = is_tf32()
        # Kernels are launched on the current device, not that of the tensors.
        with torch.cuda.device(features.device):
            return self.library.functional.implicit_gemm(
                features.contiguous(),
                weight,
                self.pair_fwd,
                self.pair_bwd,
                list(self.pair_mask_fwd),
                list(self.pair_mask_bwd),
                list(self.mask_argsort_fwd),
                list(self.mask_argsort_bwd),
                self.n_out,
                list(self.masks),
                torch.is_grad_enabled(),
                self.is_submanifold,
                *self.library.sums,
            )

    def transposed(self, n_in: int) -> GemmTable:
        """Of a strided table: from its outputs back to its inputs."""
        return replace(
            self,
            pair_fwd=self.pair_bwd,
            pair_bwd=self.pair_fwd,
            pair_mask_fwd=self.pair_mask_bwd,
            pair_mask_bwd=self.pair_mask_fwd,
            mask_argsort_fwd=self.mask_argsort_bwd,
            mask_argsort_bwd=self.mask_argsort_fwd,
            n_out=n_in,
        )


def gemm_neighbours(
    library: GemmLibrary, coords: Tensor, volume: Volume, *, size: int = 3
) -> GemmTable:
    """Let a library find the neighbours of voxels; see `Backend.neighbours`."""
    return _table(library, coords, volume, size=size)[0]


def gemm_halving(library: GemmLibrary, coords: Tensor, volume: Volume) -> Halving:
    """Let a library find the parents of voxels, in an order of its own; see `Backend.halve`."""
    table, parents = _table(library, coords, volume, size=2)
    return Halving(table, table.transposed(len(coords)), parents)


def _table(
    library: GemmLibrary, coords: Tensor, volume: Volume, *, size: int
) -> tuple[GemmTable, Tensor]:
    with torch.cuda.device(coords.device):
        result = library.ops.get_indice_pairs_implicit_gemm(
            coords,
            volume.batch_size,
            [-(-cells // _SHAPE_STEP) * _SHAPE_STEP for cells in volume.extent],
            library.algorithms.MaskImplicitGemm,
            ksize=[size] * 3,
            stride=[2 if size == 2 else 1] * 3,
            padding=[0] * 3,
            dilation=[1] * 3,
            out_padding=[0] * 3,
            subm=size != 2,
            transpose=False,
            is_train=True,
        )
    table = GemmTable(
        library=library,
        pair_fwd=result[2],
        pair_bwd=result[3],
        pair_mask_fwd=tuple(result[4]),
        pair_mask_bwd=tuple(result[5]),
        mask_argsort_fwd=tuple(result[6]),
        mask_argsort_bwd=tuple(result[7]),
        masks=tuple(result[8]),
        n_out=len(result[0]),
        is_submanifold=size != 2,
    )
    return table, result[0]
