"""Selection of a cache's scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError


def labelled_positions(
    reader: CacheReader, split: str, *, sequences: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], int]:
    """(P,) positions of the labelled scans of a split, and the number of its other scans.

    Raises:
        ConfigError: none is labelled.
    """
    selected = reader.select(split=split, sequences=sequences)
    labelled = selected[reader.scans.has_label[selected]]
    if not len(labelled):
        found = sorted(set(reader.scans.split[reader.scans.has_label].tolist()))
        of = "" if sequences is None else f" of the sequences {', '.join(sequences)}"
        raise ConfigError(
            f"{reader.root}: split {split!r} has {len(selected)} scans{of}, none with labels; "
            f"splits with labels: {', '.join(found) or 'none'}. Choose one by `split`, or "
            "prepare it."
        )
    return labelled, len(selected) - len(labelled)


def evenly_spaced(n: int, limit: int | None) -> NDArray[np.int64]:
    """(P,) at most ``limit`` of n positions, evenly spaced; all without a limit.

    Raises:
        ConfigError: the limit is below 1.
    """
    if limit is None or limit >= n:
        return np.arange(n)
    if limit < 1:
        raise ConfigError(f"limit must be at least 1 scan, got {limit}")
    return np.linspace(0, n - 1, limit).round().astype(np.int64)
