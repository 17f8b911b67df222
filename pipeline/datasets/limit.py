"""A few scans of a listing, for a first try."""

from __future__ import annotations

from collections.abc import Iterable

from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import DataError
from pass2d.pipeline.source import ScanSource


def require_splits(splits: Iterable[str]) -> None:
    """Refuse what is not the name of a split.

    Raises:
        DataError: names the first one and all that there are.
    """
    if unknown := [split for split in splits if split not in SPLITS]:
        raise DataError(f"unknown split {unknown[0]!r}; choose from {', '.join(SPLITS)}.")


def first_of_each_split(scans: list[ScanSource], limit: int | None) -> list[ScanSource]:
    """Take the first scans of each split in equal shares; a shortfall goes to the next split.

    Args:
        scans: of all splits.
        limit: at most so many in all; None takes all.

    Raises:
        DataError: ``limit`` is below 1.
    """
    if limit is None or len(scans) <= limit:
        return scans
    if limit < 1:
        raise DataError(f"limit {limit}: must be at least 1. Leave it out to take all scans.")
    sizes = {split: sum(scan.split == split for scan in scans) for split in SPLITS}
    shares = dict.fromkeys(SPLITS, 0)
    while sum(shares.values()) < limit:
        open_splits = [split for split in SPLITS if shares[split] < sizes[split]]
        for split in open_splits[: limit - sum(shares.values())]:
            shares[split] += 1
    kept = []
    for scan in scans:
        if shares[scan.split]:
            shares[scan.split] -= 1
            kept.append(scan)
    return kept
