"""Which profile suits this machine, from decoding times and the disk's speed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.codec import CRC_BYTES, crc32c, decode_into
from pass2d.cache.fields import FIELDS, PROFILES, STRIP_COLUMNS, Fields, FieldSpec
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord

_ROUNDS = 3
_MOST_SCANS = 8
_MOST_BYTES = 256 << 20
_BLOCK = 4 << 20


@dataclass(frozen=True, kw_only=True)
class ProfileCost:
    """What reading a scan would take if the cache had this profile."""

    profile: str
    """Of `PROFILES`."""
    cpu_ms: float
    """Checksums and decompression, the arrays lying in memory."""
    stored_bytes: float
    """Per scan."""


@dataclass(frozen=True, kw_only=True)
class ProfileAdvice:
    """Which profile reads fastest here."""

    costs: tuple[ProfileCost, ...]
    disk_bytes_per_s: float
    """Of the cache's own files, after asking the system to drop them from its page cache."""
    best: str
    """Of `PROFILES`."""


def advise(reader: CacheReader, positions: Sequence[int], fields: Fields) -> ProfileAdvice:
    """Store some scans of a local cache in memory in each profile, and read them.

    Args:
        reader: Of a folder.
        positions: Scans, of which a few are taken.
        fields: What is read of each.
    """
    records = [reader.read(position, fields) for position in positions[:_MOST_SCANS]]
    costs = tuple(_cost(records, fields, profile) for profile in PROFILES)
    disk = disk_rate(_files(reader))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    best = best_profile(costs, n_scans=len(reader.scans), disk=disk, memory=memory)
    return ProfileAdvice(costs=costs, disk_bytes_per_s=disk, best=best)


def best_profile(costs: Sequence[ProfileCost], *, n_scans: int, disk: float, memory: float) -> str:
    """The profile whose scans are read fastest.

    Args:
        costs: Of the profiles.
        n_scans: Of the data set. What takes at most half of the memory is read from the disk once.
        disk: Bytes per second.
        memory: Bytes.
    """

    def spent_ms(cost: ProfileCost) -> float:
        stays = cost.stored_bytes * n_scans <= memory / 2
        return cost.cpu_ms + (0.0 if stays else 1e3 * cost.stored_bytes / disk)

    return min(costs, key=spent_ms).profile


def _files(reader: CacheReader) -> list[Path]:
    """The files that hold the scans' chunks, which `cache gc` leaves while they are read."""
    firsts = np.unique(reader.scans.shard, return_index=True)[1].tolist()
    chunks = (
        chunk
        for place in firsts
        for field in FIELDS
        for chunk in reader.stored_chunks(place, field)
    )
    return sorted({Path(chunk.array.path) for chunk in chunks})


def disk_rate(paths: Sequence[Path]) -> float:
    """Bytes per second of files dropped from the page cache before, over at most 256 MiB."""
    done, spent = 0, 1e-9
    for path in paths:
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while block := file.read(_BLOCK):
                done += len(block)
            spent += time.perf_counter() - started
        if done >= _MOST_BYTES:
            break
    return max(done, 1) / spent


def _cost(records: Sequence[ScanRecord], fields: Fields, profile: str) -> ProfileCost:
    asked = [spec for spec in FIELDS.values() if fields.asks_for(spec)]
    chunks = [
        (np.frombuffer(spec.codec(profile).encode(chunk), np.uint8), np.empty_like(chunk))
        for record in records
        for spec in asked
        for chunk in _chunks(record, spec)
    ]
    spent = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for data, out in chunks:
            packed = data[:-CRC_BYTES]
            crc32c(packed)
            decode_into(packed, out)
        spent.append(time.process_time() - started)
    return ProfileCost(
        profile=profile,
        cpu_ms=1e3 * min(spent) / len(records),
        stored_bytes=sum(data.nbytes for data, _ in chunks) / len(records),
    )


def _chunks(record: ScanRecord, spec: FieldSpec) -> Iterator[NDArray[np.generic]]:
    """What is stored of a field, in pieces."""
    for holder in record.cameras if spec.is_per_camera else (record,):
        values = getattr(holder, spec.attribute, None) if spec.attribute else None
        if values is None or not values.size:
            continue
        if spec.length != "picture":
            yield np.ascontiguousarray(values)
            continue
        for start in range(0, values.shape[1], STRIP_COLUMNS):
            yield np.ascontiguousarray(values[:, start : start + STRIP_COLUMNS])
