"""`.ply`: ascii, binary little and big endian."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns, from_structured, reader_package

_HEADER_LINES, _LONGEST_LINE = 1000, 1 << 16
_END = b"end_header"
_COMMENTS = ([b"comment"], [b"obj_info"])


def read_ply(path: Path, data: bytes) -> PointColumns:
    """Read the columns of the element "vertex".

    Raises:
        ConfigError: plyfile is not installed.
        DataError: Not such a file, truncated, or without vertices.
    """
    plyfile = reader_package("plyfile", path, needs="plyfile")
    header, body, ends_with_vertices = _parts(path, data)
    document = plyfile.PlyData.read(io.BytesIO(header + body))
    if "vertex" not in document:
        raise DataError(f"{path}: no element 'vertex' in this PLY file")
    vertices = document["vertex"].data
    if ends_with_vertices and len(document.elements) == 1:
        _require_no_more(path, vertices, body, is_text=document.text)
    return from_structured(path, vertices)


def _require_no_more(path: Path, vertices: NDArray[np.void], body: bytes, *, is_text: bool) -> None:
    """Refuse a file whose header counts fewer vertices than follow it.

    Raises:
        DataError: Whole vertices are left.
    """
    if is_text:
        n = sum(1 for line in body.splitlines() if line.strip())
    elif vertices.dtype.hasobject:  # lists: their sizes differ
        return
    else:
        n = len(body) // vertices.dtype.itemsize
    if n > len(vertices):
        raise DataError(
            f"{path}: the header counts {len(vertices):,} vertices, but {n:,} follow it. "
            "Correct the line 'element vertex', or write the file again"
        )


def _parts(path: Path, data: bytes) -> tuple[bytes, bytes, bool]:
    """Header and body as plyfile takes them, and whether nothing is behind the vertices.

    The header has no comments and no elements behind the vertices.

    Raises:
        DataError: It counts more than its bytes can hold, or does not end.
    """
    file = io.BytesIO(data)
    header: list[bytes] = []
    element, is_comment, is_new = b"", False, True
    for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
        words = line.split()
        is_comment = words[:1] in _COMMENTS if is_new else is_comment
        is_new = line.endswith(b"\n")
        if is_comment:
            continue
        if words[:1] == [b"element"]:
            is_behind = element == b"vertex"
            element = b"behind" if is_behind or element == b"behind" else b"".join(words[1:2])
            _require_room(path, words, len(data))
        if element != b"behind" or words[:1] not in ([b"element"], [b"property"]):
            header.append(line)
        if line.strip() == _END:
            break
        if len(header) > _HEADER_LINES:
            raise DataError(
                f"{path}: not a readable PLY file: no {_END.decode()!r} within "
                f"{_HEADER_LINES:,} lines: damaged?"
            )
    plain = b"".join(header).decode("latin-1").encode("ascii", "replace")
    return plain, file.read(), element == b"vertex"


def _require_room(path: Path, words: list[bytes], n_bytes: int) -> None:
    """An element takes a byte at least."""
    count = words[2] if len(words) == 3 else b""
    if not count.isdigit() or len(count) > 15 or int(count) > n_bytes:
        shown = b" ".join(words)[:60].decode("ascii", "replace")
        raise DataError(
            f"{path}: not a readable PLY file: {shown!r} in a file of {n_bytes:,} bytes: truncated?"
        )
