"""Paths of scans from a pipe, one per line, as they arrive."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from pass2d.common.errors import DataError
from pass2d.common.prefetch import PAUSE, Pause

_BLOCK = 1 << 16


def arriving_lines(descriptor: int) -> Iterator[str | Pause]:
    """Read lines from a pipe, a terminal or a file.

    Args:
        descriptor: Open for reading; not through a buffer, which would hide what has arrived.

    Yields:
        Lines that are not empty, without their end; a pause whenever none is waiting. The last one
        may lack its end.

    Raises:
        DataError: Nothing is open there.
    """
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise DataError(
            "standard input is closed: paths are expected there, one per line"
        ) from error
    rest = b""
    while True:
        if not select.select([descriptor], [], [], 0)[0]:
            yield PAUSE
        block = os.read(descriptor, _BLOCK)
        *lines, rest = (rest + block).split(b"\n")
        if not block:
            lines = [*lines, rest]
        for line in lines:
            text = os.fsdecode(line.removesuffix(b"\r"))
            if text.strip():
                yield text
        if not block:
            return
