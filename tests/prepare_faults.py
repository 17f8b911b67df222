"""Faults for tests of writing: calls that fail, writes that are short, a driver to kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

PROJECT_ROOT = Path(__file__).resolve().parents[1]
WRITING_CALLS = ("write", "fsync", "mkdir", "rename", "replace", "open")

DRIVER = """
import sys
from pathlib import Path
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare

listing = list_semkitti(Path(sys.argv[1]))
config = PrepareConfig(workers=int(sys.argv[3]), shard_scans=2)
print("ready", flush=True)
sys.stdin.readline()
prepare(listing, Path(sys.argv[2]), config, Silent())
print("done", flush=True)
"""


@contextlib.contextmanager
def failing_calls(
    code: int | None, *, first: int, last: int | None = None
) -> Iterator[Callable[[], int]]:
    """Calls number ``first`` to ``last`` (1, 2, ...) that write to the disk raise OSError.

    Args:
        code: an errno; None only counts.
        first: the first call that fails.
        last: the last one; ``first`` when None.

    Yields:
        A function that tells how many calls there were.
    """
    count = 0

    def counting(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            if any(".lock" in str(argument) for argument in arguments[:1]):
                return real(*arguments, **options)
            count += 1
            if code is not None and first <= count <= (last or first):
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for name in WRITING_CALLS:
            real = getattr(os, name)
            stack.enter_context(mock.patch.object(os, name, counting(real, name)))
        yield lambda: count


@contextlib.contextmanager
def short_writes() -> Iterator[None]:
    """Every write takes at most 100 bytes."""
    real = os.write
    with mock.patch.object(os, "write", lambda fd, data: real(fd, data[:100])):
        yield


def start_driver(raw: Path, out: Path, *, workers: int = 0) -> subprocess.Popen[str]:
    """A process that has listed ``raw`` and waits for a line before it prepares."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(raw), str(out), str(workers)],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def go(process: subprocess.Popen[str]) -> None:
    """Let a driver start."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal and wait for the end."""
    process.send_signal(number)
    process.communicate(timeout=60)
