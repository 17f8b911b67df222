"""Keys of shards: one hash of exactly what a shard's content depends on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xxhash

from pass2d.cache.schema import FORMAT_VERSION
from pass2d.common.files import open_file
from pass2d.common.json import dumps

_BLOCK_BYTES = 1 << 20


def shard_key(
    container: str, *, code_version: int, profile: str, parameters: Any, inputs: Any
) -> str:
    """Key of one shard, 32 hex digits: xxh3_128 of the canonical JSON of all of it.

    Args:
        container: e.g. "lidar"; the canonical JSON calls it "stage".
        code_version: raised whenever the container's content changes for the same input.
        profile: of `PROFILES`.
        parameters: settings that decide the content, JSON-like.
        inputs: hashes of source files and keys of other shards, JSON-like.
    """
    text = dumps(
        {
            "format_version": FORMAT_VERSION,
            "stage": container,
            "code_version": code_version,
            "profile": profile,
            "parameters": parameters,
            "inputs": inputs,
        }
    )
    return hash_bytes(text)


def hash_bytes(data: bytes) -> str:
    """xxh3_128 as 32 hex digits."""
    return str(xxhash.xxh3_128_hexdigest(data))


def hash_file(path: Path) -> tuple[int, int, str]:
    """Size in bytes, modification time in ns and xxh3_128 of a file, read once in blocks."""
    digest = xxhash.xxh3_128()
    nbytes = 0
    with os.fdopen(open_file(path), "rb", buffering=0) as file:
        mtime_ns = os.fstat(file.fileno()).st_mtime_ns
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            nbytes += len(block)
    return nbytes, mtime_ns, digest.hexdigest()


def hash_descriptor(fd: int) -> str:
    """xxh3_128 of an open file, whatever its path names now; its offset does not change."""
    digest = xxhash.xxh3_128()
    offset = 0
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()
