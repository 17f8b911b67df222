"""Falling snow: flakes block part of the beam, and a near or large one is measured instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud, Corrupted, replace_returns
from pass2d.corruptions.corruption import Corruption
from pass2d.corruptions.reach import REFERENCE_M, reflectivity, weakest_reflectivity

FLAKE_DENSITY = 0.1
"""Of snowflakes, relative to water; a flake is as wide as its melted drop over the cube root."""
FLAKE_REFLECTIVITY = 0.9
"""Of snow at 905 nm, relative to a white matt target."""
POWER_FACTOR = 15.0
"""See `corruptions.reach.REFERENCE_M`."""
_NEAR_M = 10.0
"""Flakes wider than the beam are farther than this only if they are 3 cm wide."""


@dataclass(frozen=True, kw_only=True)
class SnowSettings:
    """How it snows."""

    snowfall_rate_mm_h: float
    """Of melted water."""
    terminal_velocity_m_s: float
    """Of the flakes."""
    beam_divergence_rad: float
    """Full angle."""
    noise_floor: float
    """A return fainter than this part of the sensor's noise is lost; at most 1."""
    noise_label: int = 0
    """Published id of noise points; means: ignored."""


@dataclass(frozen=True, kw_only=True)
class Flakes:
    """Snowflakes in the air. Diameters of the melted drops are exponential with mean 1 / slope."""

    per_m3: float
    slope_per_mm: float

    @property
    def width(self) -> float:
        """Diameter of a flake over that of its melted drop."""
        return float(FLAKE_DENSITY ** (-1 / 3))

    @property
    def extinction_per_m(self) -> float:
        """Part of a beam that flakes block per metre: number times mean cross section."""
        mean_square_mm2 = 2 / self.slope_per_mm**2 * self.width**2
        return self.per_m3 * np.pi / 4 * mean_square_mm2 * 1e-6


def flakes_in_air(settings: SnowSettings) -> Flakes:
    """How many flakes of which size fall at a rate.

    Sizes: Gunn and Marshall 1958, slope = 2.55 rate^-0.48 per mm. Number: the volume of water in
    the air is rate / velocity, and a drop has pi / 6 times the mean cube of its diameter.
    """
    slope = 2.55 * settings.snowfall_rate_mm_h**-0.48
    water = settings.snowfall_rate_mm_h * 1e-3 / 3600 / settings.terminal_velocity_m_s
    drop_m3 = np.pi / 6 * (6 / slope**3) * 1e-9
    return Flakes(per_m3=float(water / drop_m3), slope_per_mm=float(slope))


def snow(cloud: Cloud, settings: SnowSettings, rng: np.random.Generator) -> Corrupted:
    """Let it snow on a scan.

    A flake at distance x blocks a part of the beam: its area over the beam's there, at most 1. What
    is left goes to the target and back: its signal is multiplied by the square of what passes. A
    flake returns 0.9 part / x², the target its reflectivity / R0²; the sensor measures the stronger
    one, or nothing below the noise floor.

    Flakes whose return can be detected are drawn individually, in position and size. The many
    others are far or small: their mean dims the beam.

    Source: Hahner et al., LiDAR Snowfall Simulation, CVPR 2022; Gunn and Marshall 1958.
    """
    if settings.snowfall_rate_mm_h <= 0:
        return Corrupted(xyz=cloud.xyz, signal=cloud.signal, source=np.arange(cloud.n))
    flakes = flakes_in_air(settings)
    range_m = cloud.range_m()
    hits = _draw_flakes(range_m, flakes, settings, rng)
    passes = np.exp(-_unheard_depth(range_m, flakes, settings)).astype(np.float32)
    echo, echo_m = np.zeros(cloud.n, np.float32), np.zeros(cloud.n, np.float32)
    if len(hits.beam):
        first = np.flatnonzero(np.diff(hits.beam, prepend=-1))
        beams = hits.beam[first]
        passes[beams] *= np.multiply.reduceat(1 - hits.part, first)
        power = np.float32(FLAKE_REFLECTIVITY) * hits.part / hits.range_m**2
        echo[beams] = np.maximum.reduceat(power, first)
        loudest = np.flatnonzero(power == echo[hits.beam])
        echo_m[hits.beam[loudest]] = hits.range_m[loudest]
    left = passes**2
    target = reflectivity(cloud, range_m, power_factor=POWER_FACTOR) * left
    is_noise = echo * range_m**2 > target
    noise = weakest_reflectivity(range_m, power_factor=POWER_FACTOR)
    flake_signal = cloud.sensor.white_signal * echo * echo_m**2
    return replace_returns(
        cloud,
        signal=np.where(is_noise, flake_signal, cloud.signal * left),
        kept=is_noise | (target >= settings.noise_floor * noise),
        is_noise=is_noise,
        noise_share=echo_m / np.maximum(range_m, 1e-6),
    )


@dataclass(frozen=True, kw_only=True)
class _Hits:
    """Flakes in beams, beam by beam."""

    beam: NDArray[np.int64]
    """(F,) row of the point of the same beam, not decreasing."""
    range_m: NDArray[np.float32]
    part: NDArray[np.float32]
    """(F,) of the beam that it blocks."""


def _smallest_heard_mm(
    range_m: NDArray[np.floating], settings: SnowSettings
) -> NDArray[np.floating]:
    """Melted diameter of the smallest flake that is above the noise floor: it grows with x².

    Heard is 0.9 part / x² >= floor / (reference² power factor), with part = (d / (divergence x))².
    """
    part = settings.noise_floor / (REFERENCE_M**2 * POWER_FACTOR * FLAKE_REFLECTIVITY) * range_m**2
    flake_m = settings.beam_divergence_rad * range_m * np.sqrt(part)
    return flake_m * 1e3 * float(FLAKE_DENSITY ** (1 / 3))


def _draw_flakes(
    range_m: NDArray[np.float32], flakes: Flakes, settings: SnowSettings, rng: np.random.Generator
) -> _Hits:
    """Flakes that can be heard, before the targets.

    Those whose centre is in the beam (a cone): per metre n pi (divergence x / 2)² exp(-slope d(x)),
    and d(x) = k x², which is the density of the length of a normal vector in three dimensions. And
    those wider than the beam that reach into it from outside: drawn by area, thinned.
    """
    half_rad = settings.beam_divergence_rad / 2
    k = flakes.slope_per_mm * float(_smallest_heard_mm(np.ones(1), settings)[0])
    in_cone = flakes.per_m3 * np.pi * half_rad**2 * np.sqrt(np.pi) / 4 / k**1.5
    beside = flakes.extinction_per_m * _NEAR_M
    count = rng.poisson(in_cone, len(range_m))
    count_beside = rng.poisson(beside, len(range_m))
    beam = np.repeat(np.arange(len(range_m)), count)
    scale_m = np.float32(1 / np.sqrt(2 * k))
    place = rng.standard_normal((3, len(beam)), np.float32)
    x = scale_m * np.sqrt(np.einsum("an,an->n", place, place))
    smallest = _smallest_heard_mm(x, settings).astype(np.float32)
    melted_mm = smallest + rng.standard_exponential(len(beam), np.float32) / flakes.slope_per_mm
    beam_beside = np.repeat(np.arange(len(range_m)), count_beside)
    x_beside = _NEAR_M * rng.random(len(beam_beside), np.float32)
    wide_mm = rng.standard_gamma(3, len(beam_beside), np.float32) / flakes.slope_per_mm
    covered = half_rad * x_beside / np.maximum(wide_mm * flakes.width * 5e-4, 1e-9)
    reaches_in = rng.random(len(beam_beside), np.float32) < 1 - covered**2
    beam = np.concatenate([beam, beam_beside[reaches_in]])
    x = np.concatenate([x, x_beside[reaches_in]]).astype(np.float32)
    melted_mm = np.concatenate([melted_mm, wide_mm[reaches_in]])
    # Nothing is heard from within the housing and the overlap's first metre (see fog.OVERLAP_M).
    rows = np.flatnonzero((x < range_m[beam]) & (x > 1.0))
    rows = rows[np.argsort(beam[rows], kind="stable")]
    radius_m = melted_mm[rows] * np.float32(flakes.width * 5e-4)
    part = np.minimum((radius_m / (half_rad * x[rows])) ** 2, 1).astype(np.float32)
    return _Hits(beam=beam[rows], range_m=x[rows], part=part)


def _unheard_depth(
    range_m: NDArray[np.float32], flakes: Flakes, settings: SnowSettings
) -> NDArray[np.floating]:
    """(N,) mean optical depth up to the targets of the flakes that are not drawn one by one."""
    grid = np.linspace(0, max(1.0, float(range_m.max(initial=0))), 512)
    smallest, slope = _smallest_heard_mm(grid, settings), flakes.slope_per_mm
    # Share of the mean square diameter that is due to flakes below the smallest heard one.
    reach = slope * smallest
    unheard = 1 - np.exp(-reach) * (1 + reach + reach**2 / 2)
    depth = np.concatenate([[0], np.cumsum((unheard[1:] + unheard[:-1]) / 2) * (grid[1] - grid[0])])
    return np.interp(range_m, grid, flakes.extinction_per_m * depth)


CORRUPTION = Corruption(name="snow", settings=SnowSettings, apply=snow)
