"""The interface of a backend: it builds tables from voxels, and a table applies a layer's weights.

A table depends only on the voxels, is built in `Network.prepare` and is used by all layers on them.
Weights are (C_out, k, k, k, C_in) for all backends, the three axes in the order of the coordinates'
columns, so that checkpoints do not depend on the backend.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pass2d.models.inputs import TensorRecord

Axes = Literal["xyz", "zyx"]
"""Order of the columns of coordinates after the first, and so of a kernel's axes."""


@dataclass(frozen=True, kw_only=True)
class ConvWeights:
    """A layer's weights for inference."""

    weight: Tensor
    """(C_out, k, k, k, C_in)."""
    bias: Tensor
    """(C_out,)."""

    @cached_property
    def by_offset(self) -> tuple[Tensor, ...]:
        """(C_in, C_out), contiguous, of each offset."""
        n_out, *_, n_in = self.weight.shape
        return self.weight.view(n_out, -1, n_in).permute(1, 2, 0).contiguous().unbind(0)


class ConvTable(TensorRecord, abc.ABC):
    """The pairs of input and output rows for each offset of a kernel."""

    @abc.abstractmethod
    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """Apply a layer; gradients flow to both arguments.

        Args:
            features: (V_in, C_in).
            weight: (C_out, k, k, k, C_in), k = 5, 3 or 2.

        Returns:
            (V_out, C_out), of the weight's type, except under float16 autocast on CUDA, which some
            backends follow.
        """

    def infer(
        self,
        features: Tensor,
        weights: ConvWeights,
        *,
        residual: Tensor | None = None,
        slope: float | None = None,
    ) -> Tensor:
        """Apply a layer, its residual and its activation, without gradients.

        Args:
            features: (V_in, C_in).
            weights: Of the layer.
            residual: (V_out, C_out), added to the result.
            slope: Slope of the final LeakyReLU, 0 for ReLU; None for no activation.

        Returns:
            (V_out, C_out).
        """
        result = self.convolve(features, weights.weight)
        return finish(result.add_(weights.bias), residual=residual, slope=slope)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The extent of a batch's voxels."""

    extent: tuple[int, int, int]
    """Cells along the axes, in the order of the coordinates' columns; coordinates are below."""
    batch_size: int
    """Samples."""
    axes: Axes = "xyz"


class Halving(NamedTuple):
    """A convolution of size 2 and stride 2, and its transpose."""

    down: ConvTable
    """From the voxels to their parents."""
    up: ConvTable
    """From the parents back."""
    coords: Tensor
    """(V_coarse, 4) int32: batch and halved cells of the parents."""


class Backend(abc.ABC):
    """A way to compute sparse convolutions."""

    name: ClassVar[str]

    @abc.abstractmethod
    def neighbours(self, coords: Tensor, volume: Volume, *, size: int = 3) -> ConvTable:
        """Table of submanifold convolutions. Waits for the device.

        Args:
            coords: (V, 4) int32: batch and cell, in the order of ``volume.axes``. Distinct; sorted
                by (batch, x, y, z), or as `halve` of the same backend returned them.
            volume: Holds them.
            size: Of the kernel, 3 or 5.
        """

    @abc.abstractmethod
    def halve(self, coords: Tensor, volume: Volume) -> Halving:
        """Tables of size 2 and stride 2; arguments as for `neighbours`. Waits for the device."""


def finish(result: Tensor, *, residual: Tensor | None, slope: float | None) -> Tensor:
    """Add and activate in place; arguments as for `ConvTable.infer`."""
    if residual is not None:
        result.add_(residual)
    if slope is None:
        return result
    return result.relu_() if slope == 0 else functional.leaky_relu(result, slope, inplace=True)


def takes_bf16(device: torch.device) -> bool:
    """Whether autocast to bfloat16 is on."""
    is_on = torch.is_autocast_enabled(device.type)
    return is_on and torch.get_autocast_dtype(device.type) == torch.bfloat16
