"""Bytes of each field: stored, and as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.codec import Codec
from pass2d.cache.fields import FIELDS, FieldSpec
from pass2d.cache.reading.scan_table import ScanTable, field_lengths


@dataclass(frozen=True, kw_only=True)
class FieldSize:
    """One field over all scans that have it."""

    name: str
    container: str
    dtypes: tuple[str, ...]
    """Of its shards."""
    codecs: tuple[str, ...]
    scans: int
    chunks: int
    """Inner chunks, each fetched by one read."""
    stored_bytes: int
    """Compressed, checksums included."""
    plain_bytes: int
    """Of the values as arrays, without padding."""

    @property
    def ratio(self) -> float:
        """Plain over stored bytes: 2 means half the size; 0 when nothing is stored."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 0.0


StoredType = Callable[[str, int], "np.dtype[Any] | None"]
"""Field name and shard to the type of the field there; None where the shard does not hold it."""
ChunkLengths = Callable[[str], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Field name to (S,) bytes and (S,) stored chunks of each scan."""


def field_sizes(
    scans: ScanTable,
    shards: Sequence[dict[str, Any]],
    lengths: ChunkLengths,
    stored_type: StoredType,
) -> tuple[FieldSize, ...]:
    """Sum up each field that some scan has, in the order of the format's table.

    Args:
        scans: of the generation.
        shards: rows of shards.parquet.
        lengths: of ``CacheReader.chunk_lengths``.
        stored_type: of ``CacheReader.stored_type``.
    """
    sizes = (_field_size(spec, scans, shards, lengths, stored_type) for spec in FIELDS.values())
    return tuple(size for size in sizes if size.scans)


def _field_size(
    spec: FieldSpec,
    scans: ScanTable,
    shards: Sequence[dict[str, Any]],
    lengths: ChunkLengths,
    stored_type: StoredType,
) -> FieldSize:
    stored, chunks = lengths(spec.name)
    itemsize = dict.fromkeys(np.unique(scans.shard).tolist(), 0)
    dtypes: set[str] = set()
    profiles: set[str] = set()
    for row in shards:
        if row["stage"] != spec.container:
            continue
        dtype = stored_type(spec.name, row["shard"])
        if dtype is not None:
            itemsize[row["shard"]] = dtype.itemsize
            dtypes.add(dtype.name)
            profiles.add(row["profile"])
    numbers, which = np.unique(scans.shard, return_inverse=True)
    per_item = np.array([itemsize[n] for n in numbers.tolist()], np.int64)[which]
    has = stored > 0
    return FieldSize(
        name=spec.name,
        container=spec.container,
        dtypes=tuple(sorted(dtypes)),
        codecs=tuple(codec_name(spec.codec(profile)) for profile in sorted(profiles)),
        scans=int(has.sum()),
        chunks=int(chunks.sum()),
        stored_bytes=int(stored.sum()),
        plain_bytes=int((_items(spec, scans) * per_item)[has].sum()),
    )


def _items(spec: FieldSpec, scans: ScanTable) -> NDArray[np.int64]:
    """(S,) numbers that each scan has of a field."""
    if spec.length == "picture":
        return scans.camera_hw.prod(axis=2).sum(axis=1) * 3
    lengths = field_lengths(spec, scans)
    return (lengths.sum(axis=1) if lengths.ndim == 2 else lengths) * max(1, spec.rows)


def codec_name(codec: Codec) -> str:
    """E.g. "lz4-5 shuffle"."""
    return f"{codec.cname}-{codec.clevel} {codec.shuffle}"
