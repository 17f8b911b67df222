"""The record of an interrupted run: which parts of a job are finished, with which settings.

One format for every command that can be interrupted: JSON lines. Each run first writes a line with
its settings, then one line per finished part, which names the settings by their hash. Every line
carries its own checksum, so a line that a killed run did not finish, or a damaged one, counts as
not written. (`prepare` needs no such file: it has the commit records of its shards.)
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from pass2d.common.errors import CacheError
from pass2d.common.files import read_whole
from pass2d.common.json import dumps, parse, seal, to_json, unseal

SETTINGS, PART, JOB = "settings", "part", "job"


class WorkRecord:
    """The record of one job; several threads may add to it."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, start_over: bool = False
    ) -> None:
        """Read the record of earlier runs.

        Args:
            path: The file; neither it nor its folder need be there.
            settings: Whatever a finished part depends on; JSON-like.
            start_over: Ignore earlier runs.

        Raises:
            OSError: It exists and cannot be read.
        """
        self.path = path
        self._settings = to_json(settings)
        self._job = xxhash.xxh3_128_hexdigest(dumps(self._settings))
        self.parts: dict[str, dict[str, Any]] = {}
        """What was noted about each finished part, by name."""
        self.differing: tuple[str, ...] = ()
        """Names of the settings that differ from the last run's, whose parts are then ignored."""
        if not start_over:
            self._read()
        self._is_new = not self.parts
        self._fd: int | None = None
        self._lock = threading.Lock()

    def add(self, part: str, facts: Mapping[str, Any]) -> None:
        """Record a part; the first one of a job that ignores earlier runs replaces the file.

        Raises:
            OSError: It cannot be written.
        """
        with self._lock:
            if self._fd is None:
                self._fd = self._open()
            os.write(self._fd, seal({PART: part, JOB: self._job, **facts}))
            self.parts[part] = dict(facts)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags | (os.O_TRUNC if self._is_new else 0), 0o666)
        # The line end closes a line that a killed run did not finish.
        os.write(fd, (b"" if self._is_new else b"\n") + seal({SETTINGS: self._settings}))
        return fd

    def _read(self) -> None:
        try:
            data = read_whole(self.path)
        except FileNotFoundError:
            return
        for entry in _entries(data):
            if SETTINGS in entry:
                self.differing = _differing(self._settings, entry[SETTINGS])
            elif isinstance(entry.get(PART), str) and entry.pop(JOB, None) == self._job:
                self.differing = ()
                self.parts[entry.pop(PART)] = entry
            elif entry.keys() == _EARLIER and not self.differing:
                self.parts[entry["scan"]] = {"input": entry["input"]}


_EARLIER = {"scan", "input"}
"""A part in `predict.jsonl` of earlier versions, whose lines have no checksum."""


def _entries(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines(keepends=True):
        try:
            yield unseal(line, where="")
        except CacheError:
            with contextlib.suppress(ValueError):
                entry = parse(line)
                if isinstance(entry, dict) and entry.keys() in ({SETTINGS}, _EARLIER):
                    yield entry


def _differing(mine: Mapping[str, Any], theirs: object) -> tuple[str, ...]:
    if not isinstance(theirs, dict):
        return ("unknown",)
    return tuple(name for name, value in mine.items() if theirs.get(name) != value)
