"""Commit records: everything that the manifest contains about one shard, as typed rows.

A record is written once, when a shard is published. Except for the ``writer`` and ``seconds``
fields and the paths of sources, it can be rebuilt from the shard alone
(`care/records_from_shards.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import HASH, MEMBER, MOST_SHARDS, Layout
from pass2d.cache.schema import FORMAT_VERSION
from pass2d.common.errors import CacheError
from pass2d.common.files import read_file, replace_file, require_no_link
from pass2d.common.json import from_json, seal, to_json, unseal
from pass2d.common.plain import OMITTED_IF_NONE, written_as


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the raw data set, as it was when it was read."""

    role: str
    """"points", "labels", "panoptic", "sweep0", "sweep1", ..., "image0", ... or "calib"."""
    path: str
    """Absolute; "" if it was rebuilt from the shard."""
    nbytes: int
    mtime_ns: int
    xxh3: str
    """xxh3_128; "" when the file could not be read."""


@dataclass(frozen=True, kw_only=True)
class LidarEntry:
    """One scan of a `lidar` shard."""

    scan_id: str
    split: str
    sequence: str
    frame_index: int
    token: str
    n_raw: int
    n: int
    has_label: bool
    label_histogram: tuple[int, ...]
    """(C,) kept points per training id; all 0 without labels."""
    range_histogram: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ViewEntry:
    """One picture: stored size and visible points."""

    height: int
    width: int
    m: int


@dataclass(frozen=True, kw_only=True)
class CameraEntry:
    """One scan of a `camera` shard."""

    scan_id: str
    views: tuple[ViewEntry | None, ...]
    """One per camera; None without a picture."""
    image_from_lidar: tuple[tuple[float, ...], ...] | None
    """(3, 4) row by row per camera; None without calibration."""


@dataclass(frozen=True, kw_only=True)
class VoxelEntry:
    """One scan of a `voxel` shard."""

    scan_id: str
    voxels: tuple[int, ...]
    """V per scale, in the order of SCALES."""
    has_label: bool


@dataclass(frozen=True, kw_only=True)
class MotionEntry:
    """One scan of a `motion` shard."""

    scan_id: str
    has_motion: bool
    moving_histogram: tuple[int, ...]
    """Kept points of each moving class, in the order of the data set's facts; all 0 without."""
    pose: tuple[float, ...] | None
    """world_from_lidar, (3, 4) row by row; None where it is not known."""
    time_s: float | None
    """When the scan was taken, on the clock of its sequence."""


@dataclass(frozen=True, kw_only=True)
class ThinnedEntry:
    """One scan of a `thinned` shard."""

    scan_id: str
    thinned: int
    """K, the thinned points; 0 if the scan spans too many cells to be thinned."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The scans of one shard in row order; only the shard's own container is filled."""

    lidar: tuple[LidarEntry, ...] = ()
    camera: tuple[CameraEntry, ...] = ()
    voxel: tuple[VoxelEntry, ...] = ()
    motion: tuple[MotionEntry, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)
    thinned: tuple[ThinnedEntry, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)

    def scan_ids(self) -> tuple[str, ...]:
        """Ids in row order."""
        entries: Sequence[LidarEntry | CameraEntry | VoxelEntry | MotionEntry | ThinnedEntry] = (
            self.lidar or self.camera or self.voxel or self.motion or self.thinned or ()
        )
        return tuple(entry.scan_id for entry in entries)


@dataclass(frozen=True, kw_only=True)
class FileHash:
    """One file of a shard, named relative to it."""

    name: str
    nbytes: int
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class ChunkRef:
    """Where an inner chunk lies in its shard file; length 0: not stored, all zero."""

    offset: int
    length: int
    """Bytes, the 4 of the crc included."""
    crc: int
    """crc32c of all but the last 4 bytes."""


ABSENT = ChunkRef(offset=0, length=0, crc=0)


@dataclass(frozen=True, kw_only=True)
class FieldChunks:
    """Chunks of one field: one tuple per scan."""

    name: str
    dtype: str
    chunk: tuple[int, ...]
    """Shape of an inner chunk; [0] is 1, the scan."""
    chunks: tuple[tuple[ChunkRef, ...], ...]


@dataclass(frozen=True, kw_only=True)
class ScanSources:
    """The source files of one scan."""

    scan_id: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True, kw_only=True)
class FailedScan:
    """A scan that a container lacks, because it could not be prepared."""

    scan_id: str
    container: str = field(metadata=written_as("stage"))
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """A shard's key and its inputs; also in the group's attributes."""

    container: str = field(metadata=written_as("stage"))
    key: str
    code_version: int
    profile: str
    parameters: Any
    inputs: Any
    """As `key_inputs.encode_inputs` has it."""

    @property
    def lidar_key(self) -> str:
        """Key of the `lidar` shard that this one is based on; "" for `lidar` itself."""
        key = self.inputs.get("lidar", "")
        return key if isinstance(key, str) else ""


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """The commit record of one shard."""

    header: ShardHeader
    shard: int
    entries: Entries
    encodings: dict[str, Any]
    """E.g. {"intensity_divisor": 100}; see `docs/format.md`."""
    files: tuple[FileHash, ...]
    fields: tuple[FieldChunks, ...]
    sources: tuple[ScanSources, ...] = ()
    """Files that were read for it, also those of failed scans."""
    failed: tuple[FailedScan, ...] = ()
    writer: str = ""
    """host and process."""
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Size of the shard on disk."""
        return sum(file.nbytes for file in self.files)


def encode_row(row: ShardRow) -> bytes:
    """The bytes of a commit record: canonical JSON with its own checksum."""
    return seal({"format_version": FORMAT_VERSION, "row": row})


class _RecentRows:
    """Rows of the records that this process wrote or parsed last, by the bytes of the record.

    A shard's containers are based on its `lidar` record, and a generation is made of all records:
    one whose file holds the same bytes need not be parsed again. 64 records, of 64 scans with one
    picture each, take 17 MB.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[bytes, ShardRow] = {}
        self._lock = Lock()

    def find(self, data: bytes) -> ShardRow | None:
        return self._rows.get(data)

    def keep(self, data: bytes, row: ShardRow) -> None:
        with self._lock:
            self._rows[data] = row
            while len(self._rows) > self._most:
                del self._rows[next(iter(self._rows))]


_RECENT = _RecentRows(64)


def decode_row(data: bytes, *, where: str) -> ShardRow:
    """Parse and check a commit record.

    Raises:
        CacheError: damaged, or of another format version.
    """
    row = _RECENT.find(data)
    if row is None:
        row = _parsed(data, where=where)
        _RECENT.keep(data, row)
    return row


def _parsed(data: bytes, *, where: str) -> ShardRow:
    value = unseal(data, where=where)
    if value.get("format_version") != FORMAT_VERSION:
        raise CacheError(
            f"{where}: format version {value.get('format_version')!r:.20}, this pass2d reads "
            f"{FORMAT_VERSION}. Another pass2d wrote it: prepare again into a new `cache_root`."
        )
    row = from_json(ShardRow, value.get("row"), where=where)
    for wrong in _faults(row):
        raise CacheError(f"{where}: {wrong[:200]}. Run `repair`.")
    return row


def _faults(row: ShardRow) -> Iterator[str]:
    """What is impossible in a record with a valid checksum: first names that lead elsewhere."""
    header = row.header
    if header.container not in CONTAINERS or not 0 <= row.shard < MOST_SHARDS:
        yield f"found shard {row.shard!s:.20} of {header.container[:40]!r}"
    if HASH.fullmatch(header.key) is None:
        yield f"found the key {header.key[:40]!r}, expected 32 hex digits"
    if not isinstance(header.parameters, dict) or not isinstance(header.inputs, dict):
        yield "parameters and inputs must be objects"
    names = [file.name for file in row.files]
    for name in names:
        if MEMBER.fullmatch(name) is None:
            yield f"found the name {name[:60]!r}, expected a file of a shard such as xyz/c/0/0/0"
    if len(set(names)) < len(names):
        yield "a file occurs twice"
    if any(HASH.fullmatch(file.xxh3) is None or not _fits(file.nbytes) for file in row.files):
        yield "a file without a size or hash"
    scans = len(row.entries.scan_ids())
    for stored in row.fields:
        refs = [ref for chunks in stored.chunks for ref in chunks]
        if len(stored.chunks) != scans:
            yield f"{stored.name[:40]}: chunks of {len(stored.chunks)} scans, there are {scans}"
        if not all(map(_is_place, refs)) or not all(map(_fits, stored.chunk)):
            yield f"{stored.name[:40]}: a chunk where no file has one"


def _fits(number: int) -> bool:
    return 0 <= number < 2**62


def _is_place(ref: ChunkRef) -> bool:
    return ref == ABSENT or (_fits(ref.offset) and 20 <= ref.length < 2**31 and ref.crc < 2**32)


def commit_row(layout: Layout, row: ShardRow) -> None:
    """Publish a commit record: the shard now counts as complete."""
    path = layout.row(row.header.container, row.shard, row.header.key)
    require_no_link(path.parent.parent, path.parent)
    data = encode_row(row)
    replace_file(path, data, scratch=layout.scratch)
    _RECENT.keep(data, _as_parsed(row))


def _as_parsed(row: ShardRow) -> ShardRow:
    """The row as `decode_row` gives it: JSON has no tuples."""
    header = replace(
        row.header,
        parameters=to_json(row.header.parameters),
        inputs=to_json(row.header.inputs),
    )
    return replace(row, header=header, encodings=to_json(row.encodings))


def load_row(layout: Layout, container: str, shard: int, key: str) -> ShardRow | None:
    """Read a commit record; None if there is none.

    Raises:
        CacheError: damaged, or of another format version.
    """
    path = layout.row(container, shard, key)
    try:
        data = read_file(path)
    except FileNotFoundError:
        return None
    row = decode_row(data, where=str(path))
    if row.header.key != key or row.header.container != container or row.shard != shard:
        raise CacheError(f"{path}: describes another shard. Run `repair`.")
    return row
