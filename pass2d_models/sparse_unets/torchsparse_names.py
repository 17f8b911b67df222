"""Names and layouts of MinkowskiNet's and SPVCNN's tensors in torchsparse, and ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pass2d.models.sparse_unets.kernel_layouts import library_kernel, our_kernel

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
    return our_kernel(tensor, "torchsparse") if name.endswith(_KERNEL) else tensor


def _to_theirs(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if tensor.ndim == 5 or (tensor.ndim == 2 and ".downsample." in name):
        return name.removesuffix(_WEIGHT) + _KERNEL, library_kernel(tensor, "torchsparse")
    return name, tensor
