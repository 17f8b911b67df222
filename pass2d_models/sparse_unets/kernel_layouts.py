"""The layouts of a kernel in checkpoints of sparse convolution libraries, and ours.

Ours is (C_out, x, y, z, C_in), and (C_out, C_in) for size 1. Gradients and momentum map the same
way.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

KernelLayout = Literal["torchsparse", "minkowski", "spconv"]
"""torchsparse and MinkowskiEngine: (offset, C_in, C_out) and (C_in, C_out) for size 1. In size 3 x
runs fastest in both; in size 2 z does in torchsparse, x in MinkowskiEngine. spconv: as ours, and
(C_out, 1, 1, 1, C_in) for size 1, whose memory it reads as (C_in, C_out)."""

_SIZES = {27: 3, 8: 2}


def our_kernel(kernel: Tensor, layout: KernelLayout) -> Tensor:
    """A library's kernel in our layout; one of an unknown shape is returned unchanged."""
    if layout == "spconv":
        is_pointwise = kernel.ndim == 5 and kernel.shape[1:4] == (1, 1, 1)
        if is_pointwise:
            return kernel.reshape(kernel.shape[4], kernel.shape[0]).T.contiguous()
        return kernel
    if kernel.ndim == 2:
        return kernel.T.contiguous()
    if kernel.ndim != 3 or len(kernel) not in _SIZES:
        return kernel
    size = _SIZES[len(kernel)]
    cube = kernel.unflatten(0, (size, size, size))
    order = (4, 2, 1, 0, 3) if _is_x_fastest(size, layout) else (4, 0, 1, 2, 3)
    return cube.permute(*order).contiguous()


def library_kernel(weight: Tensor, layout: KernelLayout) -> Tensor:
    """The inverse of `our_kernel`."""
    if layout == "spconv":
        if weight.ndim == 2:
            return weight.T.reshape(len(weight), 1, 1, 1, -1).contiguous()
        return weight
    if weight.ndim == 2:
        return weight.T.contiguous()
    order = (3, 2, 1, 4, 0) if _is_x_fastest(weight.shape[1], layout) else (1, 2, 3, 4, 0)
    return weight.permute(*order).flatten(0, 2).contiguous()


def _is_x_fastest(size: int, layout: KernelLayout) -> bool:
    return size == 3 or layout == "minkowski"
