"""Hashes of source files from earlier runs, so that unchanged ones are not read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pass2d.cache.layout import Layout
from pass2d.cache.rows import ScanSources, SourceFile, decode_row
from pass2d.common.errors import CacheError
from pass2d.common.files import read_whole
from pass2d.pipeline.source import ScanSource


@dataclass(frozen=True, kw_only=True)
class SourceIndex:
    """Source files in every state (path, size, time) in which they were hashed.

    Records of older states stay until `gc`, and a file may come back to one of them.
    """

    files: dict[tuple[str, int, int], SourceFile] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """By path, of the state that was learnt first: that of the generation, if it has one."""

    def add_table(self, scans: Any, shards: Any) -> None:
        """Learn from a generation (`scans.parquet` and the failed scans in `shards.parquet`)."""
        names = ("source_role", "source_path", "source_bytes", "source_mtime_ns", "source_xxh3")
        columns = [scans[name].combine_chunks().flatten().to_pylist() for name in names]
        self._learn(
            SourceFile(role=role, path=path, nbytes=nbytes, mtime_ns=mtime_ns, xxh3=xxh3)
            for role, path, nbytes, mtime_ns, xxh3 in zip(*columns, strict=True)
        )
        for text in shards["failed"].to_pylist():
            for scan in json.loads(text)["sources"]:
                self._learn(SourceFile(**file) for file in scan["files"])

    def add_rows(self, layout: Layout, names: Iterable[tuple[str, str]]) -> None:
        """Learn from commit records, by container and name, e.g. those of an interrupted run."""
        for container, name in names:
            path = layout.root / "rows" / container / f"{name}.json"
            try:
                row = decode_row(read_whole(path), where=str(path))
            except (CacheError, OSError):
                continue  # its shard counts as not done; `verify` is the place to report it
            for scan in row.sources:
                self._learn(scan.files)

    def lookup(self, role: str, path: Path) -> SourceFile | None:
        """The file as it is now, if its size and time say that it is the one that was hashed.

        A missing file is known, too: without a hash.
        """
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return SourceFile(role=role, path=str(path), nbytes=0, mtime_ns=0, xxh3="")
        known = self.files.get((str(path), stat.st_size, stat.st_mtime_ns))
        # A key frame of nuScenes is the points of one scan and a sweep of the next ones.
        return None if known is None else replace(known, role=role)

    def change(self, path: Path) -> str:
        """What happened to a file that `lookup` does not know, in words."""
        before = self.sizes.get(str(path))
        if before is None:
            return f"{path} is new"
        return f"{path} " + ("has another time" if path.stat().st_size == before else "changed")

    def lidar_sources(self, scan: ScanSource) -> ScanSources | None:
        """Points, labels, sweeps; None when one of them must be hashed first."""
        return self._scan(scan.scan_id, scan.lidar_files())

    def camera_sources(self, scan: ScanSource) -> ScanSources | None:
        """Pictures and calibration; None when one of them must be hashed first."""
        return self._scan(scan.scan_id, scan.camera_files())

    def _scan(self, scan_id: str, wanted: Sequence[tuple[str, Path]]) -> ScanSources | None:
        files = []
        for role, path in wanted:
            found = self.lookup(role, path)
            if found is None:
                return None
            files.append(found)
        return ScanSources(scan_id=scan_id, files=tuple(files))

    def _learn(self, files: Iterable[SourceFile]) -> None:
        for file in files:
            self.files.setdefault((file.path, file.nbytes, file.mtime_ns), file)
            self.sizes.setdefault(file.path, file.nbytes)
