"""A local stand-in for a remote data set, for verify, repair, gc and status.

Small files are complete. Files of shards are empty ones of the right size and time until `present`
fetches one shard at a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.care.gc import GcReport, collect_garbage
from pass2d.cache.layout import (
    CURRENT_FILE,
    DATASET,
    DATASET_FILE,
    FAILED_FILE,
    GENERATION,
    Layout,
    is_format_name,
    require_dataset_name,
)
from pass2d.cache.manifest import parse_current
from pass2d.cache.remote.mirror import RemoteMirror, find_store
from pass2d.cache.remote.store import RemoteStore, StoredObject
from pass2d.common.errors import CacheError
from pass2d.common.files import attempt_folder, writing

YOUNG_S = 86_400.0
"""Younger files may belong to a `prepare` that is running elsewhere: a store has no locks."""

_State = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class StagedDataset:
    """A remote data set as a temporary local folder."""

    layout: Layout
    store: RemoteStore
    objects: dict[str, StoredObject]
    """All objects of the format when it was opened, by name."""
    strangers: tuple[str, ...]
    """Names of other objects there; they are left alone."""
    orphans: tuple[str, ...]
    """Generations after CURRENT, e.g. "manifest/gen-000008": of a driver that runs or was killed;
    they are not in the folder."""
    states: dict[str, _State]
    """The folder's files in their initial state; others were changed here."""

    @contextlib.contextmanager
    def present(self, container: str, name: str) -> Iterator[None]:
        """Keep the contents of shard ``name`` ("008003-0123456789ab") on disk for the block."""
        folder = f"{container}/{name}.zarr"
        files = [file for file in self.objects if file.startswith(f"{folder}/")]
        untouched = [file for file in files if self._is_untouched(file)]
        for file in untouched:
            self.store.copy(file, self.layout.root / file)
        contents = {file: _state(self.layout.root / file) for file in untouched}
        yield
        for file, state in contents.items():
            if _state(self.layout.root / file) == state:  # else it was repaired meanwhile
                self._stage_size(file)

    def send_back(self) -> None:
        """Upload what was changed here to the store: shards first, CURRENT last; then deletions."""
        here = {
            str(path.relative_to(self.layout.root))
            for path in self.layout.root.rglob("*")
            if path.is_file() and self.layout.scratch not in path.parents
        }
        changed = sorted(name for name in here if not self._is_untouched(name))
        for name in sorted(changed, key=_place_in_order):
            self.store.write(name, (self.layout.root / name).read_bytes())
        gone = self.states.keys() - here
        self.store.delete(sorted(gone, key=_place_in_order, reverse=True))

    def collect_garbage(
        self, *, keep: int, unfinished: bool, dry_run: bool, young_s: float = YOUNG_S
    ) -> GcReport:
        """`cache.gc.collect_garbage` for the store, orphaned generations included."""
        young_s = 0.0 if unfinished else young_s
        report = collect_garbage(
            self.layout.root, keep=keep, unfinished=unfinished, dry_run=True, young_s=young_s
        )
        old = [name for name in self.orphans if not self._is_young(name, young_s)]
        kept = [f"{name}: claimed by a run" for name in self.orphans if name not in old]
        removed = (*report.removed, *old)
        names = [n for name in removed for n in self._below(name)]
        if not dry_run:
            self.store.delete(names)
        return GcReport(
            removed=removed,
            nbytes=sum(self.objects[name].nbytes for name in names),
            kept=(*report.kept, *kept),
        )

    def _below(self, name: str) -> list[str]:
        return [n for n in self.objects if n == name or n.startswith(f"{name}/")]

    def _is_young(self, name: str, young_s: float) -> bool:
        newest = max(self.objects[n].time_s for n in self._below(name))
        return newest > time.time() - young_s

    def _is_untouched(self, name: str) -> bool:
        return self.states.get(name) == _state(self.layout.root / name)

    def _stage_size(self, name: str) -> None:
        entry, path = self.objects[name], self.layout.root / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, entry.nbytes)
        self._dated(name)

    def _dated(self, name: str) -> None:
        path = self.layout.root / name
        os.utime(path, (self.objects[name].time_s,) * 2)
        self.states[name] = _state(path)

    def stage(self, *, with_records: bool) -> None:
        """Fill the folder."""
        whole = [n for n in self.objects if _is_small(n) or (with_records and _is_record(n))]
        for name in self.objects.keys() - set(whole):
            if not self._is_orphaned(name):
                self._stage_size(name)
        wanted = [name for name in whole if not self._is_orphaned(name)]
        for start in range(0, len(wanted), 64):
            for name, data in self.store.read_many(wanted[start : start + 64]):
                path = self.layout.root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                self._dated(name)
        for folder in self.layout.manifest.glob("gen-*"):  # `gc` asks when each was made
            newest = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
            os.utime(folder, (newest, newest))

    def _is_orphaned(self, name: str) -> bool:
        return any(name.startswith(f"{orphan}/") for orphan in self.orphans)


@contextlib.contextmanager
def staged(
    url: str, dataset: str | None = None, *, with_records: bool = True
) -> Iterator[StagedDataset]:
    """Open a remote data set to examine all of it.

    Args:
        url: of the data set, or of the folder of data sets.
        dataset: which one, when there are several.
        with_records: fetch the commit records, too; else only their names and sizes are there.

    Raises:
        CacheError: no data set there, or the store does not respond.
    """
    store = _store(url, dataset)
    mirror = RemoteMirror(store)
    found = store.objects()
    objects = {name: entry for name, entry in found.items() if is_format_name(name)}
    with (
        writing(mirror.layout.root),
        attempt_folder(mirror.layout.scratch, "staged") as folder,
    ):
        layout = Layout(root=folder / mirror.layout.root.name)
        layout.scratch.mkdir(parents=True)
        dataset_here = StagedDataset(
            layout=layout,
            store=store,
            objects=objects,
            strangers=tuple(sorted(found.keys() - objects.keys())),
            orphans=_orphans(objects, _current(store)),
            states={},
        )
        dataset_here.stage(with_records=with_records)
        yield dataset_here


def _current(store: RemoteStore) -> int | None:
    """What CURRENT names; None where it is damaged, which `verify` finds."""
    data = store.find(CURRENT_FILE)
    with contextlib.suppress(CacheError):
        return None if data is None else parse_current(data, where=CURRENT_FILE)
    return None


def _store(url: str, dataset: str | None) -> RemoteStore:
    """The data set's store, even if dataset.json is missing."""
    if dataset is not None:
        require_dataset_name(dataset, where="`dataset`")
    try:
        return find_store(url, dataset)
    except CacheError:
        store = RemoteStore(url)
        own = url.rstrip("/").rsplit("/", 1)[-1]
        names = [name for name in store.names() if DATASET.fullmatch(name)]
        if dataset in (None, own) and "manifest" in names:
            return store
        found = [n for n in ([dataset] if dataset else names) if store.names(f"{n}/manifest")]
        if len(found) == 1:
            return store.below(found[0])
        raise


def _orphans(objects: dict[str, StoredObject], current: int | None) -> tuple[str, ...]:
    folders = {Path(name).parts[1] for name in objects if name.startswith("manifest/gen-")}
    matches = [GENERATION.fullmatch(name) for name in sorted(folders)]
    if current is None:
        return ()
    return tuple(f"manifest/{m[0]}" for m in matches if m and int(m[1]) > current)


def _is_small(name: str) -> bool:
    return name in (DATASET_FILE, CURRENT_FILE, FAILED_FILE) or name.startswith("manifest/")


def _is_record(name: str) -> bool:
    return name.startswith("rows/")


def _place_in_order(name: str) -> tuple[int, str]:
    """Shards before records before generations before CURRENT."""
    groups: Sequence[bool] = (
        ".zarr/" in name,
        _is_record(name),
        name.startswith("manifest/"),
        name != CURRENT_FILE,
    )
    return (groups.index(True) if any(groups) else len(groups), name)


def _state(path: Path) -> _State:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)
