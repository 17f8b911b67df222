"""When a scan was taken, from files beside it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from pass2d.common.files import read_whole

_MICROSECONDS = re.compile(r"__LIDAR_TOP__(\d{16})\.")


def scan_time_s(points: Path | None, frame_index: int) -> float | None:
    """Seconds of the sequence's clock.

    Args:
        points: The raw file: nuScenes has the time in its name, SemanticKITTI in ``times.txt``.
        frame_index: Line of times.txt.

    Returns:
        None when neither says it.
    """
    if points is None:
        return None
    if match := _MICROSECONDS.search(points.name):
        return int(match[1]) / 1e6
    times = _times(points.parent.parent / "times.txt")
    return times[frame_index] if 0 <= frame_index < len(times) else None


@functools.lru_cache(maxsize=32)
def _times(path: Path) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in read_whole(path).split())
    except (OSError, ValueError):
        return ()
