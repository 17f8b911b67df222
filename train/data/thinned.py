"""Thinned points and their neighbours: read from the cache, or computed in the stream's threads.

They are those of the points as stored. Rotation, flip, shift and uniform scaling do not change a
point's neighbours, so they are also valid for the augmented points that the network sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.reader import CacheReader
from pass2d.common.thinning import ThinnedScan, ThinningConfig, thinned_scan
from pass2d.models.inputs import TensorRecord, ThinnedPoints
from pass2d.train.data.memory import Allocate, heap
from pass2d.train.data.scan import ScanDraw

_SALT = 1
"""Second number of a generator's seed; that of dropout has one."""


@dataclass(frozen=True, kw_only=True)
class ThinningPlan:
    """What a stream hands to a network that takes thinned points."""

    config: ThinningConfig
    is_random: bool
    """Keep a random point of each cell, by the draw of scan and epoch; else the first."""
    is_stored: bool = False
    """Use stored ones if the cache has them."""
    workers: int = 1
    """Threads that ask one tree; changes no result."""


@dataclass(frozen=True, kw_only=True)
class RawThinned(TensorRecord):
    """The thinned points of a batch on their way to the device."""

    config: ThinningConfig
    rows: Tensor
    """(K,) int32 rows of the batch's points."""
    apart: Tensor
    """(k, K) int16 or int32, see `ThinnedScan.apart`."""
    answers: Tensor
    """(N,) int32 places among the K."""

    def points(self) -> ThinnedPoints:
        """As networks take it, in new tensors."""
        own = torch.arange(len(self.rows), device=self.rows.device)
        return ThinnedPoints(
            config=self.config,
            rows=self.rows.to(torch.int64),
            neighbours=self.apart.t().contiguous() + own[:, None],
            answers=self.answers.to(torch.int64),
        )


def joined(
    scans: Sequence[ThinnedScan],
    *,
    scan_starts: Sequence[int],
    config: ThinningConfig,
    allocate: Allocate = heap,
) -> RawThinned:
    """Lay the thinned points of scans end to end.

    Args:
        scans: (B,) of a batch.
        scan_starts: (B + 1,) rows of the batch's points where scans begin, then N.
        config: by which they were found.
        allocate: where the arrays go.
    """
    starts = (0, *np.cumsum([len(scan.rows) for scan in scans]).tolist())
    rows = allocate("thinned_rows", (starts[-1],), torch.int32)
    # As narrow as the cache holds it: the larger part of what is copied and sent.
    narrow = all(scan.apart.dtype == np.int16 for scan in scans)
    apart = allocate(
        "thinned_apart16" if narrow else "thinned_apart",
        (config.neighbours, starts[-1]),
        torch.int16 if narrow else torch.int32,
    )
    answers = allocate("thinned_answers", (scan_starts[-1],), torch.int32)
    for scan, thinned, of_scan in zip(scans, pairwise(starts), pairwise(scan_starts), strict=True):
        here = slice(*thinned)
        apart.numpy()[:, here] = scan.apart
        np.add(scan.rows, of_scan[0], out=rows.numpy()[here], casting="same_kind")
        there = answers.numpy()[slice(*of_scan)]
        np.add(scan.answers, thinned[0], out=there, casting="same_kind")
    return RawThinned(config=config, rows=rows, apart=apart, answers=answers)


def found(
    xyz: NDArray[np.float32],
    draws: Sequence[tuple[ScanDraw, int]],
    *,
    plan: ThinningPlan,
) -> ThinnedScan:
    """Thin one scan of a batch and find its neighbours.

    Args:
        xyz: (3, N) metres as stored, N > 0.
        draws: of what moves together, with its number of points, end to end; the first is the
            scan's own.
        plan: how.

    Raises:
        ShapeError: the points span too many cells.
    """
    own = draws[0][0]
    rng = np.random.default_rng([own.point_seed, _SALT]) if plan.is_random else None
    points = np.ascontiguousarray(xyz.T)
    if not _keeps_distances(own) or any(_moves(draw) != _moves(own) for draw, _ in draws[1:]):
        points = _moved(points, draws)
    return thinned_scan(points, plan.config, rng=rng, workers=plan.workers)


def _moves(draw: ScanDraw) -> tuple[object, object]:
    return draw.linear, draw.shift_m


def _keeps_distances(draw: ScanDraw) -> bool:
    """Whether its map keeps the ratios of all distances: rotation, flip, uniform scaling."""
    linear = np.array(draw.linear)
    square = linear @ linear.T
    return bool(np.allclose(square, square[2, 2] * np.eye(3), rtol=1e-6, atol=1e-9))


def _moved(
    points: NDArray[np.float32], draws: Sequence[tuple[ScanDraw, int]]
) -> NDArray[np.float32]:
    """(N, 3) points after their maps, as the device will compute them up to rounding."""
    stops = np.cumsum([n for _, n in draws])[:-1]
    return np.concatenate(
        [
            part @ np.array(draw.linear, np.float32) + np.array(draw.shift_m, np.float32)
            for part, (draw, _) in zip(np.split(points, stops), draws, strict=True)
        ]
    )


def why_not_stored(reader: CacheReader, config: ThinningConfig) -> str:
    """Why a network cannot use the thinned points of a cache; "" if it can.

    Args:
        reader: of the cache.
        config: of the network.
    """
    stored = [kind for kind in reader.thinnings if kind != config]
    if not reader.thinnings:
        return "the cache holds none (`prepare` with `neighbours` stores them)"
    return f"the cache holds {stored[0]}, the network takes {config}" if stored else ""
