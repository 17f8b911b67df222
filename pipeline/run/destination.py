"""The destination of a prepared data set: a local folder or a remote store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from pass2d.cache.failures import read_failures
from pass2d.cache.layout import CURRENT_FILE, FAILED_FILE, Layout, shard_name
from pass2d.cache.manifest import (
    Manifest,
    load_manifest,
    publishing,
    require_newest,
    write_dataset_file,
)
from pass2d.cache.remote.mirror import RemoteMirror
from pass2d.cache.remote.writer import (
    RemoteTarget,
    bring_records,
    committed_names,
    driver_layout,
    publish_tables,
    write_dataset_object,
    write_failed_object,
)
from pass2d.cache.rows import FailedScan, ShardRow
from pass2d.cache.schema import DatasetInfo
from pass2d.cache.urls import is_url
from pass2d.common.errors import CacheError
from pass2d.common.files import (
    NotWritableError,
    lock_file,
    read_whole,
    remove_abandoned,
    replace_file,
    require_no_link,
    writing,
)
from pass2d.pipeline.run.jobs import ShardJob
from pass2d.pipeline.run.next_generation import PublishedShards, load_rows, next_tables, publish
from pass2d.pipeline.run.plan import PreparePlan, RemoteShards, plan_prepare
from pass2d.pipeline.run.tasks import TaskContext


class Destination(Protocol):
    """What the driver asks of the place that it prepares into."""

    name: str
    """For reports."""

    def context(self, info: DatasetInfo, profile: str) -> TaskContext:
        """What tasks must know to write here."""

    def plan(self, jobs: tuple[ShardJob, ...], info: DatasetInfo, profile: str) -> PreparePlan:
        """Compare with what is there."""

    def describe(self, info: DatasetInfo) -> None:
        """Put dataset.json in place."""

    def publish(self, info: DatasetInfo, shards: PublishedShards) -> Manifest:
        """Make the next generation."""

    def read_failed(self) -> list[FailedScan]:
        """What failed.jsonl says; damaged lines are passed over."""

    def write_failed(self, lines: bytes) -> None:
        """Put failed.jsonl in place; no file without any lines."""


class LocalFolder:
    """A folder; `locked` keeps `gc` away meanwhile."""

    def __init__(self, dataset_root: Path) -> None:
        self.name = str(dataset_root)
        self._layout = Layout(root=dataset_root)
        self._refusal: CacheError | None = None
        """Why nothing can be written here; no harm where nothing has to be."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, clear away what killed runs left, hold the lock."""
        layout = self._layout
        with writing(layout.root):
            layout.root.mkdir(parents=True, exist_ok=True)
            _require_own(layout)
        lock = layout.scratch / "prepare.lock"
        with contextlib.ExitStack() as stack:
            try:
                with lock_file(lock, exclusive=True, wait=False) as is_alone:
                    if is_alone:  # else another driver is at work, whose files may look abandoned
                        remove_abandoned(layout.scratch)
                stack.enter_context(lock_file(lock, exclusive=False, wait=True))
            except NotWritableError as error:
                if not layout.current_file.is_file():
                    raise
                self._refusal = error
            yield

    def context(self, info: DatasetInfo, profile: str) -> TaskContext:
        """The folder."""
        if self._refusal is not None:
            raise self._refusal
        return TaskContext(dataset_root=self._layout.root, info=info, profile=profile)

    def plan(self, jobs: tuple[ShardJob, ...], info: DatasetInfo, profile: str) -> PreparePlan:
        """Compare with what is there."""
        require_newest(self._layout)
        return plan_prepare(jobs, self._layout, info=info, profile=profile)

    def describe(self, info: DatasetInfo) -> None:
        """Put dataset.json in place."""
        write_dataset_file(self._layout, info)

    def publish(self, info: DatasetInfo, shards: PublishedShards) -> Manifest:
        """Make the next generation while no other driver does."""
        if self._refusal is not None:
            base = load_manifest(self._layout)
            if next_tables(base, info, shards, partial(load_rows, self._layout)) is not None:
                raise self._refusal
            return base
        with publishing(self._layout):
            return publish(self._layout, info, shards)

    def read_failed(self) -> list[FailedScan]:
        """What failed.jsonl says."""
        return read_failures(self._failed_bytes())[0]

    def write_failed(self, lines: bytes) -> None:
        """Put failed.jsonl in place."""
        path = self._layout.failed_file
        if lines and lines != self._failed_bytes():
            replace_file(path, lines, scratch=self._layout.scratch)
        elif not lines:
            with writing(path):
                path.unlink(missing_ok=True)

    def _failed_bytes(self) -> bytes:
        try:
            return read_whole(self._layout.failed_file)
        except OSError:
            return b""


def _require_own(layout: Layout) -> None:
    """Refuse a data set's folder if it or its parts are links to foreign files.

    A link to a larger disk is fine: to an empty folder, or to a data set that was moved there.
    """
    require_no_link(*layout.folders)
    if layout.root.is_symlink() and not layout.dataset_file.is_file():
        ours = {
            CURRENT_FILE,
            FAILED_FILE,
            *(f.relative_to(layout.root).parts[0] for f in layout.folders),
        }
        others = sorted(
            p.name for p in layout.root.iterdir() if p.name not in {*ours, "lost+found"}
        )
        if others:
            raise CacheError(
                f"{layout.root}: a link to a folder that is not a prepared data set and holds "
                f"{', '.join(others[:3])}. Let it lead to an empty folder, or choose another "
                "`cache_root`."
            )


class RemoteFolder:
    """A data set's URL. The driver's own copy of the manifest lies in the local cache."""

    def __init__(self, url: str, layout: Layout, mirror: RemoteMirror) -> None:
        self.name = url
        self._layout = layout
        self._mirror = mirror
        self._store = mirror.store

    def context(self, info: DatasetInfo, profile: str) -> TaskContext:
        """The URL, with settings and credentials for workers on other machines."""
        target = RemoteTarget.here(self.name)
        return TaskContext(
            dataset_root=self._layout.root, info=info, profile=profile, remote=target
        )

    def plan(self, jobs: tuple[ShardJob, ...], info: DatasetInfo, profile: str) -> PreparePlan:
        """Compare with what is there: the manifest and one listing of names per container."""
        self._mirror.fetch_manifest()
        remote = RemoteShards(
            committed=committed_names(self._store),
            bring=lambda names: bring_records(self._store, self._layout, names),
        )
        return plan_prepare(jobs, self._layout, info=info, profile=profile, remote=remote)

    def describe(self, info: DatasetInfo) -> None:
        """Put dataset.json in place."""
        write_dataset_object(self._store, info)

    def publish(self, info: DatasetInfo, shards: PublishedShards) -> Manifest:
        """Make the next generation; again on top of another driver's, if one was faster."""
        while True:
            number = self._mirror.fetch_manifest()
            # By its number: the local CURRENT is shared with processes that may look further back.
            base = None if number is None else load_manifest(self._layout, number)
            tables = next_tables(base, info, shards, self._rows)
            if tables is None:
                assert base is not None
                return base
            published = publish_tables(self._store, info, tables, base=number)
            if published is not None:
                return Manifest(number=published, info=info, tables=tables)

    def read_failed(self) -> list[FailedScan]:
        """What failed.jsonl says."""
        return read_failures(self._store.find(FAILED_FILE) or b"")[0]

    def write_failed(self, lines: bytes) -> None:
        """Put failed.jsonl in place."""
        write_failed_object(self._store, lines)

    def _rows(self, keys: dict[int, dict[str, str]]) -> list[dict[str, ShardRow]]:
        names = {
            (s, shard_name(n, k))
            for n, by_container in keys.items()
            for s, k in by_container.items()
        }
        bring_records(self._store, self._layout, names)
        return load_rows(self._layout, keys)


@contextlib.contextmanager
def remote_folder(url: str, *, workers: int | None) -> Iterator[RemoteFolder]:
    """Open a data set's URL for writing."""
    if url.startswith("memory:") and workers != 0:
        raise CacheError(f"{url}: is the memory of one process. Use `workers=0`, or another store.")
    mirror = RemoteMirror(RemoteTarget.here(url).store())
    with driver_layout(mirror) as layout:
        yield RemoteFolder(url, layout, mirror)


@contextlib.contextmanager
def opened(dataset_root: Path | str, *, workers: int | None = 0) -> Iterator[Destination]:
    """The folder, locked, or the store at a URL."""
    if isinstance(dataset_root, str) and is_url(dataset_root):
        with remote_folder(dataset_root, workers=workers) as remote:
            yield remote
    else:
        # Absolute: Ray's workers have another current folder.
        local = LocalFolder(Path(dataset_root).absolute())
        with local.locked():
            yield local
