"""Generations: immutable manifests, made by the driver alone; `CURRENT` names the one to read."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from cache.errors import CacheError
from cache.fields import FIELDS, STAGES, stage_fields
from cache.files import (
    attempt_folder,
    lock_file,
    read_whole,
    replace_file,
    sync,
    sync_tree,
    try_lock,
    write_file,
    writing,
)
from cache.jsonio import dumps, from_json, loads, seal, to_json
from cache.keys import hash_bytes
from cache.layout import GENERATION, Layout
from cache.schema import FORMAT_VERSION, DatasetInfo
from cache.tables import SHARD_SCHEMA, Tables, with_chunk_columns

SCANS_FILE, SHARDS_FILE, HASHES_FILE = "scans.parquet", "shards.parquet", "hashes.json"
_METADATA = b"pass2d"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One generation, loaded."""

    number: int
    info: DatasetInfo
    tables: Tables


def describe_dataset(info: DatasetInfo) -> bytes:
    """The bytes of dataset.json."""
    info = from_json(DatasetInfo, to_json(info), where="description")  # 50 and 50.0 are the same
    fields = {
        spec.name: {
            "container": spec.stage,
            "dtypes": spec.dtypes,
            "rows": spec.rows,
            "is_per_camera": spec.is_per_camera,
        }
        for spec in FIELDS.values()
    }
    stages = {
        stage: {
            "fields": [spec.name for spec in stage_fields(stage)],
            "inputs": [] if stage == "lidar" else ["lidar"],
        }
        for stage in STAGES
    }
    return dumps(
        {"format_version": FORMAT_VERSION, "info": info, "fields": fields, "stages": stages}
    )


def parse_dataset(data: bytes, *, where: str) -> DatasetInfo:
    """Read dataset.json (or the generation's copy of it).

    Raises:
        CacheError: damaged, or of an older or newer format version.
    """
    value = loads(data, where=where)
    version = value.get("format_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise CacheError(
            f"{where}: no format_version, so this is not a pass2d cache, or a damaged one. "
            "Give --cache a folder that `pass2d prepare` made."
        )
    if version > FORMAT_VERSION:
        raise CacheError(
            f"{where}: format version {version}, this pass2d reads {FORMAT_VERSION}. "
            "A newer pass2d wrote it: upgrade, or prepare into another --cache."
        )
    if version < FORMAT_VERSION:
        raise CacheError(
            f"{where}: format version {version}, this pass2d reads {FORMAT_VERSION}. "
            "An older pass2d wrote it: prepare again into a new --cache."
        )
    return from_json(DatasetInfo, value.get("info"), where=where)


def write_dataset_file(layout: Layout, info: DatasetInfo) -> None:
    """Put dataset.json in place when it is missing or says something else."""
    data = describe_dataset(info)
    path = layout.dataset_file
    if path.is_file():
        found = read_whole(path)
        parse_dataset(found, where=str(path))
        if found == data:
            return
    replace_file(path, data, scratch=layout.scratch)


def require_version(layout: Layout) -> None:
    """Refuse a data set of another format version before anything is concluded from its files.

    Raises:
        CacheError: dataset.json is of another version, or damaged. A missing one says nothing.
    """
    try:
        data = read_whole(layout.dataset_file)
    except FileNotFoundError:
        return
    parse_dataset(data, where=str(layout.dataset_file))


def current_number(layout: Layout) -> int | None:
    """Number of the current generation; None before the first one.

    Raises:
        CacheError: CURRENT holds something else than a generation's name.
    """
    try:
        text = read_whole(layout.current_file).decode(errors="replace")
    except FileNotFoundError:
        return None
    match = GENERATION.fullmatch(text.strip())
    if match is None:
        raise CacheError(
            f"{layout.current_file}: found {text[:40]!r}, expected the name of a generation such "
            "as gen-000001. The file is damaged: run `pass2d cache repair`."
        )
    return int(match[1])


def generation_numbers(layout: Layout) -> list[int]:
    """All generations on disk, ascending."""
    if not layout.manifest.is_dir():
        return []
    matches = (GENERATION.fullmatch(path.name) for path in layout.manifest.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def load_manifest(layout: Layout, number: int | None = None) -> Manifest:
    """Load a generation, the current one by default.

    Raises:
        CacheError: there is none, or it is damaged.
    """
    if number is None:
        number = current_number(layout)
    if number is None:
        raise CacheError(
            f"{layout.root}: no finished generation (the file CURRENT is missing). "
            "`pass2d prepare` has not ended yet: run it again, it goes on where it stopped."
        )
    folder = layout.generation(number)
    scans = _load_table(folder / SCANS_FILE)
    shards = _load_table(folder / SHARDS_FILE)
    metadata = (scans.schema.metadata or {}).get(_METADATA)
    if metadata is None:
        raise CacheError(f"{folder / SCANS_FILE}: no description. Run `pass2d cache repair`.")
    info = parse_dataset(metadata, where=str(folder / SCANS_FILE))
    try:
        # Parquet renames the items of lists: back to the names that `build_tables` gives.
        tables = Tables(
            scans=with_chunk_columns(scans, n_cameras=info.n_cameras),
            shards=shards.cast(SHARD_SCHEMA),
        )
    except (pa.ArrowException, ValueError) as error:
        raise CacheError(
            f"{folder}: other columns than expected ({str(error).splitlines()[0]}). "
            "Run `pass2d cache repair`."
        ) from error
    return Manifest(number=number, info=info, tables=tables)


def _load_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(_arrow_file(path), memory_map=False, partitioning=None)
    except FileNotFoundError as error:
        raise CacheError(
            f"{path}: missing, although CURRENT names it. Run `pass2d cache repair`."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise CacheError(
            f"{path}: damaged ({str(error).splitlines()[0]}). Run `pass2d cache repair`."
        ) from error


def _arrow_file(path: Path) -> pa.BufferReader:
    """A file's bytes in Arrow's own memory.

    Arrow takes no path whose bytes are not UTF-8. And its threads keep what they read from for a
    while: letting go of a Python object while Python ends aborts the process.
    """
    data = read_whole(path)
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def encode_tables(info: DatasetInfo, tables: Tables) -> dict[str, bytes]:
    """The files of a generation by name, reproducible."""
    scans = tables.scans.replace_schema_metadata({_METADATA: describe_dataset(info)})
    files = {
        SCANS_FILE: _parquet(scans),
        SHARDS_FILE: _parquet(tables.shards.replace_schema_metadata(None)),
    }
    hashes = {name: hash_bytes(data) for name, data in files.items()}
    return {**files, HASHES_FILE: seal({"format_version": FORMAT_VERSION, "files": hashes})}


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def publish_generation(layout: Layout, info: DatasetInfo, tables: Tables) -> int:
    """Make the next generation and swap CURRENT; nothing happens when nothing differs.

    The caller holds `publishing`.

    Returns:
        The number of the current generation.
    """
    write_dataset_file(layout, info)
    files = encode_tables(info, tables)
    current = current_number(layout)
    if current is not None and _same_generation(layout.generation(current), files):
        return current
    with writing(layout.manifest):
        layout.manifest.mkdir(parents=True, exist_ok=True)
        with attempt_folder(layout.scratch, "generation") as attempt:
            for name, data in files.items():
                write_file(attempt / name, [data])
            sync_tree(attempt)
            number = _claim(layout, attempt)
            sync(layout.manifest)
    set_current(layout, number)
    return number


def set_current(layout: Layout, number: int) -> None:
    """Swap CURRENT."""
    name = layout.generation(number).name
    replace_file(layout.current_file, f"{name}\n".encode(), scratch=layout.scratch)


def _same_generation(folder: Path, files: dict[str, bytes]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return all(read_whole(folder / name) == data for name, data in files.items())
    return False


def _claim(layout: Layout, attempt: Path) -> int:
    number = max([0, *generation_numbers(layout)]) + 1
    while True:
        try:
            attempt.rename(layout.generation(number))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1
        else:
            return number


@contextlib.contextmanager
def publishing(layout: Layout) -> Iterator[None]:
    """Only one driver at a time reads the last generation and makes the next."""
    with lock_file(layout.scratch / "publish.lock", exclusive=True, wait=True):
        yield


def open_generation(layout: Layout, number: int) -> int:
    """A descriptor that keeps `gc` from removing what a reader uses, while it is open."""
    fd = os.open(layout.generation(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try_lock(fd, exclusive=False)
    return fd
