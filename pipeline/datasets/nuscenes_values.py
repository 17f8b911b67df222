"""Reads one nuScenes table row by row and checks the values of its columns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pass2d.common.errors import DataError
from pass2d.common.files import is_there
from pass2d.common.progress import Progress
from pass2d.common.text import quoted, shown
from pass2d.pipeline.datasets.json_table import Kind, is_text, read_rows
from pass2d.pipeline.problem import Problem, more_faults
from pass2d.pipeline.stages.ego_motion import Pose

_MIB = 1 << 20
_FARTHEST = 1e9
"""Of coordinates, focal lengths and parts of a quaternion: beyond it float64 products overflow."""


class TableReader:
    """Opens the tables of one version and reports what was read."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.faults: list[Problem] = []
        """Rows that cannot be read, and tables."""
        self._progress = progress
        self._first: DataError | None = None

    @contextlib.contextmanager
    def checked(self, name: str) -> Iterator[None]:
        """Collect errors of the block, which uses one row of a table, as faults."""
        try:
            yield
        except DataError as error:
            self._refuse(error, self.file(name))

    def require_whole(self) -> None:
        """Refuse tables with faults.

        Raises:
            DataError: the first fault, and how many more there are.
        """
        if self._first is not None:
            raise DataError(str(self._first) + more_faults(len(self.faults) - 1))

    def _refuse(self, error: DataError, file: Path) -> None:
        self._first = self._first or error
        text = str(error).removeprefix(f"{file}: ")
        found, is_told, rest = text.removeprefix("found ").rpartition(", expected ")
        if not is_told:
            found, _, remedy = text.partition(". ")
            rest = f"a table as nuScenes has it. {remedy or 'Unpack it again.'}"
        expected, _, remedy = rest.partition(". ")
        self.faults.append(Problem(file=file, found=found, expected=expected, remedy=remedy))

    def rows(
        self,
        name: str,
        columns: Mapping[str, Kind],
        *,
        optional: Mapping[str, Kind] | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of one table; a progress phase of its own when it is large."""
        file = self.file(name)
        size = file.stat().st_size if file.is_file() else 0
        advance = None
        if size >= 16 * _MIB:
            self._progress.start(f"reading {file.name}", total=size // _MIB, unit="MiB")
            advance = self._advance()
        try:
            yield from read_rows(
                file,
                columns,
                optional=optional,
                advance=advance or (lambda _nbytes: None),
                on_fault=lambda fault: self._refuse(fault, file),
            )
        except DataError as error:
            self._refuse(error, file)

    def has(self, name: str) -> bool:
        """Whether there is such a table."""
        return is_there(self.file(name))

    def file(self, name: str) -> Path:
        """Where a table is."""
        return self.folder / f"{name}.json"

    def _advance(self) -> Callable[[int], None]:
        rest = 0

        def advance(nbytes: int) -> None:
            nonlocal rest
            whole, rest = divmod(rest + nbytes, _MIB)
            self._progress.advance(whole, nbytes=nbytes)

        return advance


class Once:
    """Refuses duplicate values of a key, as it would be undefined which row is meant."""

    def __init__(self, file: Path, column: str) -> None:
        self._file, self._column = file, column
        self._seen: set[Any] = set()

    def add(self, value: Any, what: str = "") -> None:
        """Remember one.

        Raises:
            DataError: it is there already.
        """
        if value in self._seen:
            named = what or f"{self._column} {shown(value)}"
            raise DataError(
                f"{self._file}: {named} is there twice, expected one row for each. Are two "
                "versions mixed? Unpack the table again."
            )
        self._seen.add(value)


def pose_of(rotation: Any, translation: Any, where: str) -> Pose:
    """A pose from a row's quaternion and translation; ``where`` names the row in errors.

    Raises:
        DataError: not finite numbers, or not a quaternion.
    """
    w, x, y, z = _numbers(rotation, 4, "rotation", where)
    if math.hypot(w, x, y, z) < 1e-6:
        raise DataError(
            f"{where}: rotation {shown(rotation)} is not a quaternion. Unpack the table again."
        )
    a, b, c = _numbers(translation, 3, "translation", where)
    return Pose(rotation_wxyz=(w, x, y, z), translation_m=(a, b, c))


def intrinsics_of(rows: Any, where: str) -> tuple[float, ...]:
    """The nine numbers of a camera matrix, row by row."""
    is_square = (
        isinstance(rows, list)
        and len(rows) == 3
        and all(isinstance(row, list) and len(row) == 3 for row in rows)
    )
    if not is_square:
        raise wrong_value(where, "camera_intrinsic", rows, "3 rows of 3 numbers")
    return _numbers([v for row in rows for v in row], 9, "camera_intrinsic", where)


def below_root(filename: Any, where: str) -> str:
    """A file's name as the tables have it: relative, without a step upwards.

    Tables that were written on Windows may have backslashes.
    """
    if not is_text(filename):
        raise wrong_value(where, "filename", filename, "the name of a file")
    filename = filename.replace("\\", "/")
    if filename.startswith("/") or ".." in filename.split("/"):
        raise wrong_value(where, "filename", filename, "a file below the data set's root")
    return str(filename)


def whole_number(value: Any, name: str, where: str, *, most: int) -> int:
    """A whole number of 0 to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise wrong_value(where, name, value, f"a whole number 0..{most}")
    return value


def _numbers(values: Any, count: int, name: str, where: str) -> tuple[float, ...]:
    is_good = (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        and all(-_FARTHEST <= v <= _FARTHEST for v in values)  # NaN and infinity are not
    )
    if not is_good:
        raise wrong_value(where, name, values, f"{count} finite numbers")
    return tuple(float(v) for v in values)


def wrong_value(where: str, name: str, value: Any, expected: str) -> DataError:
    """The error for a value of the wrong kind in a column."""
    return DataError(
        f"{where}: {name} is {quoted(value)}, expected {expected}. Unpack the table again."
    )
