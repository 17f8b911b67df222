"""Thinned points of a scan and their neighbours, stored so that VaViT need not compute them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.fields import STORED_THINNING
from pass2d.common.errors import ShapeError
from pass2d.common.thinning import ThinnedScan, thinned_scan


def thin_raw_scan(xyz: NDArray[np.float32]) -> ThinnedScan | None:
    """Thin all points of a raw file, as VaViT does in evaluation.

    Args:
        xyz: (3, R) metres in the raw file's order; rows without a measured point lie nowhere.

    Returns:
        Rows of the raw file, (R,) answers, 0 for rows without a point; None where nothing was
        measured, or the points span more cells than a network takes.
    """
    measured = np.flatnonzero(is_measured(xyz))
    if not len(measured):
        return None
    try:
        thinned = thinned_scan(np.ascontiguousarray(xyz[:, measured].T), STORED_THINNING)
    except ShapeError:
        return None
    answers = np.zeros(xyz.shape[1], np.int32)
    answers[measured] = thinned.answers
    return ThinnedScan(
        rows=measured[thinned.rows].astype(np.int32), apart=thinned.apart, answers=answers
    )
