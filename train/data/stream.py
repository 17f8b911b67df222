"""Batches from the cache, in an order that only seed and epoch decide, read by a few threads.

Threads, not processes: the decoders release the interpreter lock, and a process would have to copy
every sample (measured: bench/RESULTS.md). They read and decode; what chance decides for a scan is a
pure function of (seed, epoch, scan), so their number changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.cache.reading.chunks import AllocateArray
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import CacheError
from pass2d.train.data.batch import LoadedScan, RawBatch
from pass2d.train.data.collate import collate, instances_of, place_crop
from pass2d.train.data.corrupt import corrupted_record
from pass2d.train.data.lattice import leaves_grid
from pass2d.train.data.sampling import AugmentConfig, ScanDraw, draw_scan, without_symmetry

_GROWTH = 1.2
"""How much larger than needed a buffer is made, so that few batches need a new one."""
_WINDOW = 8
"""Shards among whose scans a remote store's order shuffles: 512 scans, some 1.5 GB."""
_CLOSING_S = 2.0
"""Longer than it takes to read a scan from a disk."""
_PARTNER = 1
"""Salt of the draw for the second scan of a mix."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Threads and memory of the stream; neither changes a result."""

    threads: int = 2
    """Reading threads: 1 to 3 are enough."""
    prefetch: int = 4
    """Batches that may wait ready; the memory is that of this many batches and two more."""

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 16:
            raise ValueError(f"threads must lie in 1..16, got {self.threads}")
        if self.prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {self.prefetch}")


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
    rank: int = 0
    world: int = 1
    shards: NDArray[np.int64] | None = None
    """(S,) shard of each position, for a remote store: the order then shuffles blocks of shards.
    None: every scan can come next."""

    def __post_init__(self) -> None:
        if self.scales and not self.augment.keeps_hashes:
            raise ValueError(
                "cached voxel hashes are stale after free augmentation: use none or lattice"
            )

    @property
    def joint_size(self) -> int:
        """Scans of a batch on all ranks together."""
        return self.batch_size * self.world

    @property
    def batches_per_epoch(self) -> int:
        """Batches until every scan was seen once; the last may be smaller, on some ranks empty."""
        return -(-len(self.positions) // self.joint_size)


class Batch(NamedTuple):
    """Which scans come next. A cursor counts the scans that all ranks have seen since the start."""

    epoch: int
    positions: NDArray[np.int64]
    """This rank's share."""
    next_cursor: int


def epoch_order(positions: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """All positions once, shuffled by seed and epoch; the same for every rank and world size."""
    return positions[np.random.default_rng([seed, epoch]).permutation(len(positions))]


def block_order(
    positions: NDArray[np.int64], shards: NDArray[np.int64], *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """All positions once: shards shuffled, then the scans of every `_WINDOW` shards.

    So few shards are needed at a time, and each is fetched once an epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    window = _windows(shards, rng)
    shuffled = rng.permutation(len(positions))
    return positions[shuffled[np.argsort(window[shuffled], kind="stable")]]


def _windows(shards: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(S,) which group of `_WINDOW` shuffled shards each scan belongs to."""
    names, index = np.unique(shards, return_inverse=True)
    return rng.permutation(len(names))[index] // _WINDOW


def mix_partner(plan: StreamPlan, position: int, share: float, *, epoch: int) -> int | None:
    """The second scan of a mix: any other scan of the plan, each equally often.

    Where the order shuffles blocks of shards, any other of the scan's own block, whose shards are
    at hand then: else a remote store would have to give a whole shard for each partner.

    Returns:
        Never the scan itself; None: the plan has no other.
    """
    others = plan.positions[plan.positions != position]
    if plan.shards is not None:
        window = _windows(plan.shards, np.random.default_rng([plan.seed, epoch]))
        own = window[np.flatnonzero(plan.positions == position)[0]]
        near = plan.positions[(window == own) & (plan.positions != position)]
        others = near if len(near) else others
    return int(others[int(share * len(others))]) if len(others) else None


def batch_at(plan: StreamPlan, cursor: int) -> Batch:
    """The batch that begins where ``cursor`` scans have been seen: all that resuming needs."""
    epoch, place = divmod(cursor, len(plan.positions))
    if plan.shards is None:
        order = epoch_order(plan.positions, seed=plan.seed, epoch=epoch)
    else:
        order = block_order(plan.positions, plan.shards, seed=plan.seed, epoch=epoch)
    joint = order[place : place + plan.joint_size]
    start = plan.rank * plan.batch_size  # one process that accumulates sees the same batches
    return Batch(epoch, joint[start : start + plan.batch_size], cursor + len(joint))


def load_scan(
    reader: CacheReader,
    plan: StreamPlan,
    position: int,
    *,
    epoch: int,
    allocate: AllocateArray = np.empty,
) -> LoadedScan:
    """Read one scan as the plan asks for it.

    Args:
        reader: of the cache.
        plan: what the stream delivers.
        position: row in the scan table.
        epoch: of the draw.
        allocate: gives the arrays to decode into.

    Raises:
        CacheError: the cache is damaged or cannot be read; names scan and field.
    """
    grid = reader.info.grid
    draw = draw_scan(plan.augment, seed=plan.seed, epoch=epoch, scan=position, grid=grid)
    camera, crop = None, None
    if plan.size_hw is not None:
        image_hw = reader.scans.camera_hw[position]
        cameras = np.flatnonzero(image_hw[:, 0])
        if len(cameras):
            drawn = int(cameras[min(int(draw.camera_share * len(cameras)), len(cameras) - 1)])
            camera = drawn if plan.augment.cameras == "one" else None
            height, width = (int(side) for side in image_hw[drawn])
            crop = place_crop(plan.size_hw, image_hw=(height, width), share=draw.crop_share)
    fields = Fields(
        label=True,
        instance=draw.corruption is not None,
        image=crop is not None,
        pixels=crop is not None,
        camera=camera,
        voxels=bool(plan.scales),
        outside=plan.with_outside,
    )
    read = partial(_read, reader, allocate=allocate)
    record = read(position, fields, columns=None if crop is None else crop.columns)
    if draw.corruption is not None:
        record = _corrupted(record, draw, reader)
    if plan.scales:
        levels = tuple(level for level in record.voxels if level.scale in plan.scales)
        record = replace(record, voxels=levels)
        if draw.symmetry and leaves_grid(levels, grid):
            draw = without_symmetry(draw)
    partner, partner_draw = _load_partner(reader, plan, position, draw, read, epoch=epoch)
    return LoadedScan(
        position=position,
        record=record,
        draw=draw,
        crop=crop,
        partner=partner,
        partner_draw=partner_draw,
    )


def _load_partner(
    reader: CacheReader,
    plan: StreamPlan,
    position: int,
    draw: ScanDraw,
    read: Callable[..., ScanRecord],
    *,
    epoch: int,
) -> tuple[ScanRecord | None, ScanDraw | None]:
    if not plan.augment.mix:
        return None, None
    other = mix_partner(plan, position, draw.partner_share, epoch=epoch)
    if other is None:
        return None, None
    partner_draw = draw_scan(
        plan.augment,
        seed=plan.seed + draw.point_seed,  # each scan sees its partner augmented in its own way
        epoch=epoch,
        scan=other,
        grid=reader.info.grid,
        salt=_PARTNER,
    )
    record = read(other, Fields(label=True, instance=True), columns=None)
    if partner_draw.corruption is not None:
        record = _corrupted(record, partner_draw, reader)
    return instances_of(record), partner_draw


def _corrupted(record: ScanRecord, draw: ScanDraw, reader: CacheReader) -> ScanRecord:
    assert draw.corruption is not None
    return corrupted_record(
        record, variant=draw.corruption, seed=draw.corruption_seed, info=reader.info
    )


def _read(
    reader: CacheReader,
    position: int,
    fields: Fields,
    *,
    columns: tuple[int, int] | None,
    allocate: AllocateArray,
) -> ScanRecord:
    try:
        return reader.read(position, fields, columns=columns, allocate=allocate)
    except OSError as error:
        scan = reader.scans.scan_id[position]
        wanted = [name for name, value in vars(fields).items() if value is True]
        raise CacheError(
            f"{reader.root}: scan {scan}: reading xyz, signal, {', '.join(wanted)} failed: "
            f"{error}. Run `pass2d cache verify`."
        ) from error


@dataclass
class _Slot:
    """Memory of one batch, used again and again; grows, never shrinks."""

    is_pinned: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    in_use_until: torch.cuda.Event | None = None
    """The device has copied the last batch out of this memory."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        needed = int(np.prod(shape, dtype=np.int64))
        held = self.tensors.get(name)
        if held is None or len(held) < needed:
            held = torch.empty(int(needed * _GROWTH), dtype=dtype, pin_memory=self.is_pinned)
            self.tensors[name] = held
        return held[:needed].view(shape)


class BatchStream:
    """Iterates over the batches of a run from any cursor on, without end.

    A batch lives in memory that is used again: it is valid until the next one is asked for.
    """

    def __init__(
        self,
        reader: CacheReader,
        plan: StreamPlan,
        config: StreamConfig,
        *,
        cursor: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.cursor = cursor
        """Scans that all ranks have seen when the batch that was last given is done."""
        self.last: RawBatch | None = None
        """What was last given."""
        self.wait_s = 0.0
        """Time that `__next__` has waited for data so far."""
        self._reader = reader
        self._plan = plan
        self._is_cuda = device is not None and device.type == "cuda"
        self._depth = config.prefetch + 1
        self._slots = deque(_Slot(is_pinned=self._is_cuda) for _ in range(self._depth + 1))
        self._taken: _Slot | None = None
        self._pending: deque[tuple[_Slot, Batch, Future[RawBatch | None]]] = deque()
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="pass2d-stream")
        self._ahead = cursor
        self._is_closing = threading.Event()
        self._local = threading.local()

    def __iter__(self) -> Iterator[RawBatch | None]:
        return self

    def __next__(self) -> RawBatch | None:
        """The next batch; None where this rank has no scan left in an uneven last batch.

        Raises:
            CacheError: a thread met it while reading; names scan and field.
        """
        self.wait()
        self._taken, batch, future = self._pending.popleft()
        raw = future.result()
        self.cursor, self.last = batch.next_cursor, raw
        return raw

    def wait(self) -> None:
        """Until the next batch is there; leaving this early loses nothing."""
        if self._taken is not None:
            taken, self._taken = self._taken, None
            self._release(taken)
        while len(self._pending) < self._depth:
            batch = batch_at(self._plan, self._ahead)
            slot = self._slots.popleft()
            future = self._pool.submit(self._build, batch, slot)
            self._pending.append((slot, batch, future))
            self._ahead = batch.next_cursor
        begin = time.perf_counter()
        wait([self._pending[0][2]])
        self.wait_s += time.perf_counter() - begin

    def close(self) -> None:
        """Stop the threads; waits for the scan that each is reading, not for a store that hangs."""
        self._is_closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if not wait([future for _, _, future in self._pending], _CLOSING_S).not_done:
            self._pool.shutdown(wait=True)

    def _release(self, slot: _Slot) -> None:
        if self._is_cuda:
            slot.in_use_until = torch.cuda.Event(blocking=True)  # its waiter sleeps
            slot.in_use_until.record()
        self._slots.append(slot)

    def _build(self, batch: Batch, slot: _Slot) -> RawBatch | None:
        if slot.in_use_until is not None:
            slot.in_use_until.synchronize()
        if not len(batch.positions):
            return None
        # What is decoded lives until it is collated, in this very thread.
        arena: Arena = self._local.__dict__.setdefault("arena", Arena())
        arena.restart()
        load = partial(load_scan, self._reader, self._plan, epoch=batch.epoch, allocate=arena)
        scans = []
        for position in batch.positions:
            if self._is_closing.is_set():
                return None  # nobody asks for it any more
            scans.append(load(int(position)))
        return collate(
            scans,
            with_images=self._plan.size_hw is not None,
            size_hw=self._plan.size_hw or (0, 0),
            allocate=slot.allocate,
            dropout=self._plan.augment.dropout,
        )
