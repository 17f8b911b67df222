"""Decides whether starting Ray saves time, if no number of workers is given."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from pass2d.common.processes import usable_cores
from pass2d.common.progress import Progress, format_seconds
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.run.plan import PreparePlan

RAY_START_SECONDS = 10.0
"""Until Ray and its workers, which import our code, have begun: 7 to 28 s were measured. 192 real
scans (19 s of CPU) took 61 s here and 66 s in Ray on two busy cores: with two, 20 s are even."""


def decided(
    config: PrepareConfig,
    plans: Sequence[PreparePlan],
    progress: Progress,
    *,
    n_cpus: int | None = None,
    start_s: float | None = None,
) -> PrepareConfig:
    """Choose the number of workers, and report why; a given number is not changed.

    Args:
        config: `workers` None leaves it to the work.
        plans: all that is to be done with one start of Ray.
        progress: is told in one line, if there is work.
        n_cpus: that Ray would use; None: all that this process may use.
        start_s: seconds until Ray works; None: as measured, 0 where it runs already.
    """
    tasks = [task for plan in plans for task in plan.tasks]
    if config.workers is not None or config.ray_address is not None or not tasks:
        return config
    n_cpus = n_cpus or usable_cores()
    start_s = start_seconds() if start_s is None else start_s
    inline_s = sum(task.seconds for task in tasks)
    ray_s = start_s + max(inline_s / n_cpus, *map(longest_shard_seconds, plans))
    size = f"{inline_s:.1f} s" if inline_s < 60 else format_seconds(inline_s)
    text = f"{count_scans(plans):,} scans, about {size} of work"
    if ray_s < inline_s:
        progress.say(f"{text}: Ray starts with a worker per CPU, {n_cpus} (`workers=0`: without)")
        return replace(config, workers=n_cpus)
    progress.say(f"{text}: done in this process, Ray would take longer (`workers=N` starts it)")
    return replace(config, workers=0)


def start_seconds() -> float:
    """What Ray's start costs this process: nothing where it is connected already."""
    ray = sys.modules.get("ray")
    return 0.0 if ray is not None and ray.is_initialized() else RAY_START_SECONDS


def longest_shard_seconds(plan: PreparePlan) -> float:
    """The time below which no number of workers gets: of one shard `lidar`, then the slower one."""
    seconds: dict[int, dict[str, float]] = defaultdict(dict)
    for task in plan.tasks:
        seconds[task.shard][task.container] = task.seconds
    chains = [s.pop("lidar", 0.0) + max(s.values(), default=0.0) for s in seconds.values()]
    return max(chains, default=0.0)


def count_scans(plans: Sequence[PreparePlan]) -> int:
    """Scans of all shards that something is to be done for."""
    scans: dict[tuple[int, int], int] = {}
    for place, plan in enumerate(plans):
        scans |= {(place, task.shard): task.scans for task in plan.tasks}
    return sum(scans.values())
