"""A network that answers by a known rule: for tests of evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pass2d.cache.schema import DatasetInfo
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Network, NetworkConfig, Prepared, Segmentation
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.checkpoints.trained import TrainedNetwork

Rule = Callable[[Tensor], Tensor]
"""(N, 4) points to (N,) training ids."""


def by_place(points: Tensor) -> Tensor:
    """The rule by which `cache_samples.made_up_scan` labels its points."""
    _, y, z, _ = points.T
    side = torch.where(y > 0, 2, 3)
    return torch.where(z < -2, 1, torch.where(z > 0.5, 4, side))


class StubNetwork(Network):
    """Answers by a rule; remembers the batches it saw."""

    kind = "stub"

    def __init__(
        self, rule: Rule = by_place, *, sees_all: bool = False, n_classes: int = 5
    ) -> None:
        grid = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
        super().__init__(NetworkConfig(), grid=grid, n_classes=n_classes)
        self.weight = nn.Parameter(torch.zeros(()))
        self.rule = rule
        self.sees_all = sees_all
        self.batches: list[PointBatch] = []
        self.modes: list[bool] = []

    @property
    def uses_volume(self) -> bool:
        return not self.sees_all

    def prepare(self, batch: PointBatch) -> Prepared:
        self.batches.append(batch)
        self.modes.append(self.training)
        return Prepared(row_of_point=torch.arange(len(batch.points)), targets=None)

    def forward(self, prepared: Prepared) -> Segmentation:
        answers = self.rule(self.batches[-1].points)
        logits = nn.functional.one_hot(answers, self.n_classes).float()
        return Segmentation(row_logits=logits, row_of_point=prepared.row_of_point)


def trained_stub(
    source: Path,
    network: StubNetwork | None = None,
    *,
    info: DatasetInfo,
    content: bytes = b"stub",
) -> TrainedNetwork:
    """A stub as what was loaded of a checkpoint; the file tells kept results apart."""
    source.write_bytes(content)
    network = network or StubNetwork(n_classes=info.labels.n_classes)
    card = Card(architecture="2dpass", settings={}, info=info)
    return TrainedNetwork(network=network, card=card, source=source)


def random_checkpoint(path: Path, *, info: DatasetInfo) -> Path:
    """A small untrained network in a file, for commands."""
    torch.manual_seed(0)
    settings = {"block_scales": [2, 4], "hidden": 4, "image_branch": False}
    card = Card(architecture="2dpass", settings=settings, info=info)
    network = build_from_card(card, torch.device("cpu"))
    save_checkpoint(path, network_tensors(network.inference_state()), card)
    return path
