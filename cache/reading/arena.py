"""Memory for arrays that live until the next scan: reused instead of allocated again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GROWTH = 1.25  # scans differ by a few per cent; few of them need a larger block


class Arena:
    """An allocator for `CacheReader.read` that returns the same blocks in the same order each time.

    Fresh memory costs a page fault per 4 KiB, a quarter of a scan's read time. An arena belongs to
    one thread; its arrays are overwritten after `restart`.
    """

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []
        self._next = 0

    def restart(self) -> None:
        """Begin with the first block again; earlier arrays are no longer valid."""
        self._next = 0

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised array, as ``numpy.empty``."""
        nbytes = math.prod(shape) * dtype.itemsize
        if self._next == len(self._blocks):
            self._blocks.append(np.empty(0, np.uint8))
        if len(self._blocks[self._next]) < nbytes:
            self._blocks[self._next] = np.empty(int(nbytes * _GROWTH), np.uint8)
        block = self._blocks[self._next]
        self._next += 1
        return np.ndarray(shape, dtype, block)
