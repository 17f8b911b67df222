"""Traffic on a street: moving objects and, in mixed traffic, stationary ones in the same places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pass2d.synth.config import Traffic
from pass2d.synth.deck import Deck
from pass2d.synth.labels import MOVING, Raw
from pass2d.synth.parts import Part
from pass2d.synth.people import bicyclist, motorcyclist, person
from pass2d.synth.planter import Maker
from pass2d.synth.street import SIGNS, Street
from pass2d.synth.vehicles import bus, car, tractor, truck

MARGIN_M = 110.0
"""The street goes on beyond both ends of the drive, so that the LiDAR's reach is filled."""

ONCOMING: dict[Maker, int] = {
    car: 6,
    truck: 2,
    bus: 1,
    tractor: 1,
    motorcyclist: 2,
    bicyclist: 2,
}
ONCOMING_M = 1.75
"""The oncoming lane: metres left of the centre line."""


@dataclass(frozen=True, kw_only=True)
class Mover:
    """An object with constant lane and speed, which may be 0 in mixed traffic."""

    parts: tuple[Part, ...]
    """In its own frame, x ahead."""
    s: float
    """Where it is at time 0, metres along the street."""
    t: float
    """Its lane: metres left of the centre line."""
    speed_mps: float
    """Along s; negative: against its direction, 0: it stands."""
    turn_rad: float
    """Against the street's heading: 0 or half a turn."""
    instance: int


def _moving(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(replace(part, label=int(MOVING[Raw(part.label)])) for part in parts)


def flowing_traffic(
    rng: np.random.Generator, street: Street, *, length_m: float, speed_mps: float, first: int
) -> list[Mover]:
    """Everything in its lane moves; what stands is beside the lanes.

    Args:
        rng: source of all choices.
        street: the plan.
        length_m: way of the sensors.
        speed_mps: their speed.
        first: instance number of the first thing.
    """
    movers: list[Mover] = []

    def add(maker: Maker, s: float, t: float, speed: float) -> None:
        movers.append(
            Mover(
                parts=_moving(maker(rng)),
                s=s,
                t=t,
                speed_mps=speed,
                turn_rad=np.pi if speed < 0 else 0.0,
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
    kinds = Deck(rng, ONCOMING)
    s, speed = -MARGIN_M, -0.9 * speed_mps
    while s < 2 * length_m + MARGIN_M:
        s += rng.uniform(14, 28)
        add(kinds.draw(), s, ONCOMING_M + rng.uniform(-0.25, 0.25), speed)
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


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """A strip of the street where things keep their order."""

    kinds: dict[Maker, int]
    t: float
    """Metres left of the centre line."""
    wobble_m: float
    """Largest distance from ``t``."""
    directions: tuple[int, ...]
    """+1: along s, -1: against it."""
    speed_mps: tuple[float, float]
    gap_m: tuple[float, float]
    """Between the ways of two things."""


def mixed_traffic(
    rng: np.random.Generator, street: Street, *, length_m: float, speed_mps: float, first: int
) -> list[Mover]:
    """Half of the objects of each kind move, half stand still, and no single scan shows which.

    Kind, shape, place and direction are drawn before it is decided whether an object moves. Each
    has its own section of the lane: a moving object crosses it during the drive, a stationary one
    is anywhere in it. So there are no collisions, and at a random moment of the drive both are
    equally likely everywhere. The sensors' own lane is empty.

    Args:
        rng: source of all choices.
        street: the plan.
        length_m: way of the sensors.
        speed_mps: their speed.
        first: instance number of the first thing.
    """
    duration_s = length_m / speed_mps
    decks: dict[Maker, Deck[bool]] = {}
    movers: list[Mover] = []
    for lane in _mixed_lanes(street):
        kinds = Deck(rng, lane.kinds)
        s = -MARGIN_M + rng.uniform(0, 5)
        while s < length_m + MARGIN_M:
            maker = kinds.draw()
            parts = maker(rng)
            direction = int(rng.choice(lane.directions))
            speed = float(rng.uniform(*lane.speed_mps))
            half_m = max(abs(part.center[0]) + max(part.half[:2]) for part in parts)
            way_m, place = speed * duration_s, float(rng.uniform())
            is_moving = decks.setdefault(maker, Deck(rng, {True: 1, False: 1})).draw()
            # From the middle of its piece: half of the way back at the drive's begin.
            travelled = 0.0 if is_moving else place
            off_m = (travelled - 0.5) * direction * way_m
            movers.append(
                Mover(
                    parts=_moving(parts) if is_moving else tuple(parts),
                    s=s + half_m + way_m / 2 + off_m,
                    t=lane.t + rng.uniform(-lane.wobble_m, lane.wobble_m),
                    speed_mps=direction * speed if is_moving else 0.0,
                    turn_rad=np.pi if direction < 0 else 0.0,
                    instance=first + len(movers),
                )
            )
            s += way_m + 2 * half_m + rng.uniform(*lane.gap_m)
    return movers


def _mixed_lanes(street: Street) -> list[_Lane]:
    """The oncoming lane, the edge of the own one, both sidewalks."""
    middle = (street.kerb_at_m + street.front_m) / 2
    edge = street.lane_m - 0.4
    walkers = [
        _Lane(
            kinds={person: 1},
            t=sign * middle,
            wobble_m=0.35,
            directions=SIGNS,
            speed_mps=(0.8, 1.6),
            gap_m=(1.0, 4.0),
        )
        for sign in SIGNS
    ]
    return [
        _Lane(
            kinds=ONCOMING,
            t=ONCOMING_M,
            wobble_m=0.25,
            directions=(-1,),
            speed_mps=(3.0, 7.0),
            gap_m=(1.0, 4.0),
        ),
        _Lane(
            kinds={bicyclist: 1, motorcyclist: 1},
            t=-edge,
            wobble_m=0.1,
            directions=(1,),
            speed_mps=(3.0, 6.0),
            gap_m=(1.0, 8.0),
        ),
        *walkers,
    ]


TRAFFIC: dict[Traffic, Callable[..., list[Mover]]] = {
    "flowing": flowing_traffic,
    "mixed": mixed_traffic,
}
"""By the name that `SynthConfig.traffic` gives."""
