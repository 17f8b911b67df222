"""Settings of the C library for freed large blocks of memory."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""
_LARGEST_BLOCK = 1 << 30
_MOST_KEPT = (1 << 31) - 1


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let this process reuse freed blocks of up to 1 GiB instead of returning each of them.

    glibc maps every block above 32 MiB again, and the kernel clears each of its pages on first
    access: 8 % of the CPU time of a network whose features are such blocks. The process keeps its
    peak memory, up to 2 GiB. Does nothing with another C library, or where the environment sets
    MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_.

    Returns:
        Whether the setting was made.
    """
    is_set = any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("MMAP", "TRIM"))
    if is_set or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
    )
