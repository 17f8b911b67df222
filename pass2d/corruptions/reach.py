"""The weakest reflector that a lidar detects at a distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud

REFERENCE_M = 40.0
"""At this distance a white matt target returns ``power_factor`` times the noise. With the factor 15
a target of 10 % is seen up to 49 m and one of 80 % up to 139 m; the HDL-64E's data sheet says 50 m
for pavement (10 %) and 120 m for cars and foliage (80 %)."""


def weakest_reflectivity(
    range_m: NDArray[np.floating], *, power_factor: float
) -> NDArray[np.floating]:
    """(N,) reflectivity, 0..1 and above, whose return equals the noise at (N,) ranges R: ~ R²."""
    return (range_m / REFERENCE_M) ** 2 / power_factor


def reflectivity(
    cloud: Cloud, range_m: NDArray[np.floating], *, power_factor: float
) -> NDArray[np.floating]:
    """(N,) reflectivity of each target, relative to a white matt one that faces the sensor.

    A point that was measured was above the noise, even where the file rounds its signal to 0.
    """
    said = cloud.signal / cloud.sensor.white_signal
    return np.maximum(said, weakest_reflectivity(range_m, power_factor=power_factor))
