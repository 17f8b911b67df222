"""Counts per scan, for `pass2d stats` and class weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.statistics import RANGE_EDGES_M


def count_labels(label: NDArray[np.uint8] | None, *, n_classes: int) -> NDArray[np.int64]:
    """Points per training id.

    Args:
        label: (N,) training ids, or None for a scan without labels.
        n_classes: C.

    Returns:
        (C,) int64; zeros without labels.
    """
    if label is None:
        return np.zeros(n_classes, np.int64)
    return np.bincount(label, minlength=n_classes).astype(np.int64, copy=False)


def count_ranges(xyz: NDArray[np.float32]) -> NDArray[np.int64]:
    """Points per bin of distance from the sensor; the last bin is open.

    Args:
        xyz: (3, N) metres, lidar frame, finite.

    Returns:
        (R,) int64, the bins that begin at ``cache.statistics.RANGE_EDGES_M``.
    """
    n_bins, bin_m = len(RANGE_EDGES_M), RANGE_EDGES_M[1] - RANGE_EDGES_M[0]
    range_m = np.sqrt(np.einsum("an,an->n", xyz, xyz))
    bins = np.minimum(range_m / np.float32(bin_m), n_bins - 1).astype(np.int64)
    return np.bincount(bins, minlength=n_bins).astype(np.int64, copy=False)
