"""One field of one scan from disk to an array: one preadv, crc, decompression. No zarr.

What is stored uncompressed (profile `raw`, or content that does not get smaller) goes from the file
straight into the array.
"""

from __future__ import annotations

import errno
import math
import os
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.codec import (
    CRC_BYTES,
    FRAME_HEADER_BYTES,
    crc32c,
    crc32c_of_both,
    decode_into,
    is_stored,
)
from pass2d.cache.reading.descriptors import DescriptorPool
from pass2d.cache.reading.scan_table import Span
from pass2d.cache.reading.shard_table import ArrayLayout
from pass2d.common.errors import CacheError
from pass2d.common.files import read_failure

_UINT8 = np.dtype(np.uint8)
_REMEDIES = {
    errno.ENOENT: "Run `repair`.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EIO: "The disk reports a fault: check it, then run `verify`.",
}

AllocateArray = Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
"""Gives the array to decode into, e.g. a pinned one; ``numpy.empty`` does."""


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """One inner chunk of one scan, and the file that holds it."""

    field: str
    part: int
    """Place among the chunks that the scan has of the field: strip or camera."""
    array: ArrayLayout
    span: Span


class ChunkReader:
    """Reads and decodes chunks; any number of threads may use one."""

    def __init__(self, *, check: bool, pool: DescriptorPool) -> None:
        self._check = check
        self._pool = pool
        self._local = threading.local()

    def read(
        self,
        array: ArrayLayout,
        span: Span,
        *,
        name: str,
        allocate: AllocateArray = np.empty,
    ) -> NDArray[Any]:
        """One inner chunk, in the field's type, without its leading axis of length 1.

        Raises:
            CacheError: missing, truncated or damaged; ``name`` is in the message.
        """
        out: NDArray[Any] | None = None
        if span.length == _stored_length(array):
            out = allocate(array.chunk[1:], array.dtype)
            if self._read_stored(array, span, out, name=name):
                return out
        data = self._fetch(array, span.offset, span.length, name=name)
        out = allocate(array.chunk[1:], array.dtype) if out is None else out
        self._decode(data, span, out, array=array, name=name)
        return out

    def _read_stored(self, array: ArrayLayout, span: Span, out: NDArray[Any], *, name: str) -> bool:
        """Read an uncompressed chunk without a copy; False if that is not possible."""
        header, crc = np.empty(FRAME_HEADER_BYTES, np.uint8), np.empty(CRC_BYTES, np.uint8)
        content = out.reshape(-1).view(np.uint8)
        try:
            entry = self._pool.take(array.path)
            try:
                got = os.preadv(entry.fd, [header.data, content.data, crc.data], span.offset)
            finally:
                self._pool.release(entry, array.path)
        except OSError:
            return False  # the other way says why
        if got != span.length or not is_stored(header, out.nbytes):
            return False
        if self._check:
            self._compare(crc32c_of_both(header, content), span, array=array, name=name)
        return True

    def read_columns(
        self,
        array: ArrayLayout,
        spans: Sequence[Span],
        *,
        name: str,
        hw: tuple[int, int],
        columns: tuple[int, int],
        allocate: AllocateArray = np.empty,
    ) -> NDArray[np.uint8]:
        """Columns [start, stop) of a picture that is stored in strips; other strips stay unread.

        Args:
            array: of the field `image`, chunk (1, H, strip, 3).
            spans: strips from the left.
            name: for messages.
            hw: height and width of this scan's picture.
            columns: start and stop, inside the picture.
            allocate: gives the (height, stop - start, 3) array.
        """
        start, stop = columns
        strip = array.chunk[2]
        first, last = start // strip, -(-stop // strip)
        wanted = spans[first:last]
        begin = wanted[0].offset
        end = wanted[-1].offset + wanted[-1].length
        data = self._fetch(array, begin, end - begin, name=name)
        out = allocate((hw[0], stop - start, 3), _UINT8)
        for index, span in enumerate(wanted, first):
            where = data[span.offset - begin :]
            part = self._strip(where, span, array=array, name=name)
            left, right = max(start, index * strip), min(stop, (index + 1) * strip)
            out[:, left - start : right - start] = part[
                : hw[0], left - index * strip : right - index * strip
            ]
        return out

    def _strip(
        self, data: NDArray[np.uint8], span: Span, *, array: ArrayLayout, name: str
    ) -> NDArray[np.uint8]:
        """A strip where it was read to if it is uncompressed, else in scratch memory."""
        content = data[FRAME_HEADER_BYTES : span.length - CRC_BYTES]
        if span.length == _stored_length(array) and is_stored(data, content.nbytes):
            if self._check:
                self._compare(crc32c(data[: span.length - CRC_BYTES]), span, array=array, name=name)
            return content.reshape(array.chunk[1:])
        part = self._scratch("strip", math.prod(array.chunk[1:])).reshape(array.chunk[1:])
        self._decode(data, span, part, array=array, name=name)
        return part

    def _fetch(self, array: ArrayLayout, offset: int, size: int, *, name: str) -> NDArray[np.uint8]:
        buffer = self._scratch("packed", size)
        try:
            entry = self._pool.take(array.path)
            try:
                got = os.preadv(entry.fd, [buffer.data], offset)
                if got != size:  # the kernel may stop early; at the end of the file it gives 0
                    got = _read_on(entry.fd, buffer, offset, got)
            finally:
                self._pool.release(entry, array.path)
        except OSError as error:
            if isinstance(error, PermissionError):
                raise read_failure(array.path, error) from error
            remedy = _REMEDIES.get(error.errno or 0, "Run `verify`.")
            raise CacheError(
                f"{array.path}: cannot read {name} ({error.strerror}). {remedy}"
            ) from error
        if got != size:
            raise CacheError(
                f"{array.path}: truncated, {name} ends after {got} of {size} bytes. Run `repair`."
            )
        return buffer

    def _decode(
        self,
        data: NDArray[np.uint8],
        span: Span,
        out: NDArray[Any],
        *,
        array: ArrayLayout,
        name: str,
    ) -> None:
        packed = data[: span.length - CRC_BYTES]
        if self._check:
            self._compare(crc32c(packed), span, array=array, name=name)
        try:
            decode_into(packed, out)
        except (RuntimeError, ValueError, struct.error) as error:
            raise CacheError(
                f"{array.path}: {name} does not decompress ({error}). Run `repair`."
            ) from error

    @staticmethod
    def _compare(found: int, span: Span, *, array: ArrayLayout, name: str) -> None:
        if found != span.crc:
            raise CacheError(
                f"{array.path}: {name} is damaged (crc32c {found:08x}, expected "
                f"{span.crc:08x}). Run `repair`."
            )

    def _scratch(self, purpose: str, size: int) -> NDArray[np.uint8]:
        buffer: NDArray[np.uint8] | None = getattr(self._local, purpose, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size + size // 4, np.uint8)
            setattr(self._local, purpose, buffer)
        return buffer[:size]


def _stored_length(array: ArrayLayout) -> int:
    """Bytes of an uncompressed chunk, in its frame and with its crc."""
    content = math.prod(array.chunk[1:]) * array.dtype.itemsize
    return FRAME_HEADER_BYTES + content + CRC_BYTES


def _read_on(fd: int, buffer: NDArray[np.uint8], offset: int, got: int) -> int:
    """Continue a read that stopped early; returns all available bytes."""
    step = got
    while step and got < len(buffer):
        step = os.preadv(fd, [buffer[got:].data], offset + got)
        got += step
    return got
