"""Where a step goes: phases with the device waited for, and kernels by kind."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import torch

from bench.gpu.setup import Clock, Row, Setup
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.train.data.batch import point_batch
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.optim.losses import compute_loss
from pass2d.train.optim.optimizer import guarded_step
from pass2d.train.run.ahead import Batches
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.state import RunState, fresh_state
from pass2d.train.run.step import optimizer_step

T = TypeVar("T")
RECIPE = "2dpass-small"
PHASES = {
    "copy to the device, augment": "",
    "prepare": "8 to 12 ms of it exposed",
    "forward": "",
    "losses": "",
    "backward": "",
    "optimizer": "",
}
"""With what was estimated for an H100 and 8 real scans."""
KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("sparse convolutions", ("ImplicitGemm", "IndiceConv", "_Convolution"), "26 ms in float32"),
    ("image convolutions", ("conv", "max_pool"), "2.8 TFLOP"),
    ("BatchNorm", ("batch_norm",), "with LeakyReLU and sums 57 of 98 GB"),
    ("sums over lists of rows", ("embedding_bag", "_Product"), "10 to 16 ms before"),
    ("products of rows", ("mm", "linear", "matmul"), ""),
    ("sorts and counts", ("sort", "cumsum", "scatter", "index", "gather"), ""),
    ("optimizer", ("_fused", "_foreach", "norm"), ""),
)
"""Kind, parts of an operation's name, estimate; the first that fits."""


def profile(setup: Setup, clock: Clock) -> Iterator[Row]:
    """Of `RECIPE`, at the batch size of the run."""
    with CacheReader.open(setup.cache("full")) as reader:
        recipe = setup.recipe(RECIPE, "epochs=1000")
        job = assemble(reader, recipe, ProcessGroup(device=setup.torch_device), Silent())
        job.network.train()
        state = fresh_state(job)
        stream = BatchStream(reader, job.plan, recipe.stream, device=setup.torch_device)
        with closing(stream):
            batches = Batches(job, stream)
            for _ in range(1 if setup.is_small else 4):
                optimizer_step(job, state, batches)
            yield from whole_step(job, state, batches, setup)
            yield from by_phase(job, state, stream, setup)
            if clock.left > 0:
                yield from by_kind(job, state, stream, setup)


def whole_step(job: Job, state: RunState, batches: Batches, setup: Setup) -> Iterator[Row]:
    """Step and, until the host has asked for all of it, its share; CPU time of all threads."""
    host, whole, cpu = [], [], []
    for _ in range(1 if setup.is_small else 8):
        setup.wait()
        batches.wait()
        begin, used = time.perf_counter(), time.thread_time()
        optimizer_step(job, state, batches)
        host.append(time.perf_counter() - begin)
        cpu.append(time.thread_time() - used)
        setup.wait()
        whole.append(time.perf_counter() - begin)
    for what, values, beside in (
        ("whole step", whole, "95 ms (70 to 140)"),
        ("whole step, until the host has asked for all of it", host, ""),
        ("whole step, CPU time of the loop's thread", cpu, "50 to 70 ms"),
    ):
        ms = 1000 * sorted(values)[len(values) // 2]
        yield profile_row(what, f"{ms:.1f} ms", setup.estimate(beside))


def by_phase(job: Job, state: RunState, stream: BatchStream, setup: Setup) -> Iterator[Row]:
    """With the device waited for after each: exposed, so more than within a step."""
    total: Counter[str] = Counter()
    rounds = 1 if setup.is_small else 4
    for _ in range(rounds):
        raw = next(stream)
        assert raw is not None

        def timed(name: str, work: Callable[[], T]) -> T:
            setup.wait()
            begin = time.perf_counter()
            result = work()
            setup.wait()
            total[name] += time.perf_counter() - begin
            return result

        def copied(raw: Any = raw) -> Any:
            return point_batch(
                raw.to(setup.torch_device, non_blocking=True),
                config=job.plan.augment,
                grid=job.reader.info.grid,
                device=setup.torch_device,
            )

        batch = timed("copy to the device, augment", copied)
        prepared = timed("prepare", lambda batch=batch: job.network.prepare(batch))
        answer = timed("forward", lambda prepared=prepared: job.network(prepared))
        terms = timed(
            "losses",
            lambda answer=answer, prepared=prepared: compute_loss(
                answer, prepared, config=job.recipe.loss, class_weights=job.class_weights
            ),
        )
        timed("backward", terms.total.backward)

        def stepped() -> None:
            state.skips = guarded_step(state.optimizer, state.skips, rate=1e-3, clip_norm=1.0)
            state.optimizer.zero_grad(set_to_none=True)

        timed("optimizer", stepped)
    for name, beside in PHASES.items():
        ms = 1000 * total[name] / rounds
        what = f"phase, waited for at its end: {name}"
        yield profile_row(what, f"{ms:.1f} ms", setup.estimate(beside))


def by_kind(job: Job, state: RunState, stream: BatchStream, setup: Setup) -> Iterator[Row]:
    """Time on the device (on a CPU: of the host) by kind of operation, and launches."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setup.is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's remarks on itself
        with torch.profiler.profile(activities=activities) as found:
            optimizer_step(job, state, stream)
            setup.wait()
        events = found.key_averages()
    total: Counter[str] = Counter()
    calls = 0
    for event in events:
        calls += event.count if event.key.startswith("aten::") else 0
        on_device = getattr(event, "self_device_time_total", 0.0)
        total[kind_of(event.key)] += on_device if setup.is_cuda else event.self_cpu_time_total
    everything = sum(total.values())
    for kind, _, beside in (*KINDS, ("all else", (), "")):
        ms, share = total[kind] / 1000, total[kind] / max(everything, 1e-9)
        where = "the device" if setup.is_cuda else "the CPU"
        measured = f"{ms:.1f} ms, {share:.0%} of what {where} did"
        yield profile_row(f"kind of operation: {kind}", measured, setup.estimate(beside))
    yield profile_row("calls of torch's operations, those within others included", f"{calls:,}")


def profile_row(what: str, measured: str, beside: str = "") -> Row:
    return Row(part="profile", what=f"{RECIPE}: {what}", measured=measured, beside=beside)


def kind_of(operation: str) -> str:
    """Which of `KINDS` an operation belongs to."""
    return next(
        (kind for kind, parts, _ in KINDS if any(part in operation for part in parts)), "all else"
    )
