"""What the reader must know of each shard: its folder, array types and encodings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from pass2d.cache.fields import FIELDS, STRIP_COLUMNS, FieldSpec
from pass2d.cache.layout import Layout
from pass2d.cache.reading.scan_table import ScanTable, field_lengths
from pass2d.common.errors import CacheError
from pass2d.common.json import loads


@dataclass(frozen=True, kw_only=True)
class ArrayLayout:
    """Type, chunk and file of one array of one shard."""

    path: str
    dtype: np.dtype[np.generic]
    chunk: tuple[int, ...]
    """Inner chunk shape, the axis of scans (and cameras) included."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard of one container."""

    container: str
    shard: int
    key: str
    folder: Path
    arrays: dict[str, ArrayLayout]
    """By field; fields that no scan of the shard has are not there."""
    signal_divisor: int
    """The signal is float32(stored uint8 / this); 0: it is stored as float32."""


class ShardTable:
    """Shards by container and number; each is parsed when it is first asked for."""

    def __init__(self, layout: Layout, shards: pa.Table, scans: ScanTable) -> None:
        self._layout = layout
        self._scans = scans
        containers, numbers = shards["stage"].to_pylist(), shards["shard"].to_pylist()
        self._index = {(s, n): i for i, (s, n) in enumerate(zip(containers, numbers, strict=True))}
        self._columns = {name: shards[name].to_pylist() for name in ("key", "arrays", "encodings")}
        self._parsed: dict[tuple[str, int], ShardInfo] = {}

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> list[tuple[str, int, str]]:
        """(container, shard, key) of all shards, sorted."""
        return sorted((s, n, self._columns["key"][i]) for (s, n), i in self._index.items())

    def get(self, container: str, shard: int) -> ShardInfo | None:
        """One shard; None when its container has none of that number.

        Raises:
            CacheError: its arrays do not fit its scans.
        """
        found = self._parsed.get((container, shard))
        if found is None and (container, shard) in self._index:
            # Two threads may parse the same shard; the results are equal and one of them stays.
            found = self._parsed[container, shard] = self._parse(container, shard)
        return found

    def _parse(self, container: str, shard: int) -> ShardInfo:
        index = self._index[container, shard]
        key = self._columns["key"][index]
        folder = self._layout.shard(container, shard, key)
        arrays = loads(self._columns["arrays"][index], where=f"{folder}: column arrays")
        encodings = loads(self._columns["encodings"][index], where=f"{folder}: column encodings")
        try:
            divisor = encodings.get("intensity_divisor", 0)
            known = {name: value for name, value in arrays.items() if name in FIELDS}
            for name, value in known.items():
                self._check(FIELDS[name], value, shard, divisor=divisor)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CacheError(
                f"{folder}: the manifest's description of its arrays is impossible "
                f"({error!s:.200}). Run `verify`, or prepare again into a new `cache_root`."
            ) from error
        return ShardInfo(
            container=container,
            shard=shard,
            key=key,
            folder=folder,
            arrays={
                name: ArrayLayout(
                    path=f"{folder}/{name}/c/" + "/".join("0" * len(value["chunk"])),
                    dtype=np.dtype(value["dtype"]),
                    chunk=tuple(value["chunk"]),
                )
                for name, value in known.items()
            },
            signal_divisor=divisor,
        )

    def _check(
        self, spec: FieldSpec, array: Mapping[str, Any], shard: int, *, divisor: object
    ) -> None:
        """Refuse an array of another type, or of a shape that the shard's scans do not fit in."""
        chunk, dtype = array["chunk"], array["dtype"]
        dtypes = (spec.dtypes[0 if divisor else 1],) if spec.is_signal else spec.dtypes
        if type(divisor) is not int or not 0 <= divisor <= _MOST_BYTES or dtype not in dtypes:
            raise ValueError(f"{spec.name}: type {dtype!s:.20}, divisor {divisor!s:.20}")
        least = self._least_chunk(spec, shard)
        if (
            len(chunk) != len(least)
            or any(type(size) is not int for size in chunk)
            or any(
                size != want if is_fixed else size < want
                for size, (want, is_fixed) in zip(chunk, least, strict=True)
            )
            or math.prod(chunk) * np.dtype(dtype).itemsize > _MOST_BYTES
        ):
            sizes = [want for want, _ in least]
            raise ValueError(f"{spec.name}: chunks of {chunk!s:.80}, the scans need {sizes}")

    def _least_chunk(self, spec: FieldSpec, shard: int) -> list[tuple[int, bool]]:
        """Per axis of an inner chunk the size that the shard's scans need; and if it is exact."""
        scans = self._scans
        rows = slice(*np.searchsorted(scans.shard, [shard, shard + 1]).tolist())
        is_multi = spec.is_per_camera and scans.camera_m.shape[1] > 1
        length = int(field_lengths(spec, scans)[rows].max(initial=1))
        if spec.length == "picture":
            height = int(scans.camera_hw[rows, :, 0].max(initial=0))
            strip = (length, False) if is_multi else (STRIP_COLUMNS, True)
            tail = [(height, False), strip, (3, True)]
        else:
            tail = [*([(spec.rows, True)] if spec.rows else []), (length, False)]
        return [(1, True), *([(1, True)] if is_multi else []), *tail]


_MOST_BYTES = 2**31 - 17
"""Of a chunk: what Blosc takes."""
