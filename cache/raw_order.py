"""The order of a raw file, whose points inside the volume and outside it are stored apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class RawOrder:
    """The rows of the raw file that lie inside the volume, and the others."""

    is_inside: NDArray[np.bool_]
    """(n_raw,)."""
    outside: NDArray[np.int64]
    """(O,) rows of the points outside, ascending."""

    @classmethod
    def of(cls, raw_index: NDArray[np.int32], n_raw: int) -> RawOrder:
        """The order of a file of ``n_raw`` points, of which (N,) ascending rows lie inside."""
        # A row outside follows as many rows inside as have no more rows missing before them.
        missing = np.arange(n_raw - len(raw_index), dtype=np.int32)
        missing_before = raw_index - np.arange(len(raw_index), dtype=np.int32)
        outside = missing + np.searchsorted(missing_before, missing, side="right")
        is_inside = np.ones(n_raw, np.bool_)
        is_inside[outside] = False
        return cls(is_inside=is_inside, outside=outside)

    def laid(
        self, inside: NDArray[T], outside: NDArray[T] | None, *, out: NDArray[T] | None = None
    ) -> NDArray[T]:
        """Lay values of all points in the order of the raw file.

        Args:
            inside: (..., N).
            outside: (..., O); None: 0.
            out: (..., n_raw) to be filled; None: a new array.

        Returns:
            (..., n_raw).
        """
        if out is None:
            out = np.empty((*inside.shape[:-1], len(self.is_inside)), inside.dtype)
        # Channel by channel, by a mask: a sixth of the time of rows by number.
        if inside.ndim > 1:
            for channel in range(len(inside)):
                rest = None if outside is None else outside[channel]
                self.laid(inside[channel], rest, out=out[channel])
            return out
        out[self.is_inside] = inside
        out[self.outside] = 0 if outside is None else outside
        return out
