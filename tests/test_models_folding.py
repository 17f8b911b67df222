"""Inference with BatchNorm folded into the layers beside it: the same answers, nothing saved."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pass2d.models.folding import folded_norms
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Network
from pass2d.models.registry import build_network

GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
NETWORKS = {
    "2dpass": {"block_scales": [2, 4], "hidden": 16},
    "baseline": {"block_scales": [2, 4, 8, 16], "hidden": 8},
    "minkowskinet": {"width_factor": 0.25},
    "spvcnn": {"width_factor": 0.25},
    "vavit": {"point_width": 6, "point_layers": 2, "width": 16, "depth": 2, "heads": 2},
}
NOT_FOLDED = {"vavit": 1}
"""VaViT normalises its input before a layer without bias that is applied to differences."""


def batch() -> PointBatch:
    rng = np.random.default_rng(0)
    points = rng.normal(0, (4, 4, 0.5, 0.3), (3000, 4)).astype(np.float32)
    return PointBatch(points=torch.from_numpy(points), offsets=torch.tensor([0, 1700, 3000]))


def trained_like(kind: str) -> Network:
    """A network in eval mode whose BatchNorms have seen something."""
    torch.manual_seed(3)
    network = build_network(kind, NETWORKS[kind], grid=GRID, n_classes=7)
    for norm in norms(network):
        nn.init.normal_(norm.running_mean, 0.0, 0.5)
        nn.init.uniform_(norm.running_var, 0.2, 3.0)
        nn.init.uniform_(norm.weight, -2.0, 2.0)
        nn.init.normal_(norm.bias, 0.0, 0.5)
    return network.eval()


def norms(network: Network) -> list[nn.modules.batchnorm._BatchNorm]:
    is_norm = nn.modules.batchnorm._BatchNorm
    return [m for m in network.modules() if isinstance(m, is_norm)]


def plain(network: Network) -> Tensor:
    with torch.inference_mode():
        return network(network.prepare(batch())).row_logits


def folded(network: Network) -> Tensor:
    with folded_norms():
        return plain(network)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("backend", ["native", "spconv"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_answers_are_the_same_without_a_norm(kind: str, backend: str) -> None:
    pytest.importorskip(backend) if backend == "spconv" else None
    network = trained_like(kind)
    network.backend = backend
    expected = plain(network)
    calls: list[nn.Module] = []
    for norm in norms(network):
        norm.register_forward_hook(lambda module, _args, _result: calls.append(module))
    assert distance(folded(network), expected) < 1e-5
    assert len(calls) == NOT_FOLDED.get(kind, 0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_saved_does_not_change(kind: str) -> None:
    network = trained_like(kind)
    before = copy.deepcopy(network.state_dict())
    folded(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert list(network.inference_state()) == list(trained_like(kind).inference_state())


def test_changed_weights_are_folded_again() -> None:
    network, other = trained_like("minkowskinet"), trained_like("minkowskinet")
    first = folded(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
        for norm in norms(other):
            norm.running_mean.add_(0.1)
    network.load_state_dict(other.state_dict())
    assert distance(folded(network), plain(network)) < 1e-5
    assert distance(folded(network), first) > 1e-3
    network.stem[0].weight.data = network.stem[0].weight.data * 2  # replaced, not written over
    assert distance(folded(network), plain(network)) < 1e-5
    moved = copy.deepcopy(network).double().float()
    assert distance(folded(moved), plain(network)) < 1e-5


def test_a_training_step_is_seen() -> None:
    network = trained_like("baseline")
    first = folded(network)
    network.train()
    with folded_norms():  # in training the norms' statistics are those of the batch
        network(network.prepare(batch())).row_logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()  # the running statistics have moved, whatever counts their changes
    assert distance(folded(network), plain(network)) < 1e-5
    assert distance(folded(network), first) > 1e-6


def test_a_network_loaded_in_inference_mode_is_folded_too() -> None:
    with torch.inference_mode():
        network = trained_like("spvcnn")
    assert distance(folded(network), plain(network)) < 1e-5
