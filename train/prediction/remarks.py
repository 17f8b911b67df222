"""Messages about scans during a prediction: the first of each kind at once, all at the end."""

from __future__ import annotations

from pass2d.common.progress import Progress
from pass2d.train.inference.input_check import InputWarning, WarningLog

SAID_NOTES = 5
"""Remarks about single scans that are said at once; the summary has them all."""


class Remarks:
    """Notes and warnings of one prediction."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._notes: list[str] = []
        self._log = WarningLog()

    @property
    def notes(self) -> tuple[str, ...]:
        """All."""
        return tuple(self._notes)

    @property
    def warnings(self) -> tuple[InputWarning, ...]:
        """One of a kind."""
        return self._log.all()

    def note(self, text: str) -> None:
        """Remember a remark about one scan; the first few are said."""
        self._notes.append(text)
        if len(self._notes) <= SAID_NOTES:
            self._progress.say(text)

    def warn(self, warning: InputWarning) -> None:
        """Count a difference from the training data; the first of its kind is said."""
        if self._log.add(warning):
            self._progress.say(f"warning: {warning.message}")
