"""Progress of long operations. Only `pass2d/commands/` turns it into output."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress of long operations; called only from the driver's thread."""

    def start(self, title: str, *, total: int, unit: str) -> None:
        """Begin a phase of ``total`` units, e.g. scans. A new phase ends the last one.

        ``total`` 0: the number is unknown.
        """

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        """``count`` more units are done; ``nbytes`` were written or read for them."""

    def say(self, text: str) -> None:
        """One line for the user: a warning, a milestone, the path of a file."""


class Silent:
    """Progress for tests and library use: prints nothing."""

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
