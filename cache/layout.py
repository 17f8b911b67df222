"""Names and paths of everything below ``<cache>/<data set>/``."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import CONTAINERS
from pass2d.common.errors import CacheError

DATASET_FILE = "dataset.json"
CURRENT_FILE = "CURRENT"
FAILED_FILE = "failed.jsonl"
SCANS_FILE, SHARDS_FILE, HASHES_FILE = "scans.parquet", "shards.parquet", "hashes.json"
GROUP_FILE = "zarr.json"
_NUMBER = "([0-9]{6}|[1-9][0-9]{6,8})"  # 000007, 1000000: each number has one spelling
GENERATION = re.compile(f"gen-{_NUMBER}")
SHARD_FOLDER = re.compile(rf"{_NUMBER}-([0-9a-f]{{12}})\.zarr")
ROW_FILE = re.compile(rf"{_NUMBER}-([0-9a-f]{{12}})\.json")
MEMBER = re.compile(r"zarr\.json|[a-z][a-z0-9_]{0,39}/(?:zarr\.json|c(?:/0){1,6})")
"""A file of a shard, from its folder on. Arrays of a later format have names of this form, too."""
HASH = re.compile("[0-9a-f]{32}")
"""A key or an xxh3_128."""
DATASET = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""The folder of a data set in a store, or as another one names it."""
KEY_DIGITS = 12
"""Hex digits of a key in names; the whole key stands inside the files."""
MOST_SHARDS = 10**9
"""Numbers of shards are below."""

_BLOCKS = 1000  # shards per sequence: 64,000 scans, ten times the longest KITTI drive
_NAMED_BASE = 10_000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Paths of one prepared data set."""

    root: Path

    @property
    def dataset_file(self) -> Path:
        """Label table, grid, field and container tables."""
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

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that are created and emptied below the root; none of them may be a link."""
        below = (self.root / container for container in CONTAINERS)
        rows = self.root / "rows"
        return (
            self.scratch,
            self.manifest,
            *below,
            rows,
            *(rows / container for container in CONTAINERS),
        )

    def generation(self, number: int) -> Path:
        """Folder of one generation."""
        return self.manifest / f"gen-{number:06d}"

    def shard(self, container: str, shard: int, key: str) -> Path:
        """Zarr group of one shard."""
        return self.root / container / f"{shard_name(shard, key)}.zarr"

    def row(self, container: str, shard: int, key: str) -> Path:
        """Commit record of one shard."""
        return self.root / "rows" / container / f"{shard_name(shard, key)}.json"


def shard_name(shard: int, key: str) -> str:
    """E.g. "008003-0123456789ab"."""
    return f"{shard:06d}-{key[:KEY_DIGITS]}"


def is_format_name(name: str) -> bool:
    """Whether the format has a file of this name, relative to the data set's folder.

    Every name from outside (a listing of a store, a table, a record) must pass this check, or one
    of the patterns above, before it becomes part of a path or URL. They are exact: no other
    spelling or case, no "..".
    """
    if len(name) > _LONGEST_NAME:
        return False
    first, _, rest = name.partition("/")
    if not rest:
        return name in (DATASET_FILE, CURRENT_FILE, FAILED_FILE)
    second, _, rest = rest.partition("/")
    if first == "manifest":
        is_table = rest in (SCANS_FILE, SHARDS_FILE, HASHES_FILE)
        return is_table and GENERATION.fullmatch(second) is not None
    if first == "rows":
        return second in CONTAINERS and ROW_FILE.fullmatch(rest) is not None
    is_shard = first in CONTAINERS and SHARD_FOLDER.fullmatch(second) is not None
    return is_shard and MEMBER.fullmatch(rest) is not None


_LONGEST_NAME = 120


def require_dataset_name(name: str, *, where: str) -> None:
    """Refuse what cannot be the folder of a data set.

    Raises:
        CacheError: names what was found; ``where`` says in which file or option.
    """
    if DATASET.fullmatch(name) is None:
        raise _no_name(name, "the name of a data set such as semkitti", where)


def _no_name(name: str, expected: str, where: str) -> CacheError:
    return CacheError(
        f"{where}: found the name {name[:60]!r}, expected {expected}. Nothing of that name is "
        "read or written. Did `prepare` make this cache?"
    )


Shards = TypeVar("Shards", int, NDArray[np.int64])


def sequence_number(shards: Shards) -> Shards:
    """The sequence's part of one shard number, or of (S,) of them."""
    return shards // _BLOCKS


def shard_number(sequence: str, block: int, attempt: int = 0) -> int:
    """Number of the ``block``-th shard of a sequence: "08", 3 -> 8003; "scene-0061", 0 -> 61000.

    It depends on nothing else, so that sequences can be added in any order, by several drivers at
    once, without renumbering. Other names get a number from their crc32.

    Args:
        sequence: its name.
        block: which of its shards.
        attempt: how many numbers before this one belong to other sequences of the cache.

    Raises:
        CacheError: ``block`` is too large.
    """
    if block >= _BLOCKS:
        raise CacheError(
            f"sequence {sequence} has more scans than the {_BLOCKS} shards that a sequence may "
            "have. Split it into several sequences."
        )
    match = re.fullmatch(r"(?:scene-)?(\d{1,4})", sequence)
    if match and not attempt:
        number = int(match[1])
    else:
        name = f"{sequence}#{attempt}" if attempt else sequence
        number = _NAMED_BASE + zlib.crc32(name.encode()) % 900_000
    return number * _BLOCKS + block
