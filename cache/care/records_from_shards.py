"""Rebuilds commit records and manifests from the shards themselves."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pass2d.cache.codec import CRC_BYTES
from pass2d.cache.fields import CONTAINERS, FIELDS
from pass2d.cache.key_inputs import source_files
from pass2d.cache.keys import hash_bytes, shard_key
from pass2d.cache.layout import GROUP_FILE, ROW_FILE, SHARD_FOLDER, Layout
from pass2d.cache.rows import (
    ABSENT,
    ChunkRef,
    Entries,
    FailedScan,
    FieldChunks,
    FileHash,
    ShardHeader,
    ShardRow,
    decode_row,
    load_row,
)
from pass2d.cache.schema import FORMAT_VERSION
from pass2d.cache.writing.shard import parse_index
from pass2d.common.errors import CacheError
from pass2d.common.files import read_failure, read_file
from pass2d.common.json import from_json, loads
from pass2d.common.plain import written_name

_REASON = "left out when the shard was made; prepare again to see why"


def describe_shard(folder: Path) -> ShardRow:
    """The commit record of a published shard, from its files alone.

    Paths and times of source files are not in a shard: they are "" and 0 here, so that the next
    `prepare` hashes the files again.

    Raises:
        CacheError: the shard is damaged or of another format version.
    """
    try:
        return _describe_shard(folder)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{folder / GROUP_FILE}: does not describe a shard ({type(error).__name__}: "
            f"{error!s:.100}). Run `repair`."
        ) from error


def _describe_shard(folder: Path) -> ShardRow:
    match = SHARD_FOLDER.fullmatch(folder.name)
    if match is None:
        raise CacheError(f"{folder}: not the name of a shard; expected 000003-0123456789ab.zarr.")
    group = folder / GROUP_FILE
    metadata = loads(_read(group), where=str(group))
    attributes = metadata["attributes"]
    if attributes.get("format_version") != FORMAT_VERSION:
        raise CacheError(
            f"{group}: format version {attributes.get('format_version')!r:.20}, this pass2d reads "
            f"{FORMAT_VERSION}. Another pass2d wrote it: prepare again into a new `cache_root`."
        )
    names = map(written_name, fields(ShardHeader))
    header = from_json(ShardHeader, {name: attributes[name] for name in names}, where=str(group))
    arrays = metadata["consolidated_metadata"]["metadata"]
    return ShardRow(
        header=header,
        shard=int(match[1]),
        entries=from_json(Entries, attributes["entries"], where=str(group)),
        encodings=attributes["encodings"],
        files=_files(folder),
        fields=tuple(
            _field_chunks(folder, name, arrays[name]) for name in FIELDS if name in arrays
        ),
        sources=source_files(header),
        failed=tuple(
            FailedScan(scan_id=scan_id, container=header.container, reason=_REASON)
            for scan_id in attributes["failed"]
        ),
    )


def expected_key(header: ShardHeader) -> str:
    """The key that follows from a header's content."""
    return shard_key(
        header.container,
        code_version=header.code_version,
        profile=header.profile,
        parameters=header.parameters,
        inputs=header.inputs,
    )


def current_rows(layout: Layout) -> dict[int, dict[str, ShardRow]]:
    """The newest consistent commit records by shard and container, for rebuilding a lost manifest.

    Of several `lidar` records of a shard the newest is used; the other containers must belong to
    it.
    """
    found: dict[int, dict[str, ShardRow]] = {}
    for container in CONTAINERS:
        folder = layout.root / "rows" / container
        paths = sorted(folder.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in paths:
            match = ROW_FILE.fullmatch(path.name)
            row = None if match is None else _row_by_name(layout, container, path)
            if row is None:
                continue
            lidar = found.get(row.shard, {}).get("lidar")
            if container == "lidar":
                found[row.shard] = {"lidar": row}
            elif lidar is not None and row.header.lidar_key == lidar.header.key:
                found[row.shard][container] = row
    return found


def _row_by_name(layout: Layout, container: str, path: Path) -> ShardRow | None:
    row = decode_row(_read(path), where=str(path))
    is_there = layout.shard(container, row.shard, row.header.key).is_dir()
    return load_row(layout, container, row.shard, row.header.key) if is_there else None


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise read_failure(path, error) from error


def _files(folder: Path) -> tuple[FileHash, ...]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    hashes = []
    for path in paths:
        data = _read(path)
        name = str(path.relative_to(folder))
        hashes.append(FileHash(name=name, nbytes=len(data), xxh3=hash_bytes(data)))
    return tuple(sorted(hashes, key=lambda file: file.name))


def _field_chunks(folder: Path, name: str, array: dict[str, Any]) -> FieldChunks:
    shape = array["shape"]
    chunk = array["codecs"][0]["configuration"]["chunk_shape"]
    grid = [-(-size // part) for size, part in zip(shape, chunk, strict=True)]
    path = folder / name / "c" / "/".join("0" * len(shape))
    data = np.frombuffer(_read(path), np.uint8)
    index = parse_index(data.tobytes(), math.prod(grid), where=str(path)).tolist()
    refs = [_chunk_ref(data, offset, length, path) for offset, length in index]
    step = math.prod(grid[1:])
    return FieldChunks(
        name=name,
        dtype=array["data_type"],
        chunk=tuple(chunk),
        chunks=tuple(tuple(refs[i : i + step]) for i in range(0, len(refs), step)),
    )


def _chunk_ref(data: np.ndarray, offset: int, length: int, path: Path) -> ChunkRef:
    if length == 0:
        return ABSENT
    if offset + length > len(data) or length <= CRC_BYTES:
        raise CacheError(f"{path}: its index points beyond its end. Run `repair`.")
    crc = data[offset + length - CRC_BYTES : offset + length].tobytes()
    return ChunkRef(offset=offset, length=length, crc=int.from_bytes(crc, "little"))


def without_paths(row: ShardRow) -> ShardRow:
    """A record as `describe_shard` would return it, for comparison."""
    failed = tuple(replace(scan, reason=_REASON) for scan in row.failed)
    return replace(row, sources=source_files(row.header), failed=failed, writer="", seconds=0.0)
