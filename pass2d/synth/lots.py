"""What fills the lots behind the sidewalk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pass2d.synth import buildings, furniture, people, plants, vehicles
from pass2d.synth.planter import Planter, facing_street, stand
from pass2d.synth.street import Lot


def _fill_house(planter: Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    middle, width = (low + high) / 2, high - low
    built = width - rng.uniform(2.0, 5.0)
    planter.put(
        buildings.house(rng, width=built),
        middle,
        sign * (front + setback),
        turn=facing_street(sign),
    )
    edge = front + 0.35
    draw = rng.random()
    gate = rng.uniform(2.0, 3.5)
    piece = (width - gate) / 2
    for at in (low + piece / 2, high - piece / 2):
        if draw < 0.40:
            planter.put(furniture.fence(rng, length=piece), at, sign * edge)
        elif draw < 0.72:
            planter.put(plants.hedge(rng, length=piece), at, sign * (edge + 0.3))
    for _ in range(rng.integers(1, 5)):
        s, t = rng.uniform(low + 1, high - 1), front + rng.uniform(1.5, setback - 0.8)
        planter.put(plants.bush(rng), s, sign * t)
    if rng.random() < 0.45 and setback > 4.5:
        planter.put(plants.tree(rng), low + 1.0, sign * (front + 0.5 * setback))
    # Behind and between the houses one sees gardens, not the end of the world.
    planter.put(plants.tree(rng), low, sign * (front + setback + rng.uniform(6, 14)))
    planter.put(
        plants.thicket(rng, length=8.0),
        low + rng.uniform(-0.5, 0.5),
        sign * (front + setback + 1.0),
        turn=np.pi / 2,
    )
    if rng.random() < 0.5:
        planter.put(
            furniture.fence(rng, length=6.0), low, sign * (front + setback + 4.0), turn=np.pi / 2
        )


def _fill_block(planter: Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    planter.put(
        buildings.block(rng, width=high - low - 0.3),
        (low + high) / 2,
        sign * (front + 0.2 + setback),
        turn=facing_street(sign),
    )


def _fill_park(planter: Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    for _ in range(rng.integers(4, 8)):
        planter.put(
            plants.tree(rng), rng.uniform(low + 1, high - 1), sign * (front + rng.uniform(1.5, 24))
        )
    for _ in range(rng.integers(2, 6)):
        planter.put(plants.bush(rng), rng.uniform(low, high), sign * (front + rng.uniform(1.0, 18)))
    for _ in range(rng.integers(1, 4)):
        planter.put(
            plants.mound(rng),
            rng.uniform(low, high),
            sign * (front + rng.uniform(7, 20)),
            turn=rng.uniform(0, 3),
        )
    planter.put(plants.hedge(rng, length=high - low), (low + high) / 2, sign * (front + 27))
    for s in np.arange(low, high, 4.0):
        planter.put(plants.tree(rng), float(s), sign * (front + rng.uniform(27, 32)))
    draw = rng.random()
    if draw < 0.3:
        planter.put(furniture.fence(rng, length=high - low), (low + high) / 2, sign * (front + 0.3))
    elif draw < 0.75:
        planter.put(
            plants.thicket(rng, length=high - low - 2), (low + high) / 2, sign * (front + 2.0)
        )
    else:
        planter.put(
            furniture.clutter(rng), (low + high) / 2, sign * (front + 0.8), turn=facing_street(sign)
        )
    for _ in range(rng.integers(0, 3)):
        stand(planter, people.person, rng.uniform(low, high), sign * (front + rng.uniform(1, 6)))


def _fill_carpark(planter: Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    for row in (front + 4.0, front + 14.0):
        for s in np.arange(low + 1.8, high - 1.2, 2.7):
            if rng.random() < 0.62:
                turn = np.pi / 2 * rng.choice((1, -1)) + rng.normal(0, 0.04)
                maker = vehicles.car if rng.random() < 0.92 else vehicles.trailer
                planter.put(maker(rng), float(s), sign * row, turn=turn, counted=True)
    maker = vehicles.truck if rng.random() < 0.6 else vehicles.other_vehicle
    planter.put(maker(rng), (low + high) / 2, sign * (front + 20.5), counted=True)
    planter.put(furniture.fence(rng, length=high - low), (low + high) / 2, sign * (front + 23.5))
    for s in (low + 0.5, high - 0.5):
        planter.put(plants.tree(rng), s, sign * (front + 25.5))
    stand(planter, people.person, rng.uniform(low + 1, high - 1), sign * (front + 8.5))


def _fill_plaza(planter: Planter, sign: int, low: float, high: float, setback: float) -> None:
    rng, front = planter.rng, planter.street.front_m
    for _ in range(rng.integers(2, 6)):
        stand(planter, people.person, rng.uniform(low, high), sign * (front + rng.uniform(0.5, 9)))
    for s in np.arange(low + 1.5, high - 1.5, rng.uniform(0.9, 1.6)):
        if rng.random() < 0.5:
            turn = np.pi / 2 + rng.normal(0, 0.15)
            maker = people.bicycle if rng.random() < 0.75 else people.motorcycle
            planter.put(maker(rng), float(s), sign * (front + 1.6), turn=turn, counted=True)
    planter.put(plants.tree(rng), low + 2.0, sign * (front + 5.0))
    planter.put(furniture.clutter(rng), high - 3.0, sign * (front + 3.0), turn=facing_street(sign))
    planter.put(
        buildings.block(rng, width=high - low - 0.3),
        (low + high) / 2,
        sign * (front + 12.0),
        turn=facing_street(sign),
    )


def _fill_side_street(planter: Planter, sign: int, low: float, high: float, setback: float) -> None:
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
        buildings.block(rng, width=high - low + 14),
        middle,
        sign * (front + 52),
        turn=facing_street(sign),
    )


FILL: dict[Lot, Callable[[Planter, int, float, float, float], None]] = {
    Lot.HOUSE: _fill_house,
    Lot.BLOCK: _fill_block,
    Lot.PARK: _fill_park,
    Lot.CARPARK: _fill_carpark,
    Lot.PLAZA: _fill_plaza,
    Lot.SIDE_STREET: _fill_side_street,
}
