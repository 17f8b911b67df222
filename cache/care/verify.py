"""Finds all differences from what was written: files, sizes, hashes, records, values."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pass2d.cache.care.check_shard import ShardChecker
from pass2d.cache.care.damage import NO_SHARD, Damage, IntegrityReport, Kind, ShardId, damaged_at
from pass2d.cache.failures import read_failures, recorded_failures
from pass2d.cache.fields import CONTAINERS
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import (
    CURRENT_FILE,
    DATASET_FILE,
    FAILED_FILE,
    GENERATION,
    HASHES_FILE,
    ROW_FILE,
    SCANS_FILE,
    SHARD_FOLDER,
    SHARDS_FILE,
    Layout,
    shard_name,
)
from pass2d.cache.manifest import (
    Manifest,
    current_number,
    describe_dataset,
    generation_numbers,
    load_manifest,
    parse_dataset,
    parse_hashes,
)
from pass2d.cache.rows import ShardRow, decode_row
from pass2d.cache.tables import shard_record
from pass2d.common.errors import CacheError
from pass2d.common.files import other_than_folder, read_whole
from pass2d.common.progress import Progress

_TIMES_AGAIN = 3
"""How often a check is repeated in which another process wrote or removed what is checked."""
Rebuild = Callable[[ShardRow], Sequence[str] | None]
"""Rebuilds a shard and returns the files whose bytes differ; None if its sources are missing."""

Presence = Callable[[str, str], AbstractContextManager[None]]
"""Has a shard, given by container and name, on disk during a `with`."""


def always_present(container: str, name: str) -> AbstractContextManager[None]:
    """A local data set."""
    return nullcontext()


def verify(
    dataset_root: Path,
    progress: Progress,
    *,
    rebuild: Rebuild | None = None,
    rebuild_share: float = 0.0,
    presence: Presence = always_present,
) -> IntegrityReport:
    """Check every byte of a prepared data set. Writes nothing.

    Args:
        dataset_root: e.g. cache/semkitti.
        progress: receives the number of checked shards.
        rebuild: rebuilds and compares a shard (`pipeline.repair.rebuild_and_compare`).
        rebuild_share: share of the sound shards to rebuild, 0..1; always the same ones.
        presence: fetches shards that are not completely on disk.

    Raises:
        CacheError: there is no data set, or it is of an older or newer format version.
    """
    if other := other_than_folder(dataset_root):
        raise CacheError(
            f"{dataset_root}: {other}. `cache_root` must be a folder made by `prepare`."
        )
    layout = Layout(root=dataset_root)
    for _ in range(_TIMES_AGAIN):
        before = _names(layout)
        try:
            report = _Verifier(layout, progress, presence).run(rebuild, rebuild_share)
        except (OSError, CacheError):
            if _names(layout) == before:
                raise
        else:
            if not report.damages or _names(layout) == before:
                return report
        progress.say(f"{dataset_root}: changed while it was being checked; checking again")
    return _Verifier(layout, progress, presence).run(rebuild, rebuild_share)


def _names(layout: Layout) -> frozenset[str]:
    """The generations and shards on disk: `prepare` adds some, `cache gc` removes some."""
    names: set[str] = set()
    for folder in layout.folders:
        with contextlib.suppress(OSError):
            names.update(path.name for path in folder.iterdir())
    return frozenset(names)


class _Verifier:
    def __init__(self, layout: Layout, progress: Progress, presence: Presence) -> None:
        self._layout = layout
        self._presence = presence
        self._progress = progress
        self._damages: list[Damage] = []
        self._notes: list[str] = []
        self._files = 0
        self._nbytes = 0
        self._unfinished: list[Path] = []

    def run(self, rebuild: Rebuild | None, share: float) -> IntegrityReport:
        """All checks, from the top of the folder down."""
        for folder in self._layout.folders:
            if folder.is_symlink():
                self._changed(folder, "a link where pass2d expects its own folder")
        info_bytes = self._check_dataset_file()
        manifest = self._check_generations(info_bytes)
        self._check_failed_file(manifest)
        self._check_names()
        rows = self._check_rows()
        if manifest is not None:
            self._check_listed(manifest, rows)
        sound = self._check_shards(rows, manifest)
        rebuilt = self._rebuild(sound, rebuild, share)
        return IntegrityReport(
            files=self._files,
            nbytes=self._nbytes,
            scans=0 if manifest is None else len(manifest.tables.scans),
            shards=len(rows),
            rebuilt=rebuilt,
            damages=tuple(self._damages),
            notes=tuple(self._notes),
        )

    def _read(self, path: Path, shard_id: ShardId = NO_SHARD) -> bytes | None:
        """A file's bytes; None if it cannot be read, which is noted as damage."""
        try:
            data = read_whole(path)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            text = "missing" if is_missing else f"cannot read ({error.strerror})"
            kind: Kind = "missing" if is_missing else "unreadable"
            self._add(damaged_at(kind, self._name(path), text, shard_id))
            return None
        self._files += 1
        self._nbytes += len(data)
        return data

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._layout.root))

    def _add(self, damage: Damage) -> None:
        self._damages.append(damage)

    def _changed(self, path: Path, text: str) -> None:
        self._add(Damage(kind="changed", path=self._name(path), text=text))

    def _check_dataset_file(self) -> bytes | None:
        data = self._read(self._layout.dataset_file)
        if data is None:
            return None
        try:
            info = parse_dataset(data, where=str(self._layout.dataset_file))
        except CacheError as error:
            if "upgrade" in str(error) or "older pass2d" in str(error):
                raise
            self._changed(self._layout.dataset_file, "does not describe a data set")
            return None
        if describe_dataset(info) != data:
            self._changed(self._layout.dataset_file, "has a wrong checksum")
        return data

    def _check_generations(self, info_bytes: bytes | None) -> Manifest | None:
        sound = [n for n in generation_numbers(self._layout) if self._check_generation(n)]
        current = self._check_current(sound)
        if current not in sound:
            return None
        manifest = load_manifest(self._layout, current)
        if info_bytes is not None and describe_dataset(manifest.info) != info_bytes:
            self._changed(self._layout.dataset_file, f"differs from the copy in gen-{current:06d}")
        return manifest

    def _check_generation(self, number: int) -> bool:
        folder = self._layout.generation(number)
        before = len(self._damages)
        data = self._read(folder / HASHES_FILE)
        if data is None:
            return False
        try:
            hashes = parse_hashes(data, where=HASHES_FILE)
        except CacheError:
            self._changed(folder / HASHES_FILE, "has a wrong checksum")
            return False
        for name in (SCANS_FILE, SHARDS_FILE):
            content = self._read(folder / name)
            if content is not None and hash_bytes(content) != hashes.get(name):
                self._changed(folder / name, "has a wrong checksum (xxh3)")
        for path in folder.iterdir():
            if path.name not in (SCANS_FILE, SHARDS_FILE, HASHES_FILE):
                self._extra(path)
        return len(self._damages) == before

    def _check_current(self, sound: Sequence[int]) -> int | None:
        path = self._layout.current_file
        data = self._read(path)
        if data is None:
            return None
        try:
            number = current_number(self._layout)
        except CacheError:
            self._changed(path, f"found {data[:40]!r}, expected the name of a generation")
            return None
        assert number is not None, path
        if data != f"{self._layout.generation(number).name}\n".encode():
            self._changed(path, f"found {data[:40]!r}, expected one name and a line end")
        newest = max(sound, default=number)
        if number < newest or not self._layout.generation(number).is_dir():
            self._changed(path, f"names gen-{number:06d}, but the newest is gen-{newest:06d}")
        return number

    def _check_failed_file(self, manifest: Manifest | None) -> None:
        path = self._layout.failed_file
        recorded = [] if manifest is None else recorded_failures(manifest.tables.shards)
        if not recorded and not path.exists() and not path.is_symlink():
            return
        data = self._read(path)
        if data is None:
            return
        listed, damaged = read_failures(data)
        for number in damaged:
            self._changed(path, f"line {number} has a wrong checksum")
        lost = sorted({scan.scan_id for _, scan in recorded} - {scan.scan_id for scan in listed})
        if lost and not damaged:
            self._changed(path, f"lacks {', '.join(lost[:3])}, which the manifest has as failed")
        elif not data:
            self._changed(path, "is empty, expected one line per failed scan")

    def _check_names(self) -> None:
        """Files and folders that do not belong there."""
        known = {DATASET_FILE, CURRENT_FILE, FAILED_FILE, "manifest", "rows", ".tmp", *CONTAINERS}
        for path in self._entries(self._layout.root):
            if path.name not in known:
                self._extra(path)
        for path in self._entries(self._layout.manifest):
            if not GENERATION.fullmatch(path.name):
                self._extra(path)
        for path in self._entries(self._layout.root / "rows"):
            if path.name not in CONTAINERS:
                self._extra(path)
        for container in CONTAINERS:
            for path in self._entries(self._layout.root / container):
                if not SHARD_FOLDER.fullmatch(path.name):
                    self._extra(path)
                elif not (self._layout.root / "rows" / container / f"{path.stem}.json").exists():
                    self._unfinished.append(path)
            for path in self._entries(self._layout.root / "rows" / container):
                if not ROW_FILE.fullmatch(path.name):
                    self._extra(path)

    def _entries(self, folder: Path) -> Iterable[Path]:
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _extra(self, path: Path) -> None:
        self._add(
            Damage(kind="extra", path=self._name(path), text="is not part of a prepared data set")
        )

    def _check_rows(self) -> dict[tuple[str, str], ShardRow]:
        rows: dict[tuple[str, str], ShardRow] = {}
        for container in CONTAINERS:
            for path in self._entries(self._layout.root / "rows" / container):
                match = ROW_FILE.fullmatch(path.name)
                if match is None:
                    continue
                shard_id = (container, int(match[1]), match[2])
                data = self._read(path, shard_id)
                if data is None:
                    continue
                try:
                    row = decode_row(data, where=str(path))
                    is_named = shard_name(row.shard, row.header.key) == path.stem
                except CacheError:
                    is_named = False
                if is_named and row.header.container == container:
                    rows[container, path.stem] = row
                else:
                    text = "the commit record has a wrong checksum"
                    self._add(damaged_at("changed", self._name(path), text, shard_id))
        return rows

    def _check_listed(self, manifest: Manifest, rows: dict[tuple[str, str], ShardRow]) -> None:
        """Every shard of the generation has a record that says the same, and a folder."""
        unreadable = {damage.path for damage in self._damages}
        for listed in manifest.tables.shards.to_pylist():
            container, name = listed["stage"], shard_name(listed["shard"], listed["key"])
            row = rows.get((container, name))
            path = f"rows/{container}/{name}.json"
            if row is None:
                if path not in unreadable:
                    self._add(_listed_damage("missing", path, "missing", listed))
            elif _lasting(shard_record(row, sequence=listed["sequence"])) != _lasting(listed):
                text = "the commit record and the manifest differ"
                self._add(_listed_damage("inconsistent", path, text, listed))
            if not (self._layout.root / listed["path"]).is_dir():
                self._add(_listed_damage("missing", listed["path"], "missing", listed))
        for folder in self._unfinished:
            self._notes.append(f"{self._name(folder)}: of an unfinished run; `gc` removes it")

    def _check_shards(
        self, rows: dict[tuple[str, str], ShardRow], manifest: Manifest | None
    ) -> list[ShardRow]:
        self._progress.start("verifying", total=len(rows), unit="shards")
        n_classes = 256 if manifest is None else manifest.info.labels.n_classes
        sound = []
        for row in rows.values():
            container, key = row.header.container, row.header.key
            nbytes = 0
            if self._layout.shard(container, row.shard, key).is_dir():
                checker = ShardChecker(self._layout, row)
                with self._presence(container, shard_name(row.shard, key)):
                    checker.check(n_classes=n_classes)
                self._damages += checker.damages
                self._files += checker.files
                self._nbytes += checker.nbytes
                nbytes = checker.nbytes
                if not checker.damages:
                    sound.append(row)
            elif manifest is None:
                name = f"{container}/{shard_name(row.shard, key)}.zarr"
                self._add(damaged_at("missing", name, "missing", (container, row.shard, key)))
            elif not _is_listed(manifest, row):
                self._notes.append(
                    f"{container} {shard_name(row.shard, key)}: record without a shard"
                )
            self._progress.advance(nbytes=nbytes)
        return sound

    def _lidar_of(self, row: ShardRow) -> AbstractContextManager[None]:
        """The `lidar` shard that another shard is based on."""
        name = _lidar_name(row)
        return nullcontext() if name is None else self._presence("lidar", name)

    def _rebuild(self, sound: Sequence[ShardRow], rebuild: Rebuild | None, share: float) -> int:
        if rebuild is None or share <= 0:
            return 0
        count = min(len(sound), max(1, round(share * len(sound))))
        chosen = random.Random(0).sample(list(sound), count)
        self._progress.start("rebuilding", total=count, unit="shards")
        rebuilt = 0
        for row in chosen:
            header = row.header
            name = f"{header.container}/{shard_name(row.shard, header.key)}.zarr"
            with self._lidar_of(row):
                different = rebuild(row)
            if different is None:
                self._notes.append(f"{name}: not rebuilt, its source files changed or are gone")
            else:
                rebuilt += 1
                for file in different:
                    self._add(
                        damaged_at(
                            "other bytes",
                            f"{name}/{file}",
                            "rebuilding it from the sources gives different bytes",
                            (header.container, row.shard, header.key),
                        )
                    )
            self._progress.advance()
        return rebuilt


def _lidar_name(row: ShardRow) -> str | None:
    key = row.header.lidar_key
    return shard_name(row.shard, key) if key else None


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A row of shards.parquet without what a later run may change in the commit record."""
    return {n: v for n, v in record.items() if n not in ("writer", "seconds", "failed")}


def _listed_damage(kind: Kind, path: str, text: str, listed: dict[str, object]) -> Damage:
    container, shard, key = (listed[name] for name in ("stage", "shard", "key"))
    return damaged_at(kind, path, text, (str(container), int(str(shard)), str(key)))


def _is_listed(manifest: Manifest, row: ShardRow) -> bool:
    return row.header.key in set(manifest.tables.shards["key"].to_pylist())


def damaged_shards(damages: Iterable[Damage]) -> Iterator[tuple[str, int, str]]:
    """(container, shard, 12 digits of the key) of damaged shards or records, each once."""
    yield from sorted({(d.container, d.shard, d.key) for d in damages if d.container})
