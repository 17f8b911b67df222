"""What a point file holds, before anyone says which column is x."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from cache.errors import ConfigError, DataError

FEW_ROWS, MANY_COLUMNS = 16, 100
"""No sensor says so many numbers per point."""


@dataclass(frozen=True, kw_only=True)
class PointColumns:
    """The columns of one file, in its order of points."""

    names: tuple[str, ...]
    """As the file calls them; "0", "1", ... where it gives no names."""
    values: tuple[NDArray[Any], ...]
    """As many as names; each (N,) of a real type."""

    @property
    def n(self) -> int:
        """N, the points."""
        return len(self.values[0]) if self.values else 0


def is_transposed(shape: tuple[int, ...]) -> bool:
    """Whether an array of points seems to have them as columns: (4, N)."""
    return len(shape) == 2 and shape[0] < FEW_ROWS < MANY_COLUMNS < shape[1]


def from_matrix(path: Path, array: NDArray[Any]) -> PointColumns:
    """Take the columns of an (N, K) array, K at least 3.

    Raises:
        DataError: Another shape, or no numbers.
    """
    if is_transposed(array.shape):
        raise DataError(
            f"{path}: an array (N, 3 or more) is expected, got {array.shape}: a point per column? "
            "Transpose it."
        )
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiub":
        raise DataError(
            f"{path}: an array (N, 3 or more) of numbers is expected, "
            f"got {array.shape} of {array.dtype}"
        )
    names = tuple(str(place) for place in range(array.shape[1]))
    return PointColumns(names=names, values=tuple(array.T))


def from_structured(path: Path, array: NDArray[Any]) -> PointColumns:
    """Take the fields of a structured array; fields that are no single number are left out.

    Raises:
        DataError: Not one-dimensional once organised rows are laid end to end, or no such field.
    """
    flat = array.reshape(-1)
    names = tuple(
        name
        for name in array.dtype.names or ()
        if array.dtype[name].kind in "fiub" and not array.dtype[name].shape
    )
    if not names:
        raise DataError(f"{path}: no field holds one number per point, got {array.dtype}")
    return PointColumns(names=names, values=tuple(flat[name] for name in names))


def reader_package(name: str, path: Path, *, needs: str) -> ModuleType:
    """Import the package that reads a format.

    Args:
        name: Of the module.
        path: The file that asks for it, for the message.
        needs: What pip installs, e.g. "laspy[lazrs]".

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{path}: {path.suffix.lower()} files are read with {name}, which is not installed: "
            f"pip install '{needs}' (or pip install 'pass2d[formats]')"
        ) from error


def unreadable(path: Path, kind: str, error: Exception) -> DataError:
    """One line for a file that its reader did not understand."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path}: no readable {kind} file: {reason}")
