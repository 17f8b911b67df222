"""A progress for tests that remembers what it was told."""

from __future__ import annotations


class Heard:
    """A progress that remembers what it was told, and calls back."""

    def __init__(self, on_advance=None, on_start=None, on_say=None) -> None:
        self.lines: list[str] = []
        self.advances = self.done = 0
        self._on_advance, self._on_start, self._on_say = on_advance, on_start, on_say

    def start(self, title: str, *, total: int, unit: str) -> None:
        if self._on_start is not None:
            self._on_start(title)

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        self.advances += 1
        self.done += count
        if self._on_advance is not None:
            self._on_advance(self.advances)

    def say(self, text: str) -> None:
        self.lines.append(text)
        if self._on_say is not None:
            self._on_say(text)

    def all(self) -> str:
        return "\n".join(self.lines)
