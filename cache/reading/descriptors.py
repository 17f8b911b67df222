"""A bounded set of open shard files, shared by threads."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pass2d.common.files import open_file

_MOST_OPEN = 256


@dataclass
class OpenFile:
    """A file of the pool."""

    fd: int
    users: int = 0
    is_stale: bool = False
    """To be closed when it is no longer in use."""
    held: dict[int, int] = field(default_factory=dict)
    """Of a sparse file: lengths of the chunks that are known to be there, by offset."""


class DescriptorPool:
    """Least recently used descriptors; one in use is never closed."""

    def __init__(self, opener: Callable[[str], int] | None = None) -> None:
        self._limit = _limit()
        self._opener = opener or open_file
        self._lock = threading.RLock()  # an opener may `forget` what it evicts
        self._open: OrderedDict[str, OpenFile] = OrderedDict()

    @contextlib.contextmanager
    def lend(self, path: str) -> Iterator[OpenFile]:
        """Lend an open file, which stays open during the ``with`` block.

        Raises:
            OSError: it cannot be opened.
        """
        entry = self.take(path)
        try:
            yield entry
        finally:
            self.release(entry, path)

    def release(self, entry: OpenFile, path: str) -> None:
        """Return a descriptor from `take`."""
        with self._lock:
            entry.users -= 1
            if entry.is_stale and entry.users == 0:
                os.close(self._open.pop(path).fd)

    def close(self) -> None:
        """Close all descriptors, those in use as soon as they are released."""
        with self._lock:
            for path in list(self._open):
                self.forget(path)

    def forget(self, path: str) -> None:
        """Close the descriptor of ``path`` once it is unused; `take` then opens the file again."""
        with self._lock:
            entry = self._open.get(path)
            if entry is not None:
                entry.is_stale = True
                if entry.users == 0:
                    os.close(self._open.pop(path).fd)

    def __len__(self) -> int:
        return len(self._open)

    def take(self, path: str) -> OpenFile:
        """A descriptor of ``path`` that stays open until `release`; the two halves of `lend`.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            entry = self._open.get(path)
            if entry is None:
                entry = OpenFile(self._opener(path))
                self._open[path] = entry
                self._evict(keep=path)
            else:
                self._open.move_to_end(path)
            entry.users += 1
            return entry

    def _evict(self, *, keep: str) -> None:
        surplus = len(self._open) - self._limit
        idle = [p for p, entry in self._open.items() if entry.users == 0 and p != keep]
        for path in idle[: max(0, surplus)]:
            os.close(self._open.pop(path).fd)


def _limit() -> int:
    """Number of files to keep open: a small part of the process's limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 4))
