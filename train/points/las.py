"""`.las` and `.laz` of the ASPRS."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from train.points.columns import PointColumns, reader_package, unreadable

NEEDS = "laspy[lazrs]"


def read_las(path: Path) -> PointColumns:
    """Read the columns; x, y, z as float64 in the file's unit, scale and offset applied.

    Raises:
        ConfigError: laspy or lazrs is not installed.
        DataError: Not such a file, or truncated.
    """
    laspy = reader_package("laspy", path, needs=NEEDS)
    if path.suffix.lower() == ".laz":
        reader_package("lazrs", path, needs=NEEDS)
    try:
        content = laspy.read(path)
        others = [name for name in content.point_format.dimension_names if name not in "XYZ"]
        names = ("x", "y", "z", *others)
        values = tuple(np.asarray(content[name]) for name in names)
    except (laspy.LaspyException, ValueError, RuntimeError, struct.error, EOFError) as error:
        raise unreadable(path, "LAS", error) from error
    flat = [(name, column) for name, column in zip(names, values, strict=True) if column.ndim == 1]
    return PointColumns(names=tuple(n for n, _ in flat), values=tuple(c for _, c in flat))
