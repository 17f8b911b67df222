"""`.pcd` of the Point Cloud Library: ascii, binary, binary_compressed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.points.columns import MOST_COLUMNS, PointColumns, reader_package
from pass2d.points.packed import LARGEST_UNPACKED

_PER_FIELD = ("FIELDS", "SIZE", "TYPE", "COUNT")
_HEADER_LINES, _LONGEST_LINE = 200, 1 << 16
"""Including comments; limits the search in a file that may not be PCD at all."""
_KINDS = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
_PADDING = "_"


@dataclass(frozen=True, kw_only=True)
class _Field:
    """Of a point."""

    name: str
    dtype: np.dtype[Any]
    count: int
    """Numbers of this type; 0 says nothing, as some drivers write for padding."""

    @property
    def n_bytes(self) -> int:
        return self.count * self.dtype.itemsize

    @property
    def is_kept(self) -> bool:
        return self.count == 1 and self.name != _PADDING


@dataclass(frozen=True, kw_only=True)
class _Header:
    fields: tuple[_Field, ...]
    n: int
    """Points, as POINTS says."""
    places: int
    """WIDTH x HEIGHT; 0 if the header does not say."""
    data: str
    """"ascii", "binary" or "binary_compressed"."""
    length: int
    """Bytes before the points."""

    @property
    def point_bytes(self) -> int:
        return sum(field.n_bytes for field in self.fields)


def read_pcd(path: Path, data: bytes) -> PointColumns:
    """Read the columns; organised clouds row by row, as they are stored.

    Fields of several numbers (COUNT above 1) and padding are skipped. Where POINTS is smaller than
    WIDTH x HEIGHT, the number of points that the file contains decides; it must be one of the two.
    The header's VIEWPOINT
    (where the sensor was) is not applied: writers do not agree on whether the points are in its
    frame already. ``--rotate`` and ``--z-offset`` move points.

    Raises:
        ConfigError: The points are compressed, and the package that unpacks them is not installed.
        DataError: Not such a file, or truncated.
    """
    try:
        header = _header(data)
    except ValueError as error:
        raise DataError(f"{path}: not a readable PCD file: {error}") from error
    read = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}[header.data]
    columns = read(path, header, data[header.length :])
    return PointColumns(
        names=tuple(field.name for field in header.fields if field.is_kept),
        values=tuple(columns),
    )


def _header(data: bytes) -> _Header:
    """Read the header, with what older writers leave out.

    Raises:
        ValueError: A key is missing or no number, or the keys do not fit each other.
    """
    found: dict[str, list[str]] = {}
    start = 0
    for _ in range(_HEADER_LINES):
        end = data.find(b"\n", start, start + _LONGEST_LINE)
        end = len(data) if end < 0 else end + 1
        words = data[start : min(end, start + _LONGEST_LINE)].decode("utf-8", "replace").split()
        start = end
        if words and not words[0].startswith("#"):
            found[words[0].upper()] = words[1:]
        if "DATA" in found or start >= len(data):
            break
    names = found.get("FIELDS", found.get("COLUMNS", []))
    found["FIELDS"] = names
    found.setdefault("COUNT", ["1"] * len(names))
    missing = [key for key in ("FIELDS", "SIZE", "TYPE", "DATA") if not found.get(key)]
    if not any(found.get(key) for key in ("POINTS", "WIDTH")):
        missing.append("POINTS")
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{len(names)} fields")
    for key in _PER_FIELD:
        if len(found[key]) != len(names):
            shown = " ".join(found[key])[:60]
            raise ValueError(f"{key} {shown}: {len(names)} values are expected, one per field")
    kind = found["DATA"][0].lower().replace("binaryscompressed", "binary_compressed")  # of some
    if kind not in {"ascii", "binary", "binary_compressed"}:
        raise ValueError(f"DATA {kind[:60]}: ascii, binary or binary_compressed is expected")
    sizes, counts = _whole(found, "SIZE"), _whole(found, "COUNT")
    fields = tuple(map(_field, names, found["TYPE"], sizes, counts))
    sides = [_whole(found, key)[0] for key in ("WIDTH", "HEIGHT") if key in found]
    places = math.prod(sides) if "WIDTH" in found else 0
    n = _whole(found, "POINTS")[0] if "POINTS" in found else places
    return _Header(fields=fields, n=n, places=places, data=kind, length=start)


def _whole(found: dict[str, list[str]], key: str) -> list[int]:
    """Whole numbers of a key.

    Raises:
        ValueError: None, or another word.
    """
    words = found[key]
    if not words or not all(word.isdecimal() and len(word) < 16 for word in words):
        raise ValueError(f"{key} {' '.join(words)[:60]}: whole numbers from 0 on are expected")
    return [int(word) for word in words]


def _field(name: str, kind: str, size: int, count: int) -> _Field:
    letter = kind.upper()
    if letter not in _KINDS:
        raise ValueError(f"TYPE {kind[:20]}: F, I or U is expected")
    if size not in _SIZES[letter] and name != _PADDING:
        sizes = ", ".join(map(str, _SIZES[letter]))
        raise ValueError(
            f"SIZE {size} of {name[:40]}: one of {sizes} is expected for TYPE {letter}"
        )
    dtype = f"<{_KINDS[letter]}{size}" if size in _SIZES[letter] else f"V{size}"
    return _Field(name=name, dtype=np.dtype(dtype), count=count)


def _binary(path: Path, header: _Header, body: bytes) -> list[NDArray[Any]]:
    header = _with_padding(header, len(body))
    size = header.point_bytes
    stored = len(body) // size if size else 0
    if stored > header.n and not any(body[header.n * size :]):  # the end of a disk block
        stored = max(header.n, min(stored, header.places))
    header = _with_stored(path, header, stored)
    table = np.frombuffer(body, np.uint8, count=header.n * size).reshape(header.n, size)
    columns, place = [], 0
    for field in header.fields:
        if field.is_kept:
            raw = np.ascontiguousarray(table[:, place : place + field.n_bytes])
            columns.append(raw.view(field.dtype)[:, 0] if header.n else np.zeros(0, field.dtype))
        place += field.n_bytes
    return columns


def _with_padding(header: _Header, n_bytes: int) -> _Header:
    """The header with what padding of COUNT 0 takes: nothing, or what the file's size says."""
    more, rest = divmod(n_bytes - header.n * header.point_bytes, header.n or 1)
    empty = [field for field in header.fields if field.name == _PADDING and not field.count]
    if more <= 0 or rest or not empty or more % len(empty):
        return header
    each = np.dtype(f"V{more // len(empty)}")
    if len(empty) > 1 and any(each.itemsize != field.dtype.itemsize for field in empty):
        return header
    filled = replace(empty[0], dtype=each, count=1)
    fields = (filled if any(f is one for one in empty) else f for f in header.fields)
    return replace(header, fields=tuple(fields))


def _compressed(path: Path, header: _Header, body: bytes) -> list[NDArray[Any]]:
    """Field after field, packed by LZF behind two sizes."""
    lzf = reader_package("lzf", path, needs="pypcd4")  # which brings it
    packed, unpacked = (int.from_bytes(body[at : at + 4], "little") for at in (0, 4))
    wanted = header.n * header.point_bytes
    if len(body) < 8 + packed or unpacked < wanted or unpacked > LARGEST_UNPACKED:
        raise DataError(
            f"{path}: not a readable PCD file: the compressed data is damaged: {len(body):,} bytes "
            f"that claim to be {packed:,} and to hold {unpacked:,}, {header.n:,} points are "
            f"{wanted:,}: truncated?"
        )
    flat = lzf.decompress(body[8 : 8 + packed], unpacked) if unpacked else b""
    if flat is None or len(flat) < unpacked:
        raise DataError(f"{path}: not a readable PCD file: the compressed data is damaged")
    size = header.point_bytes
    stored, rest = divmod(unpacked, size) if size else (0, unpacked)
    header = _with_stored(path, header, stored)
    if rest or stored != header.n:  # field after field: where each starts depends on their number
        raise DataError(
            f"{path}: not a readable PCD file: {unpacked:,} bytes of points, its header says "
            f"{header.n:,} of {size} bytes each"
        )
    columns, place = [], 0
    for field in header.fields:
        if field.is_kept:
            columns.append(np.frombuffer(flat, field.dtype, count=header.n, offset=place))
        place += header.n * field.n_bytes
    return columns


def _ascii(path: Path, header: _Header, body: bytes) -> list[NDArray[Any]]:
    lines = [line for line in body.decode("ascii", "replace").splitlines() if line.strip()]
    header = _with_stored(path, header, len(lines))
    wanted = sum(field.count for field in header.fields)
    table = np.zeros((0, wanted))
    if header.n:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                table = np.loadtxt(lines[: header.n], np.float64, comments=None, ndmin=2)
        except ValueError as error:
            reason = str(error).split(";")[0][:100]
            raise DataError(f"{path}: not a readable PCD file: {reason}") from error
    if table.shape[1] != wanted:
        raise DataError(
            f"{path}: not a readable PCD file: {table.shape[1]} numbers per line, "
            f"its header says {wanted}"
        )
    columns, place = [], 0
    for field in header.fields:
        if field.is_kept:
            column = table[:, place]
            columns.append(column.astype(field.dtype) if field.dtype.kind == "f" else column)
        place += field.count
    return columns


def _with_stored(path: Path, header: _Header, stored: int) -> _Header:
    """The header with the number of points that are there, if that is WIDTH x HEIGHT.

    Raises:
        DataError: There are fewer or more points than the header says.
    """
    if header.n <= stored == header.places:
        return replace(header, n=stored)
    if stored != header.n:
        why = "truncated?" if stored < header.n else "correct POINTS, or write the file again"
        raise DataError(f"{path}: {stored} points, its header says {header.n}: {why}")
    return header
