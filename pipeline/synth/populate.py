"""What stands along a street: the lots' buildings and trees, parked vehicles, poles and signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pipeline.synth import buildings, furniture, people, plants, vehicles
from pipeline.synth.parts import Part, place
from pipeline.synth.street import SIGNS, Lot, Street
from pipeline.synth.surfaces import Surface


class _Planter:
    """Puts things beside the street and counts those that get an instance number."""

    def __init__(self, street: Street, rng: np.random.Generator) -> None:
        self.street = street
        self.rng = rng
        self.parts: list[Part] = []
        self.instances = 0

    def put(
        self, thing: Iterable[Part], s: float, t: float, *, turn: float = 0.0, counted: bool = False
    ) -> None:
        """Stand a thing at a place of the street, turned against the street's heading."""
        x, y, heading = self.street.line.world_from_street(s, t)
        self.instances += counted
        self.parts += place(
            thing,
            x=x,
            y=y,
            z=self._level(s, t),
            yaw=heading + turn,
            instance=self.instances if counted else 0,
        )

    def _level(self, s: float, t: float) -> float:
        _, raised = self.street.cover(np.array([s], np.float32), np.array([t], np.float32))
        return self.street.kerb_m if raised[0] else 0.0


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
    planter = _Planter(street, rng)
    for sign in SIGNS:
        side = street.side(sign)
        for number, kind in enumerate(side.kind):
            low, high = side.bounds[number], side.bounds[number + 1]
            _FILL[Lot(kind)](planter, sign, float(low), float(high), float(side.setback_m[number]))
        _park(planter, sign, begin, end)
        _line_kerb(planter, sign, begin, end)
    return planter.parts


def _facing(sign: int) -> float:
    """Turn that makes y of a thing point at the street, for a side."""
    return np.pi if sign > 0 else 0.0


def _fill_house(planter: _Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    middle, width = (low + high) / 2, high - low
    built = width - rng.uniform(2.0, 5.0)
    planter.put(
        buildings.house(rng, width=built), middle, sign * (front + setback), turn=_facing(sign)
    )
    edge = front + 0.35
    draw = rng.random()
    gate = rng.uniform(2.0, 3.5)
    piece = (width - gate) / 2
    for at in (low + piece / 2, high - piece / 2):
        if draw < 0.45:
            planter.put(furniture.fence(rng, length=piece), at, sign * edge)
        elif draw < 0.8:
            planter.put(plants.hedge(rng, length=piece), at, sign * (edge + 0.3))
    for _ in range(rng.integers(1, 4)):
        s, t = rng.uniform(low + 1, high - 1), front + rng.uniform(1.0, max(1.2, setback - 0.8))
        planter.put(plants.bush(rng), s, sign * t)
    if rng.random() < 0.35 and setback > 3.5:
        planter.put(plants.tree(rng), low + 1.0, sign * (front + 0.5 * setback))
    # Behind and between the houses one sees gardens, not the end of the world.
    planter.put(plants.tree(rng), low, sign * (front + setback + rng.uniform(6, 14)))
    if rng.random() < 0.5:
        planter.put(
            furniture.fence(rng, length=6.0), low, sign * (front + setback + 4.0), turn=np.pi / 2
        )


def _fill_block(planter: _Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    planter.put(
        buildings.block(rng, width=high - low - 0.3),
        (low + high) / 2,
        sign * (front + 0.2 + setback),
        turn=_facing(sign),
    )


def _fill_park(planter: _Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    for _ in range(rng.integers(4, 8)):
        planter.put(
            plants.tree(rng), rng.uniform(low + 1, high - 1), sign * (front + rng.uniform(1.5, 24))
        )
    for _ in range(rng.integers(2, 6)):
        planter.put(plants.bush(rng), rng.uniform(low, high), sign * (front + rng.uniform(1.0, 18)))
    planter.put(plants.hedge(rng, length=high - low), (low + high) / 2, sign * (front + 27))
    if rng.random() < 0.5:
        planter.put(
            furniture.clutter(rng), (low + high) / 2, sign * (front + 0.8), turn=_facing(sign)
        )
    for _ in range(rng.integers(0, 3)):
        _stand(planter, people.person, rng.uniform(low, high), sign * (front + rng.uniform(1, 6)))


def _fill_carpark(planter: _Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    for row in (front + 4.0, front + 14.0):
        for s in np.arange(low + 1.8, high - 1.2, 2.7):
            if rng.random() < 0.62:
                turn = np.pi / 2 * rng.choice((1, -1)) + rng.normal(0, 0.04)
                maker = vehicles.car if rng.random() < 0.85 else vehicles.trailer
                planter.put(maker(rng), float(s), sign * row, turn=turn, counted=True)
    maker = vehicles.truck if rng.random() < 0.6 else vehicles.other_vehicle
    planter.put(maker(rng), (low + high) / 2, sign * (front + 20.5), counted=True)
    planter.put(furniture.fence(rng, length=high - low), (low + high) / 2, sign * (front + 23.5))
    for s in (low + 0.5, high - 0.5):
        planter.put(plants.tree(rng), s, sign * (front + 25.5))
    _stand(planter, people.person, rng.uniform(low + 1, high - 1), sign * (front + 8.5))


def _fill_plaza(planter: _Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    for _ in range(rng.integers(2, 6)):
        _stand(planter, people.person, rng.uniform(low, high), sign * (front + rng.uniform(0.5, 9)))
    for s in np.arange(low + 1.5, high - 1.5, rng.uniform(0.9, 1.6)):
        if rng.random() < 0.5:
            turn = np.pi / 2 + rng.normal(0, 0.15)
            maker = people.bicycle if rng.random() < 0.75 else people.motorcycle
            planter.put(maker(rng), float(s), sign * (front + 1.6), turn=turn, counted=True)
    planter.put(plants.tree(rng), low + 2.0, sign * (front + 5.0))
    planter.put(furniture.clutter(rng), high - 3.0, sign * (front + 3.0), turn=_facing(sign))
    planter.put(
        buildings.block(rng, width=high - low - 0.3),
        (low + high) / 2,
        sign * (front + 12.0),
        turn=_facing(sign),
    )


def _fill_side_street(
    planter: _Planter, sign: int, low: float, high: float, setback: float
) -> None:
    rng, front = planter.rng, planter.street.front_m
    middle, quarter = (low + high) / 2, (high - low) / 4
    for t in np.arange(front + 3, front + 42, 8.0):
        if rng.random() < 0.5:
            maker = vehicles.car if rng.random() < 0.7 else vehicles.truck
            planter.put(
                maker(rng),
                middle + rng.choice((1, -1)) * quarter,
                sign * float(t),
                turn=rng.choice((1, -1)) * np.pi / 2,
                counted=True,
            )
    planter.put(
        buildings.block(rng, width=high - low + 14), middle, sign * (front + 52), turn=_facing(sign)
    )


_FILL: dict[Lot, Callable[[_Planter, int, float, float, float], None]] = {
    Lot.HOUSE: _fill_house,
    Lot.BLOCK: _fill_block,
    Lot.PARK: _fill_park,
    Lot.CARPARK: _fill_carpark,
    Lot.PLAZA: _fill_plaza,
    Lot.SIDE_STREET: _fill_side_street,
}


def _stand(
    planter: _Planter, maker: Callable[[np.random.Generator], list[Part]], s: float, t: float
) -> None:
    turn = planter.rng.uniform(0, 2 * np.pi)
    planter.put(maker(planter.rng), s, t, turn=turn, counted=True)


def _park(planter: _Planter, sign: int, begin: float, end: float) -> None:
    """Fill the strip beside the lane, where one may park, with vehicles end to end."""
    rng, street = planter.rng, planter.street
    side, middle = street.side(sign), street.lane_m + street.strip_m / 2
    s = begin
    while s < end:
        lot = side.lot_at(s + 3)
        strip = side.covers[lot, 1]
        crossing = side.kind[lot] == Lot.SIDE_STREET
        # Cars also stand on the road's edge: a parked car does not make a parking lot.
        share = {Surface.PARKING: 0.62, Surface.ASPHALT: 0.30}.get(Surface(strip), 0.0)
        if crossing or rng.random() > share:
            s += rng.uniform(2.5, 6.0)
            continue
        maker, room = _parked(rng)
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


def _parked(
    rng: np.random.Generator,
) -> tuple[Callable[[np.random.Generator], list[Part]], float]:
    makers: list[tuple[Callable[[np.random.Generator], list[Part]], float]] = [
        (vehicles.car, 6.0),
        (vehicles.truck, 11.0),
        (vehicles.trailer, 7.5),
        (vehicles.tractor, 7.0),
        (people.motorcycle, 2.8),
    ]
    return makers[rng.choice(5, p=[0.68, 0.09, 0.06, 0.04, 0.13])]


def _line_kerb(planter: _Planter, sign: int, begin: float, end: float) -> None:
    """Set lamps, signs, posts, street trees and bicycles along the sidewalk."""
    rng, street = planter.rng, planter.street
    side, outer, inner = street.side(sign), street.kerb_at_m + 0.35, street.front_m - 0.35
    s = begin
    while s < end:
        s += rng.uniform(2.5, 6.5)
        if side.kind[side.lot_at(s)] == Lot.SIDE_STREET:
            continue
        draw = rng.choice(8, p=[0.13, 0.16, 0.15, 0.14, 0.14, 0.12, 0.08, 0.08])
        against = np.pi if sign > 0 else 0.0
        if draw == 0:
            planter.put(furniture.lamp(rng), s, sign * outer, turn=against)
        elif draw == 1:
            planter.put(furniture.sign(rng), s, sign * outer, turn=against + rng.normal(0, 0.15))
        elif draw == 2:
            planter.put(
                furniture.pole_with_board(rng), s, sign * outer, turn=against + rng.normal(0, 0.15)
            )
        elif draw == 3:
            planter.put(furniture.post(rng), s, sign * outer)
        elif draw == 4:
            planter.put(plants.tree(rng), s, sign * (outer + 0.1))
        elif draw == 5:
            planter.put(people.bicycle(rng), s, sign * inner, turn=rng.normal(0, 0.2), counted=True)
        elif draw == 6:
            planter.put(furniture.clutter(rng), s, sign * inner, turn=_facing(sign))
        else:
            _stand(planter, people.person, s, sign * inner)
