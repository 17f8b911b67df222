"""`.ply`: ascii, binary little and big endian."""

from __future__ import annotations

import io
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns, from_structured, reader_package

_HEADER_LINES, _LONGEST_LINE = 1000, 1 << 16
_END = b"end_header"


def read_ply(path: Path, data: bytes) -> PointColumns:
    """Read the columns of the element "vertex".

    Raises:
        ConfigError: plyfile is not installed.
        DataError: Not such a file, truncated, or without vertices.
    """
    plyfile = reader_package("plyfile", path, needs="plyfile")
    document = plyfile.PlyData.read(io.BytesIO(_only_vertices(path, data)))
    if "vertex" not in document:
        raise DataError(f"{path}: no element 'vertex' in this PLY file")
    return from_structured(path, document["vertex"].data)


def _only_vertices(path: Path, data: bytes) -> bytes:
    """The file as plyfile takes it: comments in ASCII, no elements behind the vertices.

    Raises:
        DataError: It counts more than its bytes can hold.
    """
    file = io.BytesIO(data)
    header: list[bytes] = []
    element = b""
    for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
        words = line.split()
        if words[:1] == [b"element"]:
            is_behind = element == b"vertex"
            element = b"behind" if is_behind or element == b"behind" else b"".join(words[1:2])
            _require_room(path, words, len(data))
        if element != b"behind" or words[:1] not in ([b"element"], [b"property"]):
            header.append(line)
        if line.strip() == _END or len(header) > _HEADER_LINES:
            break
    plain = b"".join(header).decode("latin-1").encode("ascii", "replace")
    return plain + file.read()


def _require_room(path: Path, words: list[bytes], n_bytes: int) -> None:
    """An element takes a byte at least."""
    count = words[2] if len(words) == 3 else b""
    if not count.isdigit() or len(count) > 15 or int(count) > n_bytes:
        shown = b" ".join(words)[:60].decode("ascii", "replace")
        raise DataError(
            f"{path}: not a readable PLY file: {shown!r} in a file of {n_bytes:,} bytes: truncated?"
        )
