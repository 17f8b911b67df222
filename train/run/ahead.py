"""The next batch is prepared while the device computes: on CUDA on a stream of its own."""

from __future__ import annotations

import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.models.network import Prepared
from pass2d.train.data.batch import RawBatch, point_batch
from pass2d.train.data.stream import BatchStream
from pass2d.train.run.assemble import Job


@dataclass(frozen=True, kw_only=True)
class ReadyBatch:
    """A batch on its way through a step."""

    raw: RawBatch | None
    """On the device; None where this process has no scan left in an uneven last batch."""
    prepared: Prepared | None
    """Of it."""
    seed: int
    """Of the dropout layers."""
    cursor: int
    """Scans seen when it is done, on all devices together."""
    error: Exception | None = None
    """An exception from preparing it, raised when it is requested, so that the step before is
    kept."""


class Batches:
    """Prepared batches, in the stream's order.

    Preparing a batch does not use the weights, so the next one need not wait for the step. Its
    tensors are created on the second stream and used on the first: the first waits for an event,
    and the allocator is informed (`record_stream`), as it would otherwise reuse their memory too
    early.
    """

    def __init__(self, job: Job, stream: BatchStream, *, is_ahead: bool | None = None) -> None:
        """Begin.

        Args:
            job: of the run.
            stream: gives the batches.
            is_ahead: whether the next batch is prepared on a second stream; by default as the
                recipe says, on CUDA.
        """
        self.stream = stream
        self.last: RawBatch | None = None
        """What was last given, on the device."""
        self._job = job
        device = job.group.device
        if is_ahead is None:
            is_ahead = job.recipe.stream.ahead and device.type == "cuda"
        self._side = torch.cuda.Stream(device) if is_ahead else None
        self._next: ReadyBatch | None = None
        self._is_made: torch.cuda.Event | None = None

    def take(self) -> ReadyBatch:
        """The next batch, ready for the current stream.

        Raises:
            Exception: what preparing it met.
        """
        if self._next is None:
            self._prepare()
        found, self._next = self._next, None
        assert found is not None
        if found.error is not None:
            raise found.error
        if self._side is not None and self._is_made is not None:
            current = torch.cuda.current_stream(self._job.group.device)
            current.wait_event(self._is_made)
            for record in (found.raw, found.prepared):
                if record is not None:
                    record.each(lambda tensor: _used_on(tensor, current))
        self.last = found.raw
        return found

    def wait(self) -> None:
        """Until the next batch has been read; leaving this early loses nothing."""
        if self._next is None:
            with self._on_side():
                self.stream.wait()

    def begin_next(self) -> None:
        """Prepare the next batch beside the step that the device is at, if it has been read."""
        if self._side is not None and self._next is None and self.stream.has_next:
            self._prepare()

    def _prepare(self) -> None:
        with self._on_side():
            try:
                self._next = self._made()
            except Exception as error:  # noqa: BLE001  # whatever it is: `take` raises it
                self._next = ReadyBatch(raw=None, prepared=None, seed=0, cursor=0, error=error)
            if self._side is not None:
                self._is_made = torch.cuda.Event()
                self._is_made.record(self._side)

    def _on_side(self) -> AbstractContextManager[object]:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)

    def _made(self) -> ReadyBatch:
        job, device = self._job, self._job.group.device
        before = self.stream.cursor
        raw = next(self.stream)  # on this stream: an event of it tells when the memory is free
        cursor = self.stream.cursor
        if raw is None:
            return ReadyBatch(raw=None, prepared=None, seed=0, cursor=cursor)
        seed = batch_seed(job, raw, epoch=before // job.n_scans)
        moved = raw.to(device, non_blocking=True)
        return ReadyBatch(
            raw=moved, prepared=prepared_batch(job, moved, seed=seed), seed=seed, cursor=cursor
        )


def prepared_batch(job: Job, raw: RawBatch, *, seed: int) -> Prepared:
    """Augment a batch on the device and prepare it for the network."""
    torch.manual_seed(seed)  # for dropout layers: a resumed run draws what the whole one drew
    device = job.group.device
    batch = point_batch(
        raw.to(device, non_blocking=True),
        config=job.plan.augment,
        grid=job.reader.info.grid,
        device=device,
    )
    return job.network.prepare(batch)


def batch_seed(job: Job, raw: RawBatch, *, epoch: int) -> int:
    """Seed of a batch's dropout layers: a function of the run's seed, the epoch and the scans.

    So several processes drop what one does that accumulates the same batches.
    """
    return zlib.crc32(repr((job.recipe.seed, epoch, raw.positions)).encode())


def _used_on(tensor: Tensor, stream: torch.cuda.Stream) -> None:
    if tensor.is_cuda:
        tensor.record_stream(stream)
