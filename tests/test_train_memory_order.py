"""Weights in channels_last memory train, average and resume as contiguous ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torchvision
from cache_samples import write_sample_cache
from heard import Heard
from team_samples import in_processes, shallow_resnet
from torch import Tensor, nn
from train_samples import assert_same_tensors, final_state, tiny_recipe

from pass2d.train.distributed.process_group import ProcessGroup, sum_by_rank, sum_gradients
from pass2d.train.loop import run
from pass2d.train.optim.average import WeightAverage
from pass2d.train.optim.optimizer import (
    OptimizerConfig,
    build_optimizer,
    guarded_step,
    load_optimizer_tensors,
    no_skips,
    optimizer_tensors,
)

CPU = torch.device("cpu")
CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
RATE = 0.1


def made_convs(order: torch.memory_format) -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Conv2d(3, 4, (5, 3)), nn.ConvTranspose2d(4, 2, 3), nn.Conv2d(2, 3, 1))
    return layers.to(memory_format=order)  # type: ignore[call-overload]


def take_step(network: nn.Module, optimizer: torch.optim.Optimizer, *, index: int) -> None:
    """With gradients that depend on the values and lie as their parameters do."""
    for parameter in network.parameters():
        place = torch.arange(parameter.numel()).view(parameter.shape)
        parameter.grad = torch.empty_like(parameter).copy_(
            torch.sin(parameter.detach() * 3 + place + index)
        )
    guarded_step(optimizer, no_skips(CPU), rate=RATE, clip_norm=1.0)


def everything(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    own = {**network.state_dict(), **optimizer_tensors(optimizer, network)}
    return {name: tensor.detach().contiguous() for name, tensor in own.items()}


def turn_state(_network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        state.update({key: value.contiguous() for key, value in state.items()})


def turn_weights(network: nn.Module, _optimizer: torch.optim.Optimizer) -> None:
    network.to(memory_format=CONTIGUOUS)  # type: ignore[call-overload]


def load_contiguous(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As from a checkpoint, whose tensors are contiguous."""
    stored = {k: v.contiguous() for k, v in optimizer_tensors(optimizer, network).items()}
    network.load_state_dict({k: v.contiguous() for k, v in network.state_dict().items()})
    load_optimizer_tensors(optimizer, network, stored)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("turn", [None, turn_state, turn_weights, load_contiguous])
def test_a_step_pairs_values_by_place_and_not_by_memory(
    kind: str, turn: Callable[[nn.Module, torch.optim.Optimizer], None] | None
) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=RATE)  # type: ignore[arg-type]
    plain, other = made_convs(CONTIGUOUS), made_convs(CHANNELS_LAST)
    optimizers = [build_optimizer(network, config) for network in (plain, other)]
    for index in range(4):
        if index == 2 and turn is not None:
            turn(other, optimizers[1])
        for network, optimizer in zip((plain, other), optimizers, strict=True):
            take_step(network, optimizer, index=index)
    ours, expected = everything(other, optimizers[1]), everything(plain, optimizers[0])
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_gradients_of_another_order_are_taken_by_place(kind: str) -> None:
    config = OptimizerConfig(kind=kind, learning_rate=RATE)  # type: ignore[arg-type]
    moved = []
    for order in (CONTIGUOUS, CHANNELS_LAST):
        network = made_convs(CHANNELS_LAST)
        optimizer = build_optimizer(network, config)
        for parameter in network.parameters():
            gradient = torch.sin(torch.arange(parameter.numel()).view(parameter.shape).float())
            is_picture = gradient.ndim == 4
            parameter.grad = gradient.contiguous(memory_format=order) if is_picture else gradient
        guarded_step(optimizer, no_skips(CPU), rate=RATE, clip_norm=0)
        moved.append(everything(network, optimizer))
    assert_same_tensors(*moved)


def test_means_of_weights_are_taken_by_place() -> None:
    plain, other = made_convs(CONTIGUOUS), made_convs(CHANNELS_LAST)
    means = [WeightAverage(network) for network in (plain, other)]
    for index in range(4):
        if index == 2:
            means[1].load({k: v.contiguous() for k, v in means[1].tensors.items()}, count=2)
        if index == 3:
            other.to(memory_format=CONTIGUOUS)  # type: ignore[call-overload]
        for network, mean in zip((plain, other), means, strict=True):
            with torch.no_grad():
                for parameter in network.parameters():
                    place = torch.arange(parameter.numel()).view(parameter.shape)
                    parameter.add_(torch.cos(place + index))
            mean.add(network, weight=0.25)
    for name, tensor in means[0].tensors.items():
        torch.testing.assert_close(means[1].tensors[name], tensor, rtol=1e-6, atol=1e-7)
    with means[1].swapped_in(other):
        for name, tensor in other.state_dict().items():
            assert torch.equal(tensor, means[1].tensors[name])


def summed(group: ProcessGroup, _given: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's gradients lie as the weights do, rank 1 has none, rank 2's are contiguous."""
    network = made_convs(CHANNELS_LAST)
    parameters = list(network.parameters())
    for parameter in parameters:
        gradient = share_of(group.rank, parameter)
        if group.rank == 0:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        elif group.rank == 2:
            parameter.grad = gradient.contiguous()
    sum_gradients(parameters, group)
    gradients = [p.grad for p in parameters if p.grad is not None]
    rounded = sum_by_rank(torch.tensor([[1e8, 1.0, -1e8][group.rank]] * 3), group)
    return {
        "gradients": gradients,
        "lies_alike": [
            g.stride() == p.stride() for g, p in zip(gradients, parameters, strict=True)
        ],
        "rounded": rounded.tolist(),
    }


def share_of(rank: int, parameter: Tensor) -> Tensor:
    return torch.arange(parameter.numel()).view(parameter.shape) * float(rank + 1)


@pytest.mark.slow
def test_summed_gradients_lie_as_their_parameters_and_add_up_by_rank(tmp_path: Path) -> None:
    by_rank = in_processes(3, summed, {}, tmp_path)
    parameters = list(made_convs(CHANNELS_LAST).parameters())
    for member in by_rank:
        assert member["lies_alike"] == [True] * len(parameters)
        for gradient, parameter in zip(member["gradients"], parameters, strict=True):
            assert torch.equal(gradient, share_of(0, parameter) + share_of(2, parameter))
        assert member["rounded"] == [0.0] * 3  # (1e8 + 1) - 1e8 in float32; else it may be 1


@pytest.mark.slow
def test_a_killed_run_with_pictures_resumes_to_the_same_weights_state_and_mean(
    tmp_path: Path,
) -> None:
    class Killed(BaseException):
        pass

    def kill(count: int) -> None:
        if count == 2:
            raise Killed

    write_sample_cache(tmp_path / "cache", n_scans=3, sequences=("00",), n_points=200)
    recipe = tiny_recipe(
        "network.settings.image_branch=true",
        "batch_size=1",
        "epochs=1",
        "optimizer.kind=adam",
        "average.kind=ema",
        "validation.every_epochs=0",
    )
    cache, whole, broken = (tmp_path / name for name in ("cache", "whole", "broken"))
    with mock.patch.object(torchvision.models, "resnet34", shallow_resnet):
        run(cache, recipe, run_root=whole)
        with pytest.raises(Killed):
            run(cache, recipe, run_root=broken, progress=Heard(on_advance=kill))
        run(cache, recipe, run_root=broken, resume=True)
    assert_same_tensors(final_state(broken), final_state(whole))
