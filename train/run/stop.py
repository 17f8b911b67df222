"""Ctrl-C and SIGTERM: the first asks a run to save and end, the second ends it at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_ECHO_S = 1.0
"""A second signal within this time is an echo of the first: torchrun forwards what a terminal sends
to all processes anyway."""


class StopRequest:
    """Whether the run was asked to end.

    Args:
        before: what took the signals before, by number; a signal that ends all is handed on to it.
    """

    def __init__(self, before: dict[signal.Signals, Any] | None = None) -> None:
        self.signal_name = ""
        self._before = before or {}
        self._first_s = 0.0
        self._leaves_block = False
        self.raises = False
        """Set while nothing would be lost by stopping at once: the next signal raises."""

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal."""
        is_second = bool(self.signal_name) and time.monotonic() - self._first_s > _ECHO_S
        if not self.signal_name:
            self._first_s = time.monotonic()
        self.signal_name = signal.Signals(number).name
        if not (is_second or self.raises):
            return
        before = self._before.get(signal.Signals(number))
        if callable(before) and not self._leaves_block:
            before(number, frame)
        raise KeyboardInterrupt

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside the block, a signal raises KeyboardInterrupt."""
        self.raises = True
        try:
            yield
        finally:
            self.raises = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside the block, a signal raises, and only leaves the block."""
        self._leaves_block = True
        try:
            with suppress(KeyboardInterrupt), self.raising():
                yield
        finally:
            self._leaves_block = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM during the block; outside the main thread this is impossible."""
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    request = StopRequest(before)
    for number in before:
        signal.signal(number, request.receive)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
