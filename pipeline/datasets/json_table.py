"""Reads large JSON tables row by row: nuScenes has tables of a gigabyte."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pass2d.common.errors import DataError
from pass2d.common.files import NO_PERMISSION, open_file
from pass2d.common.text import quoted, shown

CHUNK_CHARS = 1 << 22
_MAX_ROW_CHARS = 1 << 20
"""A row has a few hundred characters; what does not end within this many is damaged."""
_BETWEEN = re.compile(r"[\s,]*")
_AGAIN = "The file is truncated or damaged: unpack it from the download again."
_LONGEST_TEXT = 1000
"""A token has 32 characters, a file's name some 90."""


class Kind(NamedTuple):
    """What a column's values must be."""

    words: str
    """For messages, e.g. "a token"."""
    accepts: Callable[[Any], bool]


def is_text(value: object) -> bool:
    """Whether it is a string that may be a key or a file's name: printable, of sensible length."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()


TOKEN = Kind("a token", is_text)
TEXT = Kind("a text", is_text)
YES_NO = Kind("true or false", lambda value: isinstance(value, bool))
ANY = Kind("anything", lambda _value: True)
"""Looked at later, where only the rows that are kept must be right."""


def _refuse(fault: DataError) -> None:
    raise fault


def read_rows(
    file: Path,
    columns: Mapping[str, Kind],
    *,
    optional: Mapping[str, Kind] | None = None,
    advance: Callable[[int], None] = lambda _nbytes: None,
    chunk_chars: int = CHUNK_CHARS,
    on_fault: Callable[[DataError], None] = _refuse,
) -> Iterator[tuple[Any, ...]]:
    """Read a table that is a JSON list of objects, without holding all of it in memory.

    Args:
        file: the table.
        columns: keys that every row must have, and what their values must be.
        optional: keys whose value may be null, and is None where a row lacks them.
        advance: receives the number of bytes read.
        chunk_chars: number of characters read at once.
        on_fault: receives rows without one of the columns, or with a value of another kind, which
            are then skipped; without it they are errors.

    Yields:
        Per row the values of ``columns``, then of ``optional``.

    Raises:
        DataError: the file is missing, truncated or not a list of objects, or a row lacks a column
            or has a value of another kind: names the row and the column.
    """
    optional = optional or {}
    try:
        with os.fdopen(open_file(file), encoding="utf-8-sig") as stream:
            for number, row in enumerate(_objects(stream, file, advance, chunk_chars)):
                fault = _fault(file, number, row, columns, optional)
                if fault is not None:
                    on_fault(fault)
                    continue
                yield (*(row[name] for name in columns), *(row.get(name) for name in optional))
    except PermissionError as error:
        raise DataError(f"{file}: {NO_PERMISSION}.") from error
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({(error.strerror or str(error)).lower()}). Expected a table "
            "of nuScenes: unpack the metadata of this version below the root."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not text ({error.reason}). {_AGAIN}") from error


def _fault(
    file: Path,
    number: int,
    row: Any,
    columns: Mapping[str, Kind],
    optional: Mapping[str, Kind],
) -> DataError | None:
    if not isinstance(row, dict) or not columns.keys() <= row.keys():
        return _lacking(file, number, row, columns)
    for name, kind in columns.items():
        if not kind.accepts(row[name]):
            return _of_another_kind(file, number, name, row[name], kind)
    for name, kind in optional.items():
        if row.get(name) is not None and not kind.accepts(row[name]):
            return _of_another_kind(file, number, name, row[name], kind)
    return None


def _objects(
    stream: TextIO, file: Path, advance: Callable[[int], None], chunk_chars: int
) -> Iterator[Any]:
    """Decode the list's elements; at most one chunk and one row are in memory."""
    decode = json.JSONDecoder().raw_decode

    def more() -> str:
        chunk = stream.read(chunk_chars)
        if not chunk:
            raise DataError(f"{file}: ends in the middle of the list. {_AGAIN}")
        advance(len(chunk))
        return chunk

    text = more().lstrip()
    if not text.startswith("["):
        raise DataError(f"{file}: found {text[:20]!r}, expected a list '[...]' of rows. {_AGAIN}")
    place, number = 1, 0
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # matches nothing too
        if place == len(text):
            text, place = more(), 0
            continue
        if text[place] == "]":
            rest = text[place + 1 :]
            while not rest.strip():
                if not (rest := stream.read(chunk_chars)):
                    return
            raise DataError(
                f"{file}: found {rest.strip()[:20]!r} after the end of the list, expected one list "
                f"'[...]' of rows. {_AGAIN}"
            )
        try:
            row, place = decode(text, place)
        except json.JSONDecodeError as error:
            rest = stream.read(chunk_chars) if len(text) - place <= _MAX_ROW_CHARS else ""
            if not rest:
                found = text[error.pos : error.pos + 20]
                raise DataError(
                    f"{file}: row {number}: invalid JSON at {found!r} ({error.msg}). {_AGAIN}"
                ) from error
            advance(len(rest))
            text, place = text[place:] + rest, 0
            continue
        except RecursionError as error:
            raise DataError(
                f"{file}: row {number}: lists or objects nested too deeply; "
                f"expected a row of nuScenes. {_AGAIN}"
            ) from error
        except ValueError as error:  # a whole number of more digits than Python converts
            raise DataError(
                f"{file}: row {number}: a number that cannot be read ({error}). {_AGAIN}"
            ) from error
        yield row
        number += 1


def _lacking(file: Path, number: int, row: Any, columns: Mapping[str, Kind]) -> DataError:
    if not isinstance(row, dict):
        return DataError(
            f"{file}: row {number} is {shown(row)}, expected an object {{...}}. {_AGAIN}"
        )
    missing = ", ".join(name for name in columns if name not in row)
    found = ", ".join(shown(name) for name in list(row)[:20])
    return DataError(
        f"{file}: row {number} has no {missing}; found {found or 'nothing'}. "
        "Is it the table of another version, or of another data set?"
    )


def _of_another_kind(file: Path, number: int, name: str, value: Any, kind: Kind) -> DataError:
    return DataError(
        f"{file}: row {number}: {name} is {quoted(value)}, expected {kind.words}. {_AGAIN}"
    )
