"""Generations: immutable manifests, written only by the driver; `CURRENT` names the one to read."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pass2d.cache.check_manifest import check_info, check_tables
from pass2d.cache.fields import CONTAINERS, FIELDS, container_fields
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import GENERATION, HASH, HASHES_FILE, SCANS_FILE, SHARDS_FILE, Layout
from pass2d.cache.schema import FORMAT_VERSION, DatasetInfo
from pass2d.cache.tables import SHARD_SCHEMA, Tables, with_chunk_columns
from pass2d.common.errors import CacheError
from pass2d.common.files import (
    INCOMING,
    attempt_folder,
    lock_file,
    read_failure,
    read_file,
    read_whole,
    replace_file,
    require_no_link,
    sync,
    sync_tree,
    try_lock,
    write_file,
    writing,
)
from pass2d.common.json import dumps, from_json, loads, seal, to_json, unseal

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
            "container": spec.container,
            "dtypes": spec.dtypes,
            "rows": spec.rows,
            "is_per_camera": spec.is_per_camera,
        }
        for spec in FIELDS.values()
    }
    containers = {
        container: {
            "fields": [spec.name for spec in container_fields(container)],
            "inputs": [] if container == "lidar" else ["lidar"],
        }
        for container in CONTAINERS
    }
    return dumps(
        {"format_version": FORMAT_VERSION, "info": info, "fields": fields, "stages": containers}
    )


def parse_dataset(data: bytes, *, where: str) -> DatasetInfo:
    """Read dataset.json (or the generation's copy of it).

    Raises:
        CacheError: damaged, or of an older or newer format version.
    """
    value = loads(data, where=where)
    version = value.get("format_version") if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise CacheError(
            f"{where}: no format_version, so it is not a cache of pass2d, or it is damaged. "
            "Give `cache_root` a folder that `prepare` made."
        )
    if version > FORMAT_VERSION:
        raise CacheError(
            f"{where}: format version {version!s:.20}, this pass2d reads {FORMAT_VERSION}. "
            "A newer pass2d wrote it: upgrade, or prepare into another `cache_root`."
        )
    if version < FORMAT_VERSION:
        raise CacheError(
            f"{where}: format version {version!s:.20}, this pass2d reads {FORMAT_VERSION}. "
            "An older pass2d wrote it: prepare again into a new `cache_root`."
        )
    info = from_json(DatasetInfo, value.get("info"), where=where)
    check_info(info, where=where, remedy=". Run `repair`, or prepare again.")
    return info


def write_dataset_file(layout: Layout, info: DatasetInfo) -> None:
    """Write dataset.json if it is missing or differs."""
    data = describe_dataset(info)
    path = layout.dataset_file
    if path.is_file():
        found = read_file(path)
        parse_dataset(found, where=str(path))
        if found == data:
            return
    replace_file(path, data, scratch=layout.scratch)


def require_version(layout: Layout) -> None:
    """Refuse a data set of another format version before its files are used.

    Raises:
        CacheError: dataset.json is of another version, or damaged; a missing one is accepted.
    """
    try:
        data = read_file(layout.dataset_file)
    except FileNotFoundError:
        return
    parse_dataset(data, where=str(layout.dataset_file))


def parse_current(data: bytes, *, where: str) -> int:
    """The number in CURRENT, which holds "gen-000007", a line end and nothing else.

    Raises:
        CacheError: it holds something else.
    """
    text = data.decode("utf-8", errors="replace")
    match = GENERATION.fullmatch(text.removesuffix("\n"))
    if match is None:
        raise CacheError(
            f"{where}: found {text[:40]!r}, expected the name of a generation such "
            "as gen-000001. The file is damaged: run `repair`."
        )
    return int(match[1])


def current_number(layout: Layout) -> int | None:
    """Number of the current generation; None before the first one.

    Raises:
        CacheError: CURRENT cannot be read, or holds something else than a generation's name.
    """
    try:
        data = read_file(layout.current_file)
    except FileNotFoundError:
        return None
    return parse_current(data, where=str(layout.current_file))


def generation_numbers(layout: Layout) -> list[int]:
    """All generations on disk, ascending."""
    if not layout.manifest.is_dir():
        return []
    matches = (GENERATION.fullmatch(path.name) for path in layout.manifest.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def load_manifest(layout: Layout, number: int | None = None) -> Manifest:
    """Load a generation, the current one by default.

    Its tables are compared with their hashes, then with each other.

    Raises:
        CacheError: there is none, it is damaged, or it contradicts itself.
    """
    if number is None:
        number = current_number(layout)
    if number is None:
        raise CacheError(
            f"{layout.root}: no finished generation (the file CURRENT is missing). "
            "`prepare` did not finish: run it again to continue."
        )
    folder = layout.generation(number)
    hashes = _hashes(folder)
    scans = _load_table(folder / SCANS_FILE, hashes.get(SCANS_FILE))
    shards = _load_table(folder / SHARDS_FILE, hashes.get(SHARDS_FILE))
    metadata = (scans.schema.metadata or {}).get(_METADATA)
    if metadata is None:
        raise CacheError(f"{folder / SCANS_FILE}: no description. Run `repair`.")
    info = parse_dataset(metadata, where=str(folder / SCANS_FILE))
    try:
        # Parquet renames the items of lists: back to the names that `build_tables` gives.
        tables = Tables(
            scans=with_chunk_columns(scans, n_cameras=info.n_cameras),
            shards=shards.select(SHARD_SCHEMA.names).cast(SHARD_SCHEMA),
        )
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise CacheError(
            f"{folder}: unexpected columns ({_first_line(error)}). Run `repair`."
        ) from error
    check_tables(tables, info, where=str(folder))
    return Manifest(number=number, info=info, tables=tables)


def parse_hashes(data: bytes, *, where: str) -> dict[str, str]:
    """The hashes of a generation's two tables, by the names of their files.

    Raises:
        CacheError: a byte differs, or it names other files.
    """
    files: Any = unseal(data, where=where).get("files")
    is_sound = isinstance(files, dict) and files.keys() == {SCANS_FILE, SHARDS_FILE}
    if not is_sound or not all(isinstance(h, str) and HASH.fullmatch(h) for h in files.values()):
        raise CacheError(
            f"{where}: expected the hashes of {SCANS_FILE} and {SHARDS_FILE} and nothing else. "
            "Run `repair`."
        )
    return dict(files)


def _hashes(folder: Path) -> dict[str, str]:
    """The expected hashes of the tables; empty without hashes.json, which `verify` reports."""
    path = folder / HASHES_FILE
    try:
        return parse_hashes(read_file(path), where=str(path))
    except FileNotFoundError:
        return {}


def _load_table(path: Path, xxh3: str | None) -> pa.Table:
    try:
        file = _arrow_file(path, xxh3)
        rows = pq.read_metadata(file).num_rows
        if rows > _MOST_ROWS:
            raise CacheError(f"{path}: {rows:,} rows, expected at most {_MOST_ROWS:,}.")
        file.seek(0)
        return pq.read_table(file, memory_map=False, partitioning=None)
    except FileNotFoundError as error:
        raise CacheError(f"{path}: missing, although CURRENT names it. Run `repair`.") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, PermissionError):
            raise read_failure(path, error) from error
        raise CacheError(f"{path}: damaged ({_first_line(error)}). Run `repair`.") from error


_MOST_ROWS = 10_000_000


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _arrow_file(path: Path, xxh3: str | None) -> pa.BufferReader:
    """A file's bytes in Arrow's own memory, if they have this hash.

    Arrow takes no path whose bytes are not UTF-8. And its threads keep the buffers that they read
    from for a while: releasing a Python object during interpreter shutdown aborts the process.
    """
    data = read_whole(path)
    if xxh3 is not None and hash_bytes(data) != xxh3:
        raise CacheError(f"{path}: {len(data)} bytes with a wrong checksum (xxh3). Run `repair`.")
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
    """Write the next generation and replace CURRENT; does nothing if nothing has changed.

    The caller holds `publishing`.

    Returns:
        The number of the current generation.
    """
    require_no_link(layout.manifest)
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
            number, incoming = _claim(layout, attempt)
            sync(layout.manifest)
        incoming.replace(layout.current_file)
        sync(layout.root)
        for old in incoming_files(layout):  # of a run that was killed
            old.unlink(missing_ok=True)
    return number


def incoming_files(layout: Layout) -> list[Path]:
    """Files that a run was about to rename to CURRENT, or that killed runs left."""
    return sorted(layout.scratch.glob(f"{INCOMING}*"))


def require_newest(layout: Layout) -> None:
    """Refuse a CURRENT that names an older generation than before: a flipped bit can do that.

    A generation that CURRENT has not named yet, because its run is publishing it or was killed,
    still has its CURRENT in `.tmp`.

    Raises:
        CacheError: there is a newer generation, or CURRENT names none.
    """
    while (current := current_number(layout)) is not None:
        newest = max(generation_numbers(layout), default=0)
        if newest <= current or any(_names(path, newest) for path in incoming_files(layout)):
            return
        if current_number(layout) == current:  # else a run has replaced it meanwhile
            raise CacheError(
                f"{layout.current_file}: names gen-{current:06d}, but there is gen-{newest:06d}. "
                "The file is damaged, or somebody changed it: run `repair`."
            )


def _names(path: Path, number: int) -> bool:
    try:
        return parse_current(read_file(path), where=str(path)) >= number
    except (CacheError, FileNotFoundError):
        return False


def set_current(layout: Layout, number: int) -> None:
    """Replace CURRENT."""
    name = layout.generation(number).name
    replace_file(layout.current_file, f"{name}\n".encode(), scratch=layout.scratch)


def _same_generation(folder: Path, files: dict[str, bytes]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return all(read_whole(folder / name) == data for name, data in files.items())
    return False


def _claim(layout: Layout, attempt: Path) -> tuple[int, Path]:
    """Put a generation in place; its number, and the file that says so and becomes CURRENT."""
    number = max([0, *generation_numbers(layout)]) + 1
    while True:
        incoming = layout.scratch / f"{INCOMING}{uuid.uuid4().hex}"
        try:
            write_file(incoming, [f"{layout.generation(number).name}\n".encode()])
            sync(incoming)
            attempt.rename(layout.generation(number))
        except OSError as error:
            with contextlib.suppress(OSError):
                incoming.unlink(missing_ok=True)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1
        else:
            return number, incoming


@contextlib.contextmanager
def publishing(layout: Layout) -> Iterator[None]:
    """Hold the lock that lets one driver at a time read the last generation and write the next."""
    with lock_file(layout.scratch / "publish.lock", exclusive=True, wait=True):
        yield


def open_generation(layout: Layout, number: int) -> int:
    """A descriptor that keeps `gc` from removing what a reader uses, while it is open."""
    fd = os.open(layout.generation(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try_lock(fd, exclusive=False)
    return fd
