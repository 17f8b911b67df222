"""Layouts whose files are not one plain array per scan; a new one is a line in `SCAN_FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.stages.raw_file import read_file


def _whole_file(file: Path, scan_id: str, camera: int) -> bytes:
    return read_file(file)


@dataclass(frozen=True, kw_only=True)
class ScanFormat:
    """How a scan is read; where a file holds many scans, its id tells which."""

    points: Callable[[Path, str], NDArray[np.float32]]
    """File, scan id: (R, 4) x, y, z in metres, signal."""
    labels: Callable[[Path, str], NDArray[np.uint32]]
    """(R,) raw id in the low 16 bits, instance id in the high ones."""
    picture: Callable[[Path, str, int], bytes] = _whole_file
    """File, scan id, camera: an encoded picture."""
    pixels: Callable[[Path, str, int], tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None
    """The same: (M,) rows of points, (2, M) row and column of the pixel of each; None: the
    calibration says them."""


def _waymo(_layout: str) -> ScanFormat:
    from pass2d.pipeline.stages import waymo_files as files

    return ScanFormat(
        points=files.frame_points,
        labels=files.frame_labels,
        picture=files.frame_picture,
        pixels=files.frame_pixels,
    )


def _pandaset(layout: str) -> ScanFormat:
    from pass2d.pipeline.stages import pandaset_files as files

    sensor = files.SENSOR_OF_LAYOUT[layout]
    return ScanFormat(
        points=lambda file, _: files.sensor_points(file, sensor),
        labels=lambda file, _: files.sensor_labels(file, sensor),
    )


SCAN_FORMATS: Mapping[str, Callable[[str], ScanFormat]] = {
    "waymo": _waymo,
    "pandaset": _pandaset,
    "pandaset_gt": _pandaset,
}
"""By layout: makes the format when it is asked for, since most runs read no such files."""


def scan_format(info: DatasetInfo) -> ScanFormat | None:
    """The format of a data set's files; None where they are plain arrays or described."""
    return _made(info.layout)


@cache
def _made(layout: str) -> ScanFormat | None:
    make = SCAN_FORMATS.get(layout)
    return None if make is None else make(layout)
