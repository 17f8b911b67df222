"""Trees, bushes and hedges: trunks and clouds of leaves."""

from __future__ import annotations

import numpy as np

from pass2d.synth.labels import Raw
from pass2d.synth.parts import Brush, Color, Part, place, varied
from pass2d.synth.surfaces import Surface

GREENS: tuple[Color, ...] = (
    (0.18, 0.36, 0.11),
    (0.27, 0.42, 0.13),
    (0.13, 0.28, 0.12),
    (0.34, 0.42, 0.16),
)
GRASSES: tuple[Color, ...] = ((0.21, 0.31, 0.09), (0.26, 0.33, 0.12))
BARKS: tuple[Color, ...] = ((0.34, 0.26, 0.19), (0.26, 0.21, 0.17), (0.42, 0.36, 0.30))


def tree(rng: np.random.Generator) -> list[Part]:
    """A broad tree or a slender one, its lowest leaves often within the LiDAR's view."""
    slender = rng.random() < 0.25
    trunk_height = rng.uniform(1.3, 2.8)
    radius = rng.uniform(0.10, 0.30)
    spread, crown = (
        (rng.uniform(1.4, 2.2), rng.uniform(5, 8))
        if slender
        else (
            rng.uniform(3.0, 5.5),
            rng.uniform(3.0, 5.5),
        )
    )
    bark = Brush(label=Raw.TRUNK, surface=Surface.BARK, color=varied(rng, BARKS, 0.08))
    leaf = Brush(label=Raw.VEGETATION, surface=Surface.LEAF, color=varied(rng, GREENS, 0.12))
    top = trunk_height + crown / 2
    parts = [
        bark.cylinder((0, 0, -0.1), radius=radius, height=trunk_height + 0.35 * crown + 0.1),
        bark.tapered((0, 0, 0.1), (2.9 * radius, 2.9 * radius, 0.4), top=(0.6, 0.6)),
        leaf.foliage((0, 0, top), (spread, spread, crown), filled=0.26, cell_m=0.13),
    ]
    if not slender:
        for angle in rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2]):
            size = spread * rng.uniform(0.5, 0.75)
            x, y = 0.36 * spread * np.cos(angle), 0.36 * spread * np.sin(angle)
            z = top + rng.uniform(-0.28, 0.2) * crown
            parts.append(
                leaf.foliage((x, y, z), (size, size, 0.6 * size + 0.8), filled=0.26, cell_m=0.13)
            )
    return parts


def bush(rng: np.random.Generator) -> list[Part]:
    """A shrub that starts at the ground."""
    leaf = Brush(label=Raw.VEGETATION, surface=Surface.LEAF, color=varied(rng, GREENS, 0.12))
    width, height = rng.uniform(1.0, 3.0), rng.uniform(0.8, 2.6)
    return [
        leaf.foliage((0, 0, 0.42 * height), (width, width, height), filled=0.5, cell_m=0.12),
        leaf.foliage(
            (rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), 0.36 * height),
            (width * 0.9, width * 0.9, height * 0.8),
            filled=0.5,
            cell_m=0.12,
        ),
    ]


def thicket(rng: np.random.Generator, *, length: float) -> list[Part]:
    """Wild shrubs in a row along x, as high as a man or higher."""
    parts: list[Part] = []
    x = -length / 2
    while x < length / 2:
        parts += place(bush(rng), x=x, y=float(rng.uniform(-0.8, 0.8)))
        x += rng.uniform(0.9, 2.0)
    return parts


def mound(rng: np.random.Generator) -> list[Part]:
    """A low grassy rise."""
    grass = Brush(label=Raw.TERRAIN, surface=Surface.GRASS, color=varied(rng, GRASSES, 0.08))
    width, length = rng.uniform(5, 12, 2)
    return [grass.ellipsoid((0, 0, 0), (length, width, rng.uniform(0.5, 1.8)))]


def hedge(rng: np.random.Generator, *, length: float) -> list[Part]:
    """A clipped hedge along x: a leafy box between overlapping clouds."""
    leaf = Brush(label=Raw.VEGETATION, surface=Surface.LEAF, color=varied(rng, GREENS, 0.10))
    width, height = rng.uniform(0.6, 1.0), rng.uniform(0.9, 1.9)
    core = leaf.tapered((0, 0, 0.45 * height), (length, 0.7 * width, 0.9 * height), top=(0.98, 0.8))
    step = 1.6
    count = max(1, int(length / step))
    places = (np.arange(count) + 0.5) * length / count - length / 2
    return [core] + [
        leaf.foliage(
            (float(x), 0, 0.5 * height),
            (1.4 * length / count, width * rng.uniform(1.0, 1.25), height * rng.uniform(1.0, 1.12)),
            filled=0.45,
            cell_m=0.10,
        )
        for x in places
    ]
