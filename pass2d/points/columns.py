"""The columns of a point file, before they are assigned to x, y, z and signal."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ConfigError, DataError

FEW_ROWS, MANY_COLUMNS = 16, 100
"""No sensor has so many numbers per point."""
MOST_COLUMNS = 1000
"""Of any file: more take seconds to a minute, and no option names one of them."""
_MOST_PARTS = 8
"""Numbers of one field."""
_XYZ = frozenset({"xyz", "coord", "coords", "pos", "position", "points"})
"""Names of a field that holds all three coordinates."""


@dataclass(frozen=True, kw_only=True)
class PointColumns:
    """The columns of one file, in its order of points."""

    names: tuple[str, ...]
    """As the file calls them; "0", "1", ... where it gives no names."""
    values: tuple[NDArray[Any], ...]
    """As many as names; each (N,) of a real type."""
    note: str = ""
    """A message on how the file was read, without its name; "" for none."""
    left_out: int = 0
    """Points of the file that were not wanted."""

    @property
    def n(self) -> int:
        """N, the points."""
        return len(self.values[0]) if self.values else 0


def require_few_columns(path: Path, n: int) -> None:
    """Refuse more than any table of points has.

    Raises:
        DataError: There are more than ``MOST_COLUMNS``.
    """
    if n > MOST_COLUMNS:
        raise DataError(
            f"{path}: {n:,} numbers per point, at most {MOST_COLUMNS} are expected: "
            "one point per row or line?"
        )


def is_transposed(shape: tuple[int, ...]) -> bool:
    """Whether an array of points seems to have them as columns: (4, N)."""
    return len(shape) == 2 and shape[0] < FEW_ROWS < MANY_COLUMNS < shape[1]


def from_matrix(path: Path, array: NDArray[Any]) -> PointColumns:
    """Take the columns of an (N, K) array, or of a range image (H, W, K) or (K, H, W), K from 3 on.

    A range image's points are laid row by row.

    Raises:
        DataError: Another shape, one that can be read in two ways, too many columns, or no numbers.
    """
    if is_transposed(array.shape):
        raise DataError(
            f"{path}: an array (N, 3 or more) is expected, got {array.shape}: a point per column? "
            "Transpose it."
        )
    note = ""
    if array.ndim == 3 and array.dtype.kind in "fiu":
        array, note = _image_rows(path, array)
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: an array (N, 3 or more) or (H, W, 3 or more) of numbers is expected, "
            f"got {array.shape} of {str(array.dtype)[:60]}"
        )
    require_few_columns(path, array.shape[1])
    names = tuple(str(place) for place in range(array.shape[1]))
    return PointColumns(names=names, values=tuple(array.T), note=note)


def _image_rows(path: Path, array: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """(H x W, K) of a range image, and a message about it."""
    first, _, last = array.shape
    is_last = 3 <= last < FEW_ROWS and first != last
    is_first = 3 <= first < FEW_ROWS <= last
    if not is_last and not is_first:
        raise DataError(
            f"{path}: an array {array.shape} could be a range image (H, W, 3 or more) or "
            "(3 or more, H, W): write it as (N, 4)"
        )
    if is_first:
        array = np.moveaxis(array, 0, 2)
    height, width, columns = array.shape
    note = f"a range image of {height} x {width}: one label per pixel, row by row"
    return array.reshape(height * width, columns), note


def from_structured(path: Path, array: NDArray[Any]) -> PointColumns:
    """Take the fields of an (N,) structured array.

    A field of a few numbers becomes a column for each: ``xyz`` of three x, y and z, any other NAME
    NAME_0, NAME_1, ...

    Raises:
        DataError: Not one-dimensional once organised rows are laid end to end, or no such field.
    """
    flat = array.reshape(-1)
    there = array.dtype.names or ()
    columns: dict[str, NDArray[Any]] = {}
    for name in there:
        kind, shape = array.dtype[name].base.kind, array.dtype[name].shape
        if kind not in "fiub" or len(shape) > 1 or (shape and shape[0] > _MOST_PARTS):
            continue
        parts = [f"{name}_{place}" for place in range(*shape)] if shape else [name]
        if shape == (3,) and name.lower() in _XYZ and not {"x", "y", "z"} & {*there}:
            parts = ["x", "y", "z"]
        for place, part in enumerate(parts):
            columns.setdefault(part, flat[name][:, place] if shape else flat[name])
    if not columns:
        raise DataError(f"{path}: no field holds numbers, got {array.dtype}")
    return PointColumns(names=tuple(columns), values=tuple(columns.values()))


def reader_package(name: str, path: Path, *, needs: str, extra: str = "formats") -> ModuleType:
    """Import the package that reads a format.

    Args:
        name: Of the module.
        path: The file that asks for it, for the message.
        needs: What pip installs, e.g. "laspy[lazrs]".
        extra: Of pass2d, which installs it too.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a damaged installation raises anything
        is_missing = isinstance(error, ModuleNotFoundError)
        why = "is not installed" if is_missing else f"cannot be imported ({error_line(error)})"
        raise ConfigError(
            f"{path}: such files are read with {name}, which {why}: "
            f"pip install '{needs}' (or pip install 'pass2d[{extra}]')"
        ) from error


def error_words(error: BaseException) -> str:
    """The type and message of an unexpected error."""
    return f"{type(error).__name__}: {error_line(error)}"


def error_line(error: BaseException) -> str:
    """The message of an error, in one line of readable length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def unreadable(path: Path, kind: str, error: BaseException) -> DataError:
    """One line for a file that its reader did not understand."""
    return DataError(f"{path}: not a readable {kind} file: {error_line(error)}")
