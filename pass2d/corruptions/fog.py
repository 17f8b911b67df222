"""Fog: targets fade, and the fog itself is measured where its return is stronger."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud, Corrupted, replace_returns
from pass2d.corruptions.corruption import Corruption

LIGHT_M_S = 299_792_458.0
PULSE_S = 20e-9
"""Half-power width of the sent pulse, tau_H: it is sin² over twice that."""
OVERLAP_M = (0.9, 1.0)
"""The receiver sees nothing of the beam before the first distance and all of it from the second."""
TARGET_REFLECTIVITY = 1e-6 / np.pi
"""beta_0: differential reflectivity of a target in clear air."""
_STEP_M, _LAST_M, _STEPS = 0.02, 60.0, 201


@dataclass(frozen=True, kw_only=True)
class FogSettings:
    """How thick the fog is."""

    backscatter: float
    """beta: what the fog returns."""
    attenuation_choices_per_m: tuple[float, ...]
    """alpha: attenuation; one of these is drawn per scan."""
    noise_label: int = 0
    """Published id of noise points; means: ignored."""


def fog(cloud: Cloud, settings: FogSettings, rng: np.random.Generator) -> Corrupted:
    """Put a scan into fog.

    The target's signal becomes i exp(-2 alpha R0). The fog's is i (R0² / beta_0) beta I(R), with I
    of `soft_response`, at its largest before the target. The stronger one is returned. Where within
    a pulse several metres long the sensor triggers is random: a range is drawn with density I.

    Source: Hahner et al., Fog Simulation on Real LiDAR Point Clouds, ICCV 2021, section 3.
    """
    alpha = float(rng.choice(np.array(settings.attenuation_choices_per_m)))
    drawn = rng.random(cloud.n, np.float32)
    range_m = cloud.range_m()
    response = soft_response(alpha)
    hard = cloud.signal * np.exp(-2 * np.float32(alpha) * range_m)
    factor = np.float32(settings.backscatter / TARGET_REFLECTIVITY)
    soft = cloud.signal * factor * range_m**2 * response.largest_before(range_m)
    is_noise = soft > hard
    noise_m = response.range_of_share(drawn * response.share_before(range_m))
    return replace_returns(
        cloud,
        signal=np.where(is_noise, soft, hard),
        kept=np.ones(cloud.n, bool),
        is_noise=is_noise,
        noise_share=np.minimum(noise_m / np.maximum(range_m, 1e-6), 1),
    )


@dataclass(frozen=True, kw_only=True)
class SoftResponse:
    """What fog returns over range, as tables in equal steps from 0."""

    value: NDArray[np.float32]
    """I, in seconds per square metre."""
    largest: NDArray[np.float32]
    """The largest I up to each range."""
    share: NDArray[np.float32]
    """0..1, the part of I's integral up to each range."""

    def largest_before(self, range_m: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) the largest I before targets at these (N,) distances."""
        return self.largest[_rows(range_m)]

    def share_before(self, range_m: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) the share of I's integral before targets at these (N,) distances."""
        return self.share[_rows(range_m)]

    def range_of_share(self, share: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) the ranges up to which (N,) shares of the integral lie."""
        even = np.linspace(0, 1, 4097)
        table = np.interp(even, self.share, _STEP_M * np.arange(len(self.share)))
        place = share * np.float32(4096)
        low = np.minimum(place.astype(np.int32), 4095)
        start = table.astype(np.float32)
        return start[low] + (place - low) * (start[low + 1] - start[low])


def _rows(range_m: NDArray[np.float32]) -> NDArray[np.int32]:
    last = int(_LAST_M / _STEP_M)
    return np.minimum(range_m / np.float32(_STEP_M), last).astype(np.int32)


@functools.lru_cache(maxsize=64)
def soft_response(alpha_per_m: float) -> SoftResponse:
    """Tabulate what fog of backscatter 1 returns.

    I(R) is the integral over t in 0..2 tau_H of sin²(pi t / 2 tau_H) exp(-2 alpha r) xi(r) / r²,
    with r = R - c t / 2 and xi the receiver's overlap. For R up to the target's R0 it does not
    depend on R0; what would be heard after the target's own return is left out.
    """
    t = np.linspace(0, 2 * PULSE_S, _STEPS)
    pulse = np.sin(np.pi * t / (2 * PULSE_S)) ** 2
    last = int(_LAST_M / _STEP_M)
    r = _STEP_M * np.arange(last + 1)[:, None] - LIGHT_M_S * t / 2
    overlap = np.clip((r - OVERLAP_M[0]) / (OVERLAP_M[1] - OVERLAP_M[0]), 0, 1)
    reach = np.exp(-2 * alpha_per_m * np.maximum(r, 0)) * overlap / np.maximum(r, OVERLAP_M[0]) ** 2
    value = (pulse * reach).sum(1) * (t[1] - t[0])
    summed = np.cumsum(value)
    return SoftResponse(
        value=value.astype(np.float32),
        largest=np.maximum.accumulate(value).astype(np.float32),
        share=(summed / summed[-1]).astype(np.float32),
    )


CORRUPTION = Corruption(name="fog", settings=FogSettings, apply=fog)
