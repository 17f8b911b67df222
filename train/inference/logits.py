"""Logits for whole scans, summed over votes, in passes that fit the memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pass2d.cache.schema import GridConfig
from pass2d.common.thinning import ThinnedScan
from pass2d.models.folding import folded_norms
from pass2d.models.inputs import PointBatch, ScaleVoxels, ThinnedPoints
from pass2d.models.network import Network
from pass2d.train.data.lattice import ScanHash, voted_voxels
from pass2d.train.data.thinned import joined
from pass2d.train.inference.passes import DEFAULT_PASS_SIZE, PassSize, packed
from pass2d.train.inference.votes import Vote

Pass = tuple[int, Vote]
"""A scan's place in the sequence of scans, and how it is moved."""


class RowLogits(NamedTuple):
    """Logits of a scan. What is the same for points that share a row is computed once per row."""

    rows: Tensor
    """(R, C) float32; the scans of a pass share them."""
    row_of_point: Tensor | None
    """(N,) int64; None: the k-th point has row k."""

    def of_points(self) -> Tensor:
        """(N, C) float32."""
        if self.row_of_point is None:
            return self.rows
        return self.rows.index_select(0, self.row_of_point)


@dataclass(frozen=True, kw_only=True)
class CachedVotes:
    """The hashes of scans as a cache stores them."""

    grid: GridConfig
    scans: Sequence[Sequence[ScanHash] | None]
    """By place, on the scans' device; None for one that has none."""

    def voxels(self, passes: Sequence[Pass], starts: Sequence[int]) -> tuple[ScaleVoxels, ...]:
        """The voxels of passes that begin at these rows; () if one of them has no hash."""
        found: list[Sequence[ScanHash]] = []
        symmetries: list[int] = []
        for place, vote in passes:
            levels = self.scans[place]
            if levels is None or vote.symmetry is None:
                return ()
            found.append(levels)
            symmetries.append(vote.symmetry)
        return voted_voxels(found, symmetries=symmetries, scan_starts=starts, grid=self.grid)


def vote_logits(
    network: Network,
    scans: Sequence[Tensor],
    votes: Sequence[Sequence[Vote]],
    *,
    size: PassSize = DEFAULT_PASS_SIZE,
    hashes: CachedVotes | None = None,
    thinned: Sequence[ThinnedScan | None] = (),
) -> list[RowLogits]:
    """Sum each scan's logits over its votes.

    Args:
        network: In eval mode, on the device of the scans.
        scans: Each (N, 4) float32: x, y, z in metres, signal. N may be 0.
        votes: For each scan a sequence of at least one vote.
        size: Passes (scan, vote) are put together up to this; when a GPU runs out of memory, they
            are halved as often as it takes.
        hashes: The cache's, used for votes that are symmetries of the grid. By default, and for
            other votes, scans are voxelised from their points.
        thinned: The stored thinned points of each scan, by the network's `thinning`; used for votes
            that do not move the points. For other votes the network thins the moved points.

    Returns:
        Per scan, on the scans' device. A scan with one vote keeps the rows of the network.
    """
    passes = [
        (place, vote)
        for place, scan_votes in enumerate(votes)
        for vote in scan_votes
        if len(scans[place])
    ]
    found: dict[int, RowLogits] = {}
    with torch.inference_mode():
        for chunk in packed(passes, size, points=lambda item: len(scans[item[0]])):
            outcome = _forward(network, scans, chunk, hashes, thinned)
            for (place, _), logits in zip(chunk, outcome, strict=True):
                if len(votes[place]) == 1:
                    found[place] = logits
                elif place not in found:
                    found[place] = RowLogits(logits.of_points(), None)
                else:
                    found[place].rows.add_(logits.of_points())
    return [
        found[place]
        if place in found
        else RowLogits(points.new_zeros((0, network.n_classes)), None)
        for place, points in enumerate(scans)
    ]


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes the device this thread's current one: spconv launches its kernels there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _forward(
    network: Network,
    scans: Sequence[Tensor],
    chunk: Sequence[Pass],
    hashes: CachedVotes | None,
    thinned: Sequence[ThinnedScan | None],
) -> tuple[RowLogits, ...]:
    try:
        moved = [vote.apply(scans[place]) for place, vote in chunk]
        lengths = [len(points) for points in moved]
        starts = [0, *np.cumsum(lengths).tolist()]
        batch = PointBatch(
            points=torch.cat(moved),
            offsets=torch.tensor(starts),
            voxels=() if hashes is None else hashes.voxels(chunk, starts),
            thinned=_thinned(network, thinned, chunk, starts, device=moved[0].device),
        )
        with _current(batch.points.device), folded_norms():
            answer = network(network.prepare(batch))
        rows = answer.row_logits.float()
        return tuple(RowLogits(rows, of_scan) for of_scan in answer.row_of_point.split(lengths))
    except torch.cuda.OutOfMemoryError:
        if len(chunk) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(chunk) // 2
    return (
        *_forward(network, scans, chunk[:half], hashes, thinned),
        *_forward(network, scans, chunk[half:], hashes, thinned),
    )


def _thinned(
    network: Network,
    thinned: Sequence[ThinnedScan | None],
    chunk: Sequence[Pass],
    starts: Sequence[int],
    *,
    device: torch.device,
) -> ThinnedPoints | None:
    """The stored thinned points of passes; None if one of them has none, or moves its points."""
    stored = [thinned[place] for place, vote in chunk if thinned and vote.symmetry == 0]
    here = [one for one in stored if one is not None]
    if network.thinning is None or len(here) < len(chunk):
        return None
    raw = joined(here, scan_starts=starts, config=network.thinning)
    return raw.to(device, non_blocking=True).points()
