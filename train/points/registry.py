"""Which reader takes which file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cache.errors import DataError
from train.points.columns import PointColumns
from train.points.las import read_las
from train.points.npy import read_npy
from train.points.pcd import read_pcd
from train.points.ply import read_ply

READERS: dict[str, Callable[[Path], PointColumns]] = {
    ".npy": read_npy,
    ".pcd": read_pcd,
    ".ply": read_ply,
    ".las": read_las,
    ".laz": read_las,
}
"""By suffix in lower case; `.bin` has no columns of its own and stays with `predict_files`."""


def read_columns(path: Path) -> PointColumns:
    """Read the columns of a point file.

    Raises:
        ConfigError: The package that reads the format is not installed; the message names it.
        DataError: Missing, not readable, of another format, or truncated.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: one of {', '.join(READERS)} is expected")
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror or error}") from error
