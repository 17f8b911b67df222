"""Waits for processes without keeping a core busy, which they may need themselves."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from pathlib import Path


def goes_on(process: subprocess.Popen) -> bool:
    """Whether a process still runs some moments later: between two looks at what it has done."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.02)
    return process.returncode is None


def has_written(folder: Path, suffix: str) -> bool:
    """Whether a process has put a file with this suffix somewhere below a folder.

    `Path.rglob` fails where it looks into a folder that the process takes away meanwhile.
    """
    return any(name.endswith(suffix) for _, _, names in os.walk(folder) for name in names)


def ends(pid: int, *, limit_s: float = 60) -> bool:
    """Whether a process, of whomever, has ended or ends in time."""
    try:
        ended = os.pidfd_open(pid)  # readable once the process has ended
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([ended], [], [], limit_s)[0])
    finally:
        os.close(ended)
