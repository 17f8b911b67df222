"""The 3D network of 2DPASS: all that inference needs (docs/maths.md, section 4).

Features exist per voxel, per group of voxels or per distinct combination of voxels; only the input
layer processes points. Linear layers after a mean or a lookup are applied before or after it,
whichever has fewer rows: the results are the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass2d.models.backends.interface import ConvTable, ConvWeights
from pass2d.models.folding import Affine, Foldable, conv_norm, norm_after, norm_before
from pass2d.models.linear import NarrowLinear
from pass2d.models.norm import RowNorm
from pass2d.models.twodpass.config import TwoDPassConfig
from pass2d.models.twodpass.geometry import Geometry, LevelGeometry

SLOPE = 0.1
"""Slope of every LeakyReLU."""


def leaky_relu(features: Tensor) -> Tensor:
    """LeakyReLU in place, for any shape: call it on fresh results only."""
    return functional.leaky_relu(features, SLOPE, inplace=True)


class PointEncoder(nn.Module):
    """Points to voxels of scale 1: 10 channels (11 with time), two layers, mean."""

    def __init__(self, hidden: int, *, point_channels: int = 4) -> None:
        super().__init__()
        self.inner = NarrowLinear(point_channels + 6, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def forward(self, geometry: Geometry) -> Tensor:
        """(V, H) features of the voxels of scale 1."""
        with torch.no_grad():
            features = point_features(geometry, dtype=self.inner.weight.dtype)
        rows = functional.relu(self.inner(features), inplace=True)
        return self.outer(geometry.point_mean @ rows)


def point_features(geometry: Geometry, *, dtype: torch.dtype) -> Tensor:
    """The input: (N, 10) in the geometry's order of points; (N, 11) with time.

    x, y, z, signal (and time); offset to the mean of the points in the voxel; offset to its lower
    corner.
    """
    points = geometry.points.to(dtype)
    centers = torch.cat([geometry.point_mean @ points[:, :3], geometry.corner.to(dtype)], dim=1)
    xyz = points[:, :3]
    offset = torch.cat([xyz, xyz], dim=1) - centers.index_select(0, geometry.point_voxel)
    return torch.cat([points, offset], dim=1)


def init_sparse_weight(weight: Tensor) -> None:
    """Fill a sparse convolution's weight [out, ..., in] as the authors' spconv did.

    Kaiming with gain sqrt(2) = 1.41. spconv since 2.1.17 uses 0.58, so that initial values are 2.4
    times smaller than those behind the published results.
    """
    fan_in = weight[0].numel()
    bound = math.sqrt(2.0) * math.sqrt(3.0 / fan_in)
    with torch.no_grad():
        weight.uniform_(-bound, bound)


class KernelWeight(nn.Module):
    """The weight of a 3x3x3 convolution, under the name used by spconv's layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, 3, 3, 3, n_in))
        """(C_out, z, y, x, C_in)."""
        init_sparse_weight(self.weight)


class SubmanifoldConv(nn.Module):
    """3x3x3 submanifold convolution without bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = KernelWeight(n_in, n_out)

    def forward(self, features: Tensor, table: ConvTable) -> Tensor:
        """(V, C_in) to (V, C_out)."""
        return table.convolve(features, self.conv.weight)


class FoldedResidual(NamedTuple):
    """A residual block without its BatchNorms."""

    shortcut: Affine
    conv1: ConvWeights
    conv2: ConvWeights


class ResidualBlock(Foldable[FoldedResidual]):
    """Two submanifold convolutions beside a pointwise layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        # spconv's convolution of size 1 is this layer, with its weight transposed.
        self.shortcut = nn.Linear(hidden, hidden, bias=False)
        init_sparse_weight(self.shortcut.weight)
        self.shortcut_norm = RowNorm(hidden)
        self.conv1 = SubmanifoldConv(hidden, hidden)
        self.norm1 = RowNorm(hidden)
        self.conv2 = SubmanifoldConv(hidden, hidden)
        self.norm2 = RowNorm(hidden)

    def forward(self, features: Tensor, table: ConvTable) -> Tensor:
        """(V, H) to (V, H)."""
        if folded := self.folded():
            identity = functional.linear(features, *folded.shortcut)
            inner = table.infer(features, folded.conv1, slope=SLOPE)
            return table.infer(inner, folded.conv2, residual=identity, slope=SLOPE)
        identity = self.shortcut_norm(self.shortcut(features))
        inner = leaky_relu(self.norm1(self.conv1(features, table)))
        return leaky_relu(self.norm2(self.conv2(inner, table)).add_(identity))

    def fold(self) -> FoldedResidual:
        """See `Foldable.fold`."""
        return FoldedResidual(
            shortcut=norm_after(self.shortcut, self.shortcut_norm),
            conv1=conv_norm(self.conv1.conv.weight, self.norm1),
            conv2=conv_norm(self.conv2.conv.weight, self.norm2),
        )


class PointBranch(Foldable[tuple[Affine, Affine]]):
    """Features of a voxel beside those of its 2 x 2 x 2 group."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        half = hidden // 2
        self.own = nn.Linear(hidden, hidden)
        self.group1 = nn.Linear(hidden, half)
        self.group_norm1 = RowNorm(half)
        self.group2 = nn.Linear(half, half)
        self.group_norm2 = RowNorm(half)
        self.group3 = nn.Linear(half, hidden)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor, geometry: LevelGeometry) -> Tensor:
        """(V, H) features short of the last layer `out`, which commutes with the mean after it."""
        group = geometry.group_mean @ features
        group = leaky_relu(self.group1(group))
        if folded := self.folded():
            for layer in folded:
                group = leaky_relu(functional.linear(group, *layer))
        else:
            group = self.group_norm2(leaky_relu(self.group2(self.group_norm1(group))))
            group = leaky_relu(self.group3(group))
        # merge([own, group]) in two parts: the second per group, of which there are fewer
        own_weight, group_weight = self.merge.weight.chunk(2, dim=1)
        own = functional.linear(leaky_relu(self.own(features)), own_weight, self.merge.bias)
        shared = geometry.group_lookup @ functional.linear(group, group_weight)
        return leaky_relu(own.add_(shared))

    def fold(self) -> tuple[Affine, Affine]:
        """See `Foldable.fold`: `group2` and `group3`, which take what was normalised."""
        return (
            norm_before(self.group2, self.group_norm1),
            norm_before(self.group3, self.group_norm2),
        )


class BlockOutput(NamedTuple):
    """The outputs of a block."""

    convolved: Tensor
    """(V, H) v: features of the block's own voxels, for distillation."""
    pooled: Tensor
    """(V_s, H) p: features for the head, on the voxels of the block's end scale."""
    next_features: Tensor
    """(V_s, H) input of the next block."""


class Block(nn.Module):
    """Convolutions at one scale, and the transition to the next."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.voxel = nn.ModuleList([ResidualBlock(hidden), ResidualBlock(hidden)])
        self.point = PointBranch(hidden)

    def forward(self, features: Tensor, geometry: Geometry, levels: BlockLevels) -> BlockOutput:
        """Run the block from one level's voxels to another's."""
        level = geometry.levels[levels.start]
        assert level is not None
        convolved = features
        for residual in self.voxel:
            convolved = residual(convolved, level.table)
        merged = self.point(features + convolved, level)
        features = convolved
        for link in geometry.links[levels.start : levels.end]:
            merged, features = link @ merged, link @ features
        pooled = self.point.out(merged)
        return BlockOutput(convolved, pooled, pooled + features)


class BlockLevels(NamedTuple):
    """Indices into the geometry's levels."""

    start: int
    end: int


class Encoder3DOutput(NamedTuple):
    """Features of all blocks."""

    convolved: tuple[Tensor, ...]
    """v of each block: (V, H) on the voxels at which it starts."""
    pooled: tuple[Tensor, ...]
    """p of each block: (V, H) on the voxels at which it ends."""


class Encoder3D(nn.Module):
    """Point encoder and blocks."""

    def __init__(self, config: TwoDPassConfig) -> None:
        super().__init__()
        self.block_levels = block_levels(config)
        self.points = PointEncoder(config.hidden, point_channels=5 if config.time_channel else 4)
        self.blocks = nn.ModuleList(Block(config.hidden) for _ in config.block_scales)

    def forward(self, geometry: Geometry) -> Encoder3DOutput:
        """Features of all blocks."""
        features = self.points(geometry)
        convolved, pooled = [], []
        for block, levels in zip(self.blocks, self.block_levels, strict=True):
            output = block(features, geometry, levels)
            convolved.append(output.convolved)
            pooled.append(output.pooled)
            features = output.next_features
        return Encoder3DOutput(tuple(convolved), tuple(pooled))


def network_scales(config: TwoDPassConfig) -> tuple[int, ...]:
    """The scales whose voxels the network uses, each once, finest first."""
    return tuple(sorted({1, *config.block_scales}))


def block_levels(config: TwoDPassConfig) -> tuple[BlockLevels, ...]:
    """Where each block starts and ends."""
    scales = network_scales(config)
    ends = [scales.index(scale) for scale in config.block_scales]
    return tuple(BlockLevels(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True))


class Head(nn.Module):
    """Logits from the blocks' features side by side."""

    def __init__(self, config: TwoDPassConfig, *, n_classes: int) -> None:
        super().__init__()
        self.levels = [levels.end for levels in block_levels(config)]
        self.inner = nn.Linear(config.hidden * len(config.block_scales), 128)
        self.outer = nn.Linear(128, n_classes)

    def forward(self, pooled: tuple[Tensor, ...], geometry: Geometry) -> Tensor:
        """(R, C) logits of each distinct combination of voxels.

        The first layer is split by block, so that its products are made per voxel and only their
        sums, 128 wide, per combination, from the coarsest scale down.
        """
        per_level: dict[int, Tensor] = {}
        weights = self.inner.weight.chunk(len(pooled), dim=1)
        for level, features, weight in zip(self.levels, pooled, weights, strict=True):
            product = functional.linear(features, weight)
            per_level[level] = per_level[level] + product if level in per_level else product
        total: Tensor | None = None
        for level, descent in zip(
            sorted(per_level, reverse=True), reversed(geometry.descents), strict=True
        ):
            own = descent.own @ per_level[level]
            if total is None or descent.coarser is None:
                total = own
            else:
                total = own.add_(descent.coarser @ total)
        assert total is not None
        return self.outer(functional.relu(total + self.inner.bias, inplace=True))
