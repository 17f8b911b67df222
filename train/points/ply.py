"""`.ply`: ascii, binary little and big endian."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError
from train.points.columns import PointColumns, from_structured, reader_package, unreadable


def read_ply(path: Path) -> PointColumns:
    """Read the columns of the element "vertex".

    Raises:
        ConfigError: plyfile is not installed.
        DataError: Not such a file, truncated, or without vertices.
    """
    plyfile = reader_package("plyfile", path, needs="plyfile")
    try:
        document = plyfile.PlyData.read(str(path), mmap=False)
    except (plyfile.PlyParseError, ValueError, KeyError, IndexError, EOFError) as error:
        raise unreadable(path, "PLY", error) from error
    if "vertex" not in document:
        raise DataError(f"{path}: no element 'vertex' in this PLY file")
    return from_structured(path, document["vertex"].data)
