"""The world of one sequence: a street, what stands along it and what moves on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.camera import Light, draw_light
from pass2d.synth.config import Traffic
from pass2d.synth.parts import Part, Solids, pack, place
from pass2d.synth.populate import furnish
from pass2d.synth.street import Street, plan_street
from pass2d.synth.traffic import MARGIN_M, TRAFFIC, Mover


@dataclass(frozen=True, kw_only=True)
class World:
    """One sequence."""

    street: Street
    light: Light
    standing: Solids
    movers: tuple[Mover, ...]
    sway: NDArray[np.float64]
    """(6,) phases of the sensor car's motion."""


def build_world(
    seed: int,
    sequence: int,
    *,
    length_m: float,
    speed_mps: float,
    traffic: Traffic = "flowing",
) -> World:
    """Draw the world of a sequence.

    Args:
        seed: of the data set.
        sequence: its number; every number has its own street.
        length_m: way of the sensors.
        speed_mps: their speed; the traffic is arranged about it.
        traffic: who moves, see `SynthConfig.traffic`.

    Returns:
        The world; the same for the same arguments.
    """
    rng = np.random.default_rng([seed, sequence, 0])
    street = plan_street(rng, begin=-MARGIN_M, end=length_m + MARGIN_M)
    light = draw_light(rng)
    standing = furnish(rng, street, begin=-MARGIN_M, end=length_m + MARGIN_M)
    first = 1 + max((part.instance for part in standing), default=0)
    movers = TRAFFIC[traffic](rng, street, length_m=length_m, speed_mps=speed_mps, first=first)
    return World(
        street=street,
        light=light,
        standing=pack(standing),
        movers=tuple(movers),
        sway=rng.uniform(0, 2 * np.pi, 6),
    )


def solids_at(
    world: World, *, time_s: float, center_xy: tuple[float, float], reach_m: float
) -> Solids:
    """Everything near a place at a time.

    Args:
        world: the sequence.
        time_s: since its first scan.
        center_xy: metres, world frame.
        reach_m: things whose bounding circle is farther are left out.

    Returns:
        The solids, standing ones first.
    """
    parts: list[Part] = []
    for mover in world.movers:
        s = mover.s + mover.speed_mps * time_s
        x, y, heading = world.street.line.world_from_street(s, mover.t)
        if np.hypot(x - center_xy[0], y - center_xy[1]) > reach_m + 10:
            continue
        parts += place(
            mover.parts,
            x=x,
            y=y,
            z=world.street.level_m(s, mover.t),
            yaw=heading + mover.turn_rad,
            instance=mover.instance,
        )
    standing = world.standing
    away = np.hypot(*(standing.center[:, :2] - np.array(center_xy)).T)
    size = np.hypot(standing.half[:, 0], standing.half[:, 1])
    near = standing.take(np.flatnonzero(away - size < reach_m))
    return near.joined(pack(parts)) if parts else near
