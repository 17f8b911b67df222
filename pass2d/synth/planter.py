"""Puts things beside the street."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pass2d.synth.parts import Part, place
from pass2d.synth.street import Street

Maker = Callable[[np.random.Generator], list[Part]]
"""Draws one thing of a kind."""


class Planter:
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
            z=self.street.level_m(s, t),
            yaw=heading + turn,
            instance=self.instances if counted else 0,
        )


def facing_street(sign: int) -> float:
    """Turn that makes y of a thing point at the street, for a side."""
    return np.pi if sign > 0 else 0.0


def stand(planter: Planter, maker: Maker, s: float, t: float) -> None:
    """Put somebody there, turned anywhere."""
    turn = planter.rng.uniform(0, 2 * np.pi)
    planter.put(maker(planter.rng), s, t, turn=turn, counted=True)
