"""Crosstalk: pulses of other lidars are mistaken for the sensor's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pass2d.corruptions.cloud import Cloud, Corrupted
from pass2d.corruptions.corruption import Corruption


@dataclass(frozen=True, kw_only=True)
class CrosstalkSettings:
    """How many lidars are around."""

    fraction: float
    """Of the points that are hit."""
    std_m: float
    """Standard deviation of the error of each of their coordinates."""
    noise_label: int = 0
    """Published id of noise points; means: ignored."""


def crosstalk(cloud: Cloud, settings: CrosstalkSettings, rng: np.random.Generator) -> Corrupted:
    """Move exactly that fraction of the points by normal noise; they are noise then.

    Source: Kong et al., Robo3D, ICCV 2023.
    """
    hit = rng.choice(cloud.n, round(settings.fraction * cloud.n), replace=False)
    xyz, source = cloud.xyz.copy(), np.arange(cloud.n)
    error = rng.standard_normal((3, len(hit)), np.float32) * np.float32(settings.std_m)
    xyz[:, hit] += error
    source[hit] = -1
    return Corrupted(xyz=xyz, signal=cloud.signal, source=source)


CORRUPTION = Corruption(name="crosstalk", settings=CrosstalkSettings, apply=crosstalk)
