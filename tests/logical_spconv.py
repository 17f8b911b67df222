"""spconv's implicit GEMM on the logical device: its contract, checked, its numbers, by the CPU.

The rows of a strided convolution come in a shuffled order: spconv takes them from a hash table,
filled by threads that race.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import logical_cuda
import numpy as np
import torch
from logical_cuda import DeviceTensor, WrongDeviceError, fresh, plain
from torch import Tensor

from pass2d.models.backends.spconv import library

_MASK_BITS = 32
"""Offsets of a kernel that one mask tells apart."""


@dataclass
class Launches:
    """How often the library was asked."""

    tables: int = 0
    forward: int = 0
    backward: int = 0


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise WrongDeviceError(f"spconv: {text} at {logical_cuda.device().here()[1]}")


def _require_current_device() -> None:
    here = logical_cuda.device()
    _require(
        here.current == here.torch_device.index,
        f"launches on cuda:{here.current}, the current device; tensors lie on {here.torch_device}",
    )


@contextlib.contextmanager
def logical_spconv(seed: int = 7) -> Iterator[Launches]:
    """Within, spconv's functions on CUDA compute on logical device tensors."""
    launches = Launches()
    library_on_gpu = _StandIn(launches, torch.Generator().manual_seed(seed))
    ops = library().ops
    with contextlib.ExitStack() as stack:
        for name, function in (
            ("get_indice_pairs_implicit_gemm", library_on_gpu.pairs),
            ("implicit_gemm", library_on_gpu.multiply),
            ("implicit_gemm_backward", library_on_gpu.multiply_backward),
        ):
            stack.enter_context(mock.patch.object(ops, name, function))
        yield launches


@dataclass
class _StandIn:
    launches: Launches
    shuffle: torch.Generator

    def pairs(
        self,
        indices: Tensor,
        batch_size: int,
        spatial_shape: Sequence[int],
        algo: Any,
        *,
        ksize: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        out_padding: Sequence[int],
        subm: bool,
        transpose: bool,
        is_train: bool,
        **_: Any,
    ) -> tuple[Any, ...]:
        _require_current_device()
        _require(isinstance(indices, DeviceTensor), "indices must lie on the device")
        _require(indices.dtype == torch.int32, "indices must be int32")
        _require(indices.is_contiguous(), "indices must be contiguous")
        _require(algo == library().algorithms.MaskImplicitGemm, "another algorithm")
        _require(int(np.prod(ksize)) <= _MASK_BITS, "too many offsets for one mask")
        _require([*ksize, *stride] in ([3] * 3 + [1] * 3, [2] * 6), "another kernel")
        _require(not any([*padding, *out_padding]) and set(dilation) == {1}, "padding, dilation")
        _require(not transpose and is_train, "transposed, or without backward")
        self.launches.tables += 1
        with logical_cuda._plainly():
            coords = plain(indices).long()
            shape = torch.tensor(list(spatial_shape))
            is_inside = (coords[:, 1:] >= 0).all() and (coords[:, 1:] < shape).all()
            _require(bool(is_inside), f"coordinates outside {list(spatial_shape)}")
            _require(bool((coords[:, 0] < batch_size).all()), "batch index")
            keys = _key(coords, (coords.amax(0) + 3).tolist())
            _require(len(torch.unique(keys)) == len(keys), "voxels must be distinct")
            if subm:
                out, ahead = coords, _neighbours(coords)
            else:
                out, ahead = _children(coords, shape, self.shuffle)
            back = _transposed(ahead, len(coords))
        # The masks are sorted by thrust, which waits for its stream; and the host must know the
        # number of outputs.
        logical_cuda.device().wait("spconv: sort of the masks", 1 if subm else 2)
        if not subm:
            logical_cuda.device().wait("spconv: number of output voxels")
        n_out, n_in = len(out), len(indices)
        return (
            indices if subm else fresh(out.int()),
            fresh((ahead >= 0).sum(1).int()),
            fresh(ahead),
            fresh(back),
            [_no_mask(n_out)],
            [] if subm else [_no_mask(n_in)],
            [_rows(n_out)],
            [] if subm else [_rows(n_in)],
            [np.array([0xFFFFFFFF], np.uint32)],
        )

    def multiply(  # noqa: PLR0917  # as the library
        self,
        features: Tensor,
        filters: Tensor,
        pair_fwd: Tensor,
        pair_mask_fwd_splits: Sequence[Tensor],
        mask_argsort_fwd_splits: Sequence[Tensor],
        num_activate_out: int,
        masks: Sequence[Any],
        is_train: bool,
        is_subm: bool,
        timer: Any = None,
        fp32_accum: bool | None = None,
        *_: Any,
    ) -> tuple[Any, ...]:
        _require_current_device()  # in a backward pass the engine makes it that of the tensors
        _require_gemm(features, filters, pair_fwd, fp32_accum)
        self.launches.forward += 1
        is_fitting = len(pair_mask_fwd_splits) == len(mask_argsort_fwd_splits) == len(masks) == 1
        _require(is_fitting and pair_fwd.shape[1] == num_activate_out, "a table of another size")
        _require(pair_mask_fwd_splits[0].shape[0] == num_activate_out, "masks of another size")
        with logical_cuda._plainly():
            x, weight, pairs = (
                logical_cuda.plain(t).detach() for t in (features, filters, pair_fwd)
            )
            _require(int(pairs.max()) < len(x), "a table of other inputs")
            result = _gather_multiply(x, weight.flatten(1, 3), pairs)
        return fresh(result), (_no_mask(num_activate_out) if is_train else None), 128

    def multiply_backward(  # noqa: PLR0917  # as the library
        self,
        features: Tensor,
        filters: Tensor,
        out_bp: Tensor,
        pair_fwd: Tensor,
        pair_bwd: Tensor,
        pair_mask_fwd_splits: Sequence[Tensor],
        pair_mask_bwd_splits: Sequence[Tensor],
        mask_argsort_fwd_splits: Sequence[Tensor],
        mask_argsort_bwd_splits: Sequence[Tensor],
        mask_output_fwd: Tensor | None,
        masks: Sequence[Any],
        mask_width: int,
        is_subm: bool,
        timer: Any = None,
        fp32_accum: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        out_bp = out_bp.contiguous()
        _require_gemm(features, filters, pair_fwd, fp32_accum)
        self.launches.backward += 1
        _require(mask_output_fwd is not None, "backward of a table that was made without")
        _require(pair_bwd.shape[1] == len(features), "a table back of another size")
        if not is_subm:
            is_fitting = len(pair_mask_bwd_splits) == len(mask_argsort_bwd_splits) == 1
            _require(is_fitting and len(pair_mask_bwd_splits[0]) == len(features), "masks back")
        _require(out_bp.dtype == features.dtype, "gradient and features differ in type")
        with logical_cuda._plainly():
            x, weight, grad, ahead, back = (
                plain(t).detach() for t in (features, filters, out_bp, pair_fwd, pair_bwd)
            )
            flat = weight.flatten(1, 3)
            d_features = _gather_multiply(grad, flat.permute(2, 1, 0), back)
            d_weight = torch.zeros(flat.shape)
            for k, rows in enumerate(ahead):
                out = torch.nonzero(rows >= 0)[:, 0]
                if not len(out):
                    continue
                d_weight[:, k] = grad[out].float().T @ x[rows[out].long()].float()
        return fresh(d_features), fresh(d_weight.reshape(weight.shape).to(x.dtype))


def _require_gemm(
    features: Tensor, filters: Tensor, table: Tensor, fp32_accum: bool | None
) -> None:
    for what, tensor in (("features", features), ("weights", filters), ("the table", table)):
        _require(isinstance(tensor, DeviceTensor), f"{what} must lie on the device")
        _require(tensor.is_contiguous(), f"{what} must be contiguous")
    _require(features.dtype in (torch.float32, torch.float16), f"no kernel for {features.dtype}")
    _require(features.dtype == filters.dtype, f"{features.dtype} meets {filters.dtype}")
    _require(table.dtype == torch.int32, "the table must be int32")
    _require(bool(fp32_accum) or features.dtype == torch.float32, "sums in float16")


def _gather_multiply(x: Tensor, weight: Tensor, pairs: Tensor) -> Tensor:
    """(n_out, K): per output row the sum of its input rows times (K, offsets, C) weights."""
    total = torch.zeros(pairs.shape[1], weight.shape[0])
    for k, rows in enumerate(pairs):
        out = torch.nonzero(rows >= 0)[:, 0]
        if not len(out):
            continue
        total.index_add_(0, out, x[rows[out].long()].float() @ weight[:, k].float().T)
    return total.to(x.dtype)


def _neighbours(coords: Tensor) -> Tensor:
    """(27, V) int32 row of the neighbour at each offset, -1 without."""
    sizes = (coords.amax(0) + 3).tolist()
    keys, rows = torch.sort(_key(coords, sizes))
    ahead = torch.full((27, len(coords)), -1, dtype=torch.int32)
    for k, step in enumerate(np.ndindex(3, 3, 3)):
        wanted = _key(coords + torch.tensor([0, *step]) - torch.tensor([0, 1, 1, 1]), sizes)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        ahead[k] = torch.where(keys[place] == wanted, rows[place], -1)
    return ahead


def _key(coords: Tensor, sizes: Sequence[int]) -> Tensor:
    """One number per cell; those around the voxels have numbers of their own."""
    batch, x, y, z = coords.unbind(1)
    return ((batch * sizes[1] + x + 1) * sizes[2] + y + 1) * sizes[3] + z + 1


def _children(coords: Tensor, shape: Tensor, shuffle: torch.Generator) -> tuple[Tensor, Tensor]:
    """Parents in a shuffled order, and the (8, V_out) int32 row of each one's children."""
    parent = torch.cat([coords[:, :1], coords[:, 1:] // 2], 1)
    _require(bool((parent[:, 1:] < shape // 2).all()), "an odd axis drops its last plane")
    out, of_child = torch.unique(parent, dim=0, return_inverse=True)
    order = torch.randperm(len(out), generator=shuffle)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    odd = coords[:, 1:] & 1
    ahead = torch.full((8, len(out)), -1, dtype=torch.int32)
    offset = 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
    ahead[offset, place[of_child]] = torch.arange(len(coords), dtype=torch.int32)
    return out[order], ahead


def _transposed(ahead: Tensor, n_in: int) -> Tensor:
    """(offsets, V_in): the output that each input feeds through each offset, -1 without."""
    back = torch.full((len(ahead), n_in), -1, dtype=torch.int32)
    offset, out = torch.nonzero(ahead >= 0).unbind(1)
    back[offset, ahead[offset, out].long()] = out.int()
    return back


def _no_mask(n: int) -> DeviceTensor:
    return fresh(torch.zeros(n, 1, dtype=torch.int32))


def _rows(n: int) -> DeviceTensor:
    return fresh(torch.arange(n, dtype=torch.int32))
