"""2DPASS: the 3D network for inference, and the 2D branch for distillation in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pass2d.common.errors import DataError
from pass2d.models.inputs import Grid, ImageBatch, PointBatch, TensorRecord
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
from pass2d.models.twodpass.config import IMAGE_SCALES, TwoDPassConfig
from pass2d.models.twodpass.distillation import Distillation
from pass2d.models.twodpass.encoder2d import (
    STRIDES,
    Encoder2D,
    check_images,
    load_imagenet,
    look_up,
    pixel_rows,
)
from pass2d.models.twodpass.encoder3d import Encoder3D, Head, block_levels, network_scales
from pass2d.models.twodpass.geometry import Geometry, build_geometry
from pass2d.models.twodpass.hierarchy import Level, build_levels, inverse_of, piece_of
from pass2d.models.twodpass.voxels import piece_label_counts, voxel_labels


@dataclass(frozen=True, kw_only=True)
class ImageInput(TensorRecord):
    """The inputs of the 2D branch for a batch."""

    images: Tensor
    """(I, 3, H, W) float32, normalised."""
    map_rows: tuple[Tensor, ...]
    """Per block, (M,) int64: row of the block's feature map at each visible point's pixel."""
    seen: tuple[Tensor, ...]
    """Per block, (M,) int64: voxel of each visible point among those at which the block starts."""
    targets: Targets | None
    """Labels of the M points."""
    voxel_targets: tuple[Targets, ...]
    """Per block: labels of the voxels at which it starts; () without labels."""


@dataclass(frozen=True, kw_only=True)
class TwoDPassBatch(Prepared):
    """A batch that `TwoDPass.forward` takes."""

    geometry: Geometry | None
    """None: there is no point."""
    image: ImageInput | None
    """None in evaluation, and for the baseline."""


class TwoDPass(Network):
    """2DPASS (docs/maths.md, sections 4 and 5); without its image branch the "baseline"."""

    kind: ClassVar[str] = "2dpass"
    config_type: ClassVar[type[NetworkConfig]] = TwoDPassConfig
    training_only: ClassVar[tuple[str, ...]] = ("image_encoder.", "distillation.")
    config: TwoDPassConfig

    def __init__(self, config: TwoDPassConfig, *, grid: Grid, n_classes: int) -> None:
        super().__init__(config, grid=grid, n_classes=n_classes)
        self.encoder = Encoder3D(config)
        self.head = Head(config, n_classes=n_classes)
        self.image_weights_from = ""
        if config.image_branch:
            self.image_encoder = Encoder2D(config.hidden)
            self.distillation = Distillation(config, n_classes=n_classes)
            self.image_weights_from = load_imagenet(self.image_encoder, config.image_weights)

    @property
    def needs_images(self) -> bool:
        """Whether training wants pictures in the batch; inference never does."""
        return self.config.image_branch

    @property
    def point_channels(self) -> int:
        """Columns of `PointBatch.points`."""
        return 5 if self.config.time_channel else 4

    @property
    def scales(self) -> tuple[int, ...]:
        """Voxel scales of `PointBatch.voxels` that `prepare` can use."""
        return network_scales(self.config)

    def prepare(self, batch: PointBatch) -> TwoDPassBatch:
        """Voxelise the batch on its device. In evaluation mode its pictures are ignored.

        Raises:
            ShapeError: Wrong shapes, labels out of range, image sides that are no multiples of 16.
            DataError: In training: an empty scan, or no pictures for the image branch.
        """
        points = batch.points
        check_points(points, channels=self.point_channels)
        if self.training:
            self._check_training_batch(batch)
        if len(points) == 0:
            nothing = torch.zeros(0, dtype=torch.int64, device=points.device)
            return TwoDPassBatch(row_of_point=nothing, targets=None, geometry=None, image=None)
        offsets = batch.offsets.to(points.device, non_blocking=True)
        levels = build_levels(
            points,
            offsets,
            grid=self.grid,
            scales=self.scales,
            voxels=batch.voxels,
            weights=batch.weights,
        )
        head_level = self.scales.index(self.config.block_scales[0])
        counts = self._label_counts(batch, levels)
        return TwoDPassBatch(
            row_of_point=piece_of(levels, head_level),
            targets=None if counts is None else _distinct_targets(counts[head_level]),
            geometry=build_geometry(
                points,
                levels=levels,
                grid=self.grid,
                n_scans=len(offsets) - 1,
                head_level=head_level,
                convolved={block.start for block in block_levels(self.config)},
                backend=self.backend_on(points.device),
                weights=batch.weights,
            ),
            image=self._image_input(batch, levels, counts)
            if self.training and batch.images is not None and self.needs_images
            else None,
        )

    def _check_training_batch(self, batch: PointBatch) -> None:
        check_scans((batch.offsets[1:] - batch.offsets[:-1]).tolist(), where=" in the volume")
        if self.needs_images and batch.images is None:
            raise DataError(
                "the network's image branch needs pictures, but the batch has none. Use a data set "
                "with images, or train without the branch (image_branch = false, the baseline)."
            )

    def _label_counts(
        self, batch: PointBatch, levels: tuple[Level, ...]
    ) -> tuple[Tensor, ...] | None:
        if batch.labels is None:
            return None
        check_labels(batch.labels, n_classes=self.n_classes)
        votes = batch.weights
        if self.config.time_channel:
            # Past points without a label (all of added sweeps) would outvote those that have one.
            has_vote = ((batch.points[:, 4] == 0) | (batch.labels != 0)).to(torch.float32)
            votes = has_vote if votes is None else has_vote * votes
        return piece_label_counts(levels, batch.labels, n_classes=self.n_classes, votes=votes)

    def _image_input(
        self, batch: PointBatch, levels: tuple[Level, ...], counts: tuple[Tensor, ...] | None
    ) -> ImageInput:
        images = batch.images
        assert images is not None
        check_images(images.images)
        starts = [levels_of_block.start for levels_of_block in block_levels(self.config)]
        by_level = {t: inverse_of(levels, t, rows=images.point_index) for t in sorted(set(starts))}
        labels: dict[int, Tensor] = {}
        if counts is not None:
            of_level = voxel_labels([levels[t] for t in by_level], [counts[t] for t in by_level])
            labels = dict(zip(by_level, of_level, strict=True))
        rows = {stride: _map_rows(images, stride=stride) for stride in set(STRIDES)}
        seen = images.point_index
        count = None if batch.weights is None else batch.weights.index_select(0, seen)
        return ImageInput(
            images=images.images,
            map_rows=tuple(rows[STRIDES[m]] for m in self._block_maps()),
            seen=tuple(by_level[t] for t in starts),
            targets=None
            if batch.labels is None
            else Targets(label=batch.labels.index_select(0, seen), count=count),
            voxel_targets=tuple(Targets(label=labels[t]) for t in starts) if labels else (),
        )

    def _block_maps(self) -> list[int]:
        """The 2D network's map for each block."""
        return [IMAGE_SCALES.index(scale) for scale in self.config.block_scales]

    def forward(self, prepared: Prepared) -> Segmentation:
        """Logits; in training with an image branch also those that distillation compares.

        Under autocast the 2D network computes in half precision; the 3D network and the heads stay
        in float32, so that inference does not change at all.
        """
        assert isinstance(prepared, TwoDPassBatch)
        if prepared.geometry is None:
            weight = self.head.outer.weight
            return Segmentation(
                row_logits=weight.new_zeros((0, self.n_classes)),
                row_of_point=prepared.row_of_point,
            )
        full_precision = torch.autocast(prepared.row_of_point.device.type, enabled=False)
        with full_precision:
            features = self.encoder(prepared.geometry)
            row_logits = self.head(features.pooled, prepared.geometry)
        if prepared.image is None:
            return Segmentation(row_logits=row_logits, row_of_point=prepared.row_of_point)
        dtype = row_logits.dtype
        maps = self.image_encoder(prepared.image.images.to(dtype))
        with full_precision:
            looked_up = tuple(
                look_up(maps[m], rows).to(dtype)
                for m, rows in zip(self._block_maps(), prepared.image.map_rows, strict=True)
            )
            blocks, image_logits = self.distillation(
                features.convolved, seen=prepared.image.seen, images=looked_up
            )
        return Segmentation(
            row_logits=row_logits,
            row_of_point=prepared.row_of_point,
            blocks=blocks,
            image_logits=image_logits,
        )


def _distinct_targets(piece_counts: Tensor) -> Targets:
    """Labels of the head's rows: points that share row and label are one, with a count."""
    row, label = torch.nonzero(piece_counts[:, 1:]).unbind(1)
    label = label + 1
    return Targets(label=label, row=row, count=piece_counts[row, label])


def _map_rows(images: ImageBatch, *, stride: int) -> Tensor:
    return pixel_rows(
        image_index=images.image_index,
        pixel_rc=images.pixel_rc,
        image_hw=(images.images.shape[2], images.images.shape[3]),
        stride=stride,
    )
