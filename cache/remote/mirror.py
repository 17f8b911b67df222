"""Reads a prepared data set from any fsspec URL through a bounded folder on the local disk.

The folder has the layout of the data set, so that the reader works on it as on any other cache.
Files are fetched completely when one of their chunks is first needed, checked against the
manifest's size and xxh3, and moved into place by rename; `ranges.py` fetches parts of them. The
least recently used ones are removed when space runs out.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from pass2d.cache.keys import hash_bytes, hash_descriptor
from pass2d.cache.layout import (
    CURRENT_FILE,
    DATASET,
    DATASET_FILE,
    HASHES_FILE,
    Layout,
    require_dataset_name,
)
from pass2d.cache.manifest import parse_current, parse_dataset, parse_hashes
from pass2d.cache.remote.config import RemoteConfig
from pass2d.cache.remote.local_space import PART, LocalSpace
from pass2d.cache.remote.store import RemoteStore
from pass2d.cache.rows import FileHash
from pass2d.common.errors import CacheError
from pass2d.common.files import (
    attempt_folder,
    read_whole,
    remove_abandoned,
    replace_file,
    require_no_link,
    sync_tree,
    writing,
)


class RemoteMirror:
    """The local copy of the parts of a remote data set that were read."""

    def __init__(self, store: RemoteStore) -> None:
        """Prepare the local folder of a data set's store; fetches nothing."""
        self.store = store
        self.url = store.url
        self.space = LocalSpace(store.config)
        folder = store.config.folder / hash_bytes(self.url.encode())[:16]
        name = self.url.split("/")[-1]
        self.layout = Layout(root=folder / (name if DATASET.fullmatch(name) else "data"))
        self._files: dict[str, tuple[int, str]] = {}
        self._busy: dict[str, threading.Lock] = {}
        self._in_parts: set[str] = set()
        self._sound: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        require_no_link(folder, self.layout.root, *self.layout.folders)
        try:
            self.layout.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"{self.layout.scratch}: cannot make this folder ({error.strerror}). Choose "
                "another one for local copies: `local_cache` (or PASS2D_LOCAL_CACHE)."
            ) from error
        remove_abandoned(self.layout.scratch, min_age_s=60)

    @classmethod
    def open(
        cls, url: str, dataset: str | None = None, config: RemoteConfig | None = None
    ) -> RemoteMirror:
        """Find the data set at ``url`` and fetch its manifest.

        Raises:
            CacheError: there is none, or several and ``dataset`` does not choose.
        """
        mirror = cls(find_store(url, dataset, config))
        if mirror.fetch_manifest() is None:
            raise CacheError(
                f"{mirror.url}/{CURRENT_FILE}: missing, `prepare` has not finished there. "
                "Run `prepare` first."
            )
        return mirror

    def expect(self, shards: pa.Table) -> None:
        """Take sizes and hashes of all shard files from shards.parquet."""
        columns = [shards[n].to_pylist() for n in ("path", "file_name", "file_bytes", "file_xxh3")]
        for folder, names, sizes, hashes in zip(*columns, strict=True):
            for name, nbytes, xxh3 in zip(names, sizes, hashes, strict=True):
                self._files[f"{folder}/{name}"] = (nbytes, xxh3)

    def expect_files(self, folder: str, files: Sequence[FileHash]) -> None:
        """Take sizes and hashes of one shard's files, e.g. ``lidar/008003-0123456789ab.zarr``."""
        for file in files:
            self._files[f"{folder}/{file.name}"] = (file.nbytes, file.xxh3)

    def adopt(self, folder: str, source: Path, files: Sequence[FileHash]) -> None:
        """Take over a shard's files that were just written here: they need not be fetched."""
        self.expect_files(folder, files)
        for file in files:
            target = self.layout.root / folder / file.name
            if file.nbytes <= self.space.limit_bytes:
                with writing(target):
                    self.space.make_room(file.nbytes, str(target))
                    self._make_folder(target)
                    (source / file.name).replace(target)

    def open_file(self, path: str) -> int:
        """A descriptor of a shard file below `layout.root`, fetched if it is not there or damaged.

        Raises:
            CacheError: the store does not return the bytes that the manifest states.
        """
        name = str(Path(path).relative_to(self.layout.root))
        if name not in self._files:
            raise CacheError(f"{self.url}/{name}: not listed in the manifest.")
        self._require_own(Path(path))
        while True:
            if path in self._in_parts and not os.path.exists(path):  # noqa: PTH110
                return self._open_parts(path)
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if self._is_sound(path, fd, *self._files[name]):
                        os.utime(fd)  # least recently used is by time of last opening
                        return fd
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
                Path(path).unlink(missing_ok=True)
            # Evicted by another process between here and the next `os.open`, it is fetched again.
            self._fetch_file(name, *self._files[name])

    def read_in_parts(self, path: str) -> None:
        """Make `open_file` return a sparse file from now on, unless the complete one is there."""
        self._in_parts.add(path)

    def finish_parts(self, path: str) -> bool:
        """Rename a completed sparse file to the name of the whole file, unless it was evicted."""
        self._in_parts.discard(path)
        try:
            Path(path + PART).replace(path)
        except FileNotFoundError:
            return False
        return True

    def size_of(self, path: str) -> int:
        """Bytes of a shard file, by the manifest."""
        return self._files[str(Path(path).relative_to(self.layout.root))][0]

    def read_range(
        self, path: str, start: int, stop: int, is_sound: Callable[[bytes], bool] | None = None
    ) -> bytes:
        """Bytes of a shard file from the store; room for them is made on the local disk.

        Raises:
            CacheError: the store does not return them.
        """
        name = str(Path(path).relative_to(self.layout.root))
        data = self.store.read_range(name, start, stop, is_sound)
        self.space.make_room(len(data), f"{self.url}/{name}")
        return data

    def _open_parts(self, path: str) -> int:
        sparse = Path(path + PART)
        with writing(sparse):
            self._make_folder(sparse)
            fd = os.open(sparse, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            if os.fstat(fd).st_size != self.size_of(path):
                os.truncate(fd, self.size_of(path))
            os.utime(fd)
        return fd

    def _is_sound(self, path: str, fd: int, nbytes: int, xxh3: str) -> bool:
        stat = os.fstat(fd)
        state = (stat.st_ino, stat.st_size, stat.st_ctime_ns)
        if stat.st_size != nbytes:
            return False
        if self._sound.get(path, (0,))[:2] != state[:2] and hash_descriptor(fd) != xxh3:
            return False
        self._sound[path] = state
        return True

    def bring(self, path: str) -> None:
        """Fetch a shard file unless it exists; an existing one is not checked."""
        name = str(Path(path).relative_to(self.layout.root))
        if name in self._files and not os.path.exists(path):  # noqa: PTH110
            self._fetch_file(name, *self._files[name])

    def _fetch_file(self, name: str, nbytes: int, xxh3: str) -> None:
        target = self.layout.root / name
        with self._lock:
            busy = self._busy.setdefault(name, threading.Lock())
        # First room, then the lock: see `LocalSpace.make_room`. The lock is of this process; two
        # processes fetch the same bytes and rename both.
        with self.space.reserved(nbytes, f"{self.url}/{name}"), busy:
            if target.is_file():
                return
            with (
                writing(self.layout.scratch),
                attempt_folder(self.layout.scratch, "fetch") as attempt,
            ):
                aside = attempt / "file"
                self.store.fetch(name, aside, nbytes=nbytes, xxh3=xxh3)
                sync_tree(attempt)
                self._make_folder(target)
                aside.replace(target)

    def _make_folder(self, target: Path) -> None:
        """Make the folder of a file below the root."""
        self._require_own(target)
        target.parent.mkdir(parents=True, exist_ok=True)

    def _require_own(self, target: Path) -> None:
        """Refuse links on the way from the root to a file.

        Raises:
            CacheError: names the link.
        """
        depth = len(target.relative_to(self.layout.root).parts)
        require_no_link(*target.parents[: depth - 1])

    def fetch_manifest(self) -> int | None:
        """Bring dataset.json, CURRENT and, unless it is here, the generation up to date.

        Returns:
            Number of the current generation; None when nothing was published yet.

        Raises:
            CacheError: CURRENT names no generation, or the generation is not as it was written.
        """
        description = self.store.find(DATASET_FILE)
        current = self.store.find(CURRENT_FILE)
        for data, path in (
            (description, self.layout.dataset_file),
            (current, self.layout.current_file),
        ):
            if data is None:
                path.unlink(missing_ok=True)
        if description is not None:
            replace_file(self.layout.dataset_file, description, scratch=self.layout.scratch)
        if current is None:
            return None
        number = parse_current(current, where=f"{self.url}/{CURRENT_FILE}")
        self._fetch_generation(self.layout.generation(number).name)
        replace_file(self.layout.current_file, current, scratch=self.layout.scratch)
        return number

    def _fetch_generation(self, text: str) -> None:
        folder = self.layout.manifest / text
        sealed = self.store.read(f"manifest/{text}/{HASHES_FILE}")
        if _holds(folder / HASHES_FILE, sealed):
            return
        hashes = parse_hashes(sealed, where=f"{self.url}/manifest/{text}/{HASHES_FILE}")
        with writing(folder), attempt_folder(self.layout.scratch, "generation") as attempt:
            (attempt / HASHES_FILE).write_bytes(sealed)
            for name, xxh3 in hashes.items():
                data = self.store.read(f"manifest/{text}/{name}", xxh3=xxh3)
                (attempt / name).write_bytes(data)
            sync_tree(attempt)
            require_no_link(folder.parent)
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists() or folder.is_symlink():  # of an earlier data set at the same address
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(self.layout.scratch / f"old-{text}-{uuid.uuid4().hex}")
            with contextlib.suppress(FileExistsError):
                _rename_folder(attempt, folder)


def find_store(url: str, dataset: str | None, config: RemoteConfig | None = None) -> RemoteStore:
    """The store of the one data set at ``url``, which may be its own or that of its parent.

    Raises:
        CacheError: there is none, or several and ``dataset`` does not choose.
    """
    if dataset is not None:
        require_dataset_name(dataset, where="`dataset`")
    store = RemoteStore(url, config)
    if dataset in (None, store.url.rsplit("/", 1)[-1]) and store.exists(DATASET_FILE):
        return store
    names = [dataset] if dataset else [n for n in store.names() if DATASET.fullmatch(n)]
    found = [name for name in names if store.exists(f"{name}/{DATASET_FILE}")]
    if len(found) > 1:
        clean = [name for name in found if not _is_corrupted(store, name)]
        found = clean if len(clean) == 1 else found
    if len(found) == 1:
        return store.below(found[0])
    if found:
        raise CacheError(f"{store.url}: holds {', '.join(found)}. Choose one with `dataset`.")
    what = f"data set {dataset!r}" if dataset else f"prepared data set (no */{DATASET_FILE})"
    raise CacheError(f"{store.url}: no {what}. Check the address.")


def _is_corrupted(store: RemoteStore, name: str) -> bool:
    file = f"{name}/{DATASET_FILE}"
    try:
        return parse_dataset(store.read(file), where=f"{store.url}/{file}").corruption is not None
    except CacheError:
        return False


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_whole(path) == data
    except OSError:
        return False


def _rename_folder(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir():  # another process was faster, with the same bytes
            raise FileExistsError(str(target)) from error
        raise
