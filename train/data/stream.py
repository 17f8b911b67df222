"""Batches from the cache, in an order that depends only on seed and epoch, read by threads.

Threads, not processes: the decoders release the interpreter lock, and a process would have to copy
every sample (measured: bench/RESULTS.md). They read and decode; the random draws for a scan are a
pure function of (seed, epoch, scan), so their number changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.common.memory import keep_freed_memory
from pass2d.train.data.batch import RawBatch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_batch
from pass2d.train.data.plan import Batch, StreamPlan, batch_at

_GROWTH = 1.2
"""How much larger than needed a buffer is made, so that few batches need a new one."""
_CLOSING_S = 2.0
"""Longer than it takes to read a scan from a disk."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Threads and memory of the stream; neither changes a result."""

    threads: int = 2
    """Reading threads: 1 to 3 are enough."""
    prefetch: int = 4
    """Batches that may wait ready; the memory is that of this many batches and two more."""
    ahead: bool = True
    """On a GPU: prepare the next batch on a second CUDA stream, beside the step."""

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 16:
            raise ValueError(f"threads must lie in 1..16, got {self.threads}")
        if not 1 <= self.prefetch <= 256:
            raise ValueError(f"prefetch must lie in 1..256, got {self.prefetch}")


@dataclass
class _Slot:
    """Reusable memory of one batch; grows, never shrinks."""

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

    A batch is in reused memory: it is valid until the next one is requested.
    """

    def __init__(
        self,
        reader: CacheReader,
        plan: StreamPlan,
        config: StreamConfig,
        *,
        cursor: int = 0,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cursor = cursor
        """Scans that all ranks have seen when the batch that was last given is done."""
        self.last: RawBatch | None = None
        """The batch that was last returned."""
        self.wait_s = 0.0
        """Time that `__next__` has waited for data so far."""
        self._clock = clock
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
        keep_freed_memory()  # mixes make arrays of a scan's size, and drop them
        self._local = threading.local()

    def __iter__(self) -> Iterator[RawBatch | None]:
        return self

    def __next__(self) -> RawBatch | None:
        """The next batch; None where this rank has no scan left in an uneven last batch.

        Raises:
            CacheError: reading failed in a thread; names scan and field.
        """
        self.wait()
        self._taken, batch, future = self._pending.popleft()
        raw = future.result()
        self.cursor, self.last = batch.next_cursor, raw
        return raw

    @property
    def has_next(self) -> bool:
        """Whether the next batch has been read, so that `__next__` would not wait."""
        return bool(self._pending) and self._pending[0][2].done()

    def wait(self) -> None:
        """Wait for the next batch; being interrupted loses nothing."""
        if self._taken is not None:
            taken, self._taken = self._taken, None
            self._release(taken)
        while len(self._pending) < self._depth:
            batch = batch_at(self._plan, self._ahead)
            slot = self._slots.popleft()
            future = self._pool.submit(self._build, batch, slot)
            self._pending.append((slot, batch, future))
            self._ahead = batch.next_cursor
        begin = self._clock()
        wait([self._pending[0][2]])
        self.wait_s += self._clock() - begin

    def close(self, *, most_s: float | None = None) -> None:
        """Stop the threads; waits for the scan that each is reading, not for a store that hangs.

        Args:
            most_s: Longest wait in seconds; by default 2.
        """
        self._is_closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        # What was cancelled before it began never counts as done.
        begun = [future for _, _, future in self._pending if not future.cancelled()]
        if not wait(begun, _CLOSING_S if most_s is None else most_s).not_done:
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
        scans = load_batch(
            self._reader,
            self._plan,
            batch,
            allocate=arena,
            is_wanted=lambda: not self._is_closing.is_set(),
        )
        if scans is None:
            return None
        return collate(
            scans,
            with_images=self._plan.size_hw is not None,
            size_hw=self._plan.size_hw or (0, 0),
            allocate=slot.allocate,
            dropout=self._plan.augment.dropout,
            thinning=self._plan.thinning,
        )
