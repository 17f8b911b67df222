"""What stands along a street: the lots, parked vehicles, poles, signs and trees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pass2d.synth import buildings, furniture, people, plants, vehicles
from pass2d.synth.deck import Deck
from pass2d.synth.lots import FILL
from pass2d.synth.parts import Part
from pass2d.synth.planter import Maker, Planter, facing_street
from pass2d.synth.street import SIGNS, Lot, Street
from pass2d.synth.surfaces import Surface


def furnish(rng: np.random.Generator, street: Street, *, begin: float, end: float) -> list[Part]:
    """Fill both sides of a street.

    Args:
        rng: source of all choices.
        street: the plan.
        begin: s of its one end, metres.
        end: s of its other end, metres.

    Returns:
        Parts in the world frame; vehicles and people carry instance numbers from 1.
    """
    planter = Planter(street, rng)
    for sign in SIGNS:
        side = street.side(sign)
        for number, kind in enumerate(side.kind):
            low, high = side.bounds[number], side.bounds[number + 1]
            FILL[Lot(kind)](planter, sign, float(low), float(high), float(side.setback_m[number]))
            if side.covers[number, 1] == Surface.GRASS:
                _plant_verge(planter, sign, float(low), float(high))
        _park(planter, sign, begin, end)
        _line_kerb(planter, sign, begin, end)
    return planter.parts


def _plant_verge(planter: Planter, sign: int, low: float, high: float) -> None:
    """Grow trees and shrubs on the grass between lane and kerb."""
    rng, street = planter.rng, planter.street
    middle = street.lane_m + 0.6 * street.strip_m
    for s in np.arange(low + 1.5, high - 1.0, 3.0):
        draw = rng.random()
        if draw < 0.5:
            maker = plants.bush if draw < 0.28 else plants.tree
            planter.put(maker(rng), float(s), sign * middle)


def _park(planter: Planter, sign: int, begin: float, end: float) -> None:
    """Fill the strip beside the lane, where one may park, with vehicles end to end."""
    rng, street = planter.rng, planter.street
    side, middle = street.side(sign), street.lane_m + street.strip_m / 2
    parked = Deck(rng, PARKED)
    s = begin
    while s < end:
        lot = side.lot_at(s + 3)
        strip = side.covers[lot, 1]
        crossing = side.kind[lot] == Lot.SIDE_STREET
        # Cars also stand on the road's edge: a parked car does not make a parking lot.
        share = {Surface.PARKING: 0.48, Surface.ASPHALT: 0.20}.get(Surface(strip), 0.0)
        if crossing or rng.random() > share:
            s += rng.uniform(2.5, 6.0)
            continue
        maker, room = parked.draw()
        last_lot = side.lot_at(s + room)
        if side.kind[last_lot] != Lot.SIDE_STREET and side.covers[last_lot, 1] in (
            Surface.PARKING,
            Surface.ASPHALT,
        ):
            turn = (np.pi if sign > 0 else 0.0) + rng.normal(0, 0.03)
            planter.put(
                maker(rng),
                s + room / 2,
                sign * (middle + rng.normal(0, 0.08)),
                turn=turn,
                counted=True,
            )
        s += room


PARKED: dict[tuple[Maker, float], int] = {
    (vehicles.car, 6.0): 8,
    (vehicles.truck, 11.0): 1,
    (vehicles.trailer, 7.5): 1,
    (vehicles.tractor, 7.0): 1,
    (people.motorcycle, 2.8): 2,
}
"""Makers with the room they take, in metres."""


class _KerbThing(NamedTuple):
    """What may stand on the sidewalk."""

    maker: Maker
    inside_m: float
    """Distance from the kerb; negative: from the yards."""
    wobble: float = 0.0
    """Standard deviation of its turn in radians; infinite: any."""
    is_counted: bool = False
    """Whether it gets an instance number."""


KERB_THINGS = {
    _KerbThing(furniture.lamp, 0.35): 2,
    _KerbThing(furniture.sign, 0.35, 0.15): 3,
    _KerbThing(furniture.pole_with_board, 0.35, 0.15): 2,
    _KerbThing(furniture.post, 0.35): 2,
    _KerbThing(plants.tree, 0.45): 2,
    _KerbThing(people.bicycle, -0.35, 0.2, is_counted=True): 2,
    _KerbThing(people.person, -0.35, np.inf, is_counted=True): 1,
    _KerbThing(furniture.clutter, -0.35): 1,
    _KerbThing(buildings.shelter, -0.8): 1,
}


def _line_kerb(planter: Planter, sign: int, begin: float, end: float) -> None:
    """Set lamps, signs, posts, street trees and bicycles along the sidewalk."""
    rng, street = planter.rng, planter.street
    side = street.side(sign)
    kinds = Deck(rng, KERB_THINGS)
    s = begin
    while s < end:
        s += rng.uniform(2.5, 6.5)
        if side.kind[side.lot_at(s)] == Lot.SIDE_STREET:
            continue
        thing = kinds.draw()
        t = thing.inside_m + (street.kerb_at_m if thing.inside_m > 0 else street.front_m)
        swing = rng.normal(0, thing.wobble) if np.isfinite(thing.wobble) else rng.uniform(0, 7)
        planter.put(
            thing.maker(rng),
            s,
            sign * t,
            turn=facing_street(sign) + swing,
            counted=thing.is_counted,
        )
