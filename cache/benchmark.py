"""How fast this cache reads on this machine: `pass2d cache bench`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.progress import Progress
from cache.reader import CacheReader, Fields

WAYS: dict[str, Fields] = {
    "points": Fields(label=False),
    "training": Fields(label=True, image=True, pixels=True),
    "all": Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True),
}
"""What is read of each scan."""


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


def measure_reader(
    cache_root: Path | str,
    *,
    dataset: str | None,
    scans: int,
    rounds: int,
    progress: Progress,
) -> tuple[ReadTime, ...]:
    """Read scans spread over the data set, ways in turn, with and without checksums.

    Args:
        cache_root: what `pass2d prepare` wrote.
        dataset: which data set, if the cache holds several.
        scans: at most so many.
        rounds: how often each is read; at least 2.
        progress: is told of every round.
    """
    progress.start("reading", total=rounds, unit="rounds")
    times: dict[tuple[str, bool], list[NDArray[np.float64]]] = {}
    with (
        CacheReader.open(cache_root, dataset=dataset) as checked,
        CacheReader.open(cache_root, dataset=dataset, check=False) as unchecked,
    ):
        every = max(1, len(checked.scans) // scans)
        positions = range(0, len(checked.scans), every)[:scans]
        for _ in range(max(2, rounds)):
            for name, fields in WAYS.items():
                for reader in (checked, unchecked):
                    spent = _read_ms(reader, positions, fields)
                    times.setdefault((name, reader is checked), []).append(spent)
            progress.advance()
    return tuple(
        ReadTime(
            fields=name,
            is_checked=is_checked,
            first_ms=float(np.median(spent[0])),
            warm_ms=float(np.median(spent[1:])),
            scans_per_s=1e3 / float(np.median(spent[1:])),
        )
        for (name, is_checked), spent in times.items()
    )


def _read_ms(reader: CacheReader, positions: Sequence[int], fields: Fields) -> NDArray[np.float64]:
    spent = []
    for position in positions:
        started = time.perf_counter()
        reader.read(position, fields)
        spent.append(1e3 * (time.perf_counter() - started))
    return np.array(spent)
