"""Motion blur: a shaking vehicle puts every point a little off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pass2d.corruptions.cloud import Cloud, Corrupted
from pass2d.corruptions.corruption import Corruption


@dataclass(frozen=True, kw_only=True)
class MotionBlurSettings:
    """How much it shakes."""

    std_m: float
    """Standard deviation of each coordinate."""


def motion_blur(cloud: Cloud, settings: MotionBlurSettings, rng: np.random.Generator) -> Corrupted:
    """Add normal noise to every coordinate of every point; signals and labels stay.

    Source: Kong et al., Robo3D, ICCV 2023.
    """
    jitter = rng.standard_normal(cloud.xyz.shape, np.float32) * np.float32(settings.std_m)
    return Corrupted(xyz=cloud.xyz + jitter, signal=cloud.signal, source=np.arange(cloud.n))


CORRUPTION = Corruption(name="motion_blur", settings=MotionBlurSettings, apply=motion_blur)
