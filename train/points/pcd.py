"""`.pcd` of the Point Cloud Library: ascii, binary, binary_compressed."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np

from cache.errors import DataError
from train.points.columns import PointColumns, from_structured, reader_package, unreadable


def read_pcd(path: Path) -> PointColumns:
    """Read the columns; organised clouds row by row, as they are stored.

    Raises:
        ConfigError: pypcd4 is not installed.
        DataError: Not such a file, or truncated.
    """
    pypcd4 = reader_package("pypcd4", path, needs="pypcd4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty ascii body: counted below
            cloud = pypcd4.PointCloud.from_path(path)
        array = np.atleast_1d(cloud.pc_data)
        expected = int(cloud.metadata.points)
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, struct.error) as error:
        raise unreadable(path, "PCD", error) from error
    if len(array) != expected:
        raise DataError(f"{path}: {len(array)} points, its header says {expected}: truncated?")
    return from_structured(path, array)
