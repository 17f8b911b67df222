"""The readers by format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pass2d.common.errors import DataError, Pass2DError
from pass2d.points.columns import PointColumns, unreadable
from pass2d.points.las import read_las
from pass2d.points.npy import read_npy
from pass2d.points.npz import read_npz
from pass2d.points.packed import PACKED, file_bytes
from pass2d.points.pandas_pickle import read_pandas
from pass2d.points.pcd import read_pcd
from pass2d.points.ply import read_ply
from pass2d.points.text import read_some_lines, read_text

Reader = Callable[[Path, bytes], PointColumns]
"""Of a file's path, for messages, and its bytes."""

READERS: Mapping[str, Reader] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".pcd": read_pcd,
    ".pkl": read_pandas,
    ".ply": read_ply,
    ".las": read_las,
    ".laz": read_las,
    ".txt": read_text,
    ".csv": read_text,
    ".xyz": read_text,
}
"""By suffix in lower case; `.bin` has no columns of its own and stays
with `binary`. Each may also be packed: `.csv.gz`."""

TEXTS = frozenset(suffix for suffix, reader in READERS.items() if reader is read_text)
"""Suffixes that files other than points have, too."""

SOME_POINTS: Mapping[str, Reader] = {
    suffix: read_some_lines if reader is read_text else reader for suffix, reader in READERS.items()
}
"""The same for a sample of a file: of a long text, only some points are read."""


def point_suffix(name: str) -> str:
    """The suffix that says the format, in lower case: ".csv" of "a.CSV.gz"."""
    return Path(name.lower().removesuffix(PACKED)).suffix


def read_columns(path: Path, readers: Mapping[str, Reader] = READERS) -> PointColumns:
    """Read the columns of a point file, of a format that one of the readers knows.

    Raises:
        ConfigError: The package that reads the format is not installed; the message names it.
        DataError: Missing, not readable, of another format, truncated, or more than fits memory.
    """
    kind = point_suffix(path.name)
    reader = readers.get(kind)
    if reader is None:
        raise DataError(f"{path}: one of {', '.join(readers)} is expected")
    data = file_bytes(path)
    try:
        return reader(path, data)
    except (Pass2DError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError as error:
        raise DataError(
            f"{path}: by its header more points than fit the memory: damaged? Else cut it into "
            "parts."
        ) from error
    except BaseException as error:  # of readers in Rust, panics are no Exception
        raise unreadable(path, kind, error) from error
