"""`pass2d inspect CACHE`: a generation summed up from its manifest; no shard is opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.inspection.sizes import FieldSize, field_sizes
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import generation_numbers, load_manifest
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.scan_table import ScanTable
from pass2d.cache.schema import FORMAT_VERSION, SCALES, DatasetInfo
from pass2d.cache.statistics import SPLITS
from pass2d.cache.tables import source_sizes


@dataclass(frozen=True, kw_only=True)
class SequenceSummary:
    """The scans of one sequence."""

    sequence: str
    split: str
    """Several with "+" where scans of one sequence belong to several splits."""
    scans: int
    first_frame: int
    last_frame: int
    points_raw: int
    points_kept: int
    scans_with_label: int
    scans_with_picture: int
    nbytes: int
    """Of its shards in all containers."""


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """The scans of one split."""

    split: str
    sequences: int
    scans: int
    points_raw: int
    points_kept: int
    scans_with_label: int
    scans_with_picture: int


@dataclass(frozen=True, kw_only=True)
class ContainerSummary:
    """One container."""

    container: str
    shards: int
    scans: int
    nbytes: int
    """Files of its shards, metadata and indexes included."""
    profiles: tuple[str, ...]
    code_versions: tuple[int, ...]
    parameters: tuple[dict[str, Any], ...]
    """The different settings that its shards were made with; one, normally."""
    cpu_seconds: float
    """Time that writing its shards took."""


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What one generation of a prepared data set holds."""

    location: str
    """Folder, or URL."""
    dataset: str
    info: DatasetInfo
    format_version: int
    generation: int
    generations: int
    """On disk, older ones included."""
    fingerprint: str
    """Of description and shard keys: equal for equal data."""
    scales: tuple[int, ...]
    splits: tuple[SplitSummary, ...]
    sequences: tuple[SequenceSummary, ...]
    fields: tuple[FieldSize, ...]
    containers: tuple[ContainerSummary, ...]
    manifest_bytes: int
    """scans.parquet and shards.parquet of this generation."""
    source_files: int
    source_bytes: int
    signal_divisors: tuple[int, ...]
    """The signal is stored as uint8 over this; 0: as float32."""
    failed: tuple[str, ...]
    """Scans that could not be prepared."""

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(container.nbytes for container in self.containers)


def summarize_dataset(reader: CacheReader, *, location: str) -> DatasetSummary:
    """Sum up a generation.

    Args:
        reader: open; local or remote.
        location: what the user called it.

    Raises:
        CacheError: the manifest is damaged.
    """
    layout = Layout(root=reader.root)
    manifest = load_manifest(layout, reader.generation)
    scans, shards = reader.scans, manifest.tables.shards
    rows: list[dict[str, Any]] = shards.to_pylist()
    sources = source_sizes(manifest.tables.scans)
    return DatasetSummary(
        location=location,
        dataset=reader.info.name,
        info=reader.info,
        format_version=FORMAT_VERSION,
        generation=reader.generation,
        generations=len(generation_numbers(layout)),
        fingerprint=reader.fingerprint,
        scales=SCALES,
        splits=tuple(_split(scans, split) for split in SPLITS if (scans.split == split).any()),
        sequences=_sequences(scans, rows),
        fields=field_sizes(scans, rows, reader.chunk_lengths, reader.stored_type),
        containers=tuple(_container(rows, container) for container in CONTAINERS),
        manifest_bytes=_file_bytes(layout.generation(reader.generation)),
        source_files=len(sources),
        source_bytes=sum(sources),
        signal_divisors=_divisors(rows),
        failed=_failed(rows),
    )


def _split(scans: ScanTable, split: str) -> SplitSummary:
    rows = np.flatnonzero(scans.split == split)
    return SplitSummary(
        split=split,
        sequences=len(np.unique(scans.sequence[rows])),
        scans=len(rows),
        points_raw=int(scans.n_raw[rows].sum()),
        points_kept=int(scans.n[rows].sum()),
        scans_with_label=int(scans.has_label[rows].sum()),
        scans_with_picture=int(scans.has_image[rows].sum()),
    )


def _sequences(scans: ScanTable, shards: Sequence[dict[str, Any]]) -> tuple[SequenceSummary, ...]:
    nbytes: dict[str, int] = {}
    for row in shards:
        nbytes[row["sequence"]] = nbytes.get(row["sequence"], 0) + row["bytes"]
    names, which = np.unique(scans.sequence, return_inverse=True)
    order = np.argsort(which, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(which, minlength=len(names)))[:-1])
    return tuple(
        SequenceSummary(
            sequence=str(name),
            split="+".join(np.unique(scans.split[rows]).tolist()),
            scans=len(rows),
            first_frame=int(scans.frame_index[rows].min()),
            last_frame=int(scans.frame_index[rows].max()),
            points_raw=int(scans.n_raw[rows].sum()),
            points_kept=int(scans.n[rows].sum()),
            scans_with_label=int(scans.has_label[rows].sum()),
            scans_with_picture=int(scans.has_image[rows].sum()),
            nbytes=nbytes.get(str(name), 0),
        )
        for name, rows in zip(names, groups, strict=bool(len(names)))
    )


def _container(shards: Sequence[dict[str, Any]], container: str) -> ContainerSummary:
    rows = [row for row in shards if row["stage"] == container]
    parameters = dict.fromkeys(row["parameters"] for row in rows)
    return ContainerSummary(
        container=container,
        shards=len(rows),
        scans=sum(row["scans"] for row in rows),
        nbytes=sum(row["bytes"] for row in rows),
        profiles=tuple(sorted({row["profile"] for row in rows})),
        code_versions=tuple(sorted({row["code_version"] for row in rows})),
        parameters=tuple(json.loads(text) for text in parameters),
        cpu_seconds=sum(row["seconds"] or 0.0 for row in rows),
    )


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


def _divisors(shards: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    encodings = (json.loads(row["encodings"]) for row in shards if row["stage"] == "lidar")
    return tuple(sorted({int(encoding.get("intensity_divisor", 0)) for encoding in encodings}))


def _failed(shards: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    lost = [scan for row in shards for scan in json.loads(row["failed"])["scans"]]
    return tuple(f"{scan['scan_id']}: {scan['reason']}" for scan in lost)
