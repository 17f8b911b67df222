"""Names and places of everything below ``<cache>/<data set>/``."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError

DATASET_FILE = "dataset.json"
CURRENT_FILE = "CURRENT"
FAILED_FILE = "failed.jsonl"
GENERATION = re.compile(r"gen-(\d{6,})")
SHARD_FOLDER = re.compile(r"(\d{6,})-([0-9a-f]{12})\.zarr")
ROW_FILE = re.compile(r"(\d{6,})-([0-9a-f]{12})\.json")
KEY_DIGITS = 12
"""Hex digits of a key in names; the whole key stands inside the files."""

_BLOCKS = 1000  # shards per sequence: 64,000 scans, ten times the longest KITTI drive
_NAMED_BASE = 10_000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Paths of one prepared data set."""

    root: Path

    @property
    def dataset_file(self) -> Path:
        """Label table, grid, field and stage tables."""
        return self.root / DATASET_FILE

    @property
    def current_file(self) -> Path:
        """Name of the current generation."""
        return self.root / CURRENT_FILE

    @property
    def failed_file(self) -> Path:
        """Bad scans, one JSON object per line."""
        return self.root / FAILED_FILE

    @property
    def manifest(self) -> Path:
        """Folder of the generations."""
        return self.root / "manifest"

    @property
    def scratch(self) -> Path:
        """Attempts and locks; never read."""
        return self.root / ".tmp"

    def generation(self, number: int) -> Path:
        """Folder of one generation."""
        return self.manifest / f"gen-{number:06d}"

    def shard(self, stage: str, shard: int, key: str) -> Path:
        """Zarr group of one shard."""
        return self.root / stage / f"{shard_name(shard, key)}.zarr"

    def row(self, stage: str, shard: int, key: str) -> Path:
        """Commit record of one shard."""
        return self.root / "rows" / stage / f"{shard_name(shard, key)}.json"


def shard_name(shard: int, key: str) -> str:
    """E.g. "008003-0123456789ab"."""
    return f"{shard:06d}-{key[:KEY_DIGITS]}"


def shard_number(sequence: str, block: int) -> int:
    """Number of the ``block``-th shard of a sequence: "08", 3 -> 8003; "scene-0061", 0 -> 61000.

    It depends on nothing else, so that sequences can be added in any order, by several drivers at
    once, without renumbering. Other names get a number from their crc32.

    Raises:
        CacheError: ``block`` is too large.
    """
    if block >= _BLOCKS:
        raise CacheError(
            f"sequence {sequence} has more scans than the {_BLOCKS} shards that a sequence may "
            "have. Split it into sequences of their own."
        )
    match = re.fullmatch(r"(?:scene-)?(\d{1,4})", sequence)
    place = int(match[1]) if match else _NAMED_BASE + zlib.crc32(sequence.encode()) % 900_000
    return place * _BLOCKS + block
