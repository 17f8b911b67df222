"""Fetches only the required chunks of remote shard files if most of a file will not be read.

Such a file is kept on the local disk as a sparse file, `<file>.part`. There is no list of the
chunks in it: a chunk is present if its crc32c equals the manifest's, so that a process killed
during a write, or two that write at once, do no harm.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from pass2d.cache.codec import CRC_BYTES, crc32c
from pass2d.cache.reading.chunks import StoredChunk
from pass2d.cache.reading.descriptors import DescriptorPool, OpenFile
from pass2d.cache.reading.scan_table import Span
from pass2d.cache.remote.mirror import RemoteMirror
from pass2d.common.errors import CacheError

DENSE_SHARE = 0.25
"""In a pass over all scans: files of which each scan needs at most this share are read by
ranges."""
SPARSE_SHARE = 0.25
"""For single scans: once this share of a file has been fetched by ranges, the rest is fetched
too."""
GAP_BYTES = 1 << 16
"""Chunks no further apart than this are fetched in one request."""
_BLOCK_BYTES = 16 << 20


class PartialFiles:
    """The sparse files of one reader; threads may share it."""

    def __init__(self, mirror: RemoteMirror, pool: DescriptorPool) -> None:
        self.reads_all = False
        """Whether all scans of a shard will be read soon, as in training."""
        self._mirror = mirror
        self._pool = pool
        self._whole: set[str] = set()
        self._in_parts: set[str] = set()

    @contextlib.contextmanager
    def hold(self, chunks: Iterable[tuple[StoredChunk, float]]) -> Iterator[None]:
        """Have these chunks on the local disk; their files stay open for the body, evicted or not.

        Args:
            chunks: those of one file must follow each other; with the share of the scan's bytes in
                that file that is wanted, 0..1. A file with a large share is fetched whole.

        Raises:
            CacheError: the store does not give them.
        """
        with contextlib.ExitStack() as stack:
            for path, group in groupby(chunks, key=lambda entry: entry[0].array.path):
                entries = list(group)
                is_part = path in self._in_parts or self._begin(path, entries[0][1])
                if not is_part:
                    self._mirror.bring(path)  # not within the pool's lock, which others wait for
                with _clear_errors(path):
                    entry = stack.enter_context(self._pool.lend(path))
                    if is_part:
                        self._fill(entry, path, [chunk.span for chunk, _ in entries])
            yield

    def _begin(self, path: str, share: float) -> bool:
        """Whether to read a file by ranges."""
        if path in self._whole:
            return False
        is_dense = self.reads_all and share > DENSE_SHARE
        if is_dense or not self._mirror.store.gives_ranges or os.path.exists(path):  # noqa: PTH110
            self._whole.add(path)
            return False
        self._in_parts.add(path)
        self._mirror.read_in_parts(path)
        return True

    def _fill(self, entry: OpenFile, path: str, spans: Sequence[Span]) -> None:
        missing = [
            span
            for span in spans
            if span.length and span.offset not in entry.held and not _is_there(entry.fd, span)
        ]
        for near in _runs(missing):
            self._fetch(entry.fd, path, near)
        entry.held.update((span.offset, span.length) for span in spans)
        if not missing:
            os.utime(entry.fd)  # the most recently used is evicted last
        elif not self.reads_all:
            self._complete_if_much_read(entry.fd, path, sum(entry.held.values()))

    def _fetch(self, fd: int, path: str, spans: Sequence[Span]) -> None:
        """One request for adjacent chunks."""
        start, stop = spans[0].offset, spans[-1].offset + spans[-1].length

        def is_sound(data: bytes) -> bool:
            packed = np.frombuffer(data, np.uint8)
            return all(_is_chunk(packed[s.offset - start :], s) for s in spans)

        data = self._mirror.read_range(path, start, stop, is_sound)
        os.pwrite(fd, data, start)

    def _complete_if_much_read(self, fd: int, path: str, held_bytes: int) -> None:
        nbytes = self._mirror.size_of(path)
        if held_bytes < SPARSE_SHARE * nbytes or nbytes > self._mirror.space.limit_bytes / 2:
            return
        for start in range(0, nbytes, _BLOCK_BYTES):
            stop = min(start + _BLOCK_BYTES, nbytes)
            os.pwrite(fd, self._mirror.read_range(path, start, stop), start)
        # The name of the whole file; its hash is checked when it is next opened.
        if self._mirror.finish_parts(path):
            self._in_parts.discard(path)
            self._whole.add(path)
            self._pool.forget(path)


@contextlib.contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror}. Check the disk of the local cache.") from error


def _runs(spans: Sequence[Span]) -> list[list[Span]]:
    """Chunks in the order of the file, those close together in one list."""
    runs: list[list[Span]] = []
    for span in sorted(spans):
        if runs and span.offset - (runs[-1][-1].offset + runs[-1][-1].length) <= GAP_BYTES:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _is_there(fd: int, span: Span) -> bool:
    return _is_chunk(np.frombuffer(os.pread(fd, span.length, span.offset), np.uint8), span)


def _is_chunk(packed: np.ndarray, span: Span) -> bool:
    if len(packed) < span.length:
        return False
    return bool(crc32c(packed[: span.length - CRC_BYTES]) == span.crc)
