"""Writes shards and generations to a remote store; readers see each completely or not at all.

A shard is built on the local disk, uploaded under its unique key, and counts from the moment its
commit record is created. Object stores have no rename: nothing here depends on one.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import (
    CURRENT_FILE,
    DATASET_FILE,
    FAILED_FILE,
    HASHES_FILE,
    ROW_FILE,
    SHARD_FOLDER,
    Layout,
    shard_name,
)
from pass2d.cache.manifest import describe_dataset, encode_tables, parse_current, parse_dataset
from pass2d.cache.reading.shard_reader import read_points
from pass2d.cache.remote.config import RemoteConfig
from pass2d.cache.remote.mirror import RemoteMirror
from pass2d.cache.remote.store import RemoteStore
from pass2d.cache.rows import ShardRow, decode_row, load_row
from pass2d.cache.schema import DatasetInfo, ScanRecord
from pass2d.cache.tables import Tables
from pass2d.common.errors import CacheError
from pass2d.common.files import attempt_folder, read_whole, replace_file, writing

_FORWARDED = ("AWS_", "PASS2D_", "FSSPEC_", "GOOGLE_", "GCSFS_", "AZURE_")
_POLLS = 7
"""How often another driver's unfinished generation is checked again: half a minute in total."""


@dataclass(frozen=True, kw_only=True)
class RemoteTarget:
    """All that a worker on another machine needs to write to the store."""

    url: str
    """Of the data set."""
    config: RemoteConfig
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """Credentials and settings of the driver, for workers that lack them."""

    @classmethod
    def here(cls, url: str) -> RemoteTarget:
        """With this process's settings."""
        forwarded = {k: v for k, v in os.environ.items() if k.startswith(_FORWARDED)}
        return cls(url=url, config=RemoteConfig.from_environment(), environment=forwarded)

    def store(self) -> RemoteStore:
        """Connect."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        return RemoteStore(self.url, self.config)

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """A temporary local folder for one task."""
        mirror = RemoteMirror(self.store())
        scratch = mirror.layout.scratch
        with writing(scratch), attempt_folder(scratch, "prepare") as folder:
            yield Workspace(mirror, Layout(root=folder / mirror.layout.root.name))


class Workspace:
    """What one task reads from the store, and where it writes before the upload."""

    def __init__(self, mirror: RemoteMirror, layout: Layout) -> None:
        self.layout = layout
        self._mirror = mirror
        self._store = mirror.store
        self._found: dict[tuple[str, int, str], bytes] = {}

    def bring_record(self, container: str, shard: int, key: str) -> ShardRow | None:
        """Look a commit record up; None when there is none or files of its shard are missing."""
        name = f"rows/{container}/{shard_name(shard, key)}.json"
        data = self._store.find(name)
        if data is None:
            return None
        row = decode_row(data, where=f"{self._store.url}/{name}")
        if not has_objects(self._store, row):
            return None
        self._found[container, shard, key] = data
        path = self.layout.row(container, shard, key)
        replace_file(path, data, scratch=self.layout.scratch)
        return load_row(self.layout, container, shard, key)

    def read_points(self, row: ShardRow, *, with_outside: bool = False) -> Iterator[ScanRecord]:
        """The scans of a published `lidar` shard, from the local copy or the store."""
        self._mirror.expect_files(folder_of(row), row.files)
        return read_points(
            self._mirror.layout, row, with_outside=with_outside, opener=self._mirror.open_file
        )

    def publish(self, container: str, shard: int, key: str) -> None:
        """Upload what the task wrote, then create the commit record; or renew a changed record.

        Raises:
            CacheError: the store does not accept it.
        """
        record = read_whole(self.layout.row(container, shard, key))
        name = f"rows/{container}/{shard_name(shard, key)}.json"
        found = self._found.get((container, shard, key))
        if found is not None:
            if found != record:  # the same shard; its sources lie elsewhere or have other times
                self._store.write(name, record)
            return
        row = decode_row(record, where=name)
        folder = self.layout.shard(container, shard, key)
        self._store.upload(folder, folder_of(row))
        if not has_objects(self._store, row):
            raise CacheError(
                f"{self._store.url}/{folder_of(row)}: files vanished while they were uploaded "
                "(does `collect_garbage` run?). Run the command again."
            )
        if not self._store.write_new(name, record):
            earlier = self._store.find(name)
            if earlier is None or not _is_sound(earlier, name):
                self._store.write(name, record)  # in the place of a damaged one
        if container == "lidar":
            self._mirror.adopt(folder_of(row), folder, row.files)


def _is_sound(data: bytes, name: str) -> bool:
    try:
        decode_row(data, where=name)
    except CacheError:
        return False
    return True


def folder_of(row: ShardRow) -> str:
    """Where a shard lies, relative to its data set."""
    return f"{row.header.container}/{shard_name(row.shard, row.header.key)}.zarr"


def has_objects(store: RemoteStore, row: ShardRow) -> bool:
    """Whether a shard has all its files in the right sizes: one listing, contents are not read."""
    folder = folder_of(row)
    found = {name: entry.nbytes for name, entry in store.objects(folder).items()}
    return all(found.get(f"{folder}/{file.name}") == file.nbytes for file in row.files)


def committed_names(store: RemoteStore) -> dict[str, set[str]]:
    """By container the names of shards that have a folder and a commit record: six listings."""
    return {
        container: _matching(store.names(container), SHARD_FOLDER)
        & _matching(store.names(f"rows/{container}"), ROW_FILE)
        for container in CONTAINERS
    }


def _matching(names: Sequence[str], pattern: re.Pattern[str]) -> set[str]:
    return {name.split(".")[0] for name in names if pattern.fullmatch(name)}


def bring_records(store: RemoteStore, layout: Layout, names: Collection[tuple[str, str]]) -> None:
    """Copy commit records, given as (container, "008003-0123456789ab"), to a local layout."""
    wanted = [f"rows/{container}/{name}.json" for container, name in sorted(names)]
    for start in range(0, len(wanted), 64):
        for name, data in store.read_many(wanted[start : start + 64]):
            path = layout.root / name
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def write_dataset_object(store: RemoteStore, info: DatasetInfo) -> None:
    """Write dataset.json if it is missing or differs."""
    data = describe_dataset(info)
    found = store.find(DATASET_FILE)
    if found is not None:
        parse_dataset(found, where=f"{store.url}/{DATASET_FILE}")
    if found != data:
        store.write(DATASET_FILE, data)


def write_failed_object(store: RemoteStore, data: bytes) -> None:
    """Write failed.jsonl; no object if there are no failures."""
    if data:
        if store.find(FAILED_FILE) != data:
            store.write(FAILED_FILE, data)
    elif store.exists(FAILED_FILE):
        store.delete([FAILED_FILE])


def publish_tables(
    store: RemoteStore, info: DatasetInfo, tables: Tables, *, base: int | None
) -> int | None:
    """Write the generation after ``base`` and replace CURRENT.

    Generations are claimed one after another by creating their hashes.json, at which only one
    driver succeeds, so two drivers do not lose each other's scans. A claim whose owner died is
    completed if its contents equal this driver's, else skipped after half a minute.

    Returns:
        Its number; None when another driver has published meanwhile: merge again.
    """
    files = encode_tables(info, tables)
    if base is not None and store.find(_hashes_name(base)) == files[HASHES_FILE]:
        return base
    number = (base or 0) + 1
    polls = 0
    while not store.write_new(_hashes_name(number), files[HASHES_FILE]):
        if current_generation(store) != base:
            return None
        if polls < _POLLS:
            wait_s = min(8.0, store.config.first_wait_s * 2**polls)
            time.sleep(wait_s * random.uniform(0.5, 1))
            polls += 1
        else:
            number += 1
    for name, data in files.items():
        if name != HASHES_FILE:
            store.write(f"manifest/gen-{number:06d}/{name}", data)
    if current_generation(store) != base:
        return None
    store.write(CURRENT_FILE, f"gen-{number:06d}\n".encode())
    return number


def _hashes_name(number: int) -> str:
    return f"manifest/gen-{number:06d}/{HASHES_FILE}"


def current_generation(store: RemoteStore) -> int | None:
    """The number that CURRENT names now; None without one.

    Raises:
        CacheError: it names no generation.
    """
    data = store.find(CURRENT_FILE)
    return None if data is None else parse_current(data, where=f"{store.url}/{CURRENT_FILE}")


@contextmanager
def driver_layout(mirror: RemoteMirror) -> Iterator[Layout]:
    """A local layout for the driver: the mirror's manifest, and commit records as they come."""
    with (
        writing(mirror.layout.root),
        attempt_folder(mirror.layout.scratch, "driver") as folder,
    ):
        layout = Layout(root=folder / mirror.layout.root.name)
        layout.root.mkdir()
        for path in (
            mirror.layout.dataset_file,
            mirror.layout.current_file,
            mirror.layout.manifest,
        ):
            (layout.root / path.name).symlink_to(path)
        yield layout
