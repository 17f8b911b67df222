"""Tensors of MinkowskiNet and SPVCNN as torchsparse names and lays them out, and as we do.

torchsparse keeps a kernel as K[k, C_in, C_out] with one number k per offset: in size 3 x runs
fastest, in size 2 z does; size 1 is K[C_in, C_out]. Ours lie as spconv wants them, and size 1 is a
plain Linear. Gradients and momentum map the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_KERNEL = ".kernel"
_WEIGHT = ".weight"


def from_torchsparse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and re-lay the tensors of a torchsparse network.

    Args:
        state: by published name; kernels with 27, 8 or 1 offsets.

    Returns:
        By the name and in the layout of `SparseUNet`; a kernel of another form keeps its own.
    """
    return {_our_name(name): _to_ours(name, tensor) for name, tensor in state.items()}


def to_torchsparse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_torchsparse`."""
    return dict(_to_theirs(name, tensor) for name, tensor in state.items())


def _our_name(name: str) -> str:
    is_kernel = name.endswith(_KERNEL)
    return name.removesuffix(_KERNEL) + _WEIGHT if is_kernel else name


def _to_ours(name: str, tensor: Tensor) -> Tensor:
    if not name.endswith(_KERNEL):
        return tensor
    if tensor.ndim == 2:
        return tensor.T.contiguous()
    if tensor.ndim == 3 and len(tensor) == 27:
        return tensor.unflatten(0, (3, 3, 3)).permute(4, 2, 1, 0, 3).contiguous()
    if tensor.ndim == 3 and len(tensor) == 8:
        return tensor.unflatten(0, (2, 2, 2)).permute(4, 0, 1, 2, 3).contiguous()
    return tensor


def _to_theirs(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    kernel_name = name.removesuffix(_WEIGHT) + _KERNEL
    if tensor.ndim == 5 and tensor.shape[1] == 3:
        return kernel_name, torch.flatten(tensor.permute(3, 2, 1, 4, 0), 0, 2).contiguous()
    if tensor.ndim == 5:
        return kernel_name, torch.flatten(tensor.permute(1, 2, 3, 4, 0), 0, 2).contiguous()
    if tensor.ndim == 2 and ".downsample." in name:
        return kernel_name, tensor.T.contiguous()
    return name, tensor
