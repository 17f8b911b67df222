"""Where the host waits: found by the logical device on a CPU, beside what CUDA itself reports."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.gpu.checks import ask
from bench.gpu.setup import NETWORKS, Clock, Row, Setup, attempted
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.run.ahead import Batches
from pass2d.train.run.assemble import assemble
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import optimizer_step

TESTS = Path(__file__).resolve().parents[2] / "tests"
GOALS = {"2dpass-small": 19}
Places = Counter[tuple[str, str]]
"""Waits by phase and "file:line"."""
Logical = Callable[[Setup, Clock], Mapping[str, tuple[Places, int]]]
"""By network, waits of a step in torch, and how many there are within spconv."""


def waits(setup: Setup, clock: Clock, *, logical: Logical | None = None) -> Iterator[Row]:
    """Per network the counts, and each place where the two differ.

    Args:
        setup: Of the run.
        clock: Of the part.
        logical: Counts on the logical device.
    """
    sys.path.insert(0, str(TESTS))
    expected = (logical or logical_waits)(setup, clock)
    for name in NETWORKS:
        yield from attempted("waits", name, of_network(setup, name, expected.get(name)))


def of_network(setup: Setup, name: str, logical: tuple[Places, int] | None) -> Iterator[Row]:
    if logical is None:
        said = "not counted on the logical device: not done in time, or failed"
        yield Row(part="waits", what=name, measured=said, is_reached=False)
        return
    expected, of_spconv = logical
    found = real_waits(setup, name) if setup.is_cuda else Counter()
    most = GOALS.get(name)
    total = max(found.total(), expected.total()) + of_spconv
    yield Row(
        part="waits",
        what=f"{name}: how often a step waits for the device, within torch",
        measured=f"{found.total()}" if setup.is_cuda else "not measured without CUDA",
        beside=f"logical device: {expected.total()}, and {of_spconv} within spconv"
        + (f"; goal: {most} in all" if most else ""),
        is_reached=setup.judged(total <= most) if most and setup.is_cuda else None,
    )
    if not setup.is_cuda:
        return
    for what, places in (
        ("not known to the logical device", found - expected),
        ("only on the logical device", expected - found),
    ):
        for (phase, place), times in sorted(places.items()):
            measured = f"{times} x {phase} at {place}"
            yield Row(part="waits", what=f"{name}: {what}", measured=measured)


def recipe_words(setup: Setup) -> list[str]:
    """The same small step on both sides."""
    return [f"batch_size={setup.batch}", "augment.mode=full", "augment.crop_hw=[32, 96]"]


def logical_waits(setup: Setup, clock: Clock) -> Mapping[str, tuple[Places, int]]:
    """Of a step on the logical device, in a process that sees no GPU."""
    command = [sys.executable, "-m", "bench.gpu.waits", str(setup.cache("demo"))]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    seconds = max(clock.left * (0.6 if setup.is_cuda else 1), 1)
    variables = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    out, _ = ask([*command, *recipe_words(setup)], seconds, variables)
    found = {}
    for line in out.splitlines():
        if line.startswith("{") and line.endswith("}"):
            one = json.loads(line)
            places = Counter({(phase, place): n for phase, place, n in one["waits"]})
            found[one["name"]] = places, one["spconv"]
    return found


def count_logical(cache: str, name: str, *words: str) -> dict[str, Any]:
    """A line of the process: waits in torch by place, and how many are spconv's own."""
    from logical_runs import a_gpu, small_recipe, take_steps
    from thin_pictures import thin_pictures

    with a_gpu() as here, thin_pictures():
        steps = take_steps(Path(cache), small_recipe(name, *words), here, n=2)
    found: Places = Counter()
    of_spconv = 0
    for wait, times in steps.records[-1].waits.items():
        if wait.what.startswith("spconv"):
            of_spconv += times
        else:
            found[wait.phase, str(wait.line)] += times
    waits = [(phase, place, times) for (phase, place), times in found.items()]
    return {"name": name, "waits": waits, "spconv": of_spconv}


def real_waits(setup: Setup, name: str) -> Places:
    """Of the second step, as `torch.cuda.set_sync_debug_mode` tells them."""
    recipe = setup.recipe(name, *recipe_words(setup), "log.every_steps=1000")
    with CacheReader.open(setup.cache("demo")) as reader:
        job = assemble(reader, recipe, ProcessGroup(device=setup.torch_device), Silent())
        state = fresh_state(job)
        stream = BatchStream(reader, job.plan, recipe.stream, device=setup.torch_device)
        with closing(stream):
            batches = Batches(job, stream)
            optimizer_step(job, state, batches)
            setup.wait()
            with counted_waits(torch.cuda.set_sync_debug_mode) as found:
                optimizer_step(job, state, batches)
    return found


@contextmanager
def counted_waits(set_mode: Callable[[str], None]) -> Iterator[Places]:
    """Within, torch warns of each wait, and the place on the stack is counted."""
    from logical_cuda import line_of_stack
    from logical_runs import step_phases

    found: Places = Counter()
    phases = step_phases()

    def heard(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            phase, line = line_of_stack(phases)
            found[phase or "other", str(line)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard
        set_mode("warn")
        try:
            yield found
        finally:
            set_mode("default")


if __name__ == "__main__":
    for network in NETWORKS:
        print(json.dumps(count_logical(sys.argv[1], network, *sys.argv[2:])), flush=True)
