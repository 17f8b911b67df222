"""BatchNorm folded into the adjacent layer, for inference.

In evaluation a BatchNorm is a factor and an offset per channel, which are merged into the weights
of the layer before it (or after it, if an activation is in between). Folded weights are kept
separately from the module's state, so checkpoints do not change.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pass2d.models.backends.interface import ConvWeights

_IS_FOLDING: ContextVar[bool] = ContextVar("is_folding", default=False)

F = TypeVar("F")


@contextmanager
def folded_norms() -> Iterator[None]:
    """Inside this context, networks in eval mode use folded weights, which get no gradient."""
    token = _IS_FOLDING.set(True)
    try:
        yield
    finally:
        _IS_FOLDING.reset(token)


class Foldable(nn.Module, abc.ABC, Generic[F]):
    """Base of modules whose BatchNorms can be folded."""

    _kept: tuple[list[tuple[int, int]], F] | None = None

    @abc.abstractmethod
    def fold(self) -> F:
        """Weights that replace the module's own and its BatchNorms' in evaluation."""

    def folded(self) -> F | None:
        """The folded weights, recomputed when a value of the module changes; None if not in use."""
        if self.training or not _IS_FOLDING.get():
            return None
        state = [_version(tensor) for tensor in chain(self.parameters(), self.buffers())]
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                self._kept = state, self.fold()
        return self._kept[1]

    def train(self, mode: bool = True) -> Foldable[F]:
        """Switch the mode; training discards the folded weights."""
        if mode:
            self._kept = None
        return super().train(mode)


class Affine(NamedTuple):
    """A pointwise layer's weights."""

    weight: Tensor
    """(C_out, C_in)."""
    bias: Tensor
    """(C_out,)."""


def norm_after(linear: nn.Linear, norm: nn.Module) -> Affine:
    """A pointwise layer with the BatchNorm that follows it."""
    scale, shift = _scale_shift(norm)
    bias = shift if linear.bias is None else linear.bias * scale + shift
    return Affine(linear.weight * scale[:, None], bias)


def norm_before(linear: nn.Linear, norm: nn.Module) -> Affine:
    """A pointwise layer with the BatchNorm before it."""
    scale, shift = _scale_shift(norm)
    bias = linear.weight @ shift
    return Affine(linear.weight * scale, bias if linear.bias is None else linear.bias + bias)


def conv_norm(weight: Tensor, norm: nn.Module) -> ConvWeights:
    """A sparse convolution, weight (C_out, k, k, k, C_in), with the BatchNorm that follows it."""
    scale, shift = _scale_shift(norm)
    return ConvWeights(weight=weight * scale.view(-1, 1, 1, 1, 1), bias=shift)


def _scale_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(C,) factor and offset of a BatchNorm in evaluation."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _version(tensor: Tensor) -> tuple[int, int]:
    """A value that changes when a tensor's values change or it is replaced."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version
