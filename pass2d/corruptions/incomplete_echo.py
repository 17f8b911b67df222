"""Incomplete echo: dark vehicles return only part of the pulses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pass2d.common.errors import DataError
from pass2d.corruptions.cloud import Cloud, Corrupted, keep
from pass2d.corruptions.corruption import Corruption


@dataclass(frozen=True, kw_only=True)
class IncompleteEchoSettings:
    """How dark the vehicles are."""

    drop_ratio: float
    """Of a vehicle's points."""
    min_points: int
    """Vehicles with fewer points stay as they are."""


def incomplete_echo(
    cloud: Cloud, settings: IncompleteEchoSettings, rng: np.random.Generator
) -> Corrupted:
    """Drop that ratio of the points of each vehicle, chosen by chance.

    A vehicle is an instance of a vehicle class; points without an instance id count as one
    vehicle per class. (nuScenes-lidarseg has no instances: the ratio holds for all of a class.)

    Raises:
        DataError: the cloud has no labels, so vehicles are unknown.

    Source: Kong et al., Robo3D, ICCV 2023.
    """
    if cloud.label is None:
        raise DataError("incomplete_echo drops points of vehicles and needs labels to know them")
    rows = np.flatnonzero(np.isin(cloud.label, cloud.sensor.vehicles))
    thing = cloud.label[rows].astype(np.int64) << 32
    if cloud.instance is not None:
        thing |= cloud.instance[rows].astype(np.int64)
    _, vehicle, count = np.unique(thing, return_inverse=True, return_counts=True)
    n_dropped = np.where(
        count >= settings.min_points, np.rint(settings.drop_ratio * count).astype(np.int64), 0
    )
    order = np.lexsort((rng.random(len(rows)), vehicle))
    starts = np.cumsum(count) - count
    place = np.arange(len(rows)) - starts[vehicle[order]]
    kept = np.ones(cloud.n, bool)
    kept[rows[order[place < n_dropped[vehicle[order]]]]] = False
    return keep(cloud, kept)


CORRUPTION = Corruption(
    name="incomplete_echo",
    settings=IncompleteEchoSettings,
    apply=incomplete_echo,
    needs_labels=True,
)
