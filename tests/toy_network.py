"""A network as a user would add one: this file, and a line in `MODELS`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import (
    Network,
    NetworkConfig,
    Prepared,
    Segmentation,
    Targets,
    check_points,
)


@dataclass(frozen=True, kw_only=True)
class ToyConfig(NetworkConfig):
    """Its settings."""

    width: int = 8


@dataclass(frozen=True, kw_only=True)
class ToyBatch(Prepared):
    """What its forward pass takes."""

    features: torch.Tensor
    """(N, 4)."""


class ToyNetwork(Network):
    """A small perceptron that looks at each point by itself."""

    kind = "toy"
    config_type = ToyConfig

    def __init__(self, config: ToyConfig, *, grid: Grid, n_classes: int) -> None:
        super().__init__(config, grid=grid, n_classes=n_classes)
        self.layers = nn.Sequential(
            nn.Linear(4, config.width), nn.ReLU(), nn.Linear(config.width, n_classes)
        )

    def prepare(self, batch: PointBatch) -> ToyBatch:
        check_points(batch.points, channels=4)
        targets = None if batch.labels is None else Targets(label=batch.labels, count=batch.weights)
        rows = torch.arange(len(batch.points), device=batch.points.device)
        return ToyBatch(row_of_point=rows, targets=targets, features=batch.points / 10)

    def forward(self, prepared: Prepared) -> Segmentation:
        assert isinstance(prepared, ToyBatch)
        return Segmentation(
            row_logits=self.layers(prepared.features), row_of_point=prepared.row_of_point
        )
