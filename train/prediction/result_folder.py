"""The folder of a prediction's results, which contains only complete files.

In it, ``.pass2d/predict.jsonl`` records the settings and the input of each result. So an
interrupted run can continue, and foreign files are never replaced unless requested.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from pass2d.common.errors import DataError
from pass2d.common.files import make_folder, remove_leftovers, written_whole
from pass2d.common.work_record import WorkRecord
from pass2d.train.prediction.files import ScanFile

RECORD = Path(".pass2d") / "predict.jsonl"


class ResultFolder:
    """Writes results; thread-safe for different scans."""

    def __init__(
        self, out: Path, suffixes: tuple[str, ...], settings: Mapping[str, str], *, overwrite: bool
    ) -> None:
        """Open the folder; it must be there.

        Args:
            out: The folder.
            suffixes: What follows a scan's name, one per file.
            settings: Whatever changes a result, e.g. the checkpoint's hash.
            overwrite: Replace whatever is there.
        """
        self._suffixes = suffixes
        self._overwrite = overwrite
        self._out = out
        try:
            self._record = WorkRecord(out / RECORD, settings, start_over=overwrite)
        except OSError as error:
            raise DataError(f"{out / RECORD}: not readable: {error.strerror}") from error
        self._known = dict(self._record.parts)
        """Of earlier runs."""
        self._lock = threading.Lock()
        self.context: Callable[[Path], list[int]] = lambda _points: []
        """What a scan's result depends on besides its file, as numbers."""

    def files(self, scan: ScanFile) -> list[Path]:
        """The paths of a scan's results, whether they exist or not."""
        return [scan.result(suffix) for suffix in self._suffixes]

    def state(self, scan: ScanFile) -> Literal["open", "kept"]:
        """Whether a scan is to be labelled, or its results are there, of these settings.

        Raises:
            DataError: A result is there that was not made by these settings from this input.
        """
        if self._overwrite:
            return "open"
        there = [path for path in self.files(scan) if path.exists()]
        key = self._key(scan)
        if not there or (key in self._known and len(there) < len(self._suffixes)):
            return "open"
        if key not in self._known:
            raise DataError(f"{there[0]} is already there.{self._why()}")
        is_same = self._known[key].get("input") == self._identity(scan.points)
        return "kept" if is_same else "open"

    def require_free(self, scans: Iterable[ScanFile]) -> None:
        """Refuse before any work what ``state`` would refuse later.

        What a killed run left beside the results goes.

        Raises:
            DataError: Naming the first result that is in the way.
        """
        taken: list[DataError] = []
        tidied: set[Path] = set()
        for scan in scans:
            folder = scan.target.parent
            if folder not in tidied:
                tidied.add(folder)
                remove_leftovers(folder)
            try:
                self.state(scan)
            except DataError as error:
                taken.append(error)
        if taken:
            more = f" ({len(taken) - 1} more are.)" if len(taken) > 1 else ""
            raise DataError(f"{taken[0]}{more}") from None

    def write(self, scan: ScanFile, contents: Iterable[bytes]) -> list[Path]:
        """Write a scan's results, each completely or not at all.

        Raises:
            DataError: The disk is full, or the folder cannot be written.
        """
        with self._lock:
            self._note(scan)
        paths = self.files(scan)
        for path, content in zip(paths, contents, strict=True):
            _write_whole(path, content)
        return paths

    def close(self) -> None:
        """Close the record."""
        self._record.close()

    def _note(self, scan: ScanFile) -> None:
        """Record that a result is ours, before it exists."""
        key = self._key(scan)
        try:
            self._record.add(key, {"input": self._identity(scan.points)})
        except OSError as error:
            raise _unwritable(self._record.path, error) from error

    def _identity(self, points: Path) -> list[int]:
        return [*_identity(points), *self.context(points)]

    def _key(self, scan: ScanFile) -> str:
        return os.path.relpath(scan.target, self._out)

    def _why(self) -> str:
        if self._record.differing:
            differing = re.sub(r"--(\w+)", r"`\1`", ", ".join(self._record.differing))
            return (
                f" It was made with other settings ({differing}). Choose another "
                "`out`, or set `overwrite`."
            )
        return " Choose another `out`, or set `overwrite`."


def _write_whole(path: Path, content: bytes) -> None:
    make_folder(path.parent, "labels")
    with written_whole(path, "the labels") as aside:
        aside.write_bytes(content)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: the labels could not be written: {error.strerror or error}. "
        "Is the disk full, or the folder not writable?"
    )


def _identity(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
