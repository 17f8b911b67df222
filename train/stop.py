"""Ctrl-C and SIGTERM: the first asks a run to save and end, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether someone asked the run to end."""

    def __init__(self) -> None:
        self.signal_name = ""
        self.raises = False
        """Set while nothing would be lost by stopping at once: the next signal raises."""

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal."""
        is_second = bool(self.signal_name)
        self.signal_name = signal.Signals(number).name
        if is_second or self.raises:
            raise KeyboardInterrupt


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
