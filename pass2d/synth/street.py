"""The plan of a street: its centre line and what covers the ground where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.deck import Deck
from pass2d.synth.surfaces import Surface

Floats = NDArray[np.float32]


_Place = TypeVar("_Place", NDArray[np.float32], NDArray[np.float64])


class Lot(IntEnum):
    """What lies behind the sidewalk along a piece of the street."""

    HOUSE = 0
    BLOCK = 1
    PARK = 2
    CARPARK = 3
    PLAZA = 4
    SIDE_STREET = 5


@dataclass(frozen=True, kw_only=True)
class CentreLine:
    """The middle of the road: y(x) = sum of two waves, metres, world frame."""

    amplitude_m: tuple[float, float]
    wave_per_m: tuple[float, float]
    """Radians per metre."""
    phase: tuple[float, float]

    def height(self, x: _Place) -> _Place:
        """Offset of the line to the left of the x axis."""
        return self._waves(x, 0)

    def slope(self, x: _Place) -> _Place:
        """dy/dx of the line."""
        return self._waves(x, 1)

    def _waves(self, x: _Place, derivative: int) -> _Place:
        total = x * 0
        for amplitude, wave, phase in zip(
            self.amplitude_m, self.wave_per_m, self.phase, strict=True
        ):
            factor, turn = amplitude * wave**derivative, phase + derivative * np.pi / 2
            total = np.asarray(total + factor * np.sin(wave * x + turn), x.dtype)
        return total

    def world_from_street(self, s: float, t: float) -> tuple[float, float, float]:
        """Find a place by its way along the line and its distance to the left of it.

        Args:
            s: x of the foot point on the line, metres.
            t: metres to the left.

        Returns:
            x, y in metres and the line's heading in radians.
        """
        at = np.array(s)
        heading = float(np.arctan(self.slope(at)))
        return (
            float(s - t * np.sin(heading)),
            float(self.height(at) + t * np.cos(heading)),
            heading,
        )

    def street_from_world(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Invert `world_from_street` for arrays: (K,) each, metres."""
        s: Floats = x
        for _ in range(2):
            slope, bend = self.slope(s), self._waves(s, 2)
            off = y - self.height(s)
            # Newton on the foot point's condition; the floor keeps far points from diverging.
            curvature = np.maximum(1 + slope * slope - off * bend, np.float32(0.4))
            s = np.add(s, ((x - s) + off * slope) / curvature, dtype=np.float32)
        slope = self.slope(s)
        cos = 1 / np.sqrt(1 + slope * slope)
        return s, np.asarray(((y - self.height(s)) - (x - s) * slope) * cos, np.float32)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the street, cut into L lots along s."""

    bounds: NDArray[np.float64]
    """(L + 1,) s where lots begin and end, metres."""
    kind: NDArray[np.uint8]
    """(L,) `Lot`."""
    covers: NDArray[np.uint8]
    """(L, 4) `Surface` of lane, strip, sidewalk, yard."""
    raised: NDArray[np.bool_]
    """(L, 4) whether that zone lies on the kerb's level."""
    setback_m: NDArray[np.float64]
    """(L,) depth of the yard in front of a building."""

    def lot_at(self, s: float) -> int:
        """Number of the lot at a place."""
        found = int(np.searchsorted(self.bounds, s, "right")) - 1
        return min(max(found, 0), len(self.kind) - 1)


@dataclass(frozen=True, kw_only=True)
class Street:
    """Everything about the ground of one sequence."""

    line: CentreLine
    lane_m: float
    """Half width of the road without the strips beside it."""
    strip_m: float
    """Width of the strip between lane and kerb: parking, gravel, grass or more road."""
    sidewalk_m: float
    kerb_m: float
    """Height of the kerb."""
    left: Side
    right: Side

    @property
    def kerb_at_m(self) -> float:
        """Distance of the kerb from the centre line."""
        return self.lane_m + self.strip_m

    @property
    def front_m(self) -> float:
        """Distance of the yards from the centre line."""
        return self.kerb_at_m + self.sidewalk_m

    def side(self, sign: int) -> Side:
        """The left side for +1, the right one for -1."""
        return self.left if sign > 0 else self.right

    def cover(self, s: Floats, t: Floats) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Look up the ground.

        Args:
            s: (K,) metres along the centre line.
            t: (K,) metres to the left of it.

        Returns:
            (K,) `Surface` and (K,) whether the place lies on the kerb's level.
        """
        reach = np.abs(t)
        zone = (reach > self.lane_m).astype(np.intp)
        zone += reach > self.kerb_at_m
        zone += reach > self.front_m
        left = self._lot_zone(self.left, s, zone)
        right = self._lot_zone(self.right, s, zone)
        is_left = t > 0
        surface = np.where(is_left, left[0], right[0])
        raised = np.where(is_left, left[1], right[1])
        marked = (surface == Surface.ASPHALT) & self._is_marked(s, t)
        return np.where(marked, np.uint8(Surface.MARKING), surface), raised

    def level_m(self, s: float, t: float) -> float:
        """Height of the ground at one place, metres."""
        _, raised = self.cover(np.array([s], np.float32), np.array([t], np.float32))
        return self.kerb_m if raised[0] else 0.0

    @staticmethod
    def _lot_zone(
        side: Side, s: Floats, zone: NDArray[np.intp]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        lot = np.searchsorted(side.bounds.astype(np.float32), s, "right") - 1
        lot = np.clip(lot, 0, len(side.kind) - 1)
        return side.covers[lot, zone], side.raised[lot, zone]

    def _is_marked(self, s: Floats, t: Floats) -> NDArray[np.bool_]:
        dashes = (np.abs(t) < 0.08) & (np.mod(s, 9) < 4)
        edge = np.abs(np.abs(t) - (self.lane_m - 0.12)) < 0.07
        return dashes | edge


SIGNS = (1, -1)
LOT_COUNTS = {
    Lot.HOUSE: 4,
    Lot.BLOCK: 1,
    Lot.PARK: 2,
    Lot.CARPARK: 1,
    Lot.PLAZA: 1,
    Lot.SIDE_STREET: 1,
}
STRIP_COUNTS = {Surface.PARKING: 4, Surface.ASPHALT: 2, Surface.GRASS: 3, Surface.GRAVEL: 1}
LOT_LENGTH_M = {
    Lot.HOUSE: (12, 20),
    Lot.BLOCK: (14, 26),
    Lot.PARK: (14, 28),
    Lot.CARPARK: (16, 24),
    Lot.PLAZA: (12, 18),
    Lot.SIDE_STREET: (7, 10),
}
YARD = {
    Lot.HOUSE: Surface.GRASS,
    Lot.BLOCK: Surface.SIDEWALK,
    Lot.PARK: Surface.GRASS,
    Lot.CARPARK: Surface.PARKING,
    Lot.PLAZA: Surface.GRAVEL,
    Lot.SIDE_STREET: Surface.ASPHALT,
}


def plan_street(rng: np.random.Generator, *, begin: float, end: float) -> Street:
    """Draw the plan of a street.

    Args:
        rng: source of all choices.
        begin: s of the street's one end, metres.
        end: s of its other end, metres.

    Returns:
        The street.
    """
    line = CentreLine(
        amplitude_m=(rng.uniform(4, 16), rng.uniform(0.3, 1.5)),
        wave_per_m=(2 * np.pi / rng.uniform(350, 500), 2 * np.pi / rng.uniform(120, 170)),
        phase=(rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)),
    )
    return Street(
        line=line,
        lane_m=rng.uniform(3.3, 4.2),
        strip_m=rng.uniform(2.2, 2.6),
        sidewalk_m=rng.uniform(1.8, 3.2),
        kerb_m=rng.uniform(0.07, 0.14),
        left=_plan_side(rng, begin, end),
        right=_plan_side(rng, begin, end),
    )


def _plan_side(rng: np.random.Generator, begin: float, end: float) -> Side:
    bounds, kinds = [begin], list[Lot]()
    lots, strips = Deck(rng, LOT_COUNTS), Deck(rng, STRIP_COUNTS)
    while bounds[-1] < end:
        kind = lots.draw()
        bounds.append(bounds[-1] + float(rng.uniform(*LOT_LENGTH_M[kind])))
        kinds.append(kind)
    covers, raised = zip(*(_cover_lot(rng, kind, strips) for kind in kinds), strict=True)
    return Side(
        bounds=np.array(bounds),
        kind=np.array(kinds, np.uint8),
        covers=np.array(covers, np.uint8),
        raised=np.array(raised, np.bool_),
        setback_m=np.array([rng.uniform(3.5, 9) if k is Lot.HOUSE else 0.0 for k in kinds]),
    )


def _cover_lot(
    rng: np.random.Generator, kind: Lot, strips: Deck[Surface]
) -> tuple[list[Surface], list[bool]]:
    if kind is Lot.SIDE_STREET:
        return [Surface.ASPHALT] * 4, [False] * 4
    strip = strips.draw()
    # A lowered kerb (a drive, an old village street) leaves only colour to tell sidewalk from road.
    is_raised = bool(rng.random() < 0.7)
    soft = strip is Surface.GRASS
    yard = YARD[kind]
    if kind is Lot.HOUSE and rng.random() < 0.2:
        yard = Surface.SIDEWALK
    return (
        [Surface.ASPHALT, strip, Surface.SIDEWALK, yard],
        [False, soft and is_raised, is_raised, is_raised],
    )
