"""How much goes through a network at once, and the nearest point of another. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types

from pass2d.common.prefetch import Pause

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """How much goes through a network at once; one scan always does, however large."""

    points: int = 400_000
    scans: int = 8
    largest_scan: int | None = None
    """A scan of more points goes through the network in random shares, each of which shows the
    whole scene as a sensor would. None: every scan goes whole."""

    def parts(self, n_points: int) -> int:
        """Shares that a scan of so many points is cut into."""
        return 1 if self.largest_scan is None else max(1, -(-n_points // self.largest_scan))


DEFAULT_PASS_SIZE = PassSize()
CPU_PASS_SIZE = PassSize(points=150_000, scans=4)


def pass_size(device: torch.device) -> PassSize:
    """Large enough to keep a GPU busy; on a CPU more at once only takes more memory."""
    return DEFAULT_PASS_SIZE if device.type == "cuda" else CPU_PASS_SIZE


def packed(items: Iterable[T], size: PassSize, *, points: Callable[[T], int]) -> Iterator[list[T]]:
    """Put items together up to a size, in their order; one always goes, however large.

    Args:
        items: Scans, or whatever has points; a ``Pause`` among them comes out alone, at once, after
            all that came before it.
        size: The most that goes together.
        points: The points of an item that is no ``Pause``.
    """
    pack: list[T] = []
    total = 0
    for item in items:
        is_pause = isinstance(item, Pause)
        more = 0 if is_pause else points(item)
        if pack and (is_pause or total + more > size.points or len(pack) == size.scans):
            yield pack
            pack, total = [], 0
        if is_pause:
            yield [item]
            continue
        pack.append(item)
        total += more
    if pack:
        yield pack


OutsidePolicy = Literal["nearest", "ignore"]
"""What points outside the volume are given: the label of the nearest predicted point, or none."""


def nearest_index(points: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find the nearest point of each query.

    Args:
        points: (3, N) metres, finite, N > 0.
        queries: (3, Q) metres, finite.

    Returns:
        (Q,) rows of ``points``.
    """
    if not queries.shape[1]:
        return np.zeros(0, np.int64)
    # Built for some thousand queries: an unbalanced tree is made in half the time.
    tree = cKDTree(points.T, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(queries.T)[1], np.int64)
