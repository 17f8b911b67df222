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


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
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


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
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
    assert watch.first_nonfinite == "1"
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


def test_adamw_shrinks_the_weights_apart_from_the_gradient() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = build_optimizer(layer, OptimizerConfig(kind="adamw", weight_decay=0.5))
    layer.weight.grad = torch.full_like(layer.weight, 3.0)
    guarded_step(optimizer, no_skips(torch.device("cpu")), rate=0.1, clip_norm=0)
    # 2 * (1 - 0.1 * 0.5), then Adam's first step: the rate, whatever the gradient.
    assert layer.weight.item() == pytest.approx(1.9 - 0.1, abs=1e-6)


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.8, total_steps=60, cycle_momentum=False
    )
    config = ScheduleConfig(kind="one-cycle")
    for step in range(60):
        ours = learning_rate(config, 0.8, step=step, length=RunLength(epochs=6, steps_per_epoch=10))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        if step < 59:
            theirs.step()


def test_warmup_cosine_rises_over_epochs_and_ends_at_zero() -> None:
    config = ScheduleConfig(kind="warmup-cosine", warmup_epochs=2)
    length = RunLength(epochs=10, steps_per_epoch=5)
    rates = [learning_rate(config, 0.1, step=s, length=length) for s in range(51)]
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert rates[9] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(0.1)
    assert rates[30] == pytest.approx(0.05)
    assert rates[50] == pytest.approx(0.0, abs=1e-12)


def test_multistep_drops_at_its_epochs() -> None:
    config = ScheduleConfig(kind="multistep", drop_epochs=(24, 32))
    length = RunLength(epochs=36, steps_per_epoch=3)
    rates = [learning_rate(config, 0.008, step=3 * e, length=length) for e in (0, 23, 24, 31, 32)]
    assert rates == pytest.approx([0.008, 0.008, 0.0008, 0.0008, 0.00008])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "multistep"},
        {"drop_epochs": (3, 2)},
        {"drop_epochs": (0,)},
        {"warmup_epochs": -1.0},
        {"rise": 1.0},
    ],
)
def test_schedules_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"schedule\."):
        ScheduleConfig(**wrong)  # type: ignore[arg-type]
