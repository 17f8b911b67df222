"""Processor cores, and how many processes may share them."""

from __future__ import annotations

import os

from pass2d.common.errors import ConfigError
from pass2d.common.text import counted

_PER_CORE, _ALWAYS = 4, 16
"""Processes that a core, and that any machine, is trusted with."""


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


def require_few(count: int, option: str, *, cores: int | None = None) -> None:
    """Refuse a number of processes that would only exhaust the machine's memory.

    Args:
        count: Of processes.
        option: Which sets it, for the message.
        cores: Of the machine; asked of the system when None.

    Raises:
        ConfigError: There are more than 4 per core, and more than 16.
    """
    cores = usable_cores() if cores is None else cores
    most = max(_ALWAYS, _PER_CORE * cores)
    if count > most:
        raise ConfigError(
            f"`{option}={count}`: at most {most} processes are started on {counted(cores, 'core')}"
        )
