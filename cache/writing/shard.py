"""One Zarr v3 group with sharded arrays, written and parsed without zarr.

zarr-python opens the result (the tests hold both side by side); writing it ourselves keeps the
bytes reproducible and yields offset, length and crc of every chunk for the manifest.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.codec import CRC_BYTES, Codec, crc32c
from pass2d.cache.layout import GROUP_FILE
from pass2d.cache.rows import ABSENT, ChunkRef, FieldChunks, FileHash
from pass2d.common.errors import CacheError
from pass2d.common.files import write_file
from pass2d.common.json import dumps

_NO_CHUNK = (1 << 64) - 1  # Zarr's sharding codec: offset and length of a chunk that is not stored
INDEX_ENTRY_BYTES = 16
"""Of one inner chunk: offset and length."""


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Shape and codec of one array; the first axis counts scans."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    codec: Codec

    @property
    def grid(self) -> tuple[int, ...]:
        """Inner chunks along each axis; the last one of an axis may reach beyond the shape."""
        return tuple(-(-size // part) for size, part in zip(self.shape, self.chunk, strict=True))

    @property
    def chunks_per_scan(self) -> int:
        """Inner chunks of one scan."""
        return math.prod(self.grid[1:])

    @property
    def file_name(self) -> str:
        """The one shard file, relative to the group."""
        return f"{self.name}/c/" + "/".join("0" * len(self.shape))


def array_metadata(spec: ArraySpec) -> dict[str, Any]:
    """The array's zarr.json: one shard that spans everything, `bytes -> blosc -> crc32c` inside."""
    dtype = np.dtype(spec.dtype)
    endian = {} if dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
    blosc = {
        "typesize": dtype.itemsize,
        "cname": spec.codec.cname,
        "clevel": spec.codec.clevel,
        "shuffle": spec.codec.shuffle,
        "blocksize": 0,
    }
    outer = [count * part for count, part in zip(spec.grid, spec.chunk, strict=True)]
    sharding = {
        "chunk_shape": list(spec.chunk),
        "codecs": [
            {"name": "bytes", **endian},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": outer}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "storage_transformers": [],
    }


def group_metadata(specs: Iterable[ArraySpec], attributes: Any) -> bytes:
    """The group's zarr.json with inline consolidated metadata: one read shows everything."""
    consolidated = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {spec.name: array_metadata(spec) for spec in specs},
    }
    return dumps(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": consolidated,
        }
    )


class ArrayWriter:
    """Encodes the chunks of one array in the order of the grid and writes its two files."""

    def __init__(self, folder: Path, spec: ArraySpec) -> None:
        self._folder = folder
        self._spec = spec
        self._refs: list[ChunkRef] = []

    def write(self, chunks: Iterable[NDArray[np.generic] | None]) -> tuple[FileHash, FileHash]:
        """Write all chunks; None is a chunk that is not stored.

        Args:
            chunks: arrays of `spec.chunk`'s shape, C order of the chunk grid.
        """
        spec = self._spec
        metadata = self._folder / spec.name / GROUP_FILE
        data = self._folder / spec.file_name
        data.parent.mkdir(parents=True)
        files = tuple(
            FileHash(name=str(path.relative_to(self._folder)), nbytes=nbytes, xxh3=xxh3)
            for path, (nbytes, xxh3) in (
                (metadata, write_file(metadata, [dumps(array_metadata(spec))])),
                (data, write_file(data, self._encode(chunks))),
            )
        )
        return files[0], files[1]

    def field_chunks(self) -> FieldChunks:
        """The position of each scan's chunks."""
        step = self._spec.chunks_per_scan
        rows = range(0, len(self._refs), step)
        return FieldChunks(
            name=self._spec.name,
            dtype=self._spec.dtype,
            chunk=self._spec.chunk,
            chunks=tuple(tuple(self._refs[i : i + step]) for i in rows),
        )

    def _encode(self, chunks: Iterable[NDArray[np.generic] | None]) -> Iterator[bytes]:
        offset = 0
        for chunk in chunks:
            if chunk is None:
                self._refs.append(ABSENT)
                continue
            if chunk.shape != self._spec.chunk or chunk.dtype != self._spec.dtype:
                raise ValueError(f"{self._spec.name}: chunk {chunk.shape} {chunk.dtype}")
            packed = self._spec.codec.encode(np.ascontiguousarray(chunk))
            crc = int.from_bytes(packed[-CRC_BYTES:], "little")
            self._refs.append(ChunkRef(offset=offset, length=len(packed), crc=crc))
            offset += len(packed)
            yield packed
        assert len(self._refs) == math.prod(self._spec.grid), self._spec.name
        yield encode_index(self._refs)


def encode_index(refs: Iterable[ChunkRef]) -> bytes:
    """The shard's index: (offset, length) uint64 per chunk, then the crc32c of that."""
    pairs = [(r.offset, r.length) if r.length else (_NO_CHUNK, _NO_CHUNK) for r in refs]
    index = np.array(pairs, "<u8").reshape(-1, 2).tobytes()
    return index + struct.pack("<I", crc32c(np.frombuffer(index, np.uint8)))


def parse_index(data: bytes, n_chunks: int, *, where: str) -> NDArray[np.uint64]:
    """(n_chunks, 2) offset and length from the end of a shard file; (0, 0): not stored.

    Raises:
        CacheError: too short, or the index's crc differs.
    """
    size = n_chunks * INDEX_ENTRY_BYTES
    if len(data) < size + CRC_BYTES:
        raise CacheError(f"{where}: too short for its index. Run `repair`.")
    tail = np.frombuffer(data, np.uint8)[len(data) - size - CRC_BYTES :]
    index, crc = tail[:size], int.from_bytes(tail[size:].tobytes(), "little")
    if crc32c(index) != crc:
        raise CacheError(f"{where}: the index is damaged. Run `repair`.")
    pairs = index.view("<u8").reshape(n_chunks, 2).astype(np.uint64)
    pairs[pairs[:, 0] == _NO_CHUNK] = 0
    return pairs
