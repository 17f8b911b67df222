"""What a prepared data set holds, and whether its source files are still the same."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.failures import recorded_failures
from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import Layout, shard_name
from pass2d.cache.manifest import (
    Manifest,
    generation_numbers,
    load_manifest,
    require_newest,
    require_version,
)
from pass2d.cache.rows import SourceFile
from pass2d.cache.schema import FORMAT_VERSION
from pass2d.cache.source_state import source_state


@dataclass(frozen=True, kw_only=True)
class ContainerStatus:
    """One container of the current generation."""

    container: str
    shards: int
    nbytes: int
    code_versions: tuple[int, ...]
    profiles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StatusReport:
    """The current generation and its sources."""

    dataset_root: Path | str
    """Folder or URL."""
    dataset: str
    format_version: int
    generation: int
    generations: int
    """On disk, older ones included."""
    scans: dict[str, int]
    """By split."""
    sequences: tuple[str, ...]
    containers: tuple[ContainerStatus, ...]
    failed: int
    """Scans that could not be prepared."""
    sources: int
    """Files that were compared."""
    changed: tuple[str, ...]
    """Source files whose size or content has changed since they were prepared, or that could not be
    read then."""
    touched: tuple[str, ...]
    """Same size but another modification time; content not compared. Empty when contents are
    hashed."""
    vanished: tuple[str, ...]
    vanished_sequences: tuple[str, ...]
    """Sequences of which no point file is left; `prepare` keeps what it has of them."""
    missing_shards: tuple[str, ...]
    """Shards that the generation names but that are missing."""
    unfinished: int
    """Committed shards that the generation does not name."""

    @property
    def is_current(self) -> bool:
        """Whether `prepare` would find nothing to do for these sources."""
        return not (self.changed or self.touched or self.vanished or self.missing_shards)


def status(dataset_root: Path, *, hash_contents: bool = False) -> StatusReport:
    """Compare the manifest with the sizes and modification times of all source files.

    Args:
        dataset_root: e.g. cache/semkitti.
        hash_contents: read source files whose time differs and compare their hash.

    Raises:
        CacheError: no finished cache there, or one of another format version.
    """
    layout = Layout(root=dataset_root)
    require_version(layout)
    require_newest(layout)
    manifest = load_manifest(layout)
    scans, shards = manifest.tables.scans, manifest.tables.shards
    sources = _Sources(hash_contents=hash_contents)
    for source in _recorded(manifest):
        sources.compare(source)
    listed = _listed_names(manifest)
    return StatusReport(
        dataset_root=dataset_root,
        dataset=manifest.info.name,
        format_version=FORMAT_VERSION,
        generation=manifest.number,
        generations=len(generation_numbers(layout)),
        scans=dict(Counter(scans["split"].to_pylist())),
        sequences=tuple(sorted(set(scans["sequence"].to_pylist()))),
        containers=tuple(_container_status(manifest, container) for container in CONTAINERS),
        failed=len({scan.scan_id for _, scan in recorded_failures(shards)}),
        sources=sources.count,
        changed=tuple(sources.changed),
        touched=tuple(sources.touched),
        vanished=tuple(sources.vanished),
        vanished_sequences=_without_points(manifest, set(sources.vanished)),
        missing_shards=tuple(
            path for path in shards["path"].to_pylist() if not (dataset_root / path).is_dir()
        ),
        unfinished=sum(
            1
            for container in CONTAINERS
            for path in (dataset_root / "rows" / container).glob("*.json")
            if (container, path.stem) not in listed
        ),
    )


def _container_status(manifest: Manifest, container: str) -> ContainerStatus:
    rows = [row for row in manifest.tables.shards.to_pylist() if row["stage"] == container]
    return ContainerStatus(
        container=container,
        shards=len(rows),
        nbytes=sum(row["bytes"] for row in rows),
        code_versions=tuple(sorted({row["code_version"] for row in rows})),
        profiles=tuple(sorted({row["profile"] for row in rows})),
    )


def _listed_names(manifest: Manifest) -> set[tuple[str, str]]:
    shards = manifest.tables.shards
    columns = [shards[name].to_pylist() for name in ("stage", "shard", "key")]
    return {(container, shard_name(n, key)) for container, n, key in zip(*columns, strict=True)}


def _recorded(manifest: Manifest) -> list[SourceFile]:
    """The source files of all scans, those of failed ones included; each state once."""
    parts = ("path", "bytes", "mtime_ns", "xxh3")
    scans = manifest.tables.scans
    columns = [scans[f"source_{p}"].combine_chunks().flatten().to_pylist() for p in parts]
    failed = [
        (file["path"], file["nbytes"], file["mtime_ns"], file["xxh3"])
        for text in manifest.tables.shards["failed"].to_pylist()
        for scan in json.loads(text)["sources"]
        for file in scan["files"]
    ]
    return [
        SourceFile(role="", path=path, nbytes=nbytes, mtime_ns=mtime_ns, xxh3=xxh3)
        for path, nbytes, mtime_ns, xxh3 in dict.fromkeys([*zip(*columns, strict=True), *failed])
        if path
    ]


def _without_points(manifest: Manifest, vanished: set[str]) -> tuple[str, ...]:
    scans = manifest.tables.scans
    columns = [scans[name].to_pylist() for name in ("sequence", "source_role", "source_path")]
    is_left: dict[str, bool] = {}
    for sequence, roles, paths in zip(*columns, strict=True):
        points = [path for role, path in zip(roles, paths, strict=True) if role == "points"]
        gone = bool(points) and vanished.issuperset(points)
        is_left[sequence] = is_left.get(sequence, False) or not gone
    return tuple(sorted(sequence for sequence, left in is_left.items() if not left))


class _Sources:
    """Compare every source file with its entry in the manifest."""

    def __init__(self, *, hash_contents: bool) -> None:
        self._hash_contents = hash_contents
        self.changed: list[str] = []
        self.touched: list[str] = []
        self.vanished: list[str] = []
        self.count = 0

    def compare(self, source: SourceFile) -> None:
        """Classify one file; one that could not be read has no hash."""
        self.count += 1
        state = source_state(source, hash_contents=self._hash_contents)
        if state == "changed":
            self.changed.append(source.path)
        elif state == "touched":
            self.touched.append(source.path)
        elif state == "gone" and source.xxh3:
            self.vanished.append(source.path)
