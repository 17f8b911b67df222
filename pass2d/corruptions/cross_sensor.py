"""Cross sensor: what a lidar with fewer beams and a coarser step would have measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pass2d.corruptions.beams import beam_count, beams_of
from pass2d.corruptions.cloud import Cloud, Corrupted, keep
from pass2d.corruptions.corruption import Corruption


@dataclass(frozen=True, kw_only=True)
class CrossSensorSettings:
    """Which other lidar."""

    beams_dropped: int
    """Of ``sensor.beams``; a scan that shows another number of beams loses the same share."""
    every_nth_point: int
    """Of the remaining beams' points, along each beam."""


def cross_sensor(
    cloud: Cloud, settings: CrossSensorSettings, _rng: np.random.Generator
) -> Corrupted:
    """Keep equally spaced beams, then every n-th point of each. Deterministic.

    Source: Kong et al., Robo3D, ICCV 2023.
    """
    beam = beams_of(cloud)
    n_beams = beam_count(beam)
    n_kept = round(n_beams * (1 - settings.beams_dropped / cloud.sensor.beams))
    is_kept = np.zeros(n_beams, bool)
    is_kept[np.rint(np.linspace(0, max(0, n_beams - 1), n_kept)).astype(np.int64)] = True
    rows = np.flatnonzero(is_kept[beam])
    order = rows[np.argsort(beam[rows], kind="stable")]
    count = np.bincount(beam[order], minlength=n_beams)
    place = np.arange(len(order)) - (np.cumsum(count) - count)[beam[order]]
    kept = np.zeros(cloud.n, bool)
    kept[order[place % settings.every_nth_point == 0]] = True
    return keep(cloud, kept)


CORRUPTION = Corruption(name="cross_sensor", settings=CrossSensorSettings, apply=cross_sensor)
