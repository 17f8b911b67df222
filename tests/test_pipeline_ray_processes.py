"""Nothing that was started for a run outlives it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.ray_processes import end_marked, marking, uninterrupted

SLEEP = "import time; print(flush=True); time.sleep(600)"
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"


@contextlib.contextmanager
def sleeper(code: str = SLEEP) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has printed a line."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_only_marked_processes_end_also_those_that_lost_their_parent() -> None:
    with sleeper() as other, contextlib.ExitStack() as stack:
        with marking() as mark:
            ours = stack.enter_context(sleeper())
            stack.enter_context(sleeper(ORPHAN)).wait(60)  # its child lives on
        later = stack.enter_context(sleeper())
        assert end_marked(mark) == 2
        assert ours.wait(60) == -signal.SIGKILL
        assert other.poll() is None
        assert later.poll() is None


def test_ctrl_c_waits_until_all_is_shut_down() -> None:
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
