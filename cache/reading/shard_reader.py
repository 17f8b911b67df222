"""Reads a shard by its commit record alone, for later stages and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.layout import Layout
from pass2d.cache.reading.chunks import ChunkReader
from pass2d.cache.reading.descriptors import DescriptorPool
from pass2d.cache.reading.scan_table import Span
from pass2d.cache.reading.shard_table import ArrayLayout
from pass2d.cache.rows import ShardRow
from pass2d.cache.schema import ScanRecord


class ShardReader:
    """The arrays of one published shard, scan by scan; every chunk's crc is checked."""

    def __init__(
        self, layout: Layout, row: ShardRow, *, opener: Callable[[str], int] | None = None
    ) -> None:
        folder = layout.shard(row.header.container, row.shard, row.header.key)
        self._row = row
        self._ids = row.entries.scan_ids()
        self._pool = DescriptorPool(opener=opener)
        self._reader = ChunkReader(check=True, pool=self._pool)
        self._fields = {field.name: field for field in row.fields}
        self._arrays = {
            field.name: ArrayLayout(
                path=f"{folder}/{field.name}/c/" + "/".join("0" * len(field.chunk)),
                dtype=np.dtype(field.dtype),
                chunk=field.chunk,
            )
            for field in row.fields
        }

    def chunk(self, field: str, index: int, part: int = 0) -> NDArray[Any] | None:
        """Inner chunk ``part`` of scan ``index``, with its padding; None when it is not stored.

        Raises:
            CacheError: missing or damaged; the message names field and scan.
        """
        if field not in self._fields:
            return None
        ref = self._fields[field].chunks[index][part]
        if ref.length == 0:
            return None
        name = f"field {field} of scan {self._ids[index]}"
        span = Span(offset=ref.offset, length=ref.length, crc=ref.crc)
        return self._reader.read(self._arrays[field], span, name=name)

    def close(self) -> None:
        """Close the files."""
        self._pool.close()


def read_points(
    layout: Layout,
    row: ShardRow,
    *,
    with_outside: bool = False,
    opener: Callable[[str], int] | None = None,
) -> Iterator[ScanRecord]:
    """The scans of a `lidar` shard with what later stages use: xyz, raw rows, labels, time.

    ``signal`` is left empty. ``with_outside``: the coordinates outside the volume, too. ``opener``
    gives descriptors of files that need not be there yet.
    """
    reader = ShardReader(layout, row, opener=opener)
    try:
        for index, entry in enumerate(row.entries.lidar):
            xyz, label = reader.chunk("xyz", index), reader.chunk("label", index)
            time, raw_index = reader.chunk("time", index), reader.chunk("raw_index", index)
            outside = reader.chunk("outside_xyz", index) if with_outside else None
            assert xyz is not None, entry.scan_id
            assert raw_index is not None, entry.scan_id
            yield ScanRecord(
                scan_id=entry.scan_id,
                n_raw=entry.n_raw,
                # Later stages see the memory layout that a fresh scan has, whatever the padding.
                xyz=np.ascontiguousarray(xyz[:, : entry.n]),
                signal=np.empty(0, np.float32),
                raw_index=raw_index[: entry.n],
                label=None if label is None else label[: entry.n],
                time=None if time is None else time[: entry.n],
                outside_xyz=None if outside is None else outside[:, : entry.n_raw - entry.n],
            )
    finally:
        reader.close()
