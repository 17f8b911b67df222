"""What a user can change when the loop waits for data."""

from __future__ import annotations

import os

from pass2d.cache.reader import CacheReader
from pass2d.train.data.stream import StreamConfig

HIGH_WAIT_SHARE = 0.2
"""Above this share of time spent waiting for data the log says what to change."""
_ENOUGH_THREADS = 3
_ENOUGH_BATCHES = 4


def waiting_advice(
    wait_share: float, config: StreamConfig, reader: CacheReader, *, cores: int | None = None
) -> str:
    """One line that names what this run has not tried yet; "" below `HIGH_WAIT_SHARE`.

    Args:
        wait_share: 0..1 of the time since the last line of the log.
        config: of the stream that was waited for.
        reader: of the cache that it reads.
        cores: that this process may use; asked of the system when None.
    """
    if wait_share <= HIGH_WAIT_SHARE:
        return ""
    have = len(os.sched_getaffinity(0)) if cores is None else cores
    remedies = []
    if config.threads < _ENOUGH_THREADS:
        remedies.append(f"raise stream.threads (now {config.threads}) to {_ENOUGH_THREADS}")
    if config.prefetch < _ENOUGH_BATCHES:
        remedies.append(f"raise stream.prefetch (now {config.prefetch}) to {_ENOUGH_BATCHES}")
    if reader.profiles != ("speed",):
        remedies.append("prepare the cache with --profile speed")
    if reader.is_remote:
        remedies.append("copy the cache to a local disk")
    else:
        remedies.append("put the cache on a faster local disk")
    if have <= config.threads:
        remedies.append(f"give the process more than its {have} CPU cores")
    return f"{wait_share:.0%} of the time goes by waiting for data: {'; '.join(remedies)}"
