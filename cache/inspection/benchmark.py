"""How fast this cache can be read on this machine: `pass2d cache bench`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.fields import FIELDS, Fields
from pass2d.cache.inspection.profiles import ProfileAdvice, advise
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.common.errors import CacheError
from pass2d.common.progress import Progress

WAYS: dict[str, Fields] = {
    "points": Fields(label=False),
    "training": Fields(label=True, image=True, pixels=True),
    "all": Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True),
}
"""What is read of each scan."""
_PASSES = 5
THREADS = (1, 2, 3)
"""Reading threads that training may have."""


@dataclass(frozen=True, kw_only=True)
class ReadTime:
    """One way of reading, over all chosen scans."""

    fields: str
    """Key of `WAYS`."""
    is_checked: bool
    """Whether checksums were compared."""
    first_ms: float
    """Median per scan of the first round; from the disk, unless the system has the files cached."""
    warm_ms: float
    """Median per scan of the later rounds."""
    scans_per_s: float
    """From `warm_ms`, one thread."""
    stored_bytes: float
    """Compressed bytes per scan, mean."""


@dataclass(frozen=True, kw_only=True)
class ThreadRate:
    """Scans per second that several threads read together: the upper limit for training."""

    threads: int
    scans_per_s: float
    """Training fields, checksums compared, warm; wall time."""


@dataclass(frozen=True, kw_only=True)
class ReaderReport:
    """How fast a cache reads here."""

    ways: tuple[ReadTime, ...]
    threads: tuple[ThreadRate, ...]
    advice: ProfileAdvice | None
    """Which profile suits this machine; None for a cache at a URL."""


def measure_reader(
    cache_root: Path | str,
    *,
    dataset: str | None,
    scans: int,
    rounds: int,
    progress: Progress,
) -> ReaderReport:
    """Read scans spread over the data set, ways in turn, with and (of a folder) without checksums.

    As in training, arrays are decoded into reused memory.

    Args:
        cache_root: what `prepare` wrote.
        dataset: which data set, if the cache holds several.
        scans: at most so many.
        rounds: how often each is read; at least 2.
        progress: receives every round.

    Raises:
        CacheError: it cannot be read, or holds no scan.
    """
    progress.start("reading", total=rounds, unit="rounds")
    times: dict[tuple[str, bool], list[NDArray[np.float64]]] = {}
    with (
        CacheReader.open(cache_root, dataset=dataset) as checked,
        CacheReader.open(cache_root, dataset=dataset, check=False) as unchecked,
    ):
        if not len(checked.scans):
            raise CacheError(f"{checked.root}: holds no scan, so nothing can be measured.")
        every = max(1, len(checked.scans) // scans)
        positions = range(0, len(checked.scans), every)[:scans]
        for _ in range(max(2, rounds)):
            for name, fields in WAYS.items():
                for reader in (checked,) if checked.is_remote else (checked, unchecked):
                    spent = _read_ms(reader, positions, fields)
                    times.setdefault((name, reader is checked), []).append(spent)
            progress.advance()
        stored = {name: _stored_bytes(checked, positions, name) for name in WAYS}
        threads = tuple(
            ThreadRate(threads=n, scans_per_s=_rate(checked, positions, threads=n)) for n in THREADS
        )
        advice = None if checked.is_remote else advise(checked, positions, WAYS["training"])
    ways = tuple(
        ReadTime(
            fields=name,
            is_checked=is_checked,
            first_ms=float(np.median(spent[0])),
            warm_ms=float(np.median(spent[1:])),
            scans_per_s=1e3 / float(np.median(spent[1:])),
            stored_bytes=stored[name],
        )
        for (name, is_checked), spent in times.items()
    )
    return ReaderReport(ways=ways, threads=threads, advice=advice)


def _read_ms(reader: CacheReader, positions: Sequence[int], fields: Fields) -> NDArray[np.float64]:
    spent, arena = [], Arena()
    for position in positions:
        started = time.perf_counter()
        arena.restart()
        reader.read(position, fields, allocate=arena)
        spent.append(1e3 * (time.perf_counter() - started))
    return np.array(spent)


def _stored_bytes(reader: CacheReader, positions: Sequence[int], way: str) -> float:
    rows = list(positions)
    asked = [name for name, spec in FIELDS.items() if WAYS[way].asks_for(spec)]
    total = sum(int(reader.chunk_lengths(name)[0][rows].sum()) for name in asked)
    return total / max(1, len(rows))


def _rate(reader: CacheReader, positions: Sequence[int], *, threads: int) -> float:
    """Scans per second of so many threads, each with its share of the scans."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        shares = [_PASSES * list(positions[first::threads]) for first in range(threads)]
        list(pool.map(lambda share: _read_ms(reader, share, WAYS["training"]), shares))
    return _PASSES * len(positions) / max(time.perf_counter() - started, 1e-9)
