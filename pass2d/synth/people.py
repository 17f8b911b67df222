"""People, bicycles, motorcycles and their riders: lists of parts, x ahead, standing on z = 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pass2d.synth.labels import Raw
from pass2d.synth.parts import Brush, Color, Part, place, varied
from pass2d.synth.surfaces import Surface
from pass2d.synth.vehicles import TYRE

CLOTHES: tuple[Color, ...] = (
    (0.15, 0.17, 0.25),
    (0.60, 0.12, 0.12),
    (0.72, 0.70, 0.66),
    (0.20, 0.35, 0.55),
    (0.32, 0.28, 0.22),
    (0.75, 0.55, 0.15),
    (0.10, 0.10, 0.11),
)
SKIN: tuple[Color, ...] = ((0.80, 0.62, 0.52), (0.55, 0.38, 0.28), (0.36, 0.24, 0.18))


def person(rng: np.random.Generator) -> list[Part]:
    """Somebody standing or in mid-step."""
    size = rng.uniform(0.86, 1.08)
    stride = rng.uniform(0.0, 0.28)
    trousers = Brush(label=Raw.PERSON, surface=Surface.CLOTH, color=varied(rng, CLOTHES, 0.08))
    jacket = Brush(label=Raw.PERSON, surface=Surface.CLOTH, color=varied(rng, CLOTHES, 0.08))
    skin = Brush(label=Raw.PERSON, surface=Surface.SKIN, color=varied(rng, SKIN, 0.05))
    parts = [
        trousers.ellipsoid((stride, 0.11, 0.43), (0.18, 0.18, 0.95)),
        trousers.ellipsoid((-stride, -0.11, 0.43), (0.18, 0.18, 0.95)),
        jacket.ellipsoid((0, 0, 1.13), (0.30, 0.46, 0.78)),
        jacket.ellipsoid((-0.4 * stride, 0.23, 1.06), (0.14, 0.12, 0.68)),
        jacket.ellipsoid((0.4 * stride, -0.23, 1.06), (0.14, 0.12, 0.68)),
        skin.ellipsoid((0.02, 0, 1.62), (0.21, 0.18, 0.26)),
    ]
    return [_scaled(part, size) for part in parts]


def _scaled(part: Part, size: float) -> Part:
    x, y, z = part.center
    a, b, c = part.half
    return replace(part, center=(x * size, y * size, z * size), half=(a * size, b * size, c * size))


def _rider(rng: np.random.Generator, label: Raw, *, seat: float, helmet: bool) -> list[Part]:
    jacket = Brush(label=label, surface=Surface.CLOTH, color=varied(rng, CLOTHES, 0.08))
    trousers = Brush(label=label, surface=Surface.CLOTH, color=varied(rng, CLOTHES, 0.08))
    skin = Brush(label=label, surface=Surface.SKIN, color=varied(rng, SKIN, 0.05))
    shell = Brush(label=label, surface=Surface.PLASTIC, color=varied(rng, CLOTHES, 0.1))
    head = (shell if helmet else skin).ellipsoid((0.28, 0, seat + 0.78), (0.27, 0.23, 0.28))
    return [
        jacket.ellipsoid((0.08, 0, seat + 0.36), (0.42, 0.44, 0.74)),
        trousers.ellipsoid((0.12, 0.15, seat - 0.28), (0.32, 0.16, 0.80)),
        trousers.ellipsoid((0.12, -0.15, seat - 0.28), (0.32, 0.16, 0.80)),
        jacket.ellipsoid((0.32, 0.20, seat + 0.38), (0.52, 0.11, 0.32)),
        jacket.ellipsoid((0.32, -0.20, seat + 0.38), (0.52, 0.11, 0.32)),
        head,
    ]


def bicycle(rng: np.random.Generator, label: Raw = Raw.BICYCLE) -> list[Part]:
    """Two thin wheels, a frame, saddle and handlebar."""
    colors: tuple[Color, ...] = ((0.1, 0.1, 0.1), (0.6, 0.1, 0.1), (0.2, 0.3, 0.6), (0.7, 0.7, 0.7))
    frame = Brush(label=label, surface=Surface.STEEL, color=varied(rng, colors, 0.06))
    tyre = Brush(label=label, surface=Surface.RUBBER, color=TYRE)
    return [
        tyre.wheel((0.52, 0, 0.34), radius=0.34, width=0.06),
        tyre.wheel((-0.52, 0, 0.34), radius=0.34, width=0.06),
        frame.tapered((0.0, 0, 0.56), (0.62, 0.06, 0.46), top=(1.3, 1.0)),
        frame.box((-0.25, 0, 0.92), (0.26, 0.14, 0.08)),
        frame.box((0.44, 0, 1.0), (0.08, 0.52, 0.08)),
    ]


def bicyclist(rng: np.random.Generator) -> list[Part]:
    """A bicycle with its rider: one thing, one label."""
    return bicycle(rng, Raw.BICYCLIST) + place(
        _rider(rng, Raw.BICYCLIST, seat=0.92, helmet=bool(rng.random() < 0.4)), x=-0.15, y=0
    )


def motorcycle(rng: np.random.Generator, label: Raw = Raw.MOTORCYCLE) -> list[Part]:
    """A motorcycle or scooter."""
    colors: tuple[Color, ...] = (
        (0.65, 0.1, 0.08),
        (0.1, 0.1, 0.1),
        (0.1, 0.2, 0.5),
        (0.8, 0.8, 0.8),
    )
    paint = Brush(label=label, surface=Surface.PAINT, color=varied(rng, colors, 0.06))
    tyre = Brush(label=label, surface=Surface.RUBBER, color=TYRE)
    steel = Brush(label=label, surface=Surface.STEEL, color=(0.4, 0.4, 0.4))
    return [
        tyre.wheel((0.70, 0, 0.31), radius=0.31, width=0.15),
        tyre.wheel((-0.66, 0, 0.31), radius=0.31, width=0.18),
        paint.ellipsoid((0.12, 0, 0.78), (0.80, 0.38, 0.42)),
        steel.box((0.0, 0, 0.44), (0.62, 0.36, 0.38)),
        paint.tapered((-0.48, 0, 0.76), (0.78, 0.28, 0.20), top=(0.9, 0.8)),
        paint.tapered((0.60, 0, 0.88), (0.30, 0.42, 0.46), top=(0.5, 0.7)),
        steel.box((0.48, 0, 1.05), (0.08, 0.72, 0.08)),
    ]


def motorcyclist(rng: np.random.Generator) -> list[Part]:
    """A motorcycle with its rider: one thing, one label."""
    return motorcycle(rng, Raw.MOTORCYCLIST) + place(
        _rider(rng, Raw.MOTORCYCLIST, seat=0.84, helmet=True), x=-0.22, y=0
    )
