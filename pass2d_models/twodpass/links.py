"""Sparse matrices between rows of features: means, sums and look-ups, forward and backward.

Every step between points, voxels of different scales and groups of voxels is a product with a
matrix that depends only on the points. It is stored with its transpose, so that neither direction
scatters: each output row is a weighted sum of a known list of input rows, in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pass2d.models.inputs import TensorRecord
from pass2d.models.segment import bag_sum


@dataclass(frozen=True, kw_only=True)
class Rows(TensorRecord):
    """Which input rows make each output row."""

    index: Tensor | None
    """(K,) int64 input rows; None: all, in order."""
    offsets: Tensor | None
    """(R + 1,) int64: output row r sums the entries offsets[r]:offsets[r + 1] of `index`; None: one
    entry per output row."""
    weight: Tensor | None = None
    """(K,) float32 factors; None: ones."""


@dataclass(frozen=True, kw_only=True)
class Link(TensorRecord):
    """A sparse matrix and its transpose."""

    forward: Rows
    backward: Rows
    divisor: Tensor | None = None
    """(outputs,) int64 or float32: output rows are divided by it, which turns sums into means.
    Stored separately from the weights, which are whole numbers and so exact; None: ones."""

    def __matmul__(self, features: Tensor) -> Tensor:
        """Multiply: (inputs, H) features to (outputs, H)."""
        ahead, back = self.forward, self.backward
        return _Product.apply(  # type: ignore[no-untyped-call]
            features,
            self.divisor,
            ahead.index,
            ahead.offsets,
            ahead.weight,
            back.index,
            back.offsets,
            back.weight,
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any,
        features: Tensor,
        divisor: Tensor | None,
        index: Tensor | None,
        offsets: Tensor | None,
        weight: Tensor | None,
        *transposed: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(divisor, *transposed)
        result = bag_sum(features.detach(), index=index, offsets=offsets, weight=weight)
        return result if divisor is None else result.div_(divisor[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        divisor, index, offsets, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        if divisor is not None:
            grad = grad / divisor[:, None]
        grad = bag_sum(grad, index=index, offsets=offsets, weight=weight)
        return grad, None, None, None, None, None, None, None


def mean_link(
    segment: Tensor, *, order: Tensor | None, offsets: Tensor, weight: Tensor | None = None
) -> Link:
    """Mean of the rows of each segment.

    Args:
        segment: (R,) int64 segment of each row.
        order: (R,) int64 rows sorted by segment; None: they are sorted already.
        offsets: (S + 1,) int64 segment s owns order[offsets[s]:offsets[s + 1]].
        weight: (R,) float32, how often each row counts; None: once.
    """
    total, ahead = offsets[1:] - offsets[:-1], weight
    if weight is not None:
        total = weight.new_zeros(len(total)).scatter_add_(0, segment, weight)
        ahead = weight if order is None else weight.index_select(0, order)
    return Link(
        forward=Rows(index=order, offsets=offsets, weight=ahead),
        backward=Rows(index=segment, offsets=None, weight=weight),
        divisor=total,
    )


def lookup_link(segment: Tensor, *, order: Tensor | None, offsets: Tensor) -> Link:
    """Give each row the features of its segment; arguments as for `mean_link`."""
    return Link(
        forward=Rows(index=segment, offsets=None),
        backward=Rows(index=order, offsets=offsets),
    )
