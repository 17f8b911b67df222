"""Formats whose files hold many scans: a scan is told by its id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.stages import waymo_files


@dataclass(frozen=True, kw_only=True)
class SegmentFormat:
    """How a scan is read from a file of many."""

    points: Callable[[Path, str], NDArray[np.float32]]
    """File, scan id: (R, 4) x, y, z in metres, signal."""
    labels: Callable[[Path, str], NDArray[np.uint32]]
    """(R,) raw id in the low 16 bits, instance id in the high ones."""
    picture: Callable[[Path, str, int], bytes]
    """File, scan id, camera: an encoded picture."""
    pixels: Callable[[Path, str, int], tuple[NDArray[np.int64], NDArray[np.int64]]]
    """The same: (M,) rows of points, (2, M) row and column of the pixel of each."""


FORMATS = {
    waymo_files.SUFFIX: SegmentFormat(
        points=waymo_files.frame_points,
        labels=waymo_files.frame_labels,
        picture=waymo_files.frame_picture,
        pixels=waymo_files.frame_pixels,
    )
}
"""By suffix."""


def segment_format(file: Path) -> SegmentFormat | None:
    """The format of a file of many scans; None for a file of one."""
    return FORMATS.get(file.suffix)
