"""Single rows of large Parquet files, read as a stream: no more than a batch is in memory."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pass2d.common.files import open_file
from pass2d.common.text import shown
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.raw_file import NO_FILE

Key = tuple[Any, ...]
_BUFFER_BYTES = 1 << 20
_FAULTS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged file can raise; the last for a column's name that is no UTF-8."""
"""Of a file read at a time."""
_MOST_OPEN = 12
"""Files that a thread keeps open: those of a scan."""


class Holds(Enum):
    """What each row of a column holds."""

    WHOLE = "a whole number"
    NUMBER = "a number"
    WHOLES = "a list of whole numbers"
    NUMBERS = "a list of numbers"
    BYTES = "bytes"

    def fits(self, kind: pa.DataType) -> bool:
        """Whether a column of this type does; one without any value fits all."""
        return bool(pa.types.is_null(kind)) or _FITS[self](kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list or pa.types.is_fixed_size_list(kind))


_FITS: Mapping[Holds, Callable[[pa.DataType], bool]] = {
    Holds.WHOLE: lambda kind: bool(pa.types.is_integer(kind)),
    Holds.NUMBER: _is_number,
    Holds.WHOLES: lambda kind: _is_list(kind) and bool(pa.types.is_integer(kind.value_type)),
    Holds.NUMBERS: lambda kind: _is_list(kind) and _is_number(kind.value_type),
    Holds.BYTES: lambda kind: bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind)),
}


class Rows:
    """The rows of one file by some of its columns; access in file order is cheap.

    Args:
        file: a Parquet file.
        keys: columns of whole numbers that tell rows apart.
        columns: what is read of a row.

    Raises:
        ProblemError: it cannot be read, or lacks a column or has one of another type.
        OSError: reading failed in a way that may pass.
    """

    def __init__(self, file: Path, *, keys: Sequence[str], columns: Mapping[str, Holds]) -> None:
        self._file, self._columns = file, list(columns)
        whole = dict.fromkeys(keys, Holds.WHOLE)
        self._parquet = open_parquet(file, needs={**whole, **columns})
        table = read_columns(file, whole)
        values = zip(*(table[name].to_pylist() for name in keys), strict=True)
        self._place = {key: place for place, key in enumerate(values)}
        counts = [
            self._parquet.metadata.row_group(group).num_rows
            for group in range(self._parquet.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._next = 0
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._last: tuple[int, dict[str, Any]] | None = None

    def row(self, key: Key) -> dict[str, Any]:
        """The columns of a row, as scalars of Arrow.

        Raises:
            ProblemError: there is no such row, or it is damaged.
        """
        if key not in self._place:
            raise ProblemError.of(
                file=self._file,
                found=f"no row of {', '.join(map(str, key))}",
                expected="one row for each frame and sensor",
                remedy="Download the file again, and its neighbours of the same segment.",
            )
        place = self._place[key]
        if self._last is not None and self._last[0] == place:
            return self._last[1]
        group = int(np.searchsorted(self._starts, place, side="right")) - 1
        batches = self._batches
        if batches is None or not self._starts[group] <= self._next <= place:
            self._next, batches = int(self._starts[group]), self._stream(group)
        self._batches = None
        try:
            while True:
                batch = next(batches)
                self._next += 1
                if self._next > place:
                    row = {name: batch.column(name)[0] for name in self._columns}
                    self._last, self._batches = (place, row), batches
                    return row
        except (*_FAULTS, StopIteration) as error:
            raise unreadable(self._file, error) from error

    def _stream(self, group: int) -> Iterator[pa.RecordBatch]:
        groups = list(range(group, self._parquet.num_row_groups))
        return iter(
            self._parquet.iter_batches(
                batch_size=1, row_groups=groups, columns=self._columns, use_threads=False
            )
        )


class _Open(threading.local):
    """Files of this thread, the least used first: a stream cannot be shared."""

    def __init__(self) -> None:
        self.rows: OrderedDict[tuple[Any, ...], Rows] = OrderedDict()


_OPEN = _Open()


def rows_of(file: Path, *, keys: Sequence[str], columns: Mapping[str, Holds]) -> Rows:
    """The rows of a file, which stays open for the next one.

    Raises:
        ProblemError: it cannot be read, or lacks a column.
        OSError: reading failed in a way that may pass.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise unreadable(file, error) from error
    place = file, stat.st_size, stat.st_mtime_ns, tuple(columns)
    found = _OPEN.rows.pop(place, None) or Rows(file, keys=keys, columns=columns)
    _OPEN.rows[place] = found
    while len(_OPEN.rows) > _MOST_OPEN:
        _OPEN.rows.popitem(last=False)
    return found


def open_parquet(file: Path, *, needs: Mapping[str, Holds]) -> pq.ParquetFile:
    """Open a file that must have these columns.

    Raises:
        ProblemError: it cannot be read, or lacks one or has one of another type.
        OSError: reading failed in a way that may pass.
    """
    try:
        os.close(open_file(file))  # Arrow would wait for a pipe
        # Neither mapped nor read ahead: a column of a segment may be gigabytes.
        found = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        schema = found.schema_arrow
    except _FAULTS as error:
        raise unreadable(file, error) from error
    for name, holds in needs.items():
        if name not in schema.names:
            raise _no_component(file, f"no column {name} among {', '.join(schema.names[:8])}")
        kind = schema.field(schema.get_field_index(name)).type if _is_once(schema, name) else None
        if kind is None or not holds.fits(kind):
            words = "twice" if kind is None else f"of type {kind}"
            raise _no_component(file, f"column {name} {words}", holds)
    return found


def _is_once(schema: pa.Schema, name: str) -> bool:
    return bool(schema.names.count(name) == 1)


def _no_component(file: Path, found: str, holds: Holds | None = None) -> ProblemError:
    return ProblemError.of(
        file=file,
        found=shown(found, longest=300),
        expected=f"{holds.value} in each row" if holds else "the columns of this component",
        remedy="Is it a file of another component or version?",
    )


def read_columns(file: Path, columns: Mapping[str, Holds]) -> pa.Table:
    """Some small columns of all rows, no value missing.

    Raises:
        ProblemError: the file cannot be read, or lacks a column or a value.
        OSError: reading failed in a way that may pass.
    """
    parquet = open_parquet(file, needs=columns)
    try:
        table = parquet.read(columns=list(columns), use_threads=False)
    except _FAULTS as error:
        raise unreadable(file, error) from error
    for name, holds in columns.items():
        if table[name].null_count:
            raise _no_component(file, f"a row without {name}", holds)
    return table


def numbers(scalar: Any, kind: type[np.generic], file: Path) -> NDArray[Any] | None:
    """(n,) numbers of a list in a row; None if there is none.

    Raises:
        ProblemError: one of them is missing.
    """
    if not scalar.is_valid:
        return None
    values = scalar.values
    if values.null_count:
        raise _no_component(file, "a list with missing numbers", Holds.NUMBERS)
    with np.errstate(over="ignore"):  # what is too large for the type is infinite, and seen later
        return np.asarray(values.to_numpy(zero_copy_only=False), kind)


def unreadable(file: Path, error: BaseException) -> ProblemError:
    """The problem of a file that Arrow cannot read.

    Raises:
        OSError: trying again may help.
    """
    if isinstance(error, OSError) and error.errno not in {None, *NO_FILE}:
        raise error
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    found = " ".join(words.split())[:200] or type(error).__name__
    return ProblemError.of(
        file=file,
        found=found.lower(),
        expected="a Parquet file",
        remedy="Was it downloaded completely? Download it again.",
    )
