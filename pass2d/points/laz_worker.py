"""A process that decompresses `.laz` files for another, until its standard input ends.

lazrs crashes the whole process on some damaged files: it allocates the memory that they claim to
need. Each request is a file's length (8 bytes) and its bytes; each answer one byte (1: read), the
length and the columns as an `.npz`, or what went wrong.
"""

from __future__ import annotations

import importlib
import io
import struct
import sys
from typing import Any

import numpy as np

_PART = 1_000_000
"""Points."""
REQUEST, ANSWER = struct.Struct("<Q"), struct.Struct("<?Q")


def columns_of(data: bytes | bytearray) -> dict[str, Any]:
    """The columns of a file; x, y, z as float64 in its unit, scale and offset applied."""
    laspy: Any = importlib.import_module("laspy")
    with laspy.open(io.BytesIO(data)) as reader:
        # In parts: a header may claim more points than there is memory for.
        parts = list(reader.chunk_iterator(_PART)) or [reader.read()]
    others = [name for name in parts[0].point_format.dimension_names if name not in "XYZ"]
    columns = {}
    for name in ("x", "y", "z", *others):
        column = np.concatenate([np.asarray(part[name]) for part in parts])
        if column.ndim == 1:
            columns[name] = column
    return columns


def main() -> None:
    """Answer until there is no more request."""
    asked, answered = sys.stdin.buffer, sys.stdout.buffer
    while head := asked.read(REQUEST.size):
        data, answer = asked.read(*REQUEST.unpack(head)), io.BytesIO()
        try:
            np.savez(answer, **columns_of(data))
            is_read, words = True, answer.getvalue()
        except BaseException as error:  # noqa: BLE001  # panics of Rust are no Exception
            is_read, words = False, f"{type(error).__name__}: {error}".encode(errors="replace")
        answered.write(ANSWER.pack(is_read, len(words)) + words)
        answered.flush()


if __name__ == "__main__":
    main()
