"""MinkUNet34 and SpUNet34: the sparse U-Net with deeper stages; a head may read three strides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import NetworkConfig, Prepared, Segmentation, with_ignored_class
from pass2d.models.sparse_unets.devoxelize import Corners
from pass2d.models.sparse_unets.minkunet import Decoded, MinkowskiNet
from pass2d.models.sparse_unets.sparse_unet import (
    PreparedVoxels,
    SparseUNetConfig,
    UNetShape,
)

_MIDDLE, _COARSE = 2, 4
"""Levels that head v2 reads beside the finest: strides 4, 16."""


@dataclass(frozen=True, kw_only=True)
class MinkUNet34Config(SparseUNetConfig):
    """Sizes of MinkUNet34. Defaults: as published, with head v2."""

    blocks: tuple[int, ...] = (2, 3, 4, 6)
    """Residual blocks of the four stages; the up stages have two each."""
    head: Literal["v1", "v2"] = "v2"
    """"v1": a linear layer on the features at stride 1; "v2": on those at strides 16, 4 and 1, the
    first two interpolated at each voxel's place."""
    stem_size: int = 3
    """3: two 3x3x3 convolutions; 5: one of 5x5x5, as in SpUNet34."""
    widens: Literal["block", "down"] = "block"
    """Which layer changes the width of a stage: its first residual block, or its strided
    convolution, as in SpUNet34."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f"blocks must be 4 numbers of at least 1, got {self.blocks}")
        if self.stem_size not in (3, 5):
            raise ValueError(f"stem_size must be 3 or 5, got {self.stem_size}")


@dataclass(frozen=True, kw_only=True)
class PreparedStrides(PreparedVoxels):
    """Voxels, and the positions of the finest among those at strides 4 and 16."""

    corners: tuple[Corners, Corners] | None
    """For reading at strides 4, 16; None for head v1."""


class MinkUNet34(MinkowskiNet):
    """MinkUNet34; with 20 classes 37,875,123 trained values (head v1) or 37,882,419 (v2).

    The classifier has no output for the ignored class.

    Source: open-mmlab/mmdetection3d, configurations minkunet34_w32 and minkunet34v2_w32.
    """

    kind: ClassVar[str] = "minkunet34"
    config: MinkUNet34Config
    config_type: ClassVar[type[NetworkConfig]] = MinkUNet34Config

    def __init__(self, config: MinkUNet34Config, *, grid: Grid, n_classes: int) -> None:
        shape = UNetShape(
            blocks=config.blocks,
            has_wide_stem=config.stem_size == 5,
            widens_down=config.widens == "down",
        )
        super().__init__(config, grid=grid, n_classes=n_classes, shape=shape)
        width = config.widths
        read = (width[8],) if config.head == "v1" else (width[4], width[6], width[8])
        linear = nn.Linear(sum(read), n_classes - 1)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        self.classifier = nn.Sequential(linear)

    def prepare(self, batch: PointBatch) -> PreparedStrides:
        """Round the points to voxels, index what the layers need and what head v2 reads.

        Raises:
            ShapeError: another channel count than four, impossible coordinates or labels.
            DataError: a scan without points, in training.
        """
        voxels = super().prepare(batch)
        corners = None
        if self.config.head == "v2":
            coords = voxels.levels[0].coords
            middle, coarse = (
                Corners.find(
                    coords[:, 1:].float(),
                    coords[:, 0].long(),
                    index=voxels.levels[number].index,
                    stride=voxels.levels[number].stride,
                )
                for number in (_MIDDLE, _COARSE)
            )
            corners = (middle, coarse)
        return PreparedStrides(**vars(voxels), corners=corners)

    def forward(self, prepared: Prepared) -> Segmentation:
        """Logits per voxel, and the voxel of each point."""
        assert isinstance(prepared, PreparedStrides)
        if len(prepared.features) == 0:
            return self.no_answer(prepared)
        features = _head_input(self.decode(prepared), prepared.corners)
        return Segmentation(
            row_logits=with_ignored_class(self.classifier(features)),
            row_of_point=prepared.row_of_point,
        )


def _head_input(decoded: Decoded, corners: tuple[Corners, Corners] | None) -> Tensor:
    """(V, C) what the classifier reads for each voxel at stride 1."""
    if corners is None:
        return decoded.fine
    middle, coarse = corners
    return torch.cat([coarse.read(decoded.coarse), middle.read(decoded.middle), decoded.fine], 1)
