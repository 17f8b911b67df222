"""What things are made of: how a surface answers the LiDAR and how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Texture(IntEnum):
    """How the colour of a surface varies over it."""

    PLAIN = 0
    SPECKLE = 1
    SLABS = 2
    BLOTCHES = 3
    LEAVES = 4
    GRAIN = 5
    FACADE = 6
    EMBLEM = 7


class Surface(IntEnum):
    """Rows of `SURFACES`."""

    ASPHALT = 0
    MARKING = 1
    PARKING = 2
    SIDEWALK = 3
    GRAVEL = 4
    GRASS = 5
    FACADE = 6
    ROOF = 7
    WALL = 8
    PLANK = 9
    WIRE = 10
    PAINT = 11
    GLASS = 12
    RUBBER = 13
    CLOTH = 14
    SKIN = 15
    LEAF = 16
    BARK = 17
    STEEL = 18
    BOARD = 19
    SIGN = 20
    PLASTIC = 21


@dataclass(frozen=True, kw_only=True)
class SurfaceModel:
    """One material."""

    remission: float
    """Mean share of the light that comes back at right angles, 0..1."""
    spread: float
    """Standard deviation of ``remission`` from place to place."""
    slant: float
    """Power of the cosine of incidence; small for rough things, large for mirrors."""
    roughness_m: float
    """Standard deviation of the surface about its shape, in metres."""
    lost: float
    """Share of shots without an echo, 0..1."""
    texture: Texture
    contrast: float
    """Strength of the texture, 0..1."""


def _model(  # noqa: PLR0917  # rows of the table below
    remission: float,
    spread: float,
    slant: float,
    roughness_m: float,
    lost: float,
    texture: Texture,
    contrast: float,
) -> SurfaceModel:
    return SurfaceModel(
        remission=remission,
        spread=spread,
        slant=slant,
        roughness_m=roughness_m,
        lost=lost,
        texture=texture,
        contrast=contrast,
    )


# Means follow the medians of real SemanticKITTI scans (road 0.25, parking 0.32, sidewalk 0.31,
# building 0.42, vegetation 0.34, trunk 0.31, terrain 0.33, pole 0.18, sign 0.32, car 0.09); the
# spreads make neighbours in this list overlap, so that remission alone decides nothing.
SURFACES: dict[Surface, SurfaceModel] = {
    Surface.ASPHALT: _model(0.26, 0.09, 0.10, 0.006, 0.01, Texture.SPECKLE, 0.16),
    Surface.MARKING: _model(0.40, 0.15, 0.10, 0.006, 0.01, Texture.SPECKLE, 0.12),
    Surface.PARKING: _model(0.33, 0.10, 0.10, 0.008, 0.01, Texture.SLABS, 0.16),
    Surface.SIDEWALK: _model(0.36, 0.10, 0.10, 0.008, 0.01, Texture.SLABS, 0.14),
    Surface.GRAVEL: _model(0.31, 0.11, 0.08, 0.020, 0.01, Texture.SPECKLE, 0.30),
    Surface.GRASS: _model(0.33, 0.11, 0.05, 0.035, 0.02, Texture.BLOTCHES, 0.35),
    Surface.FACADE: _model(0.44, 0.13, 0.30, 0.010, 0.02, Texture.FACADE, 0.10),
    Surface.ROOF: _model(0.34, 0.10, 0.30, 0.015, 0.02, Texture.GRAIN, 0.20),
    Surface.WALL: _model(0.33, 0.12, 0.25, 0.010, 0.01, Texture.SPECKLE, 0.15),
    Surface.PLANK: _model(0.34, 0.12, 0.25, 0.010, 0.02, Texture.GRAIN, 0.25),
    Surface.WIRE: _model(0.26, 0.14, 0.25, 0.010, 0.10, Texture.PLAIN, 0.0),
    Surface.PAINT: _model(0.26, 0.22, 0.90, 0.006, 0.08, Texture.PLAIN, 0.0),
    Surface.GLASS: _model(0.05, 0.08, 1.50, 0.010, 0.70, Texture.PLAIN, 0.0),
    Surface.RUBBER: _model(0.06, 0.05, 0.30, 0.006, 0.15, Texture.PLAIN, 0.0),
    Surface.CLOTH: _model(0.33, 0.17, 0.25, 0.015, 0.02, Texture.BLOTCHES, 0.12),
    Surface.SKIN: _model(0.36, 0.10, 0.25, 0.008, 0.02, Texture.PLAIN, 0.0),
    Surface.LEAF: _model(0.34, 0.13, 0.10, 0.030, 0.03, Texture.LEAVES, 0.55),
    Surface.BARK: _model(0.31, 0.13, 0.20, 0.015, 0.02, Texture.GRAIN, 0.35),
    Surface.STEEL: _model(0.28, 0.16, 0.35, 0.006, 0.04, Texture.PLAIN, 0.0),
    Surface.BOARD: _model(0.36, 0.18, 0.30, 0.006, 0.03, Texture.SPECKLE, 0.10),
    Surface.SIGN: _model(0.46, 0.22, 0.20, 0.006, 0.03, Texture.EMBLEM, 0.0),
    Surface.PLASTIC: _model(0.30, 0.14, 0.40, 0.006, 0.04, Texture.PLAIN, 0.0),
}

REMISSION, SPREAD, SLANT, ROUGHNESS_M, LOST, CONTRAST = (
    np.array([getattr(SURFACES[s], field) for s in Surface], np.float32)
    for field in ("remission", "spread", "slant", "roughness_m", "lost", "contrast")
)
TEXTURE = np.array([SURFACES[s].texture for s in Surface], np.uint8)
