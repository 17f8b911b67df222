"""The time that a piece of work takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def spent_ms(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds of one call, of CPU unless another clock is given."""
    begin = clock()
    work()
    return 1e3 * (clock() - begin)


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median CPU milliseconds of so many calls, after one that does not count."""
    work()
    return statistics.median(spent_ms(work) for _ in range(repeats))
