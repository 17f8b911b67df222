"""A network that learns on the synthetic world, from the cache to scores on a street not seen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from bench.gpu.setup import Clock, Row, Setup
from pass2d.train.loop import run

_STEPS = 40
_MOST = 320


def learning(setup: Setup, clock: Clock) -> Iterator[Row]:
    """The recipe of the demo: first a few steps, which tell how many there is time for."""
    begin = time.perf_counter()
    n = 2 if setup.is_small else _STEPS
    first = trained(setup, "first", n_scans=n, every=0)
    step_s = (time.perf_counter() - begin) / n
    yield Row(
        part="learning",
        what=f"demo recipe, {first.steps} steps, start included",
        measured=f"{step_s * 1000:.0f} ms a step",
    )
    most = n if setup.is_small else min(_MOST, int(0.7 * clock.left / step_s))
    if most < n:
        yield Row(part="learning", what="demo recipe", measured="left out: no time")
        return
    result = trained(setup, "run", n_scans=most // 2, every=2)
    assert result.best_miou is not None
    yield Row(
        part="learning",
        what=f"demo recipe, {result.steps} steps of one scan, {time.perf_counter() - begin:.0f} s",
        measured=f"{result.best_miou:.1%} mIoU on a street it has not seen",
        beside="" if setup.is_small else "`make demo` on a CPU: 41.5 % after 200 steps",
    )


def trained(setup: Setup, name: str, *, n_scans: int, every: int):  # noqa: ANN201
    folder = setup.folder / "learning" / name
    shutil.rmtree(folder, ignore_errors=True)
    recipe = setup.recipe(
        "demo",
        "batch_size=1",
        f"epochs={2 if every else 1}",
        f"data.limit={max(n_scans, 1)}",
        f"validation.every_epochs={every}",
    )
    return run(setup.cache("demo"), recipe, run_root=folder)
