"""Wet ground: a film of water reflects most of the light away; faint returns are lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud, Corrupted
from pass2d.corruptions.corruption import Corruption
from pass2d.corruptions.ground import ground_points, incidence_cos, plane_through
from pass2d.corruptions.reach import reflectivity, weakest_reflectivity

WATER_INDEX = 1.33
"""Refractive index of water at 905 nm."""
WATER_ABSORPTION_PER_M = 6.8
"""Of water at 905 nm. Source: Kou et al. 1993."""
GROUND_ALBEDO = 0.2
"""Of dry asphalt at 905 nm; decides how much light is reflected down again by the film."""
INNER_REFLECTANCE = 0.47
"""Of the film's surface from below, for diffuse light. Source: Lekner and Dorf 1988."""


@dataclass(frozen=True, kw_only=True)
class WetGroundSettings:
    """How wet the ground is."""

    water_height_m: float
    """Water per area of ground, as a height."""
    noise_floor: float
    """A return fainter than this part of the sensor's noise is lost; at most 1."""
    pavement_depth_m: float
    """Depth of the pavement's texture: water of that height covers all of it."""
    power_factor: float
    """See `corruptions.reach.REFERENCE_M`."""


def wet_ground(cloud: Cloud, settings: WetGroundSettings, rng: np.random.Generator) -> Corrupted:
    """Lay a film of water on the sealed ground of a scan.

    Signals of ground points are multiplied by `film_factor`; points whose return then is below the
    noise floor are lost. Other points stay as they are. Ground is known by its labels, without them
    by a plane.

    Source: Hahner et al., LiDAR Snowfall Simulation, CVPR 2022, section on wet ground.
    """
    rows = np.flatnonzero(ground_points(cloud, rng))
    signal = cloud.signal.copy()
    kept = np.ones(cloud.n, bool)
    if len(rows):
        xyz, range_m = cloud.xyz[:, rows], cloud.range_m()
        cosine = incidence_cos(xyz, range_m[rows], plane_through(xyz.astype(np.float64)))
        factor = film_factor(cosine, settings)
        signal[rows] *= factor
        power = settings.power_factor
        seen = reflectivity(cloud, range_m, power_factor=power)[rows] * factor
        noise = weakest_reflectivity(range_m[rows], power_factor=power)
        kept[rows] = seen >= settings.noise_floor * noise
    source = np.flatnonzero(kept)
    return Corrupted(xyz=cloud.xyz[:, source], signal=signal[source], source=source)


def film_factor(
    incidence: NDArray[np.floating], settings: WetGroundSettings
) -> NDArray[np.floating]:
    """The share of dry ground's signal that is left.

    Of ground under water (1 - F)² exp(-2 a d / cos') / n² / (1 - r albedo) is left: the light
    crosses the surface twice (F of Fresnel; what the surface reflects leaves as from a mirror), is
    absorbed in the water, is spread by refraction on the way out, and a part r of what the ground
    returns is sent down to it again. Water covers the part height / depth of the texture.

    Args:
        incidence: (N,) cosine between beam and the ground's normal.
        settings: of the film.
    """
    covered = min(1.0, settings.water_height_m / settings.pavement_depth_m)
    through = 1 - fresnel_reflectance(incidence)
    inner = np.sqrt(1 - (1 - incidence**2) / WATER_INDEX**2)
    absorbed = np.exp(-2 * WATER_ABSORPTION_PER_M * settings.water_height_m / inner)
    bounces = 1 / (1 - INNER_REFLECTANCE * GROUND_ALBEDO)
    wet = through**2 * absorbed * bounces / WATER_INDEX**2
    return (1 - covered) + covered * wet


def fresnel_reflectance(cosine: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N,) share of unpolarised light from air that a water surface reflects, by (N,) cosines."""
    inner = np.sqrt(1 - (1 - cosine**2) / WATER_INDEX**2)
    across = (cosine - WATER_INDEX * inner) / (cosine + WATER_INDEX * inner)
    along = (WATER_INDEX * cosine - inner) / (WATER_INDEX * cosine + inner)
    return (across**2 + along**2) / 2


CORRUPTION = Corruption(name="wet_ground", settings=WetGroundSettings, apply=wet_ground)
