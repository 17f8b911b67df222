"""Summary of a run of `prepare`, and of the cache after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from pass2d.cache.failures import recorded_failures
from pass2d.cache.fields import FIELDS
from pass2d.cache.manifest import Manifest
from pass2d.cache.reading.scan_table import chunk_table, scan_table
from pass2d.cache.rows import FailedScan
from pass2d.cache.tables import source_sizes
from pass2d.pipeline.problem import Warned
from pass2d.pipeline.source import SourceListing


@dataclass(frozen=True, kw_only=True)
class ContainerSeconds:
    """CPU seconds spent on one container in this run, all workers together."""

    container: str
    compute: float
    """Reading sources and computing arrays."""
    write: float
    """Encoding, hashing and writing."""

    @property
    def total(self) -> float:
        """Both."""
        return self.compute + self.write


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """Result of `prepare`; counts are of the listed sequences in the new generation."""

    dataset_root: str
    """Folder or URL."""
    generation: int
    scans: int
    points: int
    """Of the raw files."""
    kept_points: int
    """Inside the volume."""
    field_bytes: dict[str, int]
    """Compressed chunks per field."""
    total_bytes: int
    """All shard files."""
    source_bytes: int
    """The files that were read for it."""
    scans_without_image: int
    scans_without_label: int
    failed: tuple[FailedScan, ...]
    """Scans that could not be prepared, now or when their files were last seen."""
    written_shards: int
    kept_shards: int
    """Shards that were there already (a scan has one per container)."""
    seconds_by_container: tuple[ContainerSeconds, ...]
    seconds: float
    """Wall time."""
    notes: tuple[str, ...]
    warned: tuple[Warned, ...]
    """What is unlikely about the data that this run prepared, one of a kind."""
    dropped_points: int = 0
    """Not finite or too far, in the scans that this run prepared."""

    @property
    def slowest_container(self) -> ContainerSeconds | None:
        """None when nothing had to run."""
        return max(self.seconds_by_container, key=lambda one: one.total, default=None)


def summarize(
    manifest: Manifest,
    listing: SourceListing,
    *,
    dataset_root: str,
    failed: Sequence[FailedScan],
    warned: Sequence[Warned],
    dropped_points: int = 0,
    seconds: float,
    seconds_by_container: Sequence[ContainerSeconds],
    written_shards: int,
    kept_shards: int,
) -> PrepareSummary:
    """Count what the listed sequences have in the new generation.

    Args:
        manifest: the new generation.
        listing: what was asked for.
        dataset_root: for the report.
        failed: failures of this run that no commit record tells.
        warned: what is unlikely about the data.
        dropped_points: not finite or too far, in this run.
        seconds: wall time of the run.
        seconds_by_container: CPU time of the run.
        written_shards: shards of this run.
        kept_shards: shards that were there.
    """
    listed = {scan.sequence for scan in listing.scans}
    tables = manifest.tables
    scans = scan_table(tables.scans)
    chosen = np.isin(scans.sequence, sorted(listed))
    shard_listed = np.isin(np.array(tables.shards["sequence"].to_pylist(), np.str_), sorted(listed))
    recorded = [f for sequence, f in recorded_failures(tables.shards) if sequence in listed]
    return PrepareSummary(
        dataset_root=dataset_root,
        generation=manifest.number,
        scans=int(chosen.sum()),
        points=int(scans.n_raw[chosen].sum()),
        kept_points=int(scans.n[chosen].sum()),
        field_bytes=_field_bytes(manifest, chosen),
        total_bytes=int(tables.shards["bytes"].to_numpy()[shard_listed].sum()),
        source_bytes=sum(source_sizes(tables.scans.filter(pa.array(chosen)))),
        scans_without_image=int((~scans.has_image[chosen]).sum()),
        scans_without_label=int((~scans.has_label[chosen]).sum()),
        failed=tuple(sorted({*recorded, *failed}, key=lambda f: (f.scan_id, f.container))),
        written_shards=written_shards,
        kept_shards=kept_shards,
        seconds_by_container=tuple(seconds_by_container),
        seconds=seconds,
        notes=listing.notes,
        warned=tuple(warned),
        dropped_points=dropped_points,
    )


def all_failures(
    manifest: Manifest,
    listing: SourceListing,
    summary: PrepareSummary,
    earlier: Sequence[FailedScan],
) -> tuple[FailedScan, ...]:
    """The failures of this run, and what is known of sequences that it did not list.

    Args:
        manifest: the new generation.
        listing: what was asked for.
        summary: of this run.
        earlier: what failed.jsonl said before.
    """
    listed = {scan.sequence for scan in listing.scans}
    ids = {scan.scan_id for scan in listing.scans}
    names = ("scan_id", "sequence")
    sequence_of = dict(zip(*(manifest.tables.scans[n].to_pylist() for n in names), strict=True))
    others = [
        f for sequence, f in recorded_failures(manifest.tables.shards) if sequence not in listed
    ]
    others += [
        failed
        for failed in earlier
        if failed.scan_id not in ids
        # A scan that is not in the cache: KITTI's ids name the sequence, nuScenes' do not.
        and sequence_of.get(failed.scan_id, failed.scan_id.split("/")[0]) not in listed
    ]
    # One line per scan and container; the manifest's reason counts.
    lines = {(f.scan_id, f.container): f for f in [*reversed(others), *summary.failed]}
    return tuple(lines[key] for key in sorted(lines))


def _field_bytes(manifest: Manifest, chosen: np.ndarray) -> dict[str, int]:
    sizes = {}
    for name in FIELDS:
        chunks = chunk_table(manifest.tables.scans, name)
        ends = np.concatenate([[0], np.cumsum(chunks.entries[:, 1])])
        per_scan = ends[chunks.start[1:]] - ends[chunks.start[:-1]]
        if total := int(per_scan[chosen].sum()):
            sizes[name] = total
    return sizes
