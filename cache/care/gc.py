"""Removes unreferenced files: old generations, their shards, unfinished work of killed runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import ROW_FILE, SHARD_FOLDER, Layout, shard_name
from pass2d.cache.manifest import (
    current_number,
    generation_numbers,
    load_manifest,
    require_newest,
    require_version,
)
from pass2d.common.errors import CacheError
from pass2d.common.files import (
    NotWritableError,
    attempts,
    lock_file,
    require_no_link,
    try_lock,
    writing,
)


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What `gc` removed, or would remove."""

    removed: tuple[str, ...]
    """Paths relative to the data set's folder."""
    nbytes: int
    kept: tuple[str, ...]
    """Files that look unused but are kept, with the reason."""


def collect_garbage(
    dataset_root: Path,
    *,
    keep: int = 1,
    unfinished: bool = False,
    dry_run: bool = False,
    young_s: float = 0.0,
) -> GcReport:
    """Remove what no kept generation refers to.

    Generations that a reader has open are kept, and so are the shards of an interrupted run until
    `prepare` has finished, so that it need not start again.

    Args:
        dataset_root: e.g. cache/semkitti.
        keep: newest generations to keep, the current one included.
        unfinished: also remove shards of an interrupted run.
        dry_run: only report what would be removed.
        young_s: keep records and shards written within the last so many seconds, for stores where
            no lock shows whether `prepare` is running.

    Raises:
        CacheError: `prepare` is running, or the cache is damaged and must be repaired first.
    """
    layout = Layout(root=dataset_root)
    require_no_link(*layout.folders)
    require_version(layout)
    require_newest(layout)
    current = current_number(layout)
    if current is None and not layout.dataset_file.is_file():
        raise CacheError(f"{dataset_root}: no prepared data set. Check `cache_root`.")
    with contextlib.ExitStack() as stack:
        lock = lock_file(layout.scratch / "prepare.lock", exclusive=True, wait=False)
        try:
            is_alone = stack.enter_context(lock)
        except NotWritableError:
            if not dry_run:
                raise
            is_alone = True  # nobody who may write is kept away by this user's lock anyway
        if not is_alone:
            raise CacheError(f"{dataset_root}: `prepare` is running. Wait for it, then collect.")
        collector = _Collector(layout, current, keep, unfinished, young_s)
        return collector.run(dry_run=dry_run)


class _Collector:
    def __init__(
        self, layout: Layout, current: int | None, keep: int, unfinished: bool, young_s: float
    ) -> None:
        self._layout = layout
        self._old_ns = int((time.time() - young_s) * 1e9) if young_s > 0 else None
        self._removes_unfinished = unfinished
        self._kept: list[str] = []
        numbers = generation_numbers(layout)
        newest = set(numbers[-max(1, keep) :]) | ({current} - {None})
        self._generations = {n for n in numbers if n in newest or self._is_read(n)}
        self._names = self._referenced()
        # Records after the newest generation are those of a run that has not published yet.
        times = [layout.generation(n).stat().st_mtime_ns for n in numbers]
        self._published_ns = max(times, default=0)

    def run(self, *, dry_run: bool) -> GcReport:
        """Remove records before shards, so that no record is without its shard."""
        garbage = [*self._old_generations(), *self._records(), *self._shards(), *self._scratch()]
        nbytes = sum(_size(path) for path in garbage)
        if not dry_run:
            for path in garbage:
                with writing(path):
                    _remove(path)
        root = self._layout.root
        return GcReport(
            removed=tuple(str(path.relative_to(root)) for path in garbage),
            nbytes=nbytes,
            kept=tuple(self._kept),
        )

    def _is_read(self, number: int) -> bool:
        fd = os.open(self._layout.generation(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_free = try_lock(fd, exclusive=True)
        finally:
            os.close(fd)
        if not is_free:
            self._kept.append(f"manifest/gen-{number:06d}: a reader has it open")
        return not is_free

    def _referenced(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = {container: set() for container in CONTAINERS}
        for number in self._generations:
            shards = load_manifest(self._layout, number).tables.shards
            columns = [shards[name].to_pylist() for name in ("stage", "shard", "key")]
            for container, shard, key in zip(*columns, strict=True):
                names[container].add(shard_name(shard, key))
        return names

    def _old_generations(self) -> Iterable[Path]:
        numbers = generation_numbers(self._layout)
        return [self._layout.generation(n) for n in numbers if n not in self._generations]

    def _records(self) -> Iterable[Path]:
        for container in CONTAINERS:
            for path in _children(self._layout.root / "rows" / container):
                if ROW_FILE.fullmatch(path.name) and path.stem not in self._names[container]:
                    if self._is_unfinished(path):
                        self._names[container].add(path.stem)
                        self._kept.append(f"rows/{container}/{path.name}: of an unfinished run")
                    else:
                        yield path

    def _is_unfinished(self, path: Path) -> bool:
        if self._removes_unfinished:
            return False
        return path.stat().st_mtime_ns > self._published_ns or self._is_young(path)

    def _is_young(self, path: Path) -> bool:
        if self._old_ns is None:
            return False
        files = [path] if path.is_file() else path.rglob("*")
        return any(p.stat().st_mtime_ns > self._old_ns for p in files if p.is_file())

    def _shards(self) -> Iterable[Path]:
        for container in CONTAINERS:
            for path in _children(self._layout.root / container):
                if SHARD_FOLDER.fullmatch(path.name) and path.stem not in self._names[container]:
                    if self._is_young(path):
                        self._kept.append(f"{container}/{path.name}: a run may be writing it")
                    else:
                        yield path

    def _scratch(self) -> Iterable[Path]:
        # No driver is running (we hold the lock), so every attempt belongs to a dead one.
        return attempts(self._layout.scratch)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)
