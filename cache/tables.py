"""The manifest's two tables in Arrow: one row per scan, one row per shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from pass2d.cache.fields import CONTAINERS, FIELDS, LATER_CONTAINERS
from pass2d.cache.key_inputs import header_inputs
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import shard_name
from pass2d.cache.rows import ABSENT, ChunkRef, LidarEntry, ShardRow
from pass2d.cache.schema import SCALES
from pass2d.common.json import dumps

ShardRows = Mapping[str, ShardRow]
"""The records of one shard by container; "lidar" is always there."""


_LATER_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("pose", pa.list_(pa.float64())),
    ("time_s", pa.float64()),
    ("moving_histogram", pa.list_(pa.int64())),
    ("thinned", pa.int64()),
]
"""Of the containers `motion` and `thinned`, which older caches lack: null there."""


def scan_schema(n_cameras: int) -> pa.Schema:
    """Columns of scans.parquet; `docs/format.md` describes each."""
    names: list[tuple[str, pa.DataType]] = [
        ("scan_id", pa.string()),
        ("split", pa.string()),
        ("sequence", pa.string()),
        ("frame_index", pa.int64()),
        ("token", pa.string()),
        ("shard", pa.int64()),
        ("row", pa.int64()),
        ("n_raw", pa.int64()),
        ("n", pa.int64()),
        ("has_label", pa.bool_()),
        ("label_histogram", pa.list_(pa.int64())),
        ("range_histogram", pa.list_(pa.int64())),
        ("m", pa.list_(pa.int64(), n_cameras)),
        ("image_height", pa.list_(pa.int64(), n_cameras)),
        ("image_width", pa.list_(pa.int64(), n_cameras)),
        ("image_from_lidar", pa.list_(pa.float64())),
        ("voxels", pa.list_(pa.int64(), len(SCALES))),
        *_LATER_COLUMNS,
        ("source_role", pa.list_(pa.string())),
        ("source_path", pa.list_(pa.string())),
        ("source_bytes", pa.list_(pa.int64())),
        ("source_mtime_ns", pa.list_(pa.int64())),
        ("source_xxh3", pa.list_(pa.string())),
    ]
    for spec in FIELDS.values():
        is_listed = spec.is_listed(n_cameras)
        for part, kind in (("offset", pa.int64()), ("length", pa.int64()), ("crc", pa.uint32())):
            names.append((f"{spec.name}_{part}", pa.list_(kind) if is_listed else kind))
    return pa.schema(names)


def with_chunk_columns(scans: pa.Table, *, n_cameras: int) -> pa.Table:
    """Give scans.parquet the columns that did not exist when it was written, all null."""
    schema = scan_schema(n_cameras)
    for name, kind in _LATER_COLUMNS:
        if name not in scans.column_names:
            scans = scans.append_column(name, pa.nulls(len(scans), kind))
    for spec in FIELDS.values():
        columns = [f"{spec.name}_{part}" for part in ("offset", "length", "crc")]
        may_lack = spec.container in LATER_CONTAINERS or not (
            spec.is_required or spec.stored_with or spec.is_listed(n_cameras)
        )
        if may_lack and not set(columns) & set(scans.column_names):
            for column in columns:
                scans = scans.append_column(column, pa.nulls(len(scans), schema.field(column).type))
    return scans.select(schema.names).cast(schema)


SHARD_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("shard", pa.int64()),
        ("key", pa.string()),
        ("path", pa.string()),
        ("sequence", pa.string()),
        ("scans", pa.int64()),
        ("bytes", pa.int64()),
        ("file_name", pa.list_(pa.string())),
        ("file_bytes", pa.list_(pa.int64())),
        ("file_xxh3", pa.list_(pa.string())),
        ("code_version", pa.int64()),
        ("profile", pa.string()),
        ("parameters", pa.string()),
        ("input_key", pa.string()),
        ("inputs", pa.string()),
        ("arrays", pa.string()),
        ("encodings", pa.string()),
        ("failed", pa.string()),
        ("writer", pa.string()),
        ("seconds", pa.float64()),
    ]
)
"""Columns of shards.parquet; `parameters`, `inputs`, `arrays`, `encodings`, `failed` hold
JSON."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The two tables of a generation."""

    scans: pa.Table
    """Sorted by shard and row, which is sequence and frame order."""
    shards: pa.Table
    """Sorted by container and shard."""


def shard_record(row: ShardRow, *, sequence: str) -> dict[str, Any]:
    """One row of shards.parquet."""
    header = row.header
    failed_ids = {scan.scan_id for scan in row.failed}
    return {
        "stage": header.container,
        "shard": row.shard,
        "key": header.key,
        "path": f"{header.container}/{shard_name(row.shard, header.key)}.zarr",
        "sequence": sequence,
        "scans": len(row.entries.scan_ids()),
        "bytes": row.nbytes,
        "file_name": [file.name for file in row.files],
        "file_bytes": [file.nbytes for file in row.files],
        "file_xxh3": [file.xxh3 for file in row.files],
        "code_version": header.code_version,
        "profile": header.profile,
        "parameters": _text(header.parameters),
        "input_key": header.lidar_key or hash_bytes(dumps(header.inputs)),
        "inputs": _text(header.inputs),
        "arrays": _text({f.name: {"dtype": f.dtype, "chunk": f.chunk} for f in row.fields}),
        "encodings": _text(row.encodings),
        "failed": _text(
            {"scans": row.failed, "sources": [s for s in row.sources if s.scan_id in failed_ids]}
        ),
        "writer": row.writer,
        "seconds": row.seconds,
    }


def _text(value: Any) -> str:
    return dumps(value).decode().strip()


def scan_records(rows: ShardRows, *, n_cameras: int) -> list[dict[str, Any]]:
    """The rows of scans.parquet that one shard gives."""
    lidar = rows["lidar"]
    return [
        {
            **_identity(entry, shard=lidar.shard, row=index),
            **_camera_columns(rows.get("camera"), index, n_cameras),
            "voxels": list(rows["voxel"].entries.voxel[index].voxels)
            if "voxel" in rows
            else [0] * len(SCALES),
            **_motion_columns(rows.get("motion"), index),
            "thinned": _thinned_points(rows.get("thinned"), index),
            **_source_columns(rows, entry.scan_id),
            **_chunk_columns(rows, index, n_cameras),
        }
        for index, entry in enumerate(lidar.entries.lidar)
    ]


def _identity(entry: LidarEntry, *, shard: int, row: int) -> dict[str, Any]:
    return {
        "scan_id": entry.scan_id,
        "split": entry.split,
        "sequence": entry.sequence,
        "frame_index": entry.frame_index,
        "token": entry.token,
        "shard": shard,
        "row": row,
        "n_raw": entry.n_raw,
        "n": entry.n,
        "has_label": entry.has_label,
        "label_histogram": list(entry.label_histogram),
        "range_histogram": list(entry.range_histogram),
    }


def _camera_columns(row: ShardRow | None, index: int, n_cameras: int) -> dict[str, Any]:
    if row is None:
        zeros = [0] * n_cameras
        return {"m": zeros, "image_height": zeros, "image_width": zeros, "image_from_lidar": None}
    entry = row.entries.camera[index]
    matrices = entry.image_from_lidar
    return {
        "m": [view.m if view else 0 for view in entry.views],
        "image_height": [view.height if view else 0 for view in entry.views],
        "image_width": [view.width if view else 0 for view in entry.views],
        "image_from_lidar": None if matrices is None else [v for m in matrices for v in m],
    }


def _motion_columns(row: ShardRow | None, index: int) -> dict[str, Any]:
    if row is None or row.entries.motion is None:
        return {"pose": None, "time_s": None, "moving_histogram": None}
    entry = row.entries.motion[index]
    return {
        "pose": None if entry.pose is None else list(entry.pose),
        "time_s": entry.time_s,
        "moving_histogram": list(entry.moving_histogram) if entry.has_motion else None,
    }


def _thinned_points(row: ShardRow | None, index: int) -> int | None:
    return (
        None if row is None or row.entries.thinned is None else row.entries.thinned[index].thinned
    )


def _source_columns(rows: ShardRows, scan_id: str) -> dict[str, Any]:
    files = [
        file
        for container in CONTAINERS
        if container in rows
        for scan in rows[container].sources
        if scan.scan_id == scan_id
        for file in scan.files
    ]
    return {
        "source_role": [file.role for file in files],
        "source_path": [file.path for file in files],
        "source_bytes": [file.nbytes for file in files],
        "source_mtime_ns": [file.mtime_ns for file in files],
        "source_xxh3": [file.xxh3 for file in files],
    }


def _chunk_columns(rows: ShardRows, index: int, n_cameras: int) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    stored = {f.name: f.chunks[index] for row in rows.values() for f in row.fields}
    for spec in FIELDS.values():
        refs: Sequence[ChunkRef] = stored.get(spec.name, ())
        for part in ("offset", "length", "crc"):
            values = [getattr(ref, part) for ref in refs]
            if spec.is_listed(n_cameras):
                columns[f"{spec.name}_{part}"] = values
            else:
                is_stored = bool(refs) and refs[0] != ABSENT
                columns[f"{spec.name}_{part}"] = values[0] if is_stored else None
    return columns


def source_sizes(scans: pa.Table) -> list[int]:
    """Bytes of each source file of scans; one that several share (sweep, calib) counts once."""
    paths, sizes = (
        scans[name].combine_chunks().flatten().to_pylist()
        for name in ("source_path", "source_bytes")
    )
    known = {path: size for path, size in zip(paths, sizes, strict=True) if path}
    return [*known.values(), *(s for path, s in zip(paths, sizes, strict=True) if not path)]


def build_tables(shards: Sequence[ShardRows], *, n_cameras: int) -> Tables:
    """Tables of complete shards.

    Args:
        shards: the records of each shard by container; without "lidar" scans no scan rows.
        n_cameras: of the data set.
    """
    scans = [record for rows in shards for record in scan_records(rows, n_cameras=n_cameras)]
    records = [
        shard_record(row, sequence=_sequence(rows)) for rows in shards for row in rows.values()
    ]
    return Tables(
        scans=pa.Table.from_pylist(scans, schema=scan_schema(n_cameras)),
        shards=pa.Table.from_pylist(records, schema=SHARD_SCHEMA),
    )


def _sequence(rows: ShardRows) -> str:
    return header_inputs(rows["lidar"].header).sequence


def merge_tables(parts: Sequence[Tables]) -> Tables:
    """Tables concatenated and sorted: the same rows give the same table in whatever order."""
    scans = pa.concat_tables([part.scans for part in parts]).sort_by(
        [("shard", "ascending"), ("row", "ascending")]
    )
    shards = pa.concat_tables([part.shards for part in parts]).sort_by(
        [("stage", "ascending"), ("shard", "ascending")]
    )
    return Tables(scans=scans.combine_chunks(), shards=shards.combine_chunks())
