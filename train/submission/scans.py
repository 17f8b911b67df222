"""The scans of a submission, and whether they are all that the server expects."""

from __future__ import annotations

from collections import Counter

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.text import and_so_on
from pass2d.train.submission.benchmark import Benchmark
from pass2d.train.submission.sources import check_sources


class SubmittedScans:
    """The scans of the split: rows of the table, names in the zip, points."""

    def __init__(self, reader: CacheReader, benchmark: Benchmark, split: str) -> None:
        table = reader.scans
        self.positions = reader.select(split=split).tolist()
        if not self.positions:
            found = ", ".join(sorted(set(table.split.tolist()))) or "none"
            raise ConfigError(
                f"{reader.root}: no scan of split {split!r}; prepared are: {found}. "
                "Prepare it, or choose another `split`."
            )
        self.sequences = [str(table.sequence[p]) for p in self.positions]
        self.server_split = benchmark.server_split(split, self.sequences)
        self.names = benchmark.entry_names(reader, self.positions, split=self.server_split)


def require_complete(
    reader: CacheReader,
    scans: SubmittedScans,
    benchmark: Benchmark,
    *,
    split: str,
    allow_partial: bool,
) -> tuple[tuple[str, ...], bool]:
    """Compare with the raw files and the official lists.

    Returns:
        Notes, and whether all official scans are there.

    Raises:
        DataError: scans are missing and ``allow_partial`` is not set.
    """
    checked = check_sources(reader, scans.positions)
    lacks = list(checked.problems)
    missing = benchmark.missing_sequences(scans.server_split, scans.sequences)
    if missing:
        lacks.append(
            f"{len(missing)} of the official sequences are not prepared: {and_so_on(missing, 6)}"
        )
    official = set(benchmark.splits.get(scans.server_split, ()))
    foreign = sorted(set(scans.sequences) - official) if benchmark.splits else ()
    if foreign:
        lacks.append(f"not in the official split: {', '.join(foreign[:6])}")
    for sequence, count in sorted(Counter(scans.sequences).items()):
        wanted = benchmark.scan_counts.get(sequence)
        if wanted is not None and wanted != count and sequence in official:
            lacks.append(f"sequence {sequence}: {count} scans, officially {wanted}")
    refused = ", the server would refuse it" if benchmark.splits else ""
    if lacks and not allow_partial:
        raise DataError(
            f"{reader.root}: split {split} is not complete{refused}: "
            f"{'; '.join(lacks[:8])}{f'; and {len(lacks) - 8} more' if len(lacks) > 8 else ''}. "
            "Prepare what is missing, or set `allow_partial` for a trial zip."
        )
    said = [f"not complete{refused.replace('would', 'will')}: {lack}" for lack in lacks]
    return (*checked.notes, *said), not lacks


def own_points(reader: CacheReader, position: int) -> int:
    """Points of a scan's own raw file; added sweeps not counted."""
    if reader.info.sweeps == 0:
        return int(reader.scans.n_raw[position])
    record = reader.read(position, Fields(label=False, outside=True))
    return record.raw().n_own


def expected_points(reader: CacheReader, benchmark: Benchmark, *, split: str) -> dict[str, int]:
    """Points of every prediction file of a split, by its name in the zip."""
    scans = SubmittedScans(reader, benchmark, split)
    return {
        name: own_points(reader, position)
        for name, position in zip(scans.names, scans.positions, strict=True)
    }
