"""Sparse convolutions with torch alone, on all its devices: gather, multiply, sum.

The output is computed in tiles whose rows fit in the processor's cache. Within a tile the pairs are
sorted by kernel offset: for each offset the input rows are gathered and multiplied by its weights,
then each output row sums its products. No row is scattered, so there are no atomics and the order
of sums is fixed: results are the same on every run with the same number of threads.
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
_MANY_PAIRS = 6.0
"""Per output row; tiles of half as many rows then have as many pairs of an offset."""
DEVICE_TILE = 1 << 18
"""On other devices, where each call is expensive; limits the memory for products."""

_SUM = 0
"""The mode of torch.embedding_bag."""


class Tile(NamedTuple):
    """Pairs of consecutive output rows."""

    rows: slice
    offsets: list[tuple[int, int, Tensor, Tensor]]
    """Number of pairs, weights (row of the flattened kernel), input rows, output rows of each
    offset that has any."""
    counts: list[int]
    """The numbers of pairs once more, for splitting what belongs to all of them."""
    order: Tensor
    """(P,) int64: its pairs, end to end, sorted by output."""
    starts: Tensor
    """(rows,) int64: where each output's pairs begin in ``order``."""


@dataclass(frozen=True, kw_only=True)
class TiledPairs(TensorRecord):
    """Pairs of a kernel in the order in which they are processed."""

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
    """The offset at which every row is its own input; None if there is none."""
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
        """The work of each tile, as views that are built once for all layers."""
        tiles = []
        begin = 0
        for number, counts in enumerate(self.counts):
            end = begin + sum(counts)
            inputs, outputs = (
                rows[begin:end].split(counts) for rows in (self.inputs, self.outputs)
            )
            rows = slice(number * self.tile, (number + 1) * self.tile)
            offsets = [
                item for item in zip(counts, self.kernel, inputs, outputs, strict=True) if item[0]
            ]
            tiles.append(
                Tile(
                    rows=rows,
                    offsets=offsets,
                    counts=[item[0] for item in offsets],
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
            of_tile = torch.div(rows, tile, rounding_mode="floor")
            shift = begins[:, k] - bounds[k, :-1]
            place = torch.arange(len(rows), device=device) + shift.index_select(0, of_tile)
            places.append(place)
            slot = free.index_select(0, rows)
            order.scatter_(0, slot, place - tile_begins.index_select(0, of_tile))
            free.scatter_(0, rows, slot + 1)  # a row occurs once per offset
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
        """See `ConvTable.infer`; each tile is completed while its rows are in the cache."""
        rows = features.to(weights.weight.dtype).contiguous()
        width = len(weights.bias)
        with torch.autocast(rows.device.type, enabled=False):
            result = rows.new_empty((len(self.ahead.starts), width))
            for tile, sums in _tile_sums(rows, weights.by_offset, self.ahead):
                if self.ahead.centre is not None:
                    sums.addmm_(rows[tile.rows], weights.by_offset[self.ahead.centre])
                own = torch.add(sums, weights.bias, out=result[tile.rows])
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
        wants_features, wants_weight, _ = ctx.needs_input_grad
        with torch.autocast(grad.device.type, enabled=False):
            by_offset = _by_offset(weight)
            if not wants_weight:
                return _multiply(grad, by_offset.unbind(0), ctx.table.back), None, None
            features_grad, products = _multiply_back(
                grad, features, by_offset, ctx.table.back, wants_features=wants_features
            )
        return features_grad, products.transpose(0, 1).contiguous().view(weight.shape), None


def _by_offset(weight: Tensor) -> Tensor:
    """(K, C_out, C_in), contiguous, of a kernel's weights: dense matrices multiply fastest."""
    return weight.view(len(weight), -1, weight.shape[-1]).transpose(0, 1).contiguous()


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
    centre = None if pairs.centre is None else weights[pairs.centre]
    for tile, sums in _tile_sums(rows, weights, pairs):
        _write(result[tile.rows], sums, rows[tile.rows], centre)
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
        for (n, k, inputs, _), place in zip(tile.offsets, places, strict=True):
            source = torch.index_select(rows, 0, inputs, out=gathered[:n])
            torch.mm(source, weights[k], out=place)
        yield tile, torch.embedding_bag(own, tile.order, tile.starts, mode=_SUM)[0]


def _multiply_back(
    grad: Tensor, features: Tensor, weights: Tensor, pairs: TiledPairs, *, wants_features: bool
) -> tuple[Tensor | None, Tensor]:
    """Both gradients of a layer in one pass, which gathers the output's gradient only once.

    Args:
        grad: (V_out, C_out) of the output, contiguous.
        features: (V_in, C_in) the layer's input, contiguous.
        weights: (K, C_out, C_in).
        pairs: From outputs to inputs.
        wants_features: Whether the input's gradient is wanted.

    Returns:
        (V_in, C_in) of the input, or None; (K, C_out, C_in) of the weights.
    """
    of_weights = torch.zeros_like(weights)
    # Split here and not indexed in the loop, which would cost microseconds per product.
    weight_grads, by_offset = of_weights.unbind(0), weights.unbind(0)
    result = torch.empty_like(features) if wants_features else None
    most = pairs.most_of_an_offset
    left = grad.new_empty((most, grad.shape[1]))
    right = features.new_empty((most, features.shape[1]))
    products = features.new_empty((pairs.most_of_a_tile if wants_features else 0, right.shape[1]))
    centre = None if pairs.centre is None else by_offset[pairs.centre]
    for tile in pairs.tiles:
        done = 0
        for n, k, inputs, outputs in tile.offsets:
            source = torch.index_select(grad, 0, inputs, out=left[:n])
            own = torch.index_select(features, 0, outputs, out=right[:n])
            weight_grads[k].addmm_(source.t(), own)
            if wants_features:
                torch.mm(source, by_offset[k], out=products[done : done + n])
                done += n
        if pairs.centre is not None:
            weight_grads[pairs.centre].addmm_(grad[tile.rows].t(), features[tile.rows])
        if result is not None:
            sums = torch.embedding_bag(products[:done], tile.order, tile.starts, mode=_SUM)[0]
            _write(result[tile.rows], sums, grad[tile.rows], centre)
    return result, of_weights


def _write(result: Tensor, sums: Tensor, rows: Tensor, centre: Tensor | None) -> None:
    """Fill a tile of the result: the sums, and the products of its own rows with the centre's."""
    if centre is None:
        result.copy_(sums)
    else:
        torch.mm(rows, centre, out=result).add_(sums)


class Native(Backend):
    """The backend that needs only torch."""

    name: ClassVar[str] = "native"

    def __init__(self, *, cpu_tile: int = CPU_TILE) -> None:
        self._cpu_tile = cpu_tile

    def neighbours(self, coords: Tensor, volume: Volume, *, size: int = 3) -> ConvTable:
        """See `Backend.neighbours`."""
        # At the kernel's centre every row is its own input.
        ahead = self._tiled(neighbour_pairs(coords, volume, size=size), centre=size**3 // 2)
        return NativeTable(ahead=ahead, back=ahead.reversed())

    def halve(self, coords: Tensor, volume: Volume) -> Halving:
        """See `Backend.halve`."""
        pairs, parents = child_pairs(coords, volume)
        down, up = self._tiled(pairs), self._tiled(pairs.transposed(len(coords)))
        return Halving(NativeTable(ahead=down, back=up), NativeTable(ahead=up, back=down), parents)

    def _tiled(self, pairs: Pairs, *, centre: int | None = None) -> TiledPairs:
        if pairs.inputs[0].device.type != "cpu":
            return TiledPairs.build(pairs, centre=centre, tile=DEVICE_TILE)
        is_dense = sum(map(len, pairs.inputs)) > _MANY_PAIRS * pairs.n_out
        tile = self._cpu_tile // 2 if is_dense else self._cpu_tile
        return TiledPairs.build(pairs, centre=centre, tile=tile)
