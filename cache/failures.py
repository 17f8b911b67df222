"""failed.jsonl: one sealed JSON object per scan that could not be prepared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pass2d.cache.rows import FailedScan
from pass2d.common.errors import CacheError
from pass2d.common.json import from_json, seal, unseal


def encode_failures(failed: Iterable[FailedScan]) -> bytes:
    """The file's bytes; none without failures."""
    return b"".join(seal(scan) for scan in failed)


def read_failures(data: bytes) -> tuple[list[FailedScan], list[int]]:
    """The scans that a file lists, and the numbers of lines (from 1) that are damaged."""
    found, damaged = [], []
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        where = f"line {number}"
        try:
            found.append(from_json(FailedScan, unseal(line, where=where), where=where))
        except CacheError:
            damaged.append(number)
    return found, damaged


def recorded_failures(shards: Any) -> list[tuple[str, FailedScan]]:
    """Sequence and scan of the failures listed in shards.parquet, whose shard exists.

    Failures that prevented a whole shard (only bad files, a damaged calib.txt) are not in it.
    """
    columns = (shards[name].to_pylist() for name in ("sequence", "failed"))
    return [
        (sequence, from_json(FailedScan, scan, where="shards.parquet"))
        for sequence, text in zip(*columns, strict=True)
        for scan in json.loads(text)["scans"]
    ]
