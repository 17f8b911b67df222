"""spconv as the networks use it: one place for its algorithms and its traps (SPEC, section 6)."""

from __future__ import annotations

import math

import torch
from spconv.core import ConvAlgo
from spconv.pytorch import SparseConvTensor, SubMConv3d
from torch import Tensor, nn


def conv_algo(device: torch.device) -> ConvAlgo:
    """Implicit GEMM needs CUDA; on a CPU every layer must be built with Native."""
    return ConvAlgo.MaskImplicitGemm if device.type == "cuda" else ConvAlgo.Native


def init_sparse_weight(weight: Tensor) -> None:
    """Fill a sparse convolution's weight [out, kd, kh, kw, in] as the authors' spconv did.

    Kaiming with gain sqrt(2) = 1.41. spconv since 2.1.17 uses 0.58 by itself, which starts training
    with values 2.4 times smaller than those of the published results.
    """
    fan_in = weight[0].numel()
    bound = math.sqrt(2.0) * math.sqrt(3.0 / fan_in)
    with torch.no_grad():
        weight.uniform_(-bound, bound)


class SubmanifoldConv(nn.Module):
    """3x3x3 submanifold convolution without bias, on whatever device its input lies."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = SubMConv3d(
            n_in, n_out, 3, bias=False, indice_key="neighbours", algo=ConvAlgo.Native
        )
        init_sparse_weight(self.conv.weight)

    def forward(self, voxels: SparseConvTensor) -> SparseConvTensor:
        """Convolve; all layers on the same voxels share one search for neighbours."""
        # Chosen here, not at construction: a network moves between devices, its weights fit both.
        device = voxels.features.device
        self.conv.algo = conv_algo(device)
        if takes_bf16(device):
            # spconv 2.3.8 has no bfloat16; float16 would need a loss scaler, so float32 it is.
            with torch.autocast(device.type, enabled=False):
                return self.conv(voxels.replace_feature(voxels.features.float()))
        return self.conv(voxels)


def takes_bf16(device: torch.device) -> bool:
    """Whether autocast to bfloat16 is on."""
    is_on = torch.is_autocast_enabled(device.type)
    return is_on and torch.get_autocast_dtype(device.type) == torch.bfloat16


def sparse_tensor(
    features: Tensor, coords: Tensor, *, shape: tuple[int, int, int], n_scans: int
) -> SparseConvTensor:
    """Features on voxels.

    Args:
        features: (V, H).
        coords: (V, 4) int32: scan, z, y, x.
        shape: z, y, x cells that hold all coords.
        n_scans: B.
    """
    return SparseConvTensor(features, coords, list(shape), n_scans)
