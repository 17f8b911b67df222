"""Blosc and crc32c of one inner chunk: what Zarr's codecs ``bytes -> blosc -> crc32c`` write."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c
import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

# Blosc's threads append blocks in the order in which they finish: other bytes on every run.
blosc.use_threads = False

CRC_BYTES = 4
FRAME_HEADER_BYTES = 16
_STORED_FLAG = 2
"""In byte 2 of the header: the content is stored uncompressed."""
_SIZE = struct.Struct("<I")
"""Of a Blosc frame's content, at byte 4 of its header."""
_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Settings of Zarr's `blosc` codec; `crc32c` always follows it."""

    cname: str
    clevel: int
    shuffle: str

    def encode(self, chunk: NDArray[np.generic]) -> bytes:
        """Compress a C-contiguous chunk and append its crc32c (4 bytes, little endian)."""
        packed: bytes = blosc.compress(
            chunk,
            self.cname.encode(),
            self.clevel,
            _SHUFFLES[self.shuffle],
            0,
            chunk.dtype.itemsize,
        )
        return packed + crc32c(np.frombuffer(packed, np.uint8)).to_bytes(CRC_BYTES, "little")


def crc32c(data: NDArray[np.uint8]) -> int:
    """Castagnoli CRC of a byte array (an array, because the C function refuses memoryviews)."""
    return int(google_crc32c.value(data))


def is_stored(header: NDArray[np.uint8], nbytes: int) -> bool:
    """Whether a Blosc frame, by its header (16 bytes), is uncompressed and of this size."""
    return bool(header[2] & _STORED_FLAG) and _SIZE.unpack_from(header.data, 4)[0] == nbytes


def crc32c_of_both(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    """CRC of two 1-D byte arrays as if they were concatenated."""
    return int(google_crc32c.extend(google_crc32c.value(first), second))


def decode_into(data: NDArray[np.uint8], out: NDArray[np.generic]) -> None:
    """Decompress a 1-D byte array, a chunk without its crc, into ``out`` (C-contiguous).

    Raises:
        RuntimeError, ValueError: the bytes are no Blosc frame of ``out``'s size.
    """
    if (
        _SIZE.unpack_from(data.data, 4)[0] != out.nbytes
    ):  # of a smaller frame the rest would be garbage
        raise ValueError(f"a frame of another size than {out.nbytes} bytes")
    blosc.decompress(data, out)
