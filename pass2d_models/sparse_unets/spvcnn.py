"""SPVCNN: the sparse U-Net with a point branch beside it (docs/maths.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass2d.models.folding import Affine, Foldable, norm_after
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import NetworkConfig, Prepared, Segmentation
from pass2d.models.norm import RowNorm
from pass2d.models.sparse_unets.devoxelize import Cells, Corners
from pass2d.models.sparse_unets.sparse_unet import (
    PreparedVoxels,
    SparseUNet,
    SparseUNetConfig,
    cell_targets,
)
from pass2d.models.voxel_keys import KeyPacking, first_of_each

_FINE, _MIDDLE, _COARSE = 0, 2, 4
"""Levels at which the point branch is connected to the U-Net: strides 1, 4, 16."""


@dataclass(frozen=True, kw_only=True)
class SPVCNNConfig(SparseUNetConfig):
    """Sizes of SPVCNN. Defaults: as published."""

    dropout: float = 0.3
    """Share of values zeroed before up stages 1 and 3, in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class PreparedPointVoxels(PreparedVoxels):
    """Voxels, and the positions of the branch's points (the occupied cells) in them."""

    corners: tuple[Corners, Corners, Corners]
    """For reading at strides 1, 4, 16."""
    cells: tuple[Cells, Cells, Cells]
    """For averaging at strides 1, 4, 16."""


class PointLayer(Foldable[Affine], nn.Sequential):
    """A pointwise layer, BatchNorm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.Linear(n_in, n_out), RowNorm(n_out), nn.ReLU(inplace=True))

    def forward(self, rows: Tensor) -> Tensor:
        """(M, C_in) to (M, C_out)."""
        if folded := self.folded():
            return functional.linear(rows, *folded).relu_()
        for layer in self:
            rows = layer(rows)
        return rows

    def fold(self) -> Affine:
        """See `Foldable.fold`."""
        linear, norm, _ = self
        return norm_after(cast(nn.Linear, linear), norm)


class SPVCNN(SparseUNet):
    """SPVCNN; 21.8 million trained values as published, the head for 20 classes included."""

    kind: ClassVar[str] = "spvcnn"
    config: SPVCNNConfig
    config_type: ClassVar[type[NetworkConfig]] = SPVCNNConfig

    def __init__(self, config: SPVCNNConfig, *, grid: Grid, n_classes: int) -> None:
        super().__init__(config, grid=grid, n_classes=n_classes)
        width = config.widths
        self.point_transforms = nn.ModuleList(
            PointLayer(n_in, n_out)
            for n_in, n_out in ((width[0], width[4]), (width[4], width[6]), (width[6], width[8]))
        )
        self.dropout = nn.Dropout(config.dropout)

    def prepare(self, batch: PointBatch) -> PreparedPointVoxels:
        """Round the points to cells, and find the voxels around each cell.

        Raises:
            ShapeError: another channel count than four, impossible coordinates or labels.
            DataError: a scan without points, in training.
        """
        quantized = self.quantize_batch(batch)
        position = cell_positions(quantized.coords, voxel_m=self.config.voxel_m)
        sample = quantized.coords[:, 0].long()
        in_cell = torch.cat([sample[:, None], position.floor().long()], 1)
        packing = KeyPacking(extent=quantized.extent, batch_size=quantized.batch_size)
        # One voxel per cell at 0.05 m; at 0.02 or 0.03 m float32 merges some.
        first, _ = first_of_each(packing.pack(in_cell))
        levels = self.build_levels(in_cell[first].int(), quantized)
        near = [levels[number] for number in (_FINE, _MIDDLE, _COARSE)]
        corners = [
            Corners.find(position, sample, index=level.index, stride=level.stride) for level in near
        ]
        cells = [
            Cells.find(position, sample, index=level.index, stride=level.stride) for level in near
        ]
        return PreparedPointVoxels(
            row_of_point=quantized.inverse,
            targets=cell_targets(batch, quantized),
            features=batch.points[quantized.first],
            levels=levels,
            corners=(corners[0], corners[1], corners[2]),
            cells=(cells[0], cells[1], cells[2]),
        )

    def forward(self, prepared: Prepared) -> Segmentation:
        """Logits per occupied cell, and the cell of each point."""
        assert isinstance(prepared, PreparedPointVoxels)
        if len(prepared.features) == 0:
            return self.no_answer(prepared)
        levels = prepared.levels
        read_fine, read_middle, read_coarse = (corners.read for corners in prepared.corners)
        to_fine, to_middle, to_coarse = (cells.average for cells in prepared.cells)
        mlp_coarse, mlp_middle, mlp_fine = self.point_transforms
        x0 = self.stem(to_fine(prepared.features), levels[0])
        z = read_fine(x0)
        x1, x2, x3, x4 = self.down_stages(to_fine(z), levels)
        z = read_coarse(x4) + mlp_coarse(z)
        y = self.up1(self.dropout(to_coarse(z)), x3, levels[3])
        y = self.up2(y, x2, levels[2])
        z = read_middle(y) + mlp_middle(z)
        y = self.up3(self.dropout(to_middle(z)), x1, levels[1])
        y = self.up4(y, x0, levels[0])
        z = read_fine(y) + mlp_fine(z)
        return self.answer(z, prepared)


def cell_positions(coords: Tensor, *, voxel_m: float) -> Tensor:
    """Positions of cells in the point branch: (c * voxel) / voxel in float32, not c.

    The original code computes this: at 0.05 m about one c in seven becomes one ulp higher, which
    affects the trilinear weights at stride 1.

    Args:
        coords: (M, 4) int32: batch, x, y, z.
        voxel_m: side of a cell, in metres.

    Returns:
        (M, 3) float32 x, y, z in cells.
    """
    side = torch.full((1,), voxel_m, dtype=torch.float32, device=coords.device)
    return (coords[:, 1:].float() * side) / side
