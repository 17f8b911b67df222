"""How the points of scans are distributed: in a network's card, to warn of another sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.ground import find_ground, some_rows
from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_SAMPLE_SCANS = 16
"""Enough for percentiles: they vary little between scans of one sensor."""


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """How one input channel was distributed over the training scans."""

    mean: float
    std: float
    percentiles: tuple[float, ...]
    """1, 5, 25, 50, 75, 95, 99 %."""


def input_statistics(
    reader: CacheReader, positions: NDArray[np.int64]
) -> dict[str, ChannelStatistics]:
    """Statistics over a sample of scans, of all points of the raw files (not of added sweeps).

    Args:
        reader: of the cache.
        positions: the training scans; a few, evenly spread, are read.

    Returns:
        Of ``scan_statistics``.
    """
    few = min(_SAMPLE_SCANS, len(positions))
    chosen = positions[np.linspace(0, len(positions) - 1, few).round().astype(np.int64)]
    fields = Fields(label=False, outside=True)
    return scan_statistics([measured_points(reader.read(int(place), fields)) for place in chosen])


def scan_statistics(scans: Sequence[NDArray[np.float32]]) -> dict[str, ChannelStatistics]:
    """Statistics of some scans.

    Args:
        scans: At least one; each (4, N) x, y, z in metres, signal; not all empty.

    Returns:
        "range" and "z" in metres and "signal", over all points; "points_per_scan" and, where the
        points show a ground, "ground_z" in metres, over scans.
    """
    points = np.concatenate(scans, axis=1)
    sampled = [scan[:3, some_rows(scan.shape[1])].astype(np.float64) for scan in scans]
    ground = np.array([find_ground(xyz).z for xyz in sampled])
    channels = {
        "range": np.linalg.norm(points[:3].astype(np.float64), axis=0),
        "z": points[2],
        "signal": points[3],
        "points_per_scan": np.array([scan.shape[1] for scan in scans]),
        "ground_z": ground[np.isfinite(ground)],
    }
    return {name: channel_statistics(values) for name, values in channels.items() if len(values)}


def channel_statistics(values: NDArray[np.generic]) -> ChannelStatistics:
    """Of (N,) values, N at least 1."""
    exact = values.astype(np.float64)
    return ChannelStatistics(
        mean=float(exact.mean()),
        std=float(exact.std()),
        percentiles=tuple(np.percentile(exact, PERCENTILES).tolist()),
    )


def measured_points(record: ScanRecord) -> NDArray[np.float32]:
    """(4, N) x, y, z, signal of the raw file, those inside the volume first; no added sweeps."""
    parts = [(record.xyz, record.signal, record.time)]
    if record.outside_xyz is not None and record.outside_signal is not None:
        there = is_measured(record.outside_xyz)
        time = record.outside_time
        parts.append(
            (
                record.outside_xyz[:, there],
                record.outside_signal[there],
                None if time is None else time[there],
            )
        )
    own = [
        np.vstack([xyz, signal])[:, slice(None) if time is None else time == 0]
        for xyz, signal, time in parts
    ]
    return np.concatenate(own, axis=1)
