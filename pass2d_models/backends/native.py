"""Sparse convolutions by torch alone: gather, multiply, sum; on every device that torch has.

The output is made in tiles whose rows stay in the processor's cache. Within a tile the pairs lie
sorted by kernel offset: for each offset the input rows are gathered and multiplied by its weights,
then each output row sums its products. No row is scattered, so there are no atomics and the sums
have one order: results are the same on every run with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pass2d.models.backends.interface import (
    Backend,
    ConvTable,
    ConvWeights,
    Halving,
    Volume,
    finish,
)
from pass2d.models.backends.pairs import Pairs, child_pairs, neighbour_pairs
from pass2d.models.inputs import TensorRecord

CPU_TILE = 4096
"""Output rows per tile on a CPU: products of one offset then fit the second-level cache."""
DEVICE_TILE = 1 << 18
"""Elsewhere, where each call has its price; bounds the memory for products."""

_SUM = 0
"""How torch.embedding_bag names its mode."""


class Tile(NamedTuple):
    """Pairs of consecutive output rows."""

    rows: slice
    offsets: list[tuple[int, Tensor, Tensor]]
    """Weights (row of the flattened kernel), input rows, output rows; without empty ones."""
    counts: list[int]
    """Pairs of each of them."""
    order: Tensor
    """(P,) int64: its pairs, end to end, sorted by output."""
    starts: Tensor
    """(rows,) int64: where each output's pairs begin in ``order``."""


@dataclass(frozen=True, kw_only=True)
class TiledPairs(TensorRecord):
    """Pairs of a kernel in the order in which they are worked through."""

    inputs: Tensor
    """(P,) int64 input row, sorted by tile of outputs, offset, output."""
    outputs: Tensor
    """(P,) int64 output row."""
    order: Tensor
    """(P,) int64: per tile, its pairs (counted from its first one) sorted by output, offset."""
    starts: Tensor
    """(V_out,) int64: where each output's pairs begin in its tile's part of ``order``."""
    counts: tuple[tuple[int, ...], ...]
    """Per tile: pairs of each offset."""
    kernel: tuple[int, ...]
    """The weights (row of the flattened kernel) that each offset uses."""
    centre: int | None
    """The weights by which every row feeds itself; None: there is no such offset."""
    tile: int
    """Output rows per tile."""

    @cached_property
    def most_of_an_offset(self) -> int:
        """Most pairs of one offset in one tile."""
        return max(max(counts) for counts in self.counts)

    @cached_property
    def most_of_a_tile(self) -> int:
        """Most pairs of one tile."""
        return max(sum(counts) for counts in self.counts)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The work, tile by tile: views, made once for all layers."""
        tiles = []
        begin = 0
        for number, counts in enumerate(self.counts):
            end = begin + sum(counts)
            inputs, outputs = (
                rows[begin:end].split(counts) for rows in (self.inputs, self.outputs)
            )
            rows = slice(number * self.tile, (number + 1) * self.tile)
            offsets = [
                item for item in zip(self.kernel, inputs, outputs, strict=True) if len(item[1])
            ]
            tiles.append(
                Tile(
                    rows=rows,
                    offsets=offsets,
                    counts=[len(item[1]) for item in offsets],
                    order=self.order[begin:end],
                    starts=self.starts[rows],
                )
            )
            begin = end
        return tuple(tiles)

    @classmethod
    def build(cls, pairs: Pairs, *, centre: int | None, tile: int) -> TiledPairs:
        """Sort pairs by tiles."""
        n_out, n_offsets = pairs.n_out, len(pairs.inputs)
        outputs = torch.cat(pairs.outputs)
        device = outputs.device
        n_tiles = max(1, -(-n_out // tile))
        edges = torch.arange(n_tiles + 1, device=device) * tile
        bounds = torch.stack([torch.searchsorted(rows, edges) for rows in pairs.outputs])
        counts = bounds.diff(dim=1).t().contiguous()  # (tiles, offsets)
        tile_begins = counts.sum(1).cumsum(0) - counts.sum(1)
        begins = (counts.flatten().cumsum(0) - counts.flatten()).view(n_tiles, n_offsets)
        # Where each pair goes, from the lists end to end to the order by tiles.
        places = []
        degree = torch.bincount(outputs, minlength=n_out)
        ends = degree.cumsum(0)
        free = ends - degree
        order = torch.empty_like(outputs)
        for k, rows in enumerate(pairs.outputs):
            of_tile = rows // tile
            shift = begins[:, k] - bounds[k, :-1]
            place = torch.arange(len(rows), device=device) + shift[of_tile]
            places.append(place)
            slot = free[rows]
            order[slot] = place - tile_begins[of_tile]
            free[rows] = slot + 1
        place = torch.cat(places)
        first = torch.arange(n_out, device=device) // tile
        return cls(
            inputs=torch.empty_like(outputs).scatter_(0, place, torch.cat(pairs.inputs)),
            outputs=torch.empty_like(outputs).scatter_(0, place, outputs),
            order=order,
            starts=ends - degree - tile_begins[first],
            counts=tuple(map(tuple, counts.tolist())),
            kernel=tuple(range(n_offsets)),
            centre=centre,
            tile=tile,
        )

    def reversed(self) -> TiledPairs:
        """Of a submanifold kernel from outputs to inputs: the same pairs, opposite weights."""
        return replace(self, kernel=self.kernel[::-1])


@dataclass(frozen=True, kw_only=True)
class NativeTable(ConvTable):
    """Pairs in both directions."""

    ahead: TiledPairs
    """From inputs to outputs."""
    back: TiledPairs
    """From outputs to inputs."""

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """See `ConvTable.convolve`; computes with the weight's type, whatever autocast says."""
        with torch.autocast(features.device.type, enabled=False):
            return _Convolution.apply(  # type: ignore[no-untyped-call]
                features.to(weight.dtype).contiguous(), weight, self
            )

    def infer(
        self,
        features: Tensor,
        weights: ConvWeights,
        *,
        residual: Tensor | None = None,
        slope: float | None = None,
    ) -> Tensor:
        """See `ConvTable.infer`; a tile is finished while its rows are in the cache."""
        rows = features.to(weights.weight.dtype).contiguous()
        width = len(weights.bias)
        with torch.autocast(rows.device.type, enabled=False):
            result = rows.new_empty((len(self.ahead.starts), width))
            for tile, sums in _tile_sums(rows, weights.by_offset, self.ahead):
                own = result[tile.rows]
                if self.ahead.centre is None:
                    torch.add(sums, weights.bias, out=own)
                else:
                    centre = weights.by_offset[self.ahead.centre]
                    torch.addmm(weights.bias, rows[tile.rows], centre, out=own).add_(sums)
                finish(own, residual=None if residual is None else residual[tile.rows], slope=slope)
        return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, table: NativeTable) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.table = table
        return _multiply(features, [part.t() for part in _by_offset(weight)], table.ahead)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        features_grad = weight_grad = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                features_grad = _multiply(grad, _by_offset(weight), ctx.table.back)
            if ctx.needs_input_grad[1]:
                weight_grad = torch.zeros_like(weight, memory_format=torch.contiguous_format)
                _add_products(_by_offset(weight_grad), features, grad, ctx.table.ahead)
        return features_grad, weight_grad, None


def _by_offset(weight: Tensor) -> list[Tensor]:
    """(C_out, C_in) views of a kernel's weights."""
    return list(weight.view(len(weight), -1, weight.shape[-1]).unbind(1))


def _multiply(rows: Tensor, weights: Sequence[Tensor], pairs: TiledPairs) -> Tensor:
    """Sum, for each output row, the products of its input rows with the weights of their offsets.

    Args:
        rows: (V_in, C_in), contiguous.
        weights: (C_in, C_out) of each offset.
        pairs: From inputs to outputs.

    Returns:
        (V_out, C_out).
    """
    result = rows.new_empty((len(pairs.starts), weights[0].shape[1]))
    for tile, sums in _tile_sums(rows, weights, pairs):
        if pairs.centre is None:
            result[tile.rows] = sums
        else:
            own = torch.mm(rows[tile.rows], weights[pairs.centre], out=result[tile.rows])
            own.add_(sums)
    return result


def _tile_sums(
    rows: Tensor, weights: Sequence[Tensor], pairs: TiledPairs
) -> Iterator[tuple[Tile, Tensor]]:
    """The tiles, each with (its rows, C_out) sums of products but the centre's."""
    gathered = rows.new_empty((pairs.most_of_an_offset, rows.shape[1]))
    products = rows.new_empty((pairs.most_of_a_tile, weights[0].shape[1]))
    for tile in pairs.tiles:
        own = products[: len(tile.order)]
        places = own.split(tile.counts) if tile.counts else ()
        for (k, inputs, _), place in zip(tile.offsets, places, strict=True):
            source = torch.index_select(rows, 0, inputs, out=gathered[: len(inputs)])
            torch.mm(source, weights[k], out=place)
        yield tile, torch.embedding_bag(own, tile.order, tile.starts, mode=_SUM)[0]


def _add_products(
    weight_grads: list[Tensor], features: Tensor, grad: Tensor, pairs: TiledPairs
) -> None:
    """Add to each offset's weights the products of its pairs' gradients and features.

    Args:
        weight_grads: (C_out, C_in) of each offset.
        features: (V_in, C_in), contiguous.
        grad: (V_out, C_out) of the output, contiguous.
        pairs: From inputs to outputs.
    """
    most = pairs.most_of_an_offset
    left, right = (
        grad.new_empty((most, grad.shape[1])),
        features.new_empty((most, features.shape[1])),
    )
    for tile in pairs.tiles:
        for k, inputs, outputs in tile.offsets:
            n = len(inputs)
            torch.index_select(grad, 0, outputs, out=left[:n])
            torch.index_select(features, 0, inputs, out=right[:n])
            weight_grads[k].addmm_(left[:n].t(), right[:n])
        if pairs.centre is not None:
            weight_grads[pairs.centre].addmm_(grad[tile.rows].t(), features[tile.rows])


class Native(Backend):
    """Torch alone."""

    name: ClassVar[str] = "native"

    def neighbours(self, coords: Tensor, volume: Volume, *, size: int = 3) -> ConvTable:
        """See `Backend.neighbours`."""
        # Through the middle of the kernel every row feeds itself.
        ahead = _tiled(neighbour_pairs(coords, volume, size=size), centre=size**3 // 2)
        return NativeTable(ahead=ahead, back=ahead.reversed())

    def halve(self, coords: Tensor, volume: Volume) -> Halving:
        """See `Backend.halve`."""
        pairs, parents = child_pairs(coords, volume)
        down, up = _tiled(pairs), _tiled(pairs.transposed(len(coords)))
        return Halving(NativeTable(ahead=down, back=up), NativeTable(ahead=up, back=down), parents)


def _tiled(pairs: Pairs, *, centre: int | None = None) -> TiledPairs:
    on_cpu = pairs.inputs[0].device.type == "cpu"
    return TiledPairs.build(pairs, centre=centre, tile=CPU_TILE if on_cpu else DEVICE_TILE)
