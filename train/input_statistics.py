"""How a network's input was distributed, for its card: to warn of a sensor that differs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cache.reader import CacheReader, Fields
from train.card import ChannelStatistics

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_SAMPLE_SCANS = 16
"""Enough for percentiles: they vary little between scans of one sensor."""


def input_statistics(
    reader: CacheReader, positions: NDArray[np.int64]
) -> dict[str, ChannelStatistics]:
    """Statistics of range and z (metres), signal, and points per scan, over a sample of scans.

    Args:
        reader: of the cache.
        positions: the training scans; a few, evenly spread, are read.
    """
    few = min(_SAMPLE_SCANS, len(positions))
    chosen = positions[np.linspace(0, len(positions) - 1, few).round().astype(np.int64)]
    records = [reader.read(int(position), Fields(label=False)) for position in chosen]
    xyz = np.concatenate([record.xyz for record in records], axis=1)
    signal = np.concatenate([record.signal for record in records])
    return {
        "range": channel_statistics(np.linalg.norm(xyz, axis=0)),
        "z": channel_statistics(xyz[2]),
        "signal": channel_statistics(signal),
        "points_per_scan": channel_statistics(reader.scans.n[positions]),
    }


def channel_statistics(values: NDArray[np.generic]) -> ChannelStatistics:
    """Of (N,) values, N at least 1."""
    exact = values.astype(np.float64)
    return ChannelStatistics(
        mean=float(exact.mean()),
        std=float(exact.std()),
        percentiles=tuple(np.percentile(exact, PERCENTILES).tolist()),
    )
