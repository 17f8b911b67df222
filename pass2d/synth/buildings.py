"""Houses and blocks: lists of parts, x along the street, y towards it, the front at y = 0."""

from __future__ import annotations

import numpy as np

from pass2d.synth.labels import Raw
from pass2d.synth.parts import Brush, Color, Part, varied
from pass2d.synth.surfaces import Surface

PLASTER: tuple[Color, ...] = (
    (0.80, 0.76, 0.66),
    (0.72, 0.66, 0.58),
    (0.62, 0.38, 0.30),
    (0.82, 0.80, 0.78),
    (0.70, 0.58, 0.40),
    (0.52, 0.50, 0.48),
)
TILES: tuple[Color, ...] = ((0.48, 0.22, 0.16), (0.32, 0.20, 0.17), (0.27, 0.27, 0.29))


def house(rng: np.random.Generator, *, width: float) -> list[Part]:
    """A detached house with a gabled roof, sometimes with a porch or garage."""
    depth, eaves = rng.uniform(7, 11), rng.uniform(3.0, 6.0)
    walls = Brush(label=Raw.BUILDING, surface=Surface.FACADE, color=varied(rng, PLASTER, 0.06))
    tiles = Brush(label=Raw.BUILDING, surface=Surface.ROOF, color=varied(rng, TILES, 0.08))
    gable = bool(rng.random() < 0.5)
    parts = [
        walls.box((0, -depth / 2, eaves / 2 - 0.2), (width, depth, eaves)),
        tiles.tapered(
            (0, -depth / 2, eaves - 0.2 + 1.2),
            (width + 0.6, depth + 0.6, 2.4),
            top=(0.05, 1.0) if gable else (1.0, 0.05),
        ),
    ]
    if rng.random() < 0.5:
        x = rng.uniform(-0.3, 0.3) * width
        parts.append(walls.box((x, 0.5, 1.2), (rng.uniform(1.5, 3.0), 1.4, 2.8)))
    if rng.random() < 0.4:
        parts.append(tiles.box((0.2 * width, -depth / 2, eaves + 2.0), (0.7, 0.7, 2.0)))
    return parts


def block(rng: np.random.Generator, *, width: float) -> list[Part]:
    """A row house or office of several storeys with a flat roof and balconies."""
    depth, height = rng.uniform(10, 14), 3.0 * rng.integers(2, 6) + rng.uniform(0, 0.8)
    walls = Brush(label=Raw.BUILDING, surface=Surface.FACADE, color=varied(rng, PLASTER, 0.06))
    trim = Brush(label=Raw.BUILDING, surface=Surface.WALL, color=varied(rng, PLASTER, 0.06))
    parts = [
        walls.box((0, -depth / 2, height / 2 - 0.2), (width, depth, height)),
        trim.box((0, -depth / 2, 0.2), (width + 0.1, depth + 0.2, 0.9)),
    ]
    for _ in range(rng.integers(0, 4)):
        x, floor = rng.uniform(-0.4, 0.4) * width, rng.integers(1, 3)
        parts.append(trim.box((x, 0.5, 3.0 * floor), (2.4, 1.1, 0.2)))
        parts.append(trim.box((x, 1.0, 3.0 * floor + 0.5), (2.4, 0.08, 1.0)))
    if rng.random() < 0.4:
        x = rng.uniform(-0.3, 0.3) * width
        parts.append(trim.box((x, 0.25, 1.3), (1.6, 0.6, 2.9)))
    return parts


def shelter(rng: np.random.Generator) -> list[Part]:
    """A bus shelter: other-structure, ignored in training."""
    steel = Brush(label=Raw.OTHER_STRUCTURE, surface=Surface.STEEL, color=(0.35, 0.36, 0.37))
    glass = Brush(label=Raw.OTHER_STRUCTURE, surface=Surface.GLASS, color=(0.45, 0.52, 0.52))
    length = rng.uniform(3.0, 4.5)
    return [
        steel.box((0, 0, 2.45), (length, 1.5, 0.12)),
        glass.box((0, -0.7, 1.2), (length, 0.05, 2.0)),
        steel.box((-length / 2, -0.6, 1.2), (0.1, 0.1, 2.5)),
        steel.box((length / 2, -0.6, 1.2), (0.1, 0.1, 2.5)),
        steel.box((0, -0.45, 0.45), (0.7 * length, 0.35, 0.08)),
    ]
