"""Which things of mixed traffic move, as trained networks tell on streets new to them.

    python -m bench.learning.traffic --settings bench/learning/movers.toml --work runs/movers

after `bench.learning` with the same options. In the lanes of such a world place, kind and
direction do not tell what moves, so a single scan allows no more than a guess: 50 %. IoU does not
show this: calling everything moving already scores the share that moves. Here what moves and what
stands count equally.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.learning.plan import World, load_plan, plain_world, tasks
from bench.learning.report import mean_spread
from pass2d.cache.motion import Motion, class_motion, static_ids
from pass2d.commands.console import Console, clear_errors
from pass2d.synth.config import SynthConfig, preset
from pass2d.synth.frame import lidar_pose, render_frame, sequence_world
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.inference.segmenter import PastPoints, Segmenter
from pass2d.train.stacks.choose import current_from_past

N_PAST = 12
"""Scans of a street before the first that is scored: what five scans, every third one, need."""


class Scored(NamedTuple):
    """A scan of mixed traffic."""

    past: tuple[PastPoints, ...]
    """The `N_PAST` before it, the latest first."""
    points: NDArray[np.float32]
    """(N, 4)."""
    is_traffic: NDArray[np.bool_]
    """(N,) whether a point is of a thing in a lane."""
    moves: NDArray[np.bool_]
    """(N,)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    console = Console()
    with clear_errors(console):
        plan = load_plan(options.settings)
        scans = list(new_streets(plan.world))
        found: dict[str, list[float]] = {}
        for task in tasks(plan):
            network = Segmenter.load(RunFolder(root=options.work / task.folder).best)
            found.setdefault(task.name, []).append(told_right(network, scans))
            console.say(f"{task.name}, seed {task.seed}: {100 * found[task.name][-1]:.1f} %")
        console.close()
        print(f"{len(scans)} scans of {len(plan.world.sequences)} streets")
        print("| trained on | traffic told right, % |\n| --- | --- |")
        for name, shares in found.items():
            mean, spread = mean_spread(100 * share for share in shares)
            print(f"| {name} | {mean:.1f} ± {spread:.1f} |")


def new_streets(world: World) -> Iterator[Scored]:
    """Every third scan of streets of another seed."""
    config = preset(world.preset, **{**plain_world(world), "seed": world.seed + 1})
    for sequence in config.sequences:
        yield from _street(config, sequence)


def _street(config: SynthConfig, sequence: str) -> Iterator[Scored]:
    movers = sequence_world(config, sequence).movers
    frames = [render_frame(config, sequence, number).scan for number in range(config.scans)]
    poses = [lidar_pose(config, sequence, number)[:3] for number in range(config.scans)]
    for number in range(N_PAST, config.scans, 3):
        past = tuple(
            PastPoints(
                points=frames[number - lag].points,
                current_from_past=current_from_past(poses[number], poses[number - lag]),
                lag=lag,
                seconds=lag * config.interval_s,
            )
            for lag in range(1, N_PAST + 1)
        )
        instance = frames[number].labels >> 16
        yield Scored(
            past=past,
            points=frames[number].points,
            is_traffic=np.isin(instance, [mover.instance for mover in movers]),
            moves=np.isin(instance, [mover.instance for mover in movers if mover.speed_mps]),
        )


def told_right(network: Segmenter, scans: list[Scored]) -> float:
    """Share of the traffic's points, among those taken for something that can move.

    Returns:
        0..1, the mean of the share for what moves and for what stands.
    """
    info, stack = network.card.info, network.card.stack
    can_move = np.isin(static_ids(info), info.facts.movable)
    is_moving = class_motion(info) == Motion.MOVING
    right, all_points = np.zeros(2), np.zeros(2)
    for scan in scans:
        lags = range(stack.stride, stack.past * stack.stride + 1, stack.stride)
        prepared = network.prepare(scan.points, past=[scan.past[lag - 1] for lag in lags])
        (found,) = network.label([prepared], lambda item: item, threads=0)
        labels = found.passes[0].labels.cpu().numpy()
        counted = scan.is_traffic & can_move[labels]
        moves = scan.moves[counted]
        all_points += np.bincount(moves, minlength=2)
        right += np.bincount(moves[is_moving[labels[counted]] == moves], minlength=2)
    return float((right / all_points).mean())


if __name__ == "__main__":
    main()
