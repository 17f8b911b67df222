"""Rows of a large JSON table, one after the other: nuScenes has tables of a gigabyte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from cache.errors import DataError

CHUNK_CHARS = 1 << 22
_MAX_ROW_CHARS = 1 << 20
"""A row has a few hundred characters; what does not end within this many is damaged."""
_BETWEEN = re.compile(r"[\s,]*")
_AGAIN = "The file is truncated or damaged: unpack it from the download again."


def read_rows(
    file: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _nbytes: None,
) -> Iterator[tuple[Any, ...]]:
    """Read a table that is a JSON list of objects, without ever holding the whole of it.

    Args:
        file: the table.
        columns: keys that every row must have.
        optional: keys whose value is None where a row lacks them.
        advance: hears of bytes read.

    Yields:
        Per row the values of ``columns``, then of ``optional``.

    Raises:
        DataError: missing, no list of objects, truncated, or a row without one of the columns.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for number, row in enumerate(_objects(stream, file, advance)):
                try:
                    values = [row[name] for name in columns]
                except (KeyError, TypeError):
                    raise _lacking(file, number, row, columns) from None
                yield (*values, *(row.get(name) for name in optional))
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({(error.strerror or str(error)).lower()}). Expected a table "
            "of nuScenes: unpack the metadata of this version below the root."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no text ({error.reason}). {_AGAIN}") from error


def _objects(stream: TextIO, file: Path, advance: Callable[[int], None]) -> Iterator[Any]:
    """Decode the list's elements; at most one chunk and one row are in memory."""
    decode = json.JSONDecoder().raw_decode

    def more() -> str:
        chunk = stream.read(CHUNK_CHARS)
        if not chunk:
            raise DataError(f"{file}: ends in the middle of the list. {_AGAIN}")
        advance(len(chunk))
        return chunk

    text = more().lstrip()
    if not text.startswith("["):
        raise DataError(f"{file}: found {text[:20]!r}, expected a list '[...]' of rows. {_AGAIN}")
    place = 1
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # matches nothing too
        if place == len(text):
            text, place = more(), 0
            continue
        if text[place] == "]":
            return
        try:
            row, place = decode(text, place)
        except json.JSONDecodeError as error:
            rest = stream.read(CHUNK_CHARS) if len(text) - place <= _MAX_ROW_CHARS else ""
            if not rest:
                found = text[error.pos : error.pos + 20]
                raise DataError(f"{file}: no JSON at {found!r} ({error.msg}). {_AGAIN}") from error
            advance(len(rest))
            text, place = text[place:] + rest, 0
            continue
        yield row


def _lacking(file: Path, number: int, row: Any, columns: Sequence[str]) -> DataError:
    if not isinstance(row, dict):
        return DataError(f"{file}: row {number} is {row!r}, expected an object {{...}}. {_AGAIN}")
    missing = ", ".join(name for name in columns if name not in row)
    return DataError(
        f"{file}: row {number} has no {missing}; found {', '.join(row) or 'nothing'}. "
        "Is it the table of another version, or of another data set?"
    )
