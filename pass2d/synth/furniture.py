"""Poles, signs, fences, walls, bins, benches: what stands along a street."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pass2d.synth.labels import Raw
from pass2d.synth.parts import Brush, Color, Part, varied
from pass2d.synth.surfaces import Surface

STEELS: tuple[Color, ...] = (
    (0.42, 0.43, 0.44),
    (0.26, 0.27, 0.28),
    (0.30, 0.36, 0.32),
    (0.60, 0.60, 0.58),
)
SIGN_COLORS: tuple[Color, ...] = (
    (0.78, 0.08, 0.08),
    (0.10, 0.25, 0.70),
    (0.90, 0.75, 0.08),
    (0.90, 0.90, 0.90),
)
BOARD_COLORS: tuple[Color, ...] = ((0.40, 0.40, 0.39), (0.30, 0.33, 0.31), (0.47, 0.44, 0.40))
PLANKS: tuple[Color, ...] = (
    (0.42, 0.32, 0.22),
    (0.55, 0.48, 0.38),
    (0.30, 0.24, 0.19),
    (0.70, 0.68, 0.62),
)


def lamp(rng: np.random.Generator) -> list[Part]:
    """A street lamp with an arm over the road (towards +y)."""
    height, radius = rng.uniform(5.0, 8.0), rng.uniform(0.06, 0.11)
    steel = Brush(label=Raw.POLE, surface=Surface.STEEL, color=varied(rng, STEELS, 0.06))
    return [
        steel.cylinder((0, 0, -0.1), radius=radius, height=height),
        steel.cylinder((0, 0, -0.1), radius=1.7 * radius, height=0.9),
        steel.box((0, 0.7, height - 0.1), (0.16, 1.5, 0.12)),
    ]


def post(rng: np.random.Generator) -> list[Part]:
    """A thin post, high or knee-high."""
    height = rng.uniform(0.8, 1.2) if rng.random() < 0.4 else rng.uniform(2.0, 3.5)
    steel = Brush(label=Raw.POLE, surface=Surface.STEEL, color=varied(rng, STEELS, 0.06))
    return [steel.cylinder((0, 0, -0.1), radius=rng.uniform(0.035, 0.07), height=height + 0.1)]


def _plate(rng: np.random.Generator, brush: Brush, *, z: float, round_plate: bool) -> Part:
    """A plate in front of a post, facing -x; both signs and grey boards use it."""
    width = rng.uniform(0.60, 0.95)
    if round_plate:
        disc = brush.wheel((0, 0, z), radius=width / 2, width=0.05)
        # A wheel rolls along x and so faces y: turn it to face along x.
        return replace(disc, center=(-0.10, 0, z), yaw=np.pi / 2)
    return brush.box((-0.10, 0, z), (0.05, width, rng.uniform(0.5, 1.0)))


def sign(rng: np.random.Generator) -> list[Part]:
    """A traffic sign: the plate is a sign, its post a pole."""
    height = rng.uniform(2.0, 2.7)
    steel = Brush(label=Raw.POLE, surface=Surface.STEEL, color=varied(rng, STEELS, 0.06))
    face = Brush(label=Raw.TRAFFIC_SIGN, surface=Surface.SIGN, color=varied(rng, SIGN_COLORS, 0.05))
    parts = [
        steel.cylinder((0, 0, -0.1), radius=0.04, height=height + 0.35),
        _plate(rng, face, z=height, round_plate=bool(rng.random() < 0.5)),
    ]
    if rng.random() < 0.3:
        parts.append(face.box((-0.10, 0, height - 0.75), (0.05, 0.6, 0.3)))
    return parts


def pole_with_board(rng: np.random.Generator) -> list[Part]:
    """A post with a grey box or blank plate: of a sign's shape, but part of the pole."""
    height = rng.uniform(1.9, 2.7)
    steel = Brush(label=Raw.POLE, surface=Surface.STEEL, color=varied(rng, STEELS, 0.06))
    board = Brush(label=Raw.POLE, surface=Surface.BOARD, color=varied(rng, BOARD_COLORS, 0.05))
    return [
        steel.cylinder((0, 0, -0.1), radius=0.05, height=height + 0.35),
        _plate(rng, board, z=height, round_plate=bool(rng.random() < 0.5)),
    ]


def fence(rng: np.random.Generator, *, length: float) -> list[Part]:
    """A fence along x: planks, bars, or a low wall."""
    height = rng.uniform(0.9, 1.8)
    kind = rng.choice(["planks", "bars", "wall"], p=[0.4, 0.4, 0.2])
    color = varied(rng, PLANKS, 0.08)
    wood = Brush(label=Raw.FENCE, surface=Surface.PLANK, color=color)
    if kind == "planks":
        parts = [wood.box((0, 0, height / 2), (length, 0.06, height))]
    elif kind == "wall":
        stone = Brush(
            label=Raw.FENCE, surface=Surface.WALL, color=varied(rng, ((0.60, 0.56, 0.50),), 0.1)
        )
        return [stone.box((0, 0, height / 2 - 0.1), (length, 0.25, height))]
    else:
        wire = Brush(label=Raw.FENCE, surface=Surface.WIRE, color=varied(rng, STEELS, 0.08))
        period = rng.uniform(0.10, 0.2)
        parts = [
            wire.lattice(
                (0, 0, height / 2), (length, 0.05, height), period_m=period, bar_m=0.4 * period
            )
        ]
    count = max(2, int(length / 2.5) + 1)
    places = np.linspace(-length / 2, length / 2, count)
    return parts + [wood.box((float(x), 0, height / 2), (0.1, 0.1, height + 0.1)) for x in places]


def clutter(rng: np.random.Generator) -> list[Part]:
    """A bin, bench, box or cabinet: other-object, ignored in training."""
    kind = rng.integers(3)
    if kind == 0:
        plastic = Brush(
            label=Raw.OTHER_OBJECT,
            surface=Surface.PLASTIC,
            color=varied(rng, ((0.15, 0.25, 0.15), (0.1, 0.1, 0.1)), 0.1),
        )
        return [plastic.tapered((0, 0, 0.5), (0.7, 0.6, 1.0), top=(1.1, 1.1))]
    if kind == 1:
        wood = Brush(label=Raw.OTHER_OBJECT, surface=Surface.PLANK, color=varied(rng, PLANKS, 0.1))
        return [
            wood.box((0, 0, 0.45), (1.6, 0.45, 0.08)),
            wood.box((0, -0.2, 0.7), (1.6, 0.06, 0.4)),
            wood.box((-0.65, 0, 0.2), (0.08, 0.4, 0.45)),
            wood.box((0.65, 0, 0.2), (0.08, 0.4, 0.45)),
        ]
    steel = Brush(
        label=Raw.OTHER_OBJECT, surface=Surface.BOARD, color=varied(rng, BOARD_COLORS, 0.1)
    )
    return [steel.box((0, 0, 0.6), (1.0, 0.4, 1.3))]
