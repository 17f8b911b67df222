"""MinkowskiNet: the sparse U-Net alone (docs/maths.md, section 6)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from pass2d.models.inputs import PointBatch
from pass2d.models.network import Prepared, Segmentation
from pass2d.models.sparse_unets.sparse_unet import PreparedVoxels, SparseUNet, cell_targets


class Decoded(NamedTuple):
    """Features that a head can read."""

    coarse: Tensor
    """(V, C) of the last stage, at stride 16."""
    middle: Tensor
    """(V, C) of the second up stage, at stride 4."""
    fine: Tensor
    """(V, C) of the last up stage, at stride 1."""


class MinkowskiNet(SparseUNet):
    """MinkowskiNet; 21.7 million trained values as published, the head for 20 classes included."""

    kind: ClassVar[str] = "minkowskinet"

    def prepare(self, batch: PointBatch) -> PreparedVoxels:
        """Round the points to voxels and index what the layers need.

        Raises:
            ShapeError: another channel count than four, impossible coordinates or labels.
            DataError: a scan without points, in training.
        """
        cells = self.quantize_batch(batch)
        return PreparedVoxels(
            row_of_point=cells.inverse,
            targets=cell_targets(batch, cells),
            features=batch.points[cells.first],
            levels=self.build_levels(cells.coords, cells),
        )

    def forward(self, prepared: Prepared) -> Segmentation:
        """Logits per voxel, and the voxel of each point."""
        assert isinstance(prepared, PreparedVoxels)
        if len(prepared.features) == 0:
            return self.no_answer(prepared)
        return self.answer(self.decode(prepared).fine, prepared)

    def decode(self, prepared: PreparedVoxels) -> Decoded:
        """The U-Net without its head."""
        levels = prepared.levels
        x0 = self.stem(prepared.features, levels[0])
        x1, x2, x3, x4 = self.down_stages(x0, levels)
        y = self.up1(x4, x3, levels[3])
        middle = self.up2(y, x2, levels[2])
        y = self.up3(middle, x1, levels[1])
        return Decoded(coarse=x4, middle=middle, fine=self.up4(y, x0, levels[0]))
