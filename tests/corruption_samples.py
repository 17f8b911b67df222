"""Clouds for the tests of corruptions: hand-made points, and a street seen by 64 beams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pass2d.corruptions.cloud import Cloud
from pass2d.corruptions.registry import corruption_table

SENSOR = corruption_table("semantickitti").sensor
ROAD, BUILDING, CAR, BICYCLE = 9, 13, 1, 2


def points_at(*range_m: float, signal: float = 0.4) -> Cloud:
    """Points straight ahead at these distances."""
    xyz = np.zeros((3, len(range_m)), np.float32)
    xyz[0] = range_m
    return Cloud(xyz=xyz, signal=np.full(len(range_m), signal, np.float32), sensor=SENSOR)


def street(seed: int = 0, *, beams: int = 64, columns: int = 300, cars: bool = True) -> Cloud:
    """A flat road 1.7 m below the sensor in a ring of wall at 30 m, with two cars of 40 and 6
    points; beam by beam from the top, each from the front to the left and around."""
    rng = np.random.default_rng(seed)
    elevation = np.deg2rad(np.linspace(2.0, -24.9, beams))[:, None]
    bearing = np.linspace(0.001, 2 * np.pi - 0.001, columns)[None]
    to_road = np.where(elevation < 0, 1.7 / np.maximum(-np.sin(elevation), 1e-6), np.inf)
    to_wall = 30 / np.cos(elevation)
    is_road = np.broadcast_to(to_road < to_wall, (beams, columns)).ravel()
    range_m = np.minimum(to_road, to_wall) * np.ones_like(bearing)
    xyz = range_m * np.stack(
        [
            np.cos(elevation) * np.cos(bearing),
            np.cos(elevation) * np.sin(bearing),
            np.sin(elevation) + 0 * bearing,
        ]
    )
    label = np.where(is_road, ROAD, BUILDING).astype(np.uint8)
    instance = np.zeros(len(label), np.uint32)
    for number, size in ((7, 40), (8, 6)) if cars else ():
        rows = rng.choice(np.flatnonzero(~is_road & (instance == 0)), size, replace=False)
        label[rows], instance[rows] = CAR, number
    return Cloud(
        xyz=xyz.reshape(3, -1).astype(np.float32),
        signal=rng.uniform(0.1, 0.5, len(label)).astype(np.float32),
        beam=np.repeat(np.arange(beams, dtype=np.int32), columns),
        label=label,
        instance=instance,
        sensor=SENSOR,
    )


def without_labels(cloud: Cloud) -> Cloud:
    return replace(cloud, label=None, instance=None)


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)
