"""`pass2d inspect CACHE --scan ID`: everything that a cache stores for one scan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import FIELDS, Fields
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import SCALES
from pass2d.cache.source_state import SourceState, source_state
from pass2d.common.errors import CacheError
from pass2d.common.text import nearest


@dataclass(frozen=True, kw_only=True)
class RawFileState:
    """A raw file of the scan, then and now."""

    role: str
    path: str
    nbytes: int
    xxh3: str
    state: SourceState


@dataclass(frozen=True, kw_only=True)
class ChunkState:
    """One inner chunk."""

    field: str
    part: int
    file: str
    """Relative to the data set."""
    offset: int
    nbytes: int
    crc: str
    """crc32c in hex, as the manifest has it."""
    problem: str
    """"" when the chunk was read, its crc agreed and it decoded."""


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """Smallest, mean and largest number of an axis or channel."""

    name: str
    low: float
    mean: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CameraState:
    """One picture."""

    camera: int
    height: int
    width: int
    visible_points: int
    image_from_lidar: tuple[float, ...]
    """12 numbers of the (3, 4) matrix, row by row; empty without calibration."""


@dataclass(frozen=True, kw_only=True)
class ScanDetail:
    """What a cache holds of one scan."""

    scan_id: str
    split: str
    sequence: str
    frame_index: int
    token: str
    shard: int
    row: int
    n_raw: int
    n_kept: int
    has_label: bool
    class_points: tuple[tuple[str, int], ...]
    """Name and kept points of each class; empty without labels."""
    range_histogram: tuple[int, ...]
    cameras: tuple[CameraState, ...]
    """Those with a picture."""
    voxels: tuple[tuple[int, int], ...]
    """Scale and number of voxels; empty when not prepared."""
    values: tuple[ValueRange, ...]
    """Of the kept points; empty when they cannot be read."""
    instances: int | None
    """Different instance ids but 0; None without labels."""
    sources: tuple[RawFileState, ...]
    chunks: tuple[ChunkState, ...]

    @property
    def is_sound(self) -> bool:
        """Whether every chunk could be read."""
        return not any(chunk.problem for chunk in self.chunks)


def find_scan(reader: CacheReader, wanted: str) -> int:
    """Position of a scan by id, by nuScenes token, or by "8/12" for "08/000012".

    Raises:
        CacheError: no such scan; the message shows what ids look like here.
    """
    ids = reader.scans.scan_id
    for column in (ids, reader.scans.token):
        found = np.flatnonzero(column == wanted)
        if wanted and len(found):
            return int(found[0])
    if match := re.fullmatch(r"0*(\d+)/0*(\d+)", wanted):
        name = f"{int(match[1]):02}/{int(match[2]):06}"
        found = np.flatnonzero(ids == name)
        if len(found):
            return int(found[0])
    if not len(ids):
        raise CacheError(f"{reader.root}: the cache holds no scan at all.")
    near = nearest(wanted, ids[:20000].tolist(), cutoff=0.8)
    hint = f"Did you mean {near}? " if near else ""
    raise CacheError(
        f"{reader.root}: no scan {wanted!r}. {hint}The {len(ids)} scans are called {ids[0]} to "
        f"{ids[-1]}."
    )


def scan_detail(reader: CacheReader, position: int) -> ScanDetail:
    """Read all data of one scan and describe it.

    Args:
        reader: open; of a remote cache the files that hold the scan are fetched.
        position: row of ``reader.scans``.
    """
    scans, info = reader.scans, reader.info
    table = load_manifest(Layout(root=reader.root), reader.generation).tables.scans
    row: dict[str, Any] = table.slice(position, 1).to_pylist()[0]
    has_label = bool(scans.has_label[position])
    counts = scans.label_histogram[position].tolist()
    voxels = scans.voxels[position].tolist()
    values, instances = _values(reader, position)
    return ScanDetail(
        scan_id=row["scan_id"],
        split=row["split"],
        sequence=row["sequence"],
        frame_index=row["frame_index"],
        token=row["token"] or "",
        shard=row["shard"],
        row=row["row"],
        n_raw=row["n_raw"],
        n_kept=row["n"],
        has_label=has_label,
        class_points=tuple(zip(info.labels.names, counts, strict=True)) if has_label else (),
        range_histogram=tuple(row["range_histogram"]),
        cameras=_cameras(reader, position, row["image_from_lidar"]),
        voxels=tuple(zip(SCALES, voxels, strict=True)) if any(voxels) else (),
        values=values,
        instances=instances,
        sources=_sources(reader, position),
        chunks=_chunks(reader, position),
    )


def _cameras(
    reader: CacheReader, position: int, matrices: list[float] | None
) -> tuple[CameraState, ...]:
    hw, m = reader.scans.camera_hw[position], reader.scans.camera_m[position]
    numbers = matrices or []
    return tuple(
        CameraState(
            camera=camera,
            height=int(hw[camera, 0]),
            width=int(hw[camera, 1]),
            visible_points=int(m[camera]),
            image_from_lidar=tuple(numbers[12 * camera : 12 * camera + 12]),
        )
        for camera in range(len(hw))
        if hw[camera, 0]
    )


def _values(reader: CacheReader, position: int) -> tuple[tuple[ValueRange, ...], int | None]:
    try:
        extra = tuple(name for name, spec in FIELDS.items() if not spec.attribute)
        record = reader.read(position, Fields(label=False, instance=True, extra=extra))
    except CacheError:
        return (), None  # the table of chunks says which one is damaged
    named: list[tuple[str, NDArray[Any]]] = [
        *zip("xyz", record.xyz, strict=True),
        ("range", np.linalg.norm(record.xyz, axis=0)),
        (reader.info.signal_name, record.signal),
    ]
    if record.time is not None:
        named.append(("time", record.time))
    for name, values in record.extra.items():
        if FIELDS[name].length == "points":
            rows = values.reshape(-1, values.shape[-1])
            titles = [name] if len(rows) == 1 else [f"{name} {row}" for row in range(len(rows))]
            named += zip(titles, rows, strict=True)
    ranges = tuple(
        ValueRange(
            name=name,
            low=float(values.min()),
            mean=float(values.mean(dtype=np.float64)),
            high=float(values.max()),
        )
        for name, values in named
        if len(values)
    )
    if record.instance is None:
        return ranges, None
    return ranges, len(np.unique(record.instance[record.instance > 0]))


def _sources(reader: CacheReader, position: int) -> tuple[RawFileState, ...]:
    return tuple(
        RawFileState(
            role=source.role,
            path=source.path,
            nbytes=source.nbytes,
            xxh3=source.xxh3,
            state=source_state(source, hash_contents=False),
        )
        for source in reader.sources(position)
    )


def _chunks(reader: CacheReader, position: int) -> tuple[ChunkState, ...]:
    states = []
    for field in FIELDS:
        for chunk in reader.stored_chunks(position, field):
            problem = ""
            try:
                reader.check_chunk(position, chunk)
            except CacheError as error:
                problem = str(error)
            states.append(
                ChunkState(
                    field=field,
                    part=chunk.part,
                    file=str(Path(chunk.array.path).relative_to(reader.root)),
                    offset=chunk.span.offset,
                    nbytes=chunk.span.length,
                    crc=f"{chunk.span.crc:08x}",
                    problem=problem,
                )
            )
    return tuple(states)
