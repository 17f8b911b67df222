"""What the reader must know of each shard: its folder, array types and encodings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]


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

    stage: str
    shard: int
    key: str
    folder: Path
    arrays: dict[str, ArrayLayout]
    """By field; fields that no scan of the shard has are not there."""
    signal_divisor: int
    """The signal is float32(stored uint8 / this); 0: it is stored as float32."""


class ShardTable:
    """Shards by container and number; each is parsed when it is first asked for."""

    def __init__(self, root: Path, shards: pa.Table) -> None:
        self._root = root
        stages, numbers = shards["stage"].to_pylist(), shards["shard"].to_pylist()
        self._place = {(s, n): i for i, (s, n) in enumerate(zip(stages, numbers, strict=True))}
        self._columns = {
            name: shards[name].to_pylist() for name in ("key", "path", "arrays", "encodings")
        }
        self._parsed: dict[tuple[str, int], ShardInfo] = {}

    def __len__(self) -> int:
        return len(self._place)

    def keys(self) -> list[tuple[str, int, str]]:
        """(stage, shard, key) of all shards, sorted."""
        return sorted((s, n, self._columns["key"][i]) for (s, n), i in self._place.items())

    def get(self, stage: str, shard: int) -> ShardInfo | None:
        """One shard; None when its container has none of that number."""
        found = self._parsed.get((stage, shard))
        if found is None and (stage, shard) in self._place:
            # Two threads may parse the same shard; the results are equal and one of them stays.
            found = self._parsed[stage, shard] = self._parse(stage, shard)
        return found

    def _parse(self, stage: str, shard: int) -> ShardInfo:
        place = self._place[stage, shard]
        folder = self._root / self._columns["path"][place]
        arrays = {
            name: ArrayLayout(
                path=f"{folder}/{name}/c/" + "/".join("0" * len(value["chunk"])),
                dtype=np.dtype(value["dtype"]),
                chunk=tuple(value["chunk"]),
            )
            for name, value in json.loads(self._columns["arrays"][place]).items()
        }
        encodings = json.loads(self._columns["encodings"][place])
        return ShardInfo(
            stage=stage,
            shard=shard,
            key=self._columns["key"][place],
            folder=folder,
            arrays=arrays,
            signal_divisor=encodings.get("intensity_divisor", 0),
        )
