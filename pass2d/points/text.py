"""`.txt`, `.csv`, `.xyz`: a point per line, with or without a line of names."""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns, error_line, require_few_columns

COMMENTS = ("#", "//", "%")
_DELIMITERS = (";", "\t", ",")
"""In this order: with ; or tabs a comma may stand in a number."""
_LONGEST_SHOWN = 60
_MOST_BYTES, _BLOCKS = 1 << 20, 64
_WIDE = (b"\xff\xfe", b"\xfe\xff")
"""How UTF-16 begins."""
_COUNT_LINE = re.compile(rb"\s*\d{1,12}[ \t\r]*\n")
_ROW = re.compile(rb"^[ \t\r]*(?!//)[^\s#%]", re.MULTILINE)
_EXCEL = re.compile(r'"?sep=.?"?', re.IGNORECASE)
"""A first line that names the delimiter."""
_DECIMAL_COMMA = re.compile(r"[-+]?(\d*,\d+([eE][-+]?\d+)?|\d+)")
_WHOLE, _PADDED = re.compile(r"[-+]?\d+"), re.compile(r"0\d+")
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
"""1,234: a decimal comma or one between thousands."""
_SURELY_GROUPED = re.compile(_GROUPED.pattern + r"\.\d*|[-+]?[1-9]\d{0,2}(,\d{3}){2,}")
_NO_COMMAS = "Write a decimal point and nothing between thousands"
_LOOKED_AT = 200


def read_text(path: Path, data: bytes) -> PointColumns:
    """Read the columns; numbers are separated by commas, semicolons, tabs or spaces.

    Columns whose first value is no number are left out. A first line of a single whole number is
    the number of points, as some programs write it.

    Raises:
        DataError: Not a table of numbers; the line is named.
    """
    lines = [(i, line.strip()) for i, line in enumerate(_text(path, data).splitlines(), start=1)]
    lines = [(i, line) for i, line in lines if line]
    if lines and _EXCEL.fullmatch(lines[0][1]):
        del lines[0]
    comment = ""
    while lines and lines[0][1].startswith(COMMENTS):
        comment = lines.pop(0)[1].lstrip("#/% ")
    rows = [(i, line) for i, line in lines if not line.startswith(COMMENTS)]
    if not rows:
        raise DataError(f"{path}: no line of numbers in this file")
    claimed = _point_count(rows)
    if claimed is not None:
        rows = rows[1:]
    names: list[str] = []
    delimiter = _delimiter(rows[0][1])
    first = _words(rows[0][1], delimiter)
    if not any(map(_is_number, first)):
        names, rows = first, rows[1:]
        if rows:
            delimiter = _delimiter(rows[0][1])
    if not rows:
        raise DataError(f"{path}: no line of numbers below {_shown(' '.join(names))}")
    if claimed is not None and claimed != len(rows):
        raise DataError(f"{path}: {len(rows)} points, its first line says {claimed}: truncated?")
    words = _words(rows[0][1], delimiter)
    require_few_columns(path, len(words))
    _require_plain_commas(path, rows, delimiter)
    kept = [place for place, word in enumerate(words) if not word or _is_number(word)]
    if not names and len(_words(comment, _delimiter(comment))) == len(words):
        names = _words(comment, _delimiter(comment))
        names = [] if any(map(_is_number, names)) else names
    if names and len(names) != len(words):
        raise DataError(
            f"{path}, line {rows[0][0]}: {len(words)} values, but {len(names)} names above them"
        )
    if len(kept) < 3:
        raise DataError(
            f"{path}, line {rows[0][0]}: three numbers or more are expected, "
            f"got {_shown(rows[0][1])}"
        )
    array = _numbers(path, rows, delimiter, n_columns=len(words))[:, kept]
    chosen = tuple(names[place] for place in kept) if names else _places(len(kept))
    return PointColumns(names=chosen, values=tuple(array.T))


def read_some_lines(path: Path, data: bytes) -> PointColumns:
    """Read some points of a long text, from all over it; all of a short one.

    Raises:
        DataError: As `read_text`; faults of lines that are left out are not seen.
    """
    if len(data) <= _MOST_BYTES or data.startswith(_WIDE):
        return read_text(path, data)
    whole = data
    if count := _COUNT_LINE.match(data):
        data = data[count.end() :]
    blocks, end = [], 0
    for place in range(_BLOCKS):
        at = place * len(data) // _BLOCKS
        start = max(end, data.find(b"\n", at) + 1) if place else 0
        end = data.find(b"\n", start + _MOST_BYTES // _BLOCKS) + 1 or len(data)
        blocks.append(data[start:end])
    some = b"".join(blocks)
    left_out = len(_ROW.findall(data)) - len(_ROW.findall(some))
    try:
        return replace(read_text(path, some), left_out=left_out)
    except DataError:
        return read_text(path, whole)


def _text(path: Path, data: bytes) -> str:
    encoding = "utf-8-sig"
    if data.startswith(_WIDE):
        encoding = "utf-16"
    elif b"\0" in data[: 1 << 16]:
        raise DataError(f"{path}: contains bytes that are not text; lines of numbers are expected")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise DataError(f"{path}: not readable text: {error_line(error)}") from error
        return data.decode("latin-1")  # names and comments of any Western writer; digits are ASCII


def _numbers(
    path: Path, rows: list[tuple[int, str]], delimiter: str | None, *, n_columns: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(N, K) float64; empty fields are NaN, those that are no number in their first row 0."""
    keep = [not w or _is_number(w) for w in _words(rows[0][1], delimiter)]
    if all(keep):  # the plain case, in C
        try:
            array = np.loadtxt(
                [line for _, line in rows], np.float64, comments=None, delimiter=delimiter, ndmin=2
            )
        except ValueError:
            pass  # empty fields, commas in numbers, or a fault, which is found line by line
        else:
            return array
    lines: list[str] = []
    commas: list[bool] = []
    for place, line in rows:
        words = _words(line, delimiter)
        numbers = [word for word, is_kept in zip(words, keep, strict=False) if is_kept]
        commas += [bool(_GROUPED.fullmatch(word)) for word in numbers if "," in word]
        if len(words) != n_columns:
            raise DataError(
                f"{path}, line {place}: {n_columns} values are expected as in line {rows[0][0]}, "
                f"got {_shown(line)}"
            )
        lines.append(
            " ".join(
                (word.replace(",", ".") or "nan") if is_kept else "0"
                for word, is_kept in zip(words, keep, strict=True)
            )
        )
    if commas and all(commas):
        raise DataError(
            f"{path}: do the commas in its numbers separate thousands, or are they decimal? In "
            f"each three digits follow. {_NO_COMMAS}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return np.loadtxt(lines, np.float64, comments=None, ndmin=2)
    except (ValueError, OverflowError) as error:
        bad = next(
            (
                (place, line)
                for place, line in rows
                for word, is_kept in zip(_words(line, delimiter), keep, strict=True)
                if is_kept and word and not _is_number(word)
            ),
            (rows[0][0], error_line(error)),
        )
        raise DataError(f"{path}, line {bad[0]}: not numbers: {_shown(bad[1])}") from error


def _point_count(rows: list[tuple[int, str]]) -> int | None:
    """What a first line of one whole number says, if the second has more than one."""
    if (
        len(rows) > 1
        and re.fullmatch(r"\d{1,12}", rows[0][1])
        and (len(_words(rows[1][1], _delimiter(rows[1][1]))) >= 3)
    ):
        return int(rows[0][1])
    return None


def _require_plain_commas(path: Path, rows: list[tuple[int, str]], delimiter: str | None) -> None:
    """Refuse commas that separate thousands, or both columns and decimals.

    Raises:
        DataError: There are such.
    """
    some = [(place, _words(line, delimiter)) for place, line in rows[:_LOOKED_AT]]
    for place, words in some:
        for word in words:
            if _SURELY_GROUPED.fullmatch(word):
                raise DataError(
                    f"{path}, line {place}: {_shown(word)}: commas between thousands. {_NO_COMMAS}."
                )
    if delimiter != "," or len(some[0][1]) % 2 or len(some[0][1]) < 6:
        return
    if not all(_WHOLE.fullmatch(word) for _, words in some for word in words):
        return
    if any(_PADDED.fullmatch(word) for _, words in some for word in words[1::2]):
        raise DataError(
            f"{path}, line {some[0][0]}: {_shown(rows[0][1])}: commas between columns and in "
            f"numbers. {_NO_COMMAS}."
        )


def _delimiter(line: str) -> str | None:
    """None: spaces, also between numbers that have a decimal comma."""
    found = next((mark for mark in _DELIMITERS if mark in line), None)
    words = line.split()
    if found == "," and len(words) >= 3 and all(map(_DECIMAL_COMMA.fullmatch, words)):
        return None
    return found


def _words(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        words = line.split()
    elif '"' in line:
        words = next(csv.reader([line], delimiter=delimiter))
    else:
        words = line.removesuffix(delimiter).split(delimiter)
    return [word.strip().strip('"') for word in words]


def _is_number(word: str) -> bool:
    try:
        float(word.replace(",", "."))
    except ValueError:
        return False
    return True


def _places(n: int) -> tuple[str, ...]:
    return tuple(str(place) for place in range(n))


def _shown(text: str) -> str:
    return repr(text[:_LONGEST_SHOWN])
