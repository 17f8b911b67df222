"""One field of one scan from disk to an array: one preadv, crc, decompression. No zarr."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.codec import CRC_BYTES, crc32c, decode_into
from cache.descriptors import DescriptorPool
from cache.errors import CacheError
from cache.rows import ChunkRef
from cache.shard_table import ArrayLayout

Allocate = Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
"""Gives the array to decode into, e.g. a pinned one; ``numpy.empty`` does."""


class ChunkReader:
    """Reads and decodes chunks; any number of threads may use one."""

    def __init__(self, *, check: bool, pool: DescriptorPool) -> None:
        self._check = check
        self._pool = pool
        self._local = threading.local()

    def read(
        self,
        array: ArrayLayout,
        ref: ChunkRef,
        *,
        name: str,
        allocate: Allocate = np.empty,
    ) -> NDArray[Any]:
        """One inner chunk without its leading axis of length 1.

        Raises:
            CacheError: missing, truncated or damaged; ``name`` is in the message.
        """
        data = self._fetch(array, [ref], name=name)
        out = allocate(array.chunk[1:], array.dtype)
        self._decode(data, ref, out, array=array, name=name)
        return out

    def read_columns(
        self,
        array: ArrayLayout,
        refs: Sequence[ChunkRef],
        *,
        name: str,
        hw: tuple[int, int],
        columns: tuple[int, int],
        allocate: Allocate = np.empty,
    ) -> NDArray[np.uint8]:
        """Columns [start, stop) of a picture that is stored in strips; other strips stay unread.

        Args:
            array: of the field `image`, chunk (1, H, strip, 3).
            refs: strips from the left.
            name: for messages.
            hw: height and width of this scan's picture.
            columns: start and stop, inside the picture.
            allocate: gives the (height, stop - start, 3) array.
        """
        start, stop = columns
        strip = array.chunk[2]
        first, last = start // strip, -(-stop // strip)
        wanted = list(refs[first:last])
        data = self._fetch(array, wanted, name=name)
        out = allocate((hw[0], stop - start, 3), np.dtype(np.uint8))
        part = self._scratch("strip", array.chunk[1] * strip * 3)
        part = part.reshape(array.chunk[1:])
        begin = wanted[0].offset
        for index, ref in enumerate(wanted, first):
            where = data[ref.offset - begin :][: ref.length]
            self._decode(where, ref, part, array=array, name=name)
            left, right = max(start, index * strip), min(stop, (index + 1) * strip)
            out[:, left - start : right - start] = part[
                : hw[0], left - index * strip : right - index * strip
            ]
        return out

    def _fetch(
        self, array: ArrayLayout, refs: Sequence[ChunkRef], *, name: str
    ) -> NDArray[np.uint8]:
        offset = refs[0].offset
        size = refs[-1].offset + refs[-1].length - offset
        buffer = self._scratch("packed", size)
        try:
            with self._pool.borrow(array.path) as fd:
                got = _read_fully(fd, buffer, offset)
        except OSError as error:
            raise CacheError(
                f"{array.path}: cannot read {name} ({error.strerror}). Run `pass2d cache verify`."
            ) from error
        if got != size:
            raise CacheError(
                f"{array.path}: truncated, {name} ends after {got} of {size} bytes. "
                "Run `pass2d cache repair`."
            )
        return buffer

    def _decode(
        self,
        data: NDArray[np.uint8],
        ref: ChunkRef,
        out: NDArray[Any],
        *,
        array: ArrayLayout,
        name: str,
    ) -> None:
        packed = data[: ref.length - CRC_BYTES]
        if self._check:
            found = crc32c(packed)
            if found != ref.crc:
                raise CacheError(
                    f"{array.path}: {name} is damaged (crc32c {found:08x}, expected "
                    f"{ref.crc:08x}). Run `pass2d cache repair`."
                )
        try:
            decode_into(packed, out)
        except (RuntimeError, ValueError) as error:
            raise CacheError(
                f"{array.path}: {name} does not decompress ({error}). Run `pass2d cache repair`."
            ) from error

    def _scratch(self, purpose: str, size: int) -> NDArray[np.uint8]:
        buffer: NDArray[np.uint8] | None = getattr(self._local, purpose, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size + size // 4, np.uint8)
            setattr(self._local, purpose, buffer)
        return buffer[:size]


def _read_fully(fd: int, buffer: NDArray[np.uint8], offset: int) -> int:
    view = buffer.data
    got = 0
    while got < len(buffer):
        step = os.preadv(fd, [view[got:]], offset + got)
        if step == 0:
            break
        got += step
    return got
