"""The U-Net that MinkowskiNet and SPVCNN share (docs/maths.md, section 6).

Module names are those of the published checkpoints, with `weight` for `kernel`, so that both can be
compared: stem, stage1..4, up1..4, classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass2d.models.backends.interface import ConvWeights
from pass2d.models.folding import Affine, Foldable, conv_norm, norm_after
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import (
    Network,
    NetworkConfig,
    Prepared,
    Segmentation,
    Targets,
    check_labels,
    check_points,
    check_scans,
)
from pass2d.models.norm import RowNorm
from pass2d.models.sparse_unets.quantize import QuantizedPoints, quantize
from pass2d.models.sparse_unets.sparse_layers import (
    DownConv,
    NeighbourConv,
    SparseConv,
    UpConv,
    WideConv,
)
from pass2d.models.sparse_unets.stride_levels import StrideLevel, build_levels


@dataclass(frozen=True, kw_only=True)
class SparseUNetConfig(NetworkConfig):
    """Sizes of the U-Nets on voxels. Defaults: as published."""

    base_widths: tuple[int, ...] = (32, 32, 64, 128, 256, 256, 128, 96, 96)
    """Channels of the stem, the four stages and the four up stages, before the factor."""
    width_factor: float = 1.0
    """"cr": multiplies all widths; the results are cut to whole numbers."""
    voxel_m: float = 0.05
    """Side of a voxel, in metres."""
    time_channel: bool = False
    """Points carry the seconds since they were measured, as a fifth channel (added sweeps)."""

    def __post_init__(self) -> None:
        if len(self.base_widths) != 9:
            raise ValueError(f"base_widths must be 9 numbers, got {self.base_widths}")
        if min(self.widths) < 1:
            raise ValueError(f"base_widths and width_factor leave a layer without channels: {self}")
        if not self.voxel_m > 0:
            raise ValueError(f"voxel_m must be above 0 metres, got {self.voxel_m}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the nine parts."""
        return tuple(int(self.width_factor * width) for width in self.base_widths)


@dataclass(frozen=True, kw_only=True)
class PreparedVoxels(Prepared):
    """A batch as voxels. The rows of logits are the occupied cells."""

    features: Tensor
    """(M, 4) float32: x, y, z, signal of each cell's first point."""
    levels: tuple[StrideLevel, ...]
    """Strides 1, 2, 4, 8, 16."""


class ConvBlock(Foldable[ConvWeights]):
    """A strided convolution, BatchNorm, ReLU."""

    def __init__(self, conv: DownConv | UpConv, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([conv, RowNorm(width)])

    def forward(self, features: Tensor, level: StrideLevel) -> Tensor:
        """(V_in, C_in) to (V_out, C_out); `level` is the finer of the two that it connects."""
        conv, norm = self.net
        if folded := self.folded():
            return cast(SparseConv, conv).infer(features, level, folded)
        return torch.relu(norm(conv(features, level)))

    def fold(self) -> ConvWeights:
        """See `Foldable.fold`."""
        return _fold_convs(self.net)[0]


class FoldedResidual(NamedTuple):
    """A residual block without its BatchNorms."""

    convs: tuple[ConvWeights, ...]
    shortcut: Affine | None


class ResidualBlock(Foldable[FoldedResidual]):
    """Two 3x3x3 convolutions and a shortcut, a linear one where the width changes."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                NeighbourConv(n_in, n_out),
                RowNorm(n_out),
                nn.ReLU(),
                NeighbourConv(n_out, n_out),
                RowNorm(n_out),
            ]
        )
        self.downsample = (
            nn.Identity()
            if n_in == n_out
            else nn.Sequential(pointwise(n_in, n_out), RowNorm(n_out))
        )

    def forward(self, features: Tensor, level: StrideLevel) -> Tensor:
        """(V, C_in) to (V, C_out)."""
        if folded := self.folded():
            first, second = (layer for layer in self.net if isinstance(layer, NeighbourConv))
            inner = first.infer(features, level, folded.convs[0])
            shortcut = folded.shortcut
            identity = features if shortcut is None else functional.linear(features, *shortcut)
            return second.infer(inner, level, folded.convs[1], residual=identity)
        inner = _conv_norm(self.net, features, level)
        return torch.relu(inner + self.downsample(features))

    def fold(self) -> FoldedResidual:
        """See `Foldable.fold`."""
        shortcut = self.downsample
        return FoldedResidual(
            convs=_fold_convs(self.net),
            shortcut=norm_after(cast(nn.Linear, shortcut[0]), shortcut[1])
            if isinstance(shortcut, nn.Sequential)
            else None,
        )


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """The differences between the sparse U-Nets, besides their widths."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of the four stages."""
    has_wide_stem: bool = False
    """The stem is one 5x5x5 convolution, instead of two of 3x3x3."""
    widens_down: bool = False
    """A stage's width is changed by its strided convolution, instead of its first block."""


class Stem(Foldable[tuple[ConvWeights, ...]], nn.ModuleList):
    """Two 3x3x3 convolutions or one of 5x5x5, each with BatchNorm and ReLU."""

    def __init__(self, n_in: int, n_out: int, *, is_wide: bool = False) -> None:
        if is_wide:
            super().__init__([WideConv(n_in, n_out), RowNorm(n_out), nn.ReLU()])
            return
        super().__init__(
            [
                NeighbourConv(n_in, n_out),
                RowNorm(n_out),
                nn.ReLU(),
                NeighbourConv(n_out, n_out),
                RowNorm(n_out),
                nn.ReLU(),
            ]
        )

    def forward(self, features: Tensor, level: StrideLevel) -> Tensor:
        """(V, C_in) to (V, C_out)."""
        if folded := self.folded():
            convs = (layer for layer in self if isinstance(layer, SparseConv))
            for conv, weights in zip(convs, folded, strict=True):
                features = conv.infer(features, level, weights)
            return features
        return _conv_norm(self, features, level)

    def fold(self) -> tuple[ConvWeights, ...]:
        """See `Foldable.fold`."""
        return _fold_convs(self)


class Stage(nn.ModuleList):
    """Down by two, then residual blocks."""

    def __init__(self, n_in: int, n_out: int, *, n_blocks: int, widens_down: bool) -> None:
        width = n_out if widens_down else n_in
        residual = [ResidualBlock(n_out if number else width, n_out) for number in range(n_blocks)]
        super().__init__([ConvBlock(DownConv(n_in, width), width), *residual])

    def forward(self, features: Tensor, fine: StrideLevel, coarse: StrideLevel) -> Tensor:
        """(V_fine, C_in) at the voxels of `fine` to (V_coarse, C_out) at those of `coarse`."""
        down, *residual = self
        features = down(features, fine)
        for block in residual:
            features = block(features, coarse)
        return features


class UpStage(nn.ModuleList):
    """Up by two, beside the skipped features, then two residual blocks."""

    def __init__(self, n_in: int, n_skip: int, n_out: int) -> None:
        residual = [ResidualBlock(n_out + n_skip, n_out), ResidualBlock(n_out, n_out)]
        super().__init__([ConvBlock(UpConv(n_in, n_out), n_out), nn.ModuleList(residual)])

    def forward(self, features: Tensor, skip: Tensor, fine: StrideLevel) -> Tensor:
        """(V_coarse, C_in) to (V_fine, C_out); `skip` are (V_fine, C_skip) features of `fine`."""
        up, residual = self
        assert isinstance(residual, nn.ModuleList)
        features = torch.cat([up(features, fine), skip], 1)
        for block in residual:
            features = block(features, fine)
        return features


class SparseUNet(Network):
    """Base of MinkowskiNet and SPVCNN: the layers, and the voxels of a batch."""

    config: SparseUNetConfig
    config_type: ClassVar[type[NetworkConfig]] = SparseUNetConfig

    def __init__(
        self,
        config: SparseUNetConfig,
        *,
        grid: Grid,
        n_classes: int,
        shape: UNetShape = UNetShape(),
    ) -> None:
        super().__init__(config, grid=grid, n_classes=n_classes)
        width, self.shape = config.widths, shape
        self.stem = Stem(self.point_channels, width[0], is_wide=shape.has_wide_stem)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            Stage(width[i], width[i + 1], n_blocks=n_blocks, widens_down=shape.widens_down)
            for i, n_blocks in enumerate(shape.blocks)
        )
        self.up1 = UpStage(width[4], width[3], width[5])
        self.up2 = UpStage(width[5], width[2], width[6])
        self.up3 = UpStage(width[6], width[1], width[7])
        self.up4 = UpStage(width[7], width[0], width[8])
        self.classifier = nn.Sequential(nn.Linear(width[8], n_classes))

    @property
    def uses_volume(self) -> bool:
        """False: all points of a scan take part."""
        return False

    @property
    def point_channels(self) -> int:
        """Columns of `PointBatch.points`."""
        return 5 if self.config.time_channel else 4

    def quantize_batch(self, batch: PointBatch) -> QuantizedPoints:
        """The occupied cells of a batch.

        Raises:
            ShapeError: another channel count, impossible coordinates or labels.
            DataError: a scan without points, in training.
        """
        points = batch.points
        check_points(points, channels=self.point_channels)
        if self.training:
            check_scans((batch.offsets[1:] - batch.offsets[:-1]).tolist())
        check_labels(batch.labels, n_classes=self.n_classes)
        return quantize(points, batch.offsets, voxel_m=self.config.voxel_m)

    def build_levels(self, coords: Tensor, cells: QuantizedPoints) -> tuple[StrideLevel, ...]:
        """The voxels at all strides, from the (V, 4) int32 sorted ones at stride 1."""
        return build_levels(
            coords,
            extent=cells.extent,
            batch_size=cells.batch_size,
            backend=self.backend_on(coords.device),
            has_wide_stem=self.shape.has_wide_stem,
        )

    def answer(self, features: Tensor, prepared: Prepared) -> Segmentation:
        """The head's (R, C) logits for (R, C_last) features of cells."""
        return Segmentation(
            row_logits=self.classifier(features), row_of_point=prepared.row_of_point
        )

    def no_answer(self, prepared: Prepared) -> Segmentation:
        """The output for a batch without points."""
        nothing = next(self.parameters()).new_zeros((0, self.n_classes))
        return Segmentation(row_logits=nothing, row_of_point=prepared.row_of_point)

    def down_stages(self, features: Tensor, levels: Sequence[StrideLevel]) -> tuple[Tensor, ...]:
        """(V_s, C_s) features after each of the four stages, from (V, C) at stride 1."""
        outputs = []
        for number, stage in enumerate((self.stage1, self.stage2, self.stage3, self.stage4)):
            features = stage(features, levels[number], levels[number + 1])
            outputs.append(features)
        return tuple(outputs)


def cell_targets(batch: PointBatch, cells: QuantizedPoints) -> Targets | None:
    """Labels of the cells: each takes that of its first point, without a vote."""
    return None if batch.labels is None else Targets(label=batch.labels[cells.first])


def pointwise(n_in: int, n_out: int) -> nn.Linear:
    """A convolution of size 1, initialised as in the original library."""
    linear = nn.Linear(n_in, n_out, bias=False)
    bound = n_in**-0.5
    nn.init.uniform_(linear.weight, -bound, bound)
    return linear


def _fold_convs(layers: nn.ModuleList) -> tuple[ConvWeights, ...]:
    """The convolutions of a list, each with the BatchNorm after it."""
    return tuple(
        conv_norm(conv.weight, norm)
        for conv, norm in pairwise(layers)
        if isinstance(conv, SparseConv)
    )


def _conv_norm(layers: nn.ModuleList, features: Tensor, level: StrideLevel) -> Tensor:
    for layer in layers:
        is_sparse = isinstance(layer, SparseConv)
        features = layer(features, level) if is_sparse else layer(features)
    return features
