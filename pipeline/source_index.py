"""What earlier runs know of source files, so that unchanged ones are not read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.layout import ROW_FILE, Layout
from cache.rows import ScanSources, SourceFile, decode_row
from pipeline.source import ScanSource


@dataclass(frozen=True, kw_only=True)
class SourceIndex:
    """Source files by path, as they were when they were last hashed."""

    files: dict[str, SourceFile] = field(default_factory=dict)

    def add_table(self, scans: Any, shards: Any) -> None:
        """Learn from a generation (`scans.parquet` and the failed scans in `shards.parquet`)."""
        names = ("source_role", "source_path", "source_bytes", "source_mtime_ns", "source_xxh3")
        columns = [scans[name].combine_chunks().flatten().to_pylist() for name in names]
        for role, path, nbytes, mtime_ns, xxh3 in zip(*columns, strict=True):
            self.files[path] = SourceFile(
                role=role, path=path, nbytes=nbytes, mtime_ns=mtime_ns, xxh3=xxh3
            )
        for text in shards["failed"].to_pylist():
            for scan in json.loads(text)["sources"]:
                self._learn(SourceFile(**file) for file in scan["files"])

    def add_rows(self, layout: Layout, shards: set[int]) -> None:
        """Learn from commit records of these shards, e.g. those of an interrupted run."""
        for stage in ("lidar", "camera"):
            for path in sorted((layout.root / "rows" / stage).glob("*.json")):
                match = ROW_FILE.fullmatch(path.name)
                if match is None or int(match[1]) not in shards:
                    continue
                try:
                    row = decode_row(path.read_bytes(), where=str(path))
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
        known = self.files.get(str(path))
        if known is None:
            return None
        if (known.nbytes, known.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            return None
        # A key frame of nuScenes is the points of one scan and a sweep of the next ones.
        return replace(known, role=role)

    def lidar_sources(self, scan: ScanSource) -> ScanSources | None:
        """Points, labels, sweeps; None when one of them must be hashed first."""
        return self._scan(scan.scan_id, scan.lidar_files())

    def camera_sources(self, scan: ScanSource) -> ScanSources | None:
        """Pictures; None when one of them must be hashed first."""
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
            self.files[file.path] = file
