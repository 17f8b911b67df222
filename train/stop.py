"""Ctrl-C and SIGTERM: the first asks a run to save and end, the second ends it at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_ECHO_S = 1.0
"""A second signal so soon is the first one's echo: torchrun hands on what a terminal sends to all
processes anyway."""


class StopRequest:
    """Whether someone asked the run to end."""

    def __init__(self) -> None:
        self.signal_name = ""
        self._first_s = 0.0
        self.raises = False
        """Set while nothing would be lost by stopping at once: the next signal raises."""

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal."""
        is_second = bool(self.signal_name) and time.monotonic() - self._first_s > _ECHO_S
        if not self.signal_name:
            self._first_s = time.monotonic()
        self.signal_name = signal.Signals(number).name
        if is_second or self.raises:
            raise KeyboardInterrupt

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within, a signal raises KeyboardInterrupt."""
        self.raises = True
        try:
            yield
        finally:
            self.raises = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises, and leaving the block early is all that it does."""
        with suppress(KeyboardInterrupt), self.raising():
            yield


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM meanwhile; outside the main thread nothing can be caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request.receive) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
