"""What a stream delivers, and in which order, as a function of seed, epoch and rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.instance_bank import InstanceBank
from pass2d.cache.layout import sequence_number
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.thinned import ThinningPlan
from pass2d.train.stacks.config import SINGLE_SCAN, StackConfig

_WINDOW = 8
"""Shards among whose scans a remote store's order shuffles: 512 scans, some 1.5 GB."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """What a stream delivers."""

    positions: NDArray[np.int64]
    """(S,) rows in the scan table, in table order."""
    batch_size: int
    """Scans per batch and process."""
    seed: int
    augment: AugmentConfig
    size_hw: tuple[int, int] | None
    """Size of the cropped pictures; None for networks without a 2D branch."""
    scales: tuple[int, ...] = ()
    """Voxel hashes to read; only where `augment.keeps_hashes`."""
    with_outside: bool = False
    """Read the points outside the volume too."""
    thinning: ThinningPlan | None = None
    """For networks that take thinned points; stored ones only where `augment.keeps_neighbours`."""
    stack: StackConfig = SINGLE_SCAN
    """Past scans that join each scan."""
    rank: int = 0
    world: int = 1
    accumulate: int = 1
    """Batches of each process per optimizer step."""
    bank: InstanceBank | None = None
    """Objects to paste, for mixes that need them."""
    shards: NDArray[np.int64] | None = None
    """(S,) shard of each position, for a remote store: the order then shuffles blocks of shards.
    None: every scan can come next."""

    def __post_init__(self) -> None:
        if self.scales and not self.augment.keeps_hashes:
            raise ValueError(
                "cached voxel hashes are stale after free augmentation: use none or lattice"
            )
        if self.scales and self.stack.past:
            raise ValueError("cached voxel hashes are of single scans: a stack has others")

        if self.thinning is not None and self.thinning.is_stored:
            if not self.augment.keeps_neighbours:
                raise ValueError(
                    "cached neighbours are stale where points are dropped, mixed in or stretched"
                )
            if self.stack.past or not self.with_outside:
                raise ValueError("cached neighbours are of single scans with all their points")

    @property
    def joint_size(self) -> int:
        """Scans of a batch on all ranks together."""
        return self.batch_size * self.world

    @property
    def step_scans(self) -> int:
        """Scans of an optimizer step on all ranks."""
        return self.joint_size * self.accumulate

    @property
    def batches_per_epoch(self) -> int:
        """Batches until every scan was seen once; the last may be smaller, on some ranks empty."""
        return -(-len(self.positions) // self.joint_size)


class Batch(NamedTuple):
    """The next scans. A cursor counts the scans that all ranks have seen since the start."""

    epoch: int
    step: int
    """Optimizer step within the epoch."""
    positions: NDArray[np.int64]
    """This rank's share."""
    next_cursor: int


def epoch_order(positions: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(S,) all positions, shuffled by seed and epoch; the same for every rank and world size."""
    return positions[np.random.default_rng([seed, epoch]).permutation(len(positions))]


def block_order(
    positions: NDArray[np.int64],
    shards: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    keeps_course: bool = False,
) -> NDArray[np.int64]:
    """All positions once: shards shuffled, then the scans of every `_WINDOW` shards.

    So only a few shards are needed at a time, and each is fetched once per epoch.

    Args:
        positions: (S,) rows in the scan table.
        shards: (S,) their shards.
        seed: of the run.
        epoch: counted from 0.
        keeps_course: shuffle sequences instead of shards, so that the past of a scan is in shards
            already fetched.
    """
    rng = np.random.default_rng([seed, epoch])
    window = _windows(shards, rng, keeps_course=keeps_course)
    shuffled = rng.permutation(len(positions))
    return positions[shuffled[np.argsort(window[shuffled], kind="stable")]]


def _windows(
    shards: NDArray[np.int64], rng: np.random.Generator, *, keeps_course: bool = False
) -> NDArray[np.int64]:
    """(S,) which group of `_WINDOW` shards each scan belongs to.

    Shards are shuffled, or sequences, whose shards then follow each other: the last shard of a
    window is still at hand when the next one begins.
    """
    names, index = np.unique(shards, return_inverse=True)
    if not keeps_course:
        return rng.permutation(len(names))[index] // _WINDOW
    _, sequence = np.unique(sequence_number(names), return_inverse=True)
    turn = rng.permutation(sequence.max() + 1)[sequence]
    rank = np.empty(len(names), np.int64)
    rank[np.lexsort((names, turn))] = np.arange(len(names))
    return rank[index] // _WINDOW


def mix_partner(
    plan: StreamPlan, position: int, share: float, *, epoch: int, taken: int | None = None
) -> int | None:
    """The second scan of a mix: any other scan of the plan, each equally often.

    A third one is any other than the second, `taken`, where there is one.

    Where the order shuffles blocks of shards, any other of the scan's own block, whose shards are
    at hand then: else a remote store would have to give a whole shard for each partner.

    Returns:
        Never the scan itself; None: the plan has no other.
    """
    others = plan.positions[plan.positions != position]
    if plan.shards is not None:
        rng = np.random.default_rng([plan.seed, epoch])
        window = _windows(plan.shards, rng, keeps_course=plan.stack.past > 0)
        own = window[np.flatnonzero(plan.positions == position)[0]]
        near = plan.positions[(window == own) & (plan.positions != position)]
        others = near if len(near) else others
    if taken is not None and len(others) > 1:
        others = others[others != taken]
    return int(others[int(share * len(others))]) if len(others) else None


def batch_at(plan: StreamPlan, cursor: int) -> Batch:
    """The batch that begins where ``cursor`` scans have been seen: all that resuming needs."""
    epoch, place = divmod(cursor, len(plan.positions))
    if plan.shards is None:
        order = epoch_order(plan.positions, seed=plan.seed, epoch=epoch)
    else:
        order = block_order(
            plan.positions,
            plan.shards,
            seed=plan.seed,
            epoch=epoch,
            keeps_course=plan.stack.past > 0,
        )
    joint = order[place : place + plan.joint_size]
    start = plan.rank * plan.batch_size  # one process that accumulates sees the same batches
    own = joint[start : start + plan.batch_size]
    return Batch(epoch, place // plan.step_scans, own, cursor + len(joint))
