"""Estimates unit, vertical axis and origin of a cloud by comparing it with training data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.ground import Ground, find_ground

UNITS = {"ft": 0.3048, "cm": 0.01, "mm": 0.001, "1000": 1000.0}
"""--unit to metres; "1000": kilometres."""
FLATTEST = 0.5
"""Another axis is vertical when points spread this much less along it than along z. Real scans:
below 0.2."""
CLEARLY = 0.1
"""Upside down, the low points of a scan agree by 0.21 to 0.53 less (real scans)."""
FEWEST_CELLS, LEAST_AGREEMENT = 20, 0.35
"""Below these the points show no ground that could be trusted."""
OFF_CENTRE = 4.0
"""Distance of a scan's centre from the sensor, in spreads: below 1 for sensors that see all around,
about 1.5 for forward-facing ones."""
ALIKE_TIMES, GROUND_M = 2.0, 0.5
"""Sensors and scenes differ by this factor in range, by this in height: the scale of the costs."""
METRES_FIRST, NO_GROUND = 0.5, 3.0

UP: dict[str, tuple[str, tuple[tuple[int, int, int], ...]]] = {
    "z": ("", ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    "-z": ("0,0,180", ((1, 0, 0), (0, -1, 0), (0, 0, -1))),
    "y": ("0,0,90", ((1, 0, 0), (0, 0, -1), (0, 1, 0))),
    "-y": ("0,0,-90", ((1, 0, 0), (0, 0, 1), (0, -1, 0))),
    "x": ("0,-90,0", ((0, 0, -1), (0, 1, 0), (1, 0, 0))),
    "-x": ("0,90,0", ((0, 0, 1), (0, 1, 0), (-1, 0, 0))),
}
"""Axis that points up to --rotate (yaw,pitch,roll) and its matrix, lidar_from_file."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """How coordinates would have to change to look like the training data's."""

    is_centred: bool
    """Whether the sensor is at the origin, or may be."""
    up: str
    """Key of ``UP``."""
    unit_m: float
    """Metres per unit; 1 when they are metres."""
    ground: Ground
    """After the change."""
    range_ratio: float
    """How many times as far away as in training the points lie, after the change; NaN: unknown."""


def guess(
    xyz: NDArray[np.float64], *, range_m: tuple[float, float] | None, ground_z: float | None
) -> Guess:
    """Guess vertical axis and unit.

    Args:
        xyz: (3, N) finite, N at least some hundred; any frame, any unit.
        range_m: 75th and 95th percentile of the range in the training data.
        ground_z: Of the ground in the training data, metres.
    """
    middle = np.median(xyz, axis=1, keepdims=True)
    spread = np.percentile(np.linalg.norm(xyz - middle, axis=0), 75)
    is_centred = bool(np.linalg.norm(middle) <= OFF_CENTRE * spread)
    if not is_centred:
        xyz = xyz - middle
    ratio = math.nan
    if range_m is not None:
        here = np.percentile(np.linalg.norm(xyz, axis=0), (75, 95))
        if here.min() > 0:
            ratio = float(np.exp(np.log(here / np.array(range_m)).mean()))
    rough_m = _nearest_unit(ratio)
    up = _vertical(xyz, unit_m=rough_m)
    xyz = np.array(UP[up][1], np.float64) @ xyz
    unit_m = rough_m
    if rough_m in {1.0, UNITS["ft"]} and is_centred:
        unit_m = _metres_or_feet(xyz, ratio, ground_z)
    elif rough_m == UNITS["ft"]:
        unit_m = 1.0  # a map's extent is no evidence
    return Guess(
        is_centred=is_centred,
        up=up,
        unit_m=unit_m,
        ground=find_ground(xyz * unit_m),
        range_ratio=ratio * unit_m,
    )


def is_ground(ground: Ground) -> bool:
    """Whether there is ground enough to compare heights."""
    return ground.cells >= FEWEST_CELLS and ground.agreement >= LEAST_AGREEMENT


def _nearest_unit(ratio: float) -> float:
    if math.isnan(ratio):
        return 1.0
    return min((1.0, *UNITS.values()), key=lambda unit_m: abs(math.log(ratio * unit_m)))


def _vertical(xyz: NDArray[np.float64], *, unit_m: float) -> str:
    low, high = np.percentile(xyz, (5, 95), axis=1)
    spread = high - low
    flattest = int(spread.argmin())
    axis = "xyz"[flattest] if spread[flattest] < FLATTEST * spread[2] else "z"
    units = (1.0, UNITS["ft"]) if unit_m in {1.0, UNITS["ft"]} else (unit_m,)
    upright, upside_down = (
        _agreement(np.array(UP[up][1]) @ xyz, units) for up in (axis, f"-{axis}")
    )
    return f"-{axis}" if upside_down > upright + CLEARLY else axis


def _agreement(xyz: NDArray[np.float64], units: tuple[float, ...]) -> float:
    """Of the low points, summed over units that are still possible."""
    grounds = [find_ground(xyz * unit_m) for unit_m in units]
    return sum(ground.agreement for ground in grounds if ground.cells >= FEWEST_CELLS)


def _metres_or_feet(xyz: NDArray[np.float64], ratio: float, ground_z: float | None) -> float:
    """By range and height together: a factor of 3.3 alone may be another sensor."""
    costs = {1.0: 0.0, UNITS["ft"]: METRES_FIRST}
    for unit_m in costs:
        if not math.isnan(ratio):
            costs[unit_m] += abs(math.log(ratio * unit_m)) / math.log(ALIKE_TIMES)
        if ground_z is not None:
            ground = find_ground(xyz * unit_m)
            off = abs(ground.z - ground_z) / GROUND_M if is_ground(ground) else NO_GROUND
            costs[unit_m] += min(NO_GROUND, off)
    return min(costs, key=costs.__getitem__)
