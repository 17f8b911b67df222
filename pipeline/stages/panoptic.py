"""nuScenes' panoptic files: instance ids, which its label files lack."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import LabelTable
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.raw_file import read_file

CATEGORY = 1000
"""A value is so many times the raw id, plus the number of the instance in its scene; 0 none."""


_LEAST_AGREED = 0.5
"""Share of the points with an instance that have the label file's raw id; all, as published."""


def read_panoptic(
    file: Path,
    *,
    table: LabelTable,
    n_points: int | None,
    raw_labels: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """Read the instance of each point.

    Args:
        file: an npz with uint16 `data`, 1000 times raw id plus instance.
        table: of the data set; knows the raw ids.
        n_points: of the scan; None where its file cannot be read.
        raw_labels: (R,) of the label file, whose raw ids the values repeat; None: not at hand.

    Returns:
        (R,) 0 for points of no instance, else the file's value, as each raw id numbers its own
        instances.

    Raises:
        ProblemError: it is missing, damaged, of another type or of another scan.
        OSError: reading failed in a way that may pass.
    """
    values = _values(file)
    if n_points is not None and len(values) != n_points:
        raise _problem(file, f"{len(values)} values", f"{n_points}, one per point")
    unknown = np.setdiff1d(values // CATEGORY, [*table.raw_to_training])
    if len(unknown):
        raise _problem(
            file,
            f"values of raw id {', '.join(map(str, unknown[:5].tolist()))}",
            "1000 times a raw id of the data set plus an instance",
        )
    has_instance = values % CATEGORY > 0
    if raw_labels is not None and len(raw_labels) == len(values) and has_instance.any():
        agreed = np.mean((values // CATEGORY == raw_labels)[has_instance])
        if agreed < _LEAST_AGREED:
            raise _problem(
                file,
                f"raw ids of its instances that are the label file's at {agreed:.0%} of the points",
                "those of the label file",
            )
    return np.where(has_instance, values, 0).astype(np.uint32)


def _values(file: Path) -> NDArray[np.uint16]:
    expected = 'an npz file with the array "data", uint16, one value per point'
    try:
        with np.load(io.BytesIO(read_file(file)), allow_pickle=False) as arrays:
            names = list(arrays)
            values = arrays["data"]
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        found = "no npz file" if "names" not in locals() else f"arrays {names}"
        raise _problem(file, found, expected) from error
    if values.dtype != np.uint16 or values.ndim != 1:
        raise _problem(file, f"{values.dtype} of shape {values.shape}", expected)
    return values


def _problem(file: Path, found: str, expected: str) -> ProblemError:
    remedy = "It is damaged, or of another scan: unpack nuScenes-panoptic again, or move it away."
    return ProblemError.of(file=file, found=found, expected=expected, remedy=remedy)
