"""Leaves no process of a Ray that we started, however the run ends.

Ray ends its own processes; but where Ctrl-C reaches all of them at once, or in the middle of
starting, its agents have been seen to live on for a minute. So every process that Ray starts for us
carries a mark in its environment, and what is left of them in the end is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

_MARK = "PASS2D_RAY_OF"


@contextlib.contextmanager
def marking() -> Iterator[bytes]:
    """Give processes that are started in the body a mark in their environment; yields it."""
    value = uuid.uuid4().hex
    os.environ[_MARK] = value
    try:
        yield f"{_MARK}={value}".encode()
    finally:
        del os.environ[_MARK]


def end_marked(mark: bytes) -> int:
    """Kill the processes that carry a mark. Returns how many there were."""
    ended = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = (place / "environ").read_bytes().split(b"\0")
            if mark in variables and int(place.name) != os.getpid():
                os.kill(int(place.name), signal.SIGKILL)
                ended += 1
        except OSError:
            continue  # of another user, or it has just ended
    return ended


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep our way to end on SIGTERM while Ray starts, which sets one of its own: a bare exit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        yield
    except SystemExit:  # that of Ray
        if callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM in the body: half a shutdown leaves processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
