"""What the setting `deterministic` costs, and whether it gives the same bits twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from statistics import median

import torch
from torch import Tensor

from bench.gpu.setup import Clock, Row, Setup, attempted
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.models.backends.determinism import fixed_order
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.run.ahead import Batches
from pass2d.train.run.assemble import assemble
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import optimizer_step

RECIPES = ("2dpass-small", "minkowskinet")


def fixed(setup: Setup, clock: Clock) -> Iterator[Row]:
    """Steps from the same seed, twice with and twice without the setting."""
    for name in RECIPES[:1] if setup.is_small else RECIPES:
        if clock.left < 4:
            yield Row(part="fixed", what=name, measured="left out: no time")
        else:
            yield from attempted("fixed", name, compared(setup, name))


def compared(setup: Setup, name: str) -> Iterator[Row]:
    n = 2 if setup.is_small else 6
    ms: dict[bool, float] = {}
    for is_fixed in (False, True):
        setting = f"deterministic={str(is_fixed).lower()}"
        runs = [trained(setup, name, setting, n) for _ in range(2)]
        ms[is_fixed] = min(step_ms for _, step_ms in runs)
        is_same = torch.equal(runs[0][0], runs[1][0])
        yield Row(
            part="fixed",
            what=f"{name} {setting}: weights after {n} steps, from the same seed twice",
            measured="the same bits" if is_same else "bits differ",
            beside="goal: the same bits" if is_fixed else "",
            is_reached=is_same if is_fixed else None,
        )
    yield Row(
        part="fixed",
        what=f"{name}: a step with deterministic=true, batch {setup.batch}",
        measured=f"{ms[True]:.1f} ms, {ms[True] / ms[False]:.2f} times as long",
        beside=f"without: {ms[False]:.1f} ms",
    )


def trained(setup: Setup, name: str, setting: str, n: int) -> tuple[Tensor, float]:
    """All weights after n steps, and the milliseconds of a step, the first ones left out."""
    recipe = setup.recipe(name, "epochs=1000", setting)
    took = []
    with (
        fixed_order(recipe.deterministic and setup.is_cuda),
        CacheReader.open(setup.cache("full")) as reader,
    ):
        job = assemble(reader, recipe, ProcessGroup(device=setup.torch_device), Silent())
        state = fresh_state(job)
        stream = BatchStream(reader, job.plan, recipe.stream, device=setup.torch_device)
        batches = Batches(job, stream)
        with closing(stream):
            for _ in range(n):
                batches.wait()
                setup.wait()
                begin = time.perf_counter()
                optimizer_step(job, state, batches)
                setup.wait()
                took.append(time.perf_counter() - begin)
        weights = [weight.detach().flatten() for weight in job.network.parameters()]
        return torch.cat(weights).cpu(), 1000 * median(took[n // 2 :])
