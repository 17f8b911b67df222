"""Optimiser steps, the non-finite guard, schedules and averages, against hand-made numbers.

The published schedules are in golden_small_checks.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pass2d.common.errors import CheckpointError
from pass2d.train.optim.average import WeightAverage
from pass2d.train.optim.optimizer import (
    OptimizerConfig,
    OutputWatch,
    build_optimizer,
    first_nonfinite,
    guarded_step,
    load_optimizer_tensors,
    no_skips,
    optimizer_tensors,
)
from pass2d.train.optim.schedule import (
    RunLength,
    ScheduleConfig,
    cosine_epoch_rate,
    cosine_multiplier,
    is_out_of_patience,
    learning_rate,
    plateau_drops,
    warmup_steps,
)


def test_warmup_is_for_several_devices_unless_asked() -> None:
    assert warmup_steps(ScheduleConfig(), world=1) == 0
    assert warmup_steps(ScheduleConfig(), world=3) == 333
    assert warmup_steps(ScheduleConfig(warmup_steps=5), world=1) == 5
    assert cosine_multiplier(4, total_steps=10, warmup_steps=5) == 1.0
    assert cosine_epoch_rate(0, base=0.3, t_max=5, floor=0.0) == 0.3


def test_step_decay_and_plateau() -> None:
    length = RunLength(epochs=9, steps_per_epoch=2)
    config = ScheduleConfig(kind="step", step_epochs=3, factor=0.5)
    rates = [learning_rate(config, 1.0, step=s, length=length) for s in (0, 5, 6, 12)]
    assert rates == [1.0, 1.0, 0.5, 0.25]
    assert plateau_drops([0.1, 0.2, 0.2, 0.1], patience=1) == 1
    assert plateau_drops([0.1, 0.2, 0.3, 0.4], patience=1) == 0
    plateau = ScheduleConfig(kind="plateau", patience_epochs=1, factor=0.1, floor=0.02)
    miou = [0.5, 0.4, 0.4, 0.4, 0.4]
    assert learning_rate(plateau, 1.0, step=0, length=length, val_miou=miou) == 0.02


def test_patience_counts_from_the_first_best() -> None:
    assert not is_out_of_patience([0.1, 0.3, 0.2], patience=2)
    assert is_out_of_patience([0.1, 0.3, 0.2, 0.3], patience=2)
    assert not is_out_of_patience([], patience=2)
    assert not is_out_of_patience([0.3, 0.1, 0.1], patience=0)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2).double()


def test_sgd_step_equals_the_nesterov_formula() -> None:
    config = OptimizerConfig(learning_rate=0.1, clip_norm=1.0)
    layer = linear()
    weight = layer.weight.detach().clone()
    optimizer, skips = build_optimizer(layer, config), no_skips(torch.device("cpu"))
    momentum = torch.zeros_like(weight)
    for step in range(4):
        gradient = torch.full_like(weight, 3.0 * (step + 1))
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros(2).double()
        skips = guarded_step(optimizer, skips, rate=0.1, clip_norm=1.0)
        clipped = gradient / (gradient.norm() + 1e-6)
        with_decay = clipped + 1e-4 * weight
        momentum = 0.9 * momentum + with_decay
        weight = weight - 0.1 * (with_decay + 0.9 * momentum)
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-9, atol=1e-12)
    assert skips.total == 0


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_step_changes_nothing_and_is_counted(kind: str, bad: float) -> None:
    config = OptimizerConfig(kind=kind)  # type: ignore[arg-type]
    layer = linear()
    optimizer, skips = build_optimizer(layer, config), no_skips(torch.device("cpu"))

    def step(value: float) -> None:
        nonlocal skips
        layer.weight.grad = torch.full_like(layer.weight, 0.2)
        layer.weight.grad[0, 0] = value
        layer.bias.grad = torch.zeros_like(layer.bias)
        skips = guarded_step(optimizer, skips, rate=0.1, clip_norm=1.0)

    def snapshot() -> dict[str, torch.Tensor]:
        state = {**layer.state_dict(), **optimizer_tensors(optimizer, layer)}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    for good_first in (False, True):
        if good_first:
            step(1.0)
        before = snapshot()
        step(bad)
        step(bad)
        after = snapshot()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert int(skips.in_a_row) == 2
    step(1.0)
    assert (int(skips.total), int(skips.in_a_row)) == (4, 0)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimizer_state_goes_on_where_it_was(kind: str) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=0.1)  # type: ignore[arg-type]

    def steps(layer: nn.Linear, optimizer: torch.optim.Optimizer, count: int) -> None:
        for index in range(count):
            layer.weight.grad = torch.sin(layer.weight.detach() * (index + 1))
            layer.bias.grad = torch.ones_like(layer.bias)
            guarded_step(optimizer, no_skips(torch.device("cpu")), rate=0.1, clip_norm=0)

    whole, first = linear(), linear()
    whole_optimizer, first_optimizer = (
        build_optimizer(whole, config),
        build_optimizer(first, config),
    )
    steps(whole, whole_optimizer, 2)
    steps(first, first_optimizer, 2)
    second = linear(seed=9)
    second.load_state_dict(first.state_dict())
    second_optimizer = build_optimizer(second, config)
    stored = {k: v.clone() for k, v in optimizer_tensors(first_optimizer, first).items()}
    load_optimizer_tensors(second_optimizer, second, stored)
    steps(whole, whole_optimizer, 2)
    steps(second, second_optimizer, 2)
    assert torch.equal(whole.weight, second.weight)
    stored.popitem()
    with pytest.raises(CheckpointError, match="does not fit this run"):
        load_optimizer_tensors(second_optimizer, second, stored)


def test_the_first_module_with_a_nonfinite_output_is_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert first_nonfinite(network) is None
    with torch.no_grad():
        network[1].weight.fill_(math.inf)
    watch = OutputWatch(network)
    network(torch.ones(1, 2))
    watch.close()
    assert watch.culprit == "1"
    assert first_nonfinite(network) == "parameter 1.weight"


def test_ema_and_swa_are_the_means_they_promise() -> None:
    layer = linear()
    mean = WeightAverage(layer)
    values = [layer.weight.detach().clone() * factor for factor in (1.0, 2.0, 6.0)]
    for index, value in enumerate(values):
        with torch.no_grad():
            layer.weight.copy_(value)
        mean.add(layer, weight=1 / (index + 1))
    torch.testing.assert_close(mean.tensors["weight"], sum(values) / 3)  # type: ignore[arg-type]
    own = layer.weight.detach().clone()
    with mean.swapped_in(layer):
        torch.testing.assert_close(layer.weight.detach(), mean.tensors["weight"])
    assert torch.equal(layer.weight, own)
    mean.add(layer, weight=0.25)
    expected = 0.75 * sum(values) / 3 + 0.25 * own
    torch.testing.assert_close(mean.tensors["weight"], expected)
