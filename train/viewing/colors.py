"""Numbers as colours: confidence, signal, height."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import LabelTable

BINS = 10
_ANCHORS = np.array(
    [(62, 20, 110), (49, 96, 166), (31, 158, 137), (109, 205, 89), (253, 231, 37)], np.float64
)
"""From low to high: readable by the colour-blind, and on a dark ground."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a colouring by numbers shows."""

    low: float
    high: float
    unit: str


def ramp(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(N,) 0..1 to (N, 3) RGB; values beyond are clipped, NaN is the lowest."""
    place = np.clip(np.nan_to_num(share, nan=0.0), 0, 1) * (len(_ANCHORS) - 1)
    steps = np.arange(len(_ANCHORS))
    return np.stack([np.interp(place, steps, c) for c in _ANCHORS.T], axis=-1).astype(np.uint8)


def robust_scale(values: NDArray[np.float32], *, unit: str) -> Scale:
    """The 1st and the 99th percentile of the finite ones among (N,) values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Scale(low=0.0, high=1.0, unit=unit)
    low, high = (float(v) for v in np.quantile(finite, [0.01, 0.99]))
    return Scale(low=low, high=high if high > low else low + 1.0, unit=unit)


def binned(values: NDArray[np.float32], scale: Scale) -> tuple[NDArray[np.uint8], LabelTable]:
    """Numbers as "classes", so that pictures and legends of classes serve them, too.

    Returns:
        (N,) 1..BINS, 0 for NaN; and the table that names and colours them.
    """
    share = (values.astype(np.float64) - scale.low) / (scale.high - scale.low)
    with np.errstate(invalid="ignore"):
        bins = np.clip(np.nan_to_num(share) * BINS, 0, BINS - 1).astype(np.uint8) + 1
    bins[~np.isfinite(values)] = 0
    edges = np.linspace(scale.low, scale.high, BINS + 1)
    names = [f"{a:.3g} to {b:.3g} {scale.unit}".strip() for a, b in pairwise(edges)]
    colors = ramp((np.arange(BINS) + 0.5) / BINS)
    table = LabelTable(
        raw_to_training={},
        training_to_raw=tuple(range(BINS + 1)),
        names=("none", *names),
        colors_rgb=((0, 0, 0), *(tuple(c) for c in colors.tolist())),
    )
    return bins.astype(np.uint8), table
