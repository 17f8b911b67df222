"""Bounded local disk space for files fetched from remote data sets."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import DATASET, SHARD_FOLDER
from pass2d.cache.remote.config import RemoteConfig
from pass2d.common.errors import CacheError

PART = ".part"
"""Ends the name of a sparse file, of which only parts were fetched."""
_SPARE_BYTES = 64 << 20
"""Disk space that is left free for other programs."""
_SLACK = 64
"""So many parts of the bound: one more than needed is freed, so that not every fetch must look."""
_SHARE = 16
"""Of the room that is left so many parts: one is taken without looking again, as other processes
may do, too."""


class LocalSpace:
    """Frees space in the folder of all data sets, which threads and processes share.

    The least recently opened files are removed when the limit is reached or the disk itself is
    full.
    """

    def __init__(
        self, config: RemoteConfig, free_bytes: Callable[[Path], int] | None = None
    ) -> None:
        self.forget: Callable[[str], None] = lambda path: None
        """Called with each removed file: its descriptors should be closed to free the disk
        space."""
        self.limit_bytes = config.limit_bytes
        self._folder = config.folder
        self._free_bytes = free_bytes or self._free_of_disk
        self._lock = threading.Lock()
        self._credit = 0
        self._pending = 0

    @contextlib.contextmanager
    def reserved(self, nbytes: int, what: str) -> Iterator[None]:
        """Reserve space for a file, which other threads count although it does not exist yet.

        Raises:
            CacheError: it is larger than the bound; ``what`` names it.
        """
        self.make_room(nbytes, what)
        with self._lock:
            self._pending += nbytes
        try:
            yield
        finally:
            with self._lock:
                self._pending -= nbytes

    def make_room(self, nbytes: int, what: str) -> None:
        """Make sure that so many bytes can be added now.

        Raises:
            CacheError: they are more than the bound; ``what`` names them.
        """
        if nbytes > self.limit_bytes:
            raise CacheError(
                f"{what}: {nbytes / 1e9:.3f} GB do not fit into the local cache of "
                f"{self.limit_bytes / 1e9:.3f} GB. Set `local_cache_gb` (or "
                "PASS2D_LOCAL_CACHE_GB) higher."
            )
        with self._lock:
            if nbytes <= self._credit:
                self._credit -= nbytes
                return
            pending = self._pending
        # Not within the lock: closing descriptors may wait for a thread that waits for space.
        credit = max(0, self._evict(nbytes + pending)) // _SHARE
        with self._lock:
            self._credit = credit

    def _evict(self, nbytes: int) -> int:
        """Remove files until there is enough space; returns what remains of it."""
        held = sorted(_held(self._folder))
        room = self.limit_bytes - sum(size for _, size, _ in held)
        room = min(room, self._free_bytes(self._folder) - _SPARE_BYTES)
        if room >= nbytes:
            return room - nbytes
        for _, size, path in held:
            with contextlib.suppress(PermissionError):  # of another user
                Path(path).unlink(missing_ok=True)
                self.forget(path.removesuffix(PART))
                room += size
            if room >= nbytes + self.limit_bytes // _SLACK:
                break
        return room - nbytes

    def _free_of_disk(self, folder: Path) -> int:
        try:
            disk = os.statvfs(folder)
        except OSError:  # removed meanwhile: create it again
            return self.limit_bytes
        return disk.f_bavail * disk.f_frsize


def _held(folder: Path) -> Iterator[tuple[int, int, str]]:
    """(last use, bytes, path) of every shard file here, of all data sets."""
    for place in _folders(folder, _HASHED):  # <hash of the URL>/<data set>/<container>
        for dataset in _folders(place, DATASET):
            for container in _folders(dataset, _STAGE):
                for shard in _folders(container, SHARD_FOLDER):
                    yield from _files(shard)


def _folders(folder: str | Path, pattern: re.Pattern[str]) -> list[str]:
    """Folders with such names that are not links: anything else here is not ours to remove."""
    return [
        entry.path
        for entry in _entries(folder)
        if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    ]


_HASHED = re.compile("[0-9a-f]{16}")
_STAGE = re.compile("|".join(CONTAINERS))


def _files(folder: str) -> Iterator[tuple[int, int, str]]:
    for entry in _entries(folder):
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
                continue
            if entry.is_symlink():
                continue
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # evicted by another process
            continue
        nbytes = stat.st_blocks * 512 if entry.name.endswith(PART) else stat.st_size
        yield stat.st_mtime_ns, nbytes, entry.path


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
