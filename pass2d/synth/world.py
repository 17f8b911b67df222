"""The world of one sequence: a street, what stands along it and what moves on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.camera import Light, draw_light
from pass2d.synth.deck import Deck
from pass2d.synth.labels import MOVING, Raw
from pass2d.synth.parts import Part, Solids, pack, place
from pass2d.synth.people import bicyclist, motorcyclist, person
from pass2d.synth.populate import furnish
from pass2d.synth.street import Street, plan_street
from pass2d.synth.vehicles import bus, car, tractor, truck

MARGIN_M = 110.0
"""The street goes on beyond both ends of the drive, so that the LiDAR's reach is filled."""

Maker = Callable[[np.random.Generator], list[Part]]
TRAFFIC: dict[Maker, int] = {
    car: 6,
    truck: 2,
    bus: 1,
    tractor: 1,
    motorcyclist: 2,
    bicyclist: 2,
}


@dataclass(frozen=True, kw_only=True)
class Mover:
    """A thing that keeps its lane and speed."""

    parts: tuple[Part, ...]
    """In its own frame, x ahead."""
    s: float
    """Where it is at time 0, metres along the street."""
    t: float
    """Its lane: metres left of the centre line."""
    speed_mps: float
    """Negative: against the direction of s."""
    instance: int


@dataclass(frozen=True, kw_only=True)
class World:
    """One sequence."""

    street: Street
    light: Light
    standing: Solids
    movers: tuple[Mover, ...]
    sway: NDArray[np.float64]
    """(6,) phases of the sensor car's motion."""


def build_world(seed: int, sequence: int, *, length_m: float, speed_mps: float) -> World:
    """Draw the world of a sequence.

    Args:
        seed: of the data set.
        sequence: its number; every number has its own street.
        length_m: way of the sensors.
        speed_mps: their speed; the traffic is arranged about it.

    Returns:
        The world; the same for the same arguments.
    """
    rng = np.random.default_rng([seed, sequence, 0])
    street = plan_street(rng, begin=-MARGIN_M, end=length_m + MARGIN_M)
    light = draw_light(rng)
    standing = furnish(rng, street, begin=-MARGIN_M, end=length_m + MARGIN_M)
    first = 1 + max((part.instance for part in standing), default=0)
    movers = _draw_traffic(rng, street, length_m=length_m, speed_mps=speed_mps, first=first)
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
        turned = heading + (np.pi if mover.speed_mps < 0 else 0.0)
        parts += place(
            mover.parts,
            x=x,
            y=y,
            z=world.street.level_m(s, mover.t),
            yaw=turned,
            instance=mover.instance,
        )
    standing = world.standing
    away = np.hypot(*(standing.center[:, :2] - np.array(center_xy)).T)
    size = np.hypot(standing.half[:, 0], standing.half[:, 1])
    near = standing.take(np.flatnonzero(away - size < reach_m))
    return near.joined(pack(parts)) if parts else near


def _moving(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(replace(part, label=int(MOVING[Raw(part.label)])) for part in parts)


def _draw_traffic(
    rng: np.random.Generator, street: Street, *, length_m: float, speed_mps: float, first: int
) -> list[Mover]:
    movers: list[Mover] = []

    def add(maker: Maker, s: float, t: float, speed: float) -> None:
        movers.append(
            Mover(
                parts=_moving(maker(rng)),
                s=s,
                t=t,
                speed_mps=speed,
                instance=first + len(movers),
            )
        )

    # Ahead and behind at the sensors' own speed: in view all the time, and never run into.
    riders: list[Maker] = [motorcyclist, bicyclist]
    rng.shuffle(riders)
    # Low things first: a truck in front would hide the street on every picture.
    leaders: tuple[Maker, ...] = (riders[0], riders[1], car, truck, car)
    for maker, s in zip(leaders, (11.0, 19.0, 30.0, 48.0, -15.0), strict=True):
        add(maker, s + rng.uniform(-2, 2), -1.75 + rng.uniform(-0.5, 0.5), speed_mps)
    kinds = Deck(rng, TRAFFIC)
    s, speed = -MARGIN_M, -0.9 * speed_mps
    while s < 2 * length_m + MARGIN_M:
        s += rng.uniform(14, 28)
        add(kinds.draw(), s, 1.75 + rng.uniform(-0.25, 0.25), speed)
    _add_walkers(rng, street, add, length_m=length_m)
    return movers


def _add_walkers(
    rng: np.random.Generator, street: Street, add: Callable[..., None], *, length_m: float
) -> None:
    middle = (street.kerb_at_m + street.front_m) / 2
    s = -MARGIN_M
    while s < length_m + MARGIN_M:
        s += rng.uniform(5, 14)
        side = rng.choice((1, -1))
        t = side * (middle + rng.uniform(-0.35, 0.35))
        add(person, s, t, rng.choice((-1, 1)) * rng.uniform(0.8, 1.6))
