"""Scans a second of training and evaluation, reading from the cache included, and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import torch

from bench.gpu.setup import NETWORKS, Clock, Row, Setup, attempted
from bench.gpu.steps import peak_gib
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.models.backends.tf32 import tf32_products
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.evaluation.evaluate import evaluate_network
from pass2d.train.run.ahead import Batches
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import optimizer_step

SCANS_PER_EPOCH = 19_130
CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((name, ()) for name in NETWORKS),
    ("2dpass-small", ("tf32=true",)),
    ("2dpass-small", ("precision=bf16",)),
    ("2dpass-small", ("stream.ahead=false",)),
    ("minkowskinet", ("tf32=true",)),
)
"""Recipes and what is changed in them."""
ESTIMATES = {
    "2dpass-small": "80 scans/s, 19,130 scans in 4 min",
    "2dpass-small tf32=true": "45 ms a step (a guess)",
}
_WARM, _MOST = 4, 30


def throughput(setup: Setup, clock: Clock) -> Iterator[Row]:
    """Each recipe in turn, as long as there is time."""
    plain: dict[str, float] = {}
    for number, (name, changes) in enumerate(CASES):
        what = " ".join((name, *changes))
        if clock.left < 4:
            yield Row(part="throughput", what=what, measured="left out: no time")
            continue
        seconds = clock.left / (len(CASES) - number)
        yield from attempted("throughput", what, measured(setup, seconds, name, changes, plain))


def measured(
    setup: Setup, seconds: float, name: str, changes: tuple[str, ...], plain: dict[str, float]
) -> Iterator[Row]:
    """Training and, for recipes as they are, evaluation.

    Args:
        setup: Of the run.
        seconds: To be measured for.
        name: Of the recipe.
        changes: To it.
        plain: Seconds a step of each recipe as it is; those of this one are added.
    """
    what = " ".join((name, *changes))
    recipe = setup.recipe(name, "epochs=1000", "validation.every_epochs=1", *changes)
    with ExitStack() as stack:
        stack.enter_context(tf32_products(recipe.tf32))
        reader = stack.enter_context(CacheReader.open(setup.cache("full")))
        job = assemble(reader, recipe, ProcessGroup(device=setup.torch_device), Silent())
        if setup.is_cuda:
            torch.cuda.reset_peak_memory_stats(setup.torch_device)
        n, took, waited = trained(job, setup, seconds * 0.5)
        rate, step_s = n / took, took * setup.batch / n
        beside = setup.estimate(ESTIMATES.get(what, ""))
        if not changes:
            plain[name] = step_s
        elif name in plain:
            times = f"{step_s / plain[name]:.2f} times the {1000 * plain[name]:.1f} ms without"
            beside = "; ".join(filter(None, (times, beside)))
        yield Row(
            part="throughput",
            what=f"{what}: training with reading, batch {setup.batch}",
            measured=f"{rate:.1f} scans/s, {1000 * step_s:.1f} ms a step, "
            f"{waited / took:.0%} waiting for data; {SCANS_PER_EPOCH:,} scans in "
            f"{SCANS_PER_EPOCH / rate / 60:.1f} min",
            beside=beside,
        )
        memory = f"{peak_gib(setup):.2f} GiB" if setup.is_cuda else "not measured on a CPU"
        yield Row(part="throughput", what=f"{what}: peak memory of training", measured=memory)
        if not changes:
            rate = evaluated(job, setup, seconds * 0.4)
            yield Row(
                part="throughput",
                what=f"{what}: evaluation with reading",
                measured=f"{rate:.1f} scans/s; 4,071 scans in {4071 / rate:.0f} s",
            )


def trained(job: Job, setup: Setup, seconds: float) -> tuple[int, float, float]:
    """Scans after a warm-up, their seconds, and those of waiting for data."""
    state = fresh_state(job)
    stream = BatchStream(job.reader, job.plan, job.recipe.stream, device=setup.torch_device)
    warm, most = (1, 1) if setup.is_small else (_WARM, _MOST)
    batches = Batches(job, stream)
    with closing(stream):
        for _ in range(warm):
            optimizer_step(job, state, batches)
        setup.wait()
        begin, waited, scans, done = time.perf_counter(), stream.wait_s, 0, 0
        while done < most and (not done or time.perf_counter() - begin < seconds):
            scans += optimizer_step(job, state, batches)
            done += 1
        setup.wait()
        return scans, time.perf_counter() - begin, stream.wait_s - waited


def evaluated(job: Job, setup: Setup, seconds: float) -> float:
    """Scans a second, after a first round."""
    positions = job.val_positions
    begin, scans = time.perf_counter(), 0
    for number in range(1 if setup.is_small else 6):
        if number == 1:
            begin, scans = time.perf_counter(), 0  # the first round warms up
        evaluate_network(job.network, job.reader, positions, group=job.group)
        setup.wait()
        scans += len(positions)
        if number and time.perf_counter() - begin > seconds:
            break
    return scans / (time.perf_counter() - begin)
