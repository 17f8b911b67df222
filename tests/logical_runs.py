"""Training steps on the logical device: small recipes, the phases of a step, one beside a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
from logical_cuda import Device, Record, logical_cuda, plain
from logical_spconv import logical_spconv
from torch import Tensor, nn

from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.models.backends.spconv import library
from pass2d.models.registry import MODELS
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup, sum_gradients
from pass2d.train.optim.optimizer import guarded_step, optimizer_tensors
from pass2d.train.recipes.recipe import Recipe, load_recipe, network_settings
from pass2d.train.run import ahead, step
from pass2d.train.run.ahead import Batches
from pass2d.train.run.assemble import assemble
from pass2d.train.run.state import LossTotals, fresh_state

SMALL: dict[str, object] = {
    "hidden": 4,
    "width_factor": 0.0625,
    "dropout": 0.0,
    "point_width": 8,
    "point_layers": 2,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "head_width": 8,
    "head_out": 8,
    "drop_path": 0.0,
    "neighbours": 4,
    "augment_features": False,
}
"""What makes a network small, wherever it has such a setting. No layer of chance: the devices draw
from generators of their own."""
SHORT = (
    "batch_size=2",
    "accumulate=1",
    "epochs=1",
    "torch_threads=1",
    "optimizer.learning_rate=0.01",
    "augment.crop_hw=[32, 64]",
    "data.limit=0",
    "log.every_steps=1",
    "log.save_steps=1",
    "log.tensorboard=false",
    "stream.prefetch=1",
    "stream.threads=1",
)


def small_recipe(name: str, *overrides: str) -> Recipe:
    """A recipe of the project with a small network."""
    recipe = load_recipe(name)
    kind, _ = network_settings(recipe)
    known = {f.name for f in fields(MODELS[kind].config_type)}
    small = [f"network.settings.{key}={_toml(SMALL[key])}" for key in SMALL if key in known]
    return load_recipe(name, [*small, *SHORT, *overrides])


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def step_phases() -> dict[CodeType, str]:
    """What a training step is doing while a function is on the stack."""
    functions: dict[Any, str] = {
        ahead.point_batch: "augment",
        step.compute_loss: "losses",
        Tensor.backward: "backward",
        sum_gradients: "optimizer",
        guarded_step: "optimizer",
        LossTotals.add: "losses",
    }
    for network in MODELS.values():
        functions[network.prepare] = "prepare"
        functions[network.forward] = "forward"
    return {function.__code__: phase for function, phase in functions.items()}


@contextmanager
def a_gpu(*, index: int = 0) -> Iterator[Device]:
    """A logical GPU with spconv on it."""
    library()  # describes its kernels, for seconds, when torch sees a GPU
    with ExitStack() as stack:
        here = stack.enter_context(logical_cuda(index=index, phases=step_phases()))
        stack.enter_context(logical_spconv())
        yield here
        here.in_flight.finish()
        assert not here.in_flight.broken, here.in_flight.broken


@dataclass(frozen=True)
class Steps:
    """What some optimizer steps came to."""

    before: dict[str, Tensor]
    """Weights before the first."""
    after: dict[str, Tensor]
    moments: dict[str, Tensor]
    """The optimizer's mean of the gradients, by weight."""
    totals: dict[str, Tensor]
    """(2,) per loss."""
    records: tuple[Record, ...]
    """Of each step; () on a CPU."""


def take_steps(
    data: Path, recipe: Recipe, here: Device | None, *, n: int = 3, is_ahead: bool | None = None
) -> Steps:
    """Optimizer steps from fresh weights, on a logical device or, without one, on the CPU.

    Args:
        data: The cache.
        recipe: Of the steps.
        here: The device.
        n: Steps.
        is_ahead: See `Batches`. With the second stream each step but the first prepares the batch
            of the next one, and no other.
    """
    torch_device = torch.device("cpu") if here is None else here.torch_device
    with CacheReader.open(data, dataset="semkitti") as reader:
        job = assemble(reader, recipe, ProcessGroup(device=torch_device), Silent())
        state = fresh_state(job)
        before = _weights(job.network)
        stream = BatchStream(reader, job.plan, recipe.stream, device=torch_device)
        batches = Batches(job, stream, is_ahead=is_ahead)
        records = []
        try:
            for _ in range(n):
                if here is not None:
                    records.append(here.begin_record())
                batches.wait()
                wait([future for _, _, future in stream._pending])
                step.optimizer_step(job, state, batches)
        finally:
            stream.close()
        totals = {name: plain(total).clone() for name, total in state.totals.by_name().items()}
        moments = {
            name.split("|")[0]: plain(value).clone()
            for name, value in optimizer_tensors(state.optimizer, job.network).items()
            if name.endswith(("|exp_avg", "|momentum_buffer"))
        }
        return Steps(before, _weights(job.network), moments, totals, tuple(records))


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: plain(p).detach().clone() for name, p in network.named_parameters()}


def change(steps: Steps) -> Tensor:
    """(K,) how far all weights went."""
    parts = [(steps.after[name] - steps.before[name]).flatten() for name in steps.before]
    return torch.cat(parts).double()


def assert_same_numbers(cpu: Steps, gpu: Steps, *, limit: float | None = 0.1) -> None:
    """Losses, gradients and changes of weights, but for the order of sums in tiny networks.

    Args:
        cpu: one.
        gpu: the other.
        limit: of the difference of the changes, in parts of them; None: losses and gradients alone.
    """
    assert cpu.totals.keys() == gpu.totals.keys()
    for name, (total, weight) in cpu.totals.items():
        assert gpu.totals[name][1] == weight
        assert float(gpu.totals[name][0]) == pytest.approx(float(total), rel=1e-3, abs=1e-4), name
    if limit is None:
        own, other = (torch.cat([m.flatten() for m in s.moments.values()]) for s in (cpu, gpu))
        assert float((own - other).norm()) < 0.1 * float(own.norm())
        return
    own, other = change(cpu), change(gpu)
    assert float((own - other).norm()) < limit * float(own.norm())


def require_waits(record: Record, *, prepare: int | None) -> None:
    """The loop waits in `prepare` alone, so often; None: however often."""
    found = record.waits_by_phase()
    allowed = {"prepare": found.get("prepare", 0) if prepare is None else prepare}
    assert found == allowed, f"waits for the device:\n{record.described_waits()}"
