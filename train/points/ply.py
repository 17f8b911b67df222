"""`.ply`: ascii, binary little and big endian."""

from __future__ import annotations

import io
from pathlib import Path

from cache.errors import DataError
from train.points.columns import PointColumns, from_structured, reader_package, unreadable

_HEADER_LINES, _LONGEST_LINE = 1000, 1 << 16


def read_ply(path: Path) -> PointColumns:
    """Read the columns of the element "vertex".

    Raises:
        ConfigError: plyfile is not installed.
        DataError: Not such a file, truncated, or without vertices.
    """
    plyfile = reader_package("plyfile", path, needs="plyfile")
    try:
        document = plyfile.PlyData.read(_in_ascii(path), mmap=False)
    except (plyfile.PlyParseError, ValueError, KeyError, IndexError, EOFError) as error:
        raise unreadable(path, "PLY", error) from error
    if "vertex" not in document:
        raise DataError(f"{path}: no element 'vertex' in this PLY file")
    return from_structured(path, document["vertex"].data)


def _in_ascii(path: Path) -> str | io.BytesIO:
    """The file as plyfile takes it: comments of other letters lose them."""
    header: list[bytes] = []
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
            header.append(line)
            if line.strip() == b"end_header" or len(header) > _HEADER_LINES:
                break
        if b"".join(header).isascii():
            return str(path)
        plain = "".join(line.decode("ascii", "replace") for line in header)
        return io.BytesIO(plain.encode("ascii", "replace") + file.read())
