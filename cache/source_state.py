"""Whether a source file has changed since it was read: the only implementation of that rule."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pass2d.cache.keys import hash_file
from pass2d.cache.rows import SourceFile

SourceState = Literal["unchanged", "touched", "changed", "gone"]
""""touched": same size, another time, content not compared. "gone": it cannot be read."""


def source_state(source: SourceFile, *, hash_contents: bool) -> SourceState:
    """Compare a file with what the cache recorded about it.

    Args:
        source: As it was read. One that could not be read then counts as changed as soon as it
            exists.
        hash_contents: Read a file of the same size whose time differs, instead of "touched".
    """
    path = Path(source.path)
    if not source.path:
        return "gone"
    try:
        stat = path.stat()
        if stat.st_size != source.nbytes or not source.xxh3:
            return "changed"
        if stat.st_mtime_ns == source.mtime_ns:
            return "unchanged"
        if not hash_contents:
            return "touched"
        return "unchanged" if hash_file(path)[2] == source.xxh3 else "changed"
    except (OSError, ValueError):  # a path that no file system has is a ValueError
        return "gone"


def change_words(source: SourceFile) -> str:
    """How a changed file differs from what was read, for a message."""
    try:
        nbytes = Path(source.path).stat().st_size
    except (OSError, ValueError):
        return f"missing now; {source.nbytes:,} bytes were prepared"
    if nbytes == source.nbytes:
        return f"its {nbytes:,} bytes are not those that were prepared"
    return f"{nbytes:,} bytes; {source.nbytes:,} were prepared"
