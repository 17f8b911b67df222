"""How long work tells its caller where it is. Only `pass2d/cli.py` turns this into output."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives news from long work; called from the driver's thread only."""

    def start(self, title: str, *, total: int, unit: str) -> None:
        """Begin a phase of ``total`` units, e.g. scans. A new phase ends the last one.

        ``total`` 0: nobody knows how many will come.
        """

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        """``count`` more units are done; ``nbytes`` were written or read for them."""

    def say(self, text: str) -> None:
        """One line that a person should read now: a warning, a milestone, a file's place."""


class Silent:
    """Progress for tests and library use: says nothing."""

    def start(self, title: str, *, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """3725 -> '1:02:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
