"""A cache in a bucket that others can write to: objects with any key, tables with any value."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import fsspec
from test_cache_damage import CONTRADICTIONS, rewritten
from test_cache_hostile import KEYS, evil_hashes

URL = "memory://bucket"
_HOSTILE_NAMES = ("../../../evil", "/evil", "..", "a/b", "scans.parquet\0")


def objects() -> dict[str, str]:
    """Every object of the bucket by hash."""
    store = fsspec.filesystem("memory").store
    return {f"object {k}": hashlib.md5(v.getvalue()).hexdigest() for k, v in store.items()}


@contextlib.contextmanager
def filled(folder: Path, more: dict[str, bytes]) -> Iterator[None]:
    """The bucket holds a folder's files, and objects with these keys."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs.clear()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".tmp" not in path.parts:
            fs.pipe_file(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
    kind = type(next(iter(fs.store.values())))
    for key, data in more.items():
        fs.store[key] = kind(fs, key, data)
    with mock.patch.dict(os.environ, {"PASS2D_STORE_ATTEMPTS": "1"}):
        yield
    fs.store.clear()


def attack(folder: Path, choose: random.Random) -> tuple[str, Path, dict[str, bytes]]:
    """Do to a cache what somebody can who may write all of it, its hashes included.

    Returns:
        What was done, the file or key that shows it, and objects to add by key.
    """
    dataset = folder / "semkitti"
    hashes = dataset / "manifest" / "gen-000001" / "hashes.json"
    kind = choose.choice(("key", "names", "tables", "tables"))
    if kind == "key":
        key = choose.choice(KEYS)
        return f"key {key!r}", Path(key), {key: b"evil"}
    if kind == "names":
        name = choose.choice(_HOSTILE_NAMES)
        hashes.write_bytes(evil_hashes(name))
        return f"{name!r} in hashes.json", hashes, {}
    name = choose.choice(sorted(CONTRADICTIONS))
    rewritten(dataset, CONTRADICTIONS[name])
    return name, hashes, {}
