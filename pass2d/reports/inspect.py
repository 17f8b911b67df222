"""`pass2d inspect`: what a cache holds, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from pass2d.cache.inspection.scan import ChunkState, ScanDetail
from pass2d.cache.inspection.summary import ContainerSummary, DatasetSummary
from pass2d.cache.schema import LabelTable
from pass2d.cache.statistics import RANGE_EDGES_M
from pass2d.common.html import Cell
from pass2d.common.progress import format_bytes, format_seconds
from pass2d.reports.report import facts_table, percent, rich_table

SHOWN_SEQUENCES = 40
"""Rows of the table of sequences; --json lists all."""
SHOWN_FAILED = 5


def summary_json(summary: DatasetSummary) -> dict[str, Any]:
    """Everything as plain data."""
    document = asdict(summary)
    document["info"]["labels"]["raw_to_training"] = {
        str(raw): training for raw, training in summary.info.labels.raw_to_training.items()
    }
    document["bytes"] = summary.nbytes
    for field, size in zip(document["fields"], summary.fields, strict=True):
        field["ratio"] = size.ratio
    return document


def scan_json(scan: ScanDetail) -> dict[str, Any]:
    """Everything as plain data."""
    return {**asdict(scan), "is_sound": scan.is_sound}


def summary_tables(summary: DatasetSummary) -> list[Table | Text]:
    """Rich renderables: the data, its bytes, its settings."""
    lines = [*_headline(summary), *_settings(summary)]
    failed = [Text(f"not prepared: {line}", style="yellow") for line in summary.failed]
    more = len(failed) - SHOWN_FAILED
    if more > 0:
        failed[SHOWN_FAILED:] = [Text(f"... and {more} more (`json` lists all)")]
    return [
        facts_table(f"{summary.dataset}: {summary.location}", lines),
        _splits(summary),
        _sequences(summary),
        _fields(summary),
        _containers(summary),
        *failed,
    ]


def scan_tables(scan: ScanDetail, labels: LabelTable) -> list[Table | Text]:
    """Rich renderables of one scan."""
    return [
        facts_table(f"scan {scan.scan_id}", _scan_facts(scan)),
        *([_values(scan)] if scan.values else []),
        *([_classes(scan, labels)] if scan.class_points else []),
        _sources(scan),
        _chunks(scan.chunks),
        *(Text(f"damaged: {chunk.problem}", style="red") for chunk in scan.chunks if chunk.problem),
    ]


def _headline(summary: DatasetSummary) -> list[tuple[str, str]]:
    scans = sum(split.scans for split in summary.splits)
    raw = sum(split.points_raw for split in summary.splits)
    kept = sum(split.points_kept for split in summary.splits)
    source = f"{summary.source_files:,} files, {format_bytes(summary.source_bytes)}"
    if summary.source_bytes:
        source += f"; cache / sources {summary.nbytes / summary.source_bytes:.2f}"
    older = summary.generations - 1
    return [
        ("holds", f"{scans:,} scans of {len(summary.sequences):,} sequences"),
        ("points", f"{raw:,} raw, {kept:,} ({percent(kept / max(1, raw))}) inside the volume"),
        ("size", f"{format_bytes(summary.nbytes)} in {_n_shards(summary):,} shards"),
        ("sources", source),
        (
            "generation",
            f"{summary.generation}" + (f" ({older} older on disk)" if older > 0 else ""),
        ),
        ("fingerprint", summary.fingerprint),
        ("format", f"version {summary.format_version}, layout {summary.info.layout}"),
    ]


def _settings(summary: DatasetSummary) -> list[tuple[str, str]]:
    info, grid = summary.info, summary.info.grid
    volume = ", ".join(
        f"{axis} {low:g} to {high:g} m"
        for axis, low, high in zip("xyz", grid.low, grid.high, strict=True)
    )
    stored = " or ".join("float32" if d == 0 else f"uint8 / {d}" for d in summary.signal_divisors)
    corruption = info.corruption
    what = (
        "none"
        if corruption is None
        else f"{corruption.name}, {corruption.severity} ({corruption.collection})"
    )
    return [
        ("corruption", what),
        ("volume", volume),
        ("grid", " x ".join(str(cells) for cells in grid.shape) + " cells at scale 1"),
        ("scales", ", ".join(str(scale) for scale in summary.scales)),
        ("cameras", str(info.n_cameras)),
        ("signal", f"{info.signal_name}, stored as {stored or 'nothing yet'}"),
        ("raw columns", str(info.raw_columns)),
        ("added sweeps", str(info.sweeps)),
        ("classes", f"{info.labels.n_classes - 1}: {', '.join(info.labels.names[1:])}"),
        (
            "class weights",
            "used in training" if info.has_class_weights else "not used, as published",
        ),
    ]


def _n_shards(summary: DatasetSummary) -> int:
    return sum(container.shards for container in summary.containers)


def _splits(summary: DatasetSummary) -> Table:
    columns = ("split", "sequences", "scans", "with labels", "with picture", "points", "in volume")
    rows = [
        (
            split.split,
            f"{split.sequences:,}",
            f"{split.scans:,}",
            f"{split.scans_with_label:,}",
            f"{split.scans_with_picture:,}",
            f"{split.points_raw:,}",
            f"{split.points_kept:,}",
        )
        for split in summary.splits
    ]
    return rich_table("splits", columns, rows)


def _sequences(summary: DatasetSummary) -> Table:
    columns = ("sequence", "split", "scans", "frames", "labels", "pictures", "points", "size")
    rows = [
        (
            sequence.sequence,
            sequence.split,
            f"{sequence.scans:,}",
            f"{sequence.first_frame} to {sequence.last_frame}",
            f"{sequence.scans_with_label:,}",
            f"{sequence.scans_with_picture:,}",
            f"{sequence.points_raw:,}",
            format_bytes(sequence.nbytes),
        )
        for sequence in summary.sequences[:SHOWN_SEQUENCES]
    ]
    more = len(summary.sequences) - SHOWN_SEQUENCES
    title = "sequences" + (f" (the first; {more} more in the JSON)" if more > 0 else "")
    return rich_table(title, columns, rows)


def _fields(summary: DatasetSummary) -> Table:
    columns = ("field", "container", "type", "codec", "scans", "stored", "plain", "ratio", "a scan")
    rows = [
        (
            field.name,
            field.container,
            ", ".join(field.dtypes),
            ", ".join(field.codecs),
            f"{field.scans:,}",
            format_bytes(field.stored_bytes),
            format_bytes(field.plain_bytes),
            f"{field.ratio:.2f}",
            format_bytes(field.stored_bytes / field.scans),
        )
        for field in summary.fields
    ]
    return rich_table("fields: plain / stored is the ratio", columns, rows, align="llll")


def _containers(summary: DatasetSummary) -> Table:
    columns = ("container", "shards", "scans", "size", "profile", "code", "CPU", "parameters")
    rows = [_container(container) for container in summary.containers]
    return rich_table("containers", columns, rows, align="lrrrrrrl")


def _container(container: ContainerSummary) -> tuple[str, ...]:
    settings = " / ".join(_short(parameters) for parameters in container.parameters)
    return (
        container.container,
        f"{container.shards:,}",
        f"{container.scans:,}",
        format_bytes(container.nbytes),
        ", ".join(container.profiles) or "-",
        ", ".join(str(version) for version in container.code_versions) or "-",
        format_seconds(container.cpu_seconds),
        settings or "-",
    )


def _short(parameters: dict[str, Any]) -> str:
    """Settings on one line; a long table (of labels) is only counted."""
    parts = []
    for name, value in parameters.items():
        text = json.dumps(value, separators=(",", ":"))
        parts.append(f"{name}={text if len(text) <= 120 else f'({len(value)} entries)'}")
    return ", ".join(parts) or "none"


def _scan_facts(scan: ScanDetail) -> list[tuple[str, str]]:
    facts = [
        ("split, sequence", f"{scan.split}, {scan.sequence}, frame {scan.frame_index}"),
        *([("token", scan.token)] if scan.token else []),
        ("lies in", f"shard {scan.shard}, row {scan.row}"),
        (
            "points",
            f"{scan.n_raw:,} raw, {scan.n_kept:,} inside the volume, "
            f"{scan.n_raw - scan.n_kept:,} outside",
        ),
        ("labels", "yes" if scan.has_label else "none"),
        *([("instances", f"{scan.instances:,}")] if scan.instances is not None else []),
    ]
    for camera in scan.cameras:
        calibration = "calibrated" if any(camera.image_from_lidar) else "no calibration"
        size = f"{camera.width} x {camera.height} pixels"
        facts.append(
            (f"camera {camera.camera}", f"{size}, {camera.visible_points:,} points, {calibration}")
        )
    if not scan.cameras:
        facts.append(("pictures", "none"))
    voxels = ", ".join(f"{scale}: {count:,}" for scale, count in scan.voxels)
    facts.append(("voxels per scale", voxels or "not prepared"))
    ranges = ", ".join(
        f"{edge}: {count:,}"
        for edge, count in zip(RANGE_EDGES_M, scan.range_histogram, strict=False)
        if count
    )
    facts.append(("points per 5 m", ranges or "none"))
    return facts


def _values(scan: ScanDetail) -> Table:
    rows = [(v.name, f"{v.low:.3f}", f"{v.mean:.3f}", f"{v.high:.3f}") for v in scan.values]
    return rich_table("values of the kept points", ("channel", "least", "mean", "most"), rows)


def _classes(scan: ScanDetail, labels: LabelTable) -> Table:
    total = max(1, sum(count for _, count in scan.class_points))
    rows = [
        (Cell(text=name, color_rgb=labels.colors_rgb[c]), f"{count:,}", percent(count / total))
        for c, (name, count) in enumerate(scan.class_points)
        if count
    ]
    return rich_table("labels of the kept points", ("class", "points", "share"), rows)


def _sources(scan: ScanDetail) -> Table:
    rows = [
        (source.role, source.state, format_bytes(source.nbytes), source.xxh3[:12], source.path)
        for source in scan.sources
    ]
    return rich_table("sources", ("role", "now", "bytes", "xxh3", "path"), rows, align="lllll")


def _chunks(chunks: Sequence[ChunkState]) -> Table:
    rows = [
        (
            chunk.field + (f" [{chunk.part}]" if chunk.part else ""),
            "DAMAGED" if chunk.problem else "sound",
            f"{chunk.offset:,}",
            f"{chunk.nbytes:,}",
            chunk.crc,
            chunk.file,
        )
        for chunk in chunks
    ]
    columns = ("chunk", "state", "offset", "bytes", "crc32c", "file")
    return rich_table("chunks, each read and checked", columns, rows, align="llrrrl")
