"""`.las` and `.laz` of the ASPRS."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns, reader_package

NEEDS = "laspy[lazrs]"
_MAGIC = b"LASF"
_SMALLEST_HEADER, _SMALLEST_RECORD, _SMALLEST_POINT = 227, 54, 20
_EXTENDED_AT, _COUNT_AT = 235, 247
"""In version 1.4: where the extended records start (uint64) and how many there are (uint32), then
the number of points (uint64)."""
_MOST_RECORDS = 10_000
_LARGEST_POINTS = 1 << 32
"""Bytes of all points of a compressed file; 140 million with 30 bytes each."""


def read_las(path: Path, data: bytes) -> PointColumns:
    """Read the columns; x, y, z as float64 in the file's unit, scale and offset applied.

    Raises:
        ConfigError: laspy or lazrs is not installed.
        DataError: Not such a file, or truncated.
    """
    is_packed = ".laz" in path.suffixes[-2:] or path.name.lower().endswith((".laz", ".laz.gz"))
    plain = _without_extended_records(path, data, is_packed=is_packed)
    laspy = reader_package("laspy", path, needs=NEEDS)
    if is_packed:
        reader_package("lazrs", path, needs=NEEDS)
    content = laspy.read(io.BytesIO(plain))
    others = [name for name in content.point_format.dimension_names if name not in "XYZ"]
    names = ("x", "y", "z", *others)
    values = tuple(np.asarray(content[name]) for name in names)
    flat = [(name, column) for name, column in zip(names, values, strict=True) if column.ndim == 1]
    return PointColumns(names=tuple(n for n, _ in flat), values=tuple(c for _, c in flat))


def _without_extended_records(path: Path, data: bytes, *, is_packed: bool) -> bytearray:
    """The file without records behind its points, which say nothing of them and may never end.

    Raises:
        DataError: What the header counts cannot lie in a file of this size.
    """

    def wrong(reason: str) -> DataError:
        return DataError(f"{path}: no readable LAS file: {reason}: truncated or damaged")

    if len(data) < _SMALLEST_HEADER or not data.startswith(_MAGIC):
        raise wrong("it does not begin as such a file")
    minor = data[25]
    header_bytes, points_at, n_records = struct.unpack_from("<HII", data, 94)
    point_format, point_bytes, n_points = struct.unpack_from("<BHI", data, 104)
    plain = bytearray(data)
    if minor >= 4 and len(data) >= _COUNT_AT + 8:
        n_points = max(n_points, struct.unpack_from("<Q", data, _COUNT_AT)[0])
        plain[_EXTENDED_AT : _EXTENDED_AT + 12] = bytes(12)
    is_packed = is_packed or point_format >= 0x80
    if not _SMALLEST_HEADER <= header_bytes <= points_at <= len(data):
        raise wrong(f"{len(data):,} bytes, its points start at {points_at:,}")
    if n_records > min(_MOST_RECORDS, (points_at - header_bytes) // _SMALLEST_RECORD):
        raise wrong(f"{n_records:,} records in {points_at - header_bytes:,} bytes")
    if point_bytes < _SMALLEST_POINT:
        raise wrong(f"{point_bytes} bytes per point")
    wanted = n_points * point_bytes
    if wanted > (_LARGEST_POINTS if is_packed else len(data) - points_at):
        raise wrong(f"{len(data):,} bytes, its header says {n_points:,} points ({wanted:,} bytes)")
    return plain
