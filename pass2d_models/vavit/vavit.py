"""VaViT: a network of plain torch layers; pillars are tokens of a vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pass2d.common.errors import ShapeError
from pass2d.common.thinning import ThinningConfig
from pass2d.models.inputs import Grid, PointBatch, ThinnedPoints
from pass2d.models.network import (
    ExportForm,
    Network,
    NetworkConfig,
    Prepared,
    Segmentation,
    Targets,
    check_labels,
    check_points,
    check_scans,
    with_ignored_class,
)
from pass2d.models.norm import RowNorm
from pass2d.models.vavit.attention import Block, rotations
from pass2d.models.vavit.config import VaViTConfig
from pass2d.models.vavit.layers import Head, PointLayer
from pass2d.models.vavit.pillars import INPUTS, PillarPreprocessing
from pass2d.models.vavit.thinning import pillars_of, thinned_points
from pass2d.models.voxel_keys import batch_of_rows, count_rows


@dataclass(frozen=True, kw_only=True)
class PreparedPillars(Prepared):
    """A batch as thinned points and pillars. The rows of logits are the K thinned points."""

    features: Tensor
    """(K, 5) float32: signal, x, y, z, range."""
    neighbours: Tensor
    """(K, k) int64 rows."""
    pillar_of_point: Tensor
    """(K,) int64."""
    pillar_xy: Tensor
    """(P, 2) float32, centres in metres; sorted by sample, x, y."""
    lengths: tuple[int, ...]
    """Pillars of each sample."""
    kept: tuple[tuple[tuple[bool, ...], tuple[bool, ...]], ...] | None
    """By block: the samples that compute attention, and the MLP; None: all do."""


class VaViT(Network):
    """VaViT; 85.75 million parameters as published."""

    kind: ClassVar[str] = "vavit"
    is_sparse: ClassVar[bool] = False
    config: VaViTConfig
    config_type: ClassVar[type[NetworkConfig]] = VaViTConfig

    def __init__(self, config: VaViTConfig, *, grid: Grid, n_classes: int) -> None:
        super().__init__(config, grid=grid, n_classes=n_classes)
        point_width, last = config.point_width, config.point_layers - 1
        self.pad_token = nn.Parameter(
            torch.zeros(config.width), requires_grad=config.padding == "published"
        )
        self.norm = RowNorm(5)
        self.embed = nn.ModuleList(
            PointLayer(
                point_width if layer else 5,
                point_width,
                config.width if layer == last else point_width,
            )
            for layer in range(config.point_layers)
        )
        self.blocks = nn.ModuleList(
            Block(config.width, heads=config.heads, hidden=int(config.width * config.expansion))
            for _ in range(config.depth)
        )
        self.head = Head(config.width, config.head_width, config.head_out, n_classes - 1)

    @property
    def thinning(self) -> ThinningConfig:
        """See `Network.thinning`."""
        return ThinningConfig(cell_m=self.config.cell_m, neighbours=self.config.neighbours)

    @property
    def thins_at_random(self) -> bool:
        """As the settings say."""
        return self.config.thinning == "random"

    @property
    def uses_volume(self) -> bool:
        """False: all points of a scan take part."""
        return False

    def prepare(self, batch: PointBatch) -> PreparedPillars:
        """Thin the points, find their neighbours and pillars, draw what stochastic depth skips.

        Raises:
            ShapeError: Another channel count than four, impossible coordinates or labels.
            DataError: A scan without points, in training.
        """
        points, config = batch.points, self.config
        check_points(points, channels=4)
        sizes = (batch.offsets[1:] - batch.offsets[:-1]).tolist()
        if self.training:
            check_scans(sizes)
        check_labels(batch.labels, n_classes=self.n_classes)
        thin = self._thinned(batch, sizes)
        thinned = points[thin.rows]
        scan = batch_of_rows(batch.offsets, n_rows=len(points), device=points.device)[thin.rows]
        xyz = thinned[:, :3]
        columns = torch.floor(xyz[:, :2] / xyz.new_full((1,), config.pillar_m)).long()
        scan_of_pillar, pillars, pillar_of_point = pillars_of(columns, scan)
        lengths = tuple(count_rows(scan_of_pillar, n=len(sizes)).tolist())
        return PreparedPillars(
            row_of_point=thin.answers,
            targets=None if batch.labels is None else Targets(label=batch.labels[thin.rows]),
            features=self._features(thinned, scan, batch_size=len(sizes)),
            neighbours=thin.neighbours,
            pillar_of_point=pillar_of_point,
            pillar_xy=(pillars.to(xyz.dtype) + 0.5) * config.pillar_m,
            lengths=lengths,
            kept=self._draw_kept(len(sizes)),
        )

    def _thinned(self, batch: PointBatch, sizes: Sequence[int]) -> ThinnedPoints:
        """The batch's own, or found here: on a CPU by a tree, elsewhere by all distances."""
        if (found := batch.thinned) is not None:
            if found.config != self.thinning:
                raise ShapeError("thinned points", expected=f"{self.thinning}", got=found.config)
            return found
        points, order = batch.points, None
        if self.training and self.thins_at_random:
            order = torch.randperm(len(points)).to(points.device, non_blocking=True)
        return thinned_points(points, batch.offsets, sizes, config=self.thinning, order=order)

    def _features(self, points: Tensor, scan: Tensor, *, batch_size: int) -> Tensor:
        """(K, 5) signal, x, y, z and range; in training augmented if `augment_features` is set."""
        xyz = points[:, :3]
        if self.training and self.config.augment_features:
            xyz = (xyz[:, None] @ feature_maps(batch_size).to(xyz)[scan])[:, 0]
        return torch.cat([points[:, 3:4], xyz, xyz.norm(dim=1, keepdim=True)], 1)

    def _draw_kept(
        self, batch_size: int
    ) -> tuple[tuple[tuple[bool, ...], tuple[bool, ...]], ...] | None:
        if not self.training or not self.config.drop_path:
            return None
        stays = torch.rand(self.config.depth, 2, batch_size) >= self.config.drop_path
        return tuple((tuple(first), tuple(second)) for first, second in stays.tolist())

    def forward(self, prepared: Prepared) -> Segmentation:
        """Logits per thinned point, and the thinned point of each point."""
        assert isinstance(prepared, PreparedPillars)
        points = self.norm(prepared.features)
        # Sizes by `shape`: export makes a constant of `len`.
        if not points.shape[0]:
            nothing = points.new_zeros((0, self.n_classes))
            return Segmentation(row_logits=nothing, row_of_point=prepared.row_of_point)
        for layer in self.embed:
            points = layer(points, prepared.neighbours)
        tokens = self._attend(points, prepared)
        logits = self.head(points, tokens, prepared.pillar_of_point)
        return Segmentation(
            row_logits=with_ignored_class(logits), row_of_point=prepared.row_of_point
        )

    def export_form(self) -> ExportForm:
        """One scan's logits from its thinned points and pillars."""
        self.eval()
        points = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)) * 8
        prepared = self.prepare(PointBatch(points=points, offsets=torch.tensor([0, 64])))
        config = self.config
        return ExportForm(
            graph=_Graph(self).eval(),
            inputs={name: getattr(prepared, name) for name in INPUTS},
            axes=INPUTS,
            preprocessing=PillarPreprocessing(
                cell_m=config.cell_m, pillar_m=config.pillar_m, neighbours=config.neighbours
            ),
        )

    def _attend(self, points: Tensor, prepared: PreparedPillars) -> Tensor:
        """(P, width) tokens of the pillars after all blocks."""
        pillar = prepared.pillar_of_point[:, None].expand(-1, points.shape[1])
        tokens = points.new_zeros((prepared.pillar_xy.shape[0], points.shape[1])).scatter_reduce(
            0, pillar, points, "amax", include_self=False
        )
        xy, lengths = prepared.pillar_xy, prepared.lengths
        if self.config.padding == "published":
            tokens, xy, lengths = self._padded(tokens, xy, lengths)
        cos, sin = rotations(xy, head_width=self.config.width // self.config.heads)
        scale = 1.0 if prepared.kept is None else 1 / (1 - self.config.drop_path)
        for number, block in enumerate(self.blocks):
            kept = None if prepared.kept is None else prepared.kept[number]
            tokens = block(tokens, lengths, cos, sin, kept=kept, scale=scale)
        if tokens.shape[0] == prepared.pillar_xy.shape[0]:
            return tokens
        parts = tokens.split(list(lengths))
        return torch.cat([part[:n] for part, n in zip(parts, prepared.lengths, strict=True)])

    def _padded(
        self, tokens: Tensor, xy: Tensor, lengths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Pad shorter samples with the learned token at the origin."""
        longest = max(lengths)
        rows, places = [], []
        for part, at in zip(tokens.split(list(lengths)), xy.split(list(lengths)), strict=True):
            missing = longest - len(part)
            rows += [part, self.pad_token.to(part.dtype).expand(missing, -1)]
            places += [at, at.new_zeros((missing, 2))]
        return torch.cat(rows), torch.cat(places), (longest,) * len(lengths)


class _Graph(nn.Module):
    """VaViT of one scan, from tensors to a tensor."""

    def __init__(self, network: VaViT) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, features: Tensor, neighbours: Tensor, pillar_of_point: Tensor, pillar_xy: Tensor
    ) -> Tensor:
        """(K, C) logits of the thinned points."""
        prepared = PreparedPillars(
            row_of_point=pillar_of_point,
            targets=None,
            features=features,
            neighbours=neighbours,
            pillar_of_point=pillar_of_point,
            pillar_xy=pillar_xy,
            lengths=(pillar_xy.shape[0],),
            kept=None,
        )
        return self.network(prepared).row_logits


def feature_maps(batch_size: int) -> Tensor:
    """(B, 3, 3) random maps for row vectors: a rotation about z, a flip or none, a scale.

    The rotation is any angle; x or y is flipped, each with probability 0.33; the scale is 0.9 to
    1.1.
    """
    yaw, mirror, factor = torch.rand(3, batch_size)
    cos, sin = torch.cos(2 * math.pi * yaw), torch.sin(2 * math.pi * yaw)
    sign_x = torch.where(mirror < 0.33, -1.0, 1.0)
    sign_y = torch.where((mirror >= 0.33) & (mirror < 0.66), -1.0, 1.0)
    maps = torch.zeros(batch_size, 3, 3)
    maps[:, 0, 0], maps[:, 0, 1] = cos * sign_x, sin * sign_y
    maps[:, 1, 0], maps[:, 1, 1] = -sin * sign_x, cos * sign_y
    maps[:, 2, 2] = 1
    return maps * (0.9 + 0.2 * factor)[:, None, None]
