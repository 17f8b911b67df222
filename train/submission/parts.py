"""Finished scans of an unfinished submission, which an interrupted run keeps."""

from __future__ import annotations

import contextlib
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import CacheError
from pass2d.common.files import lock_file, read_whole, replace_file, writing
from pass2d.common.work_record import WorkRecord

RECORD, LOCK = "finished.jsonl", "run.lock"


class Parts:
    """A folder beside the zip with one compressed file per scan.

    It belongs to one job (checkpoint, cache, options): another job starts over. Each file is
    written aside and renamed, and carries a checksum, so that a killed run leaves no half answer.
    """

    def __init__(self, out: Path, job: Mapping[str, object]) -> None:
        self.folder = _folder(out)
        self._scratch = self.folder / "tmp"
        self._job = job
        self._record: WorkRecord | None = None

    def begin(self) -> tuple[int, bool]:
        """Create the folder, or continue with an existing one.

        Returns:
            The number of finished scans, and whether those of another job were removed.

        Raises:
            CacheError: The disk is full, or the folder may not be written.
        """
        is_other = False
        with writing(self.folder):
            self._record = WorkRecord(self.folder / RECORD, self._job)
            if self.folder.is_dir() and not self._record.parts:
                is_other = any(self.folder.glob("*.z"))
                self._clear()
            self.folder.mkdir(parents=True, exist_ok=True)
        return sum(map(self.has, map(int, self._record.parts))), is_other

    def _clear(self) -> None:
        """Empty the folder; the lock file stays, its owner is us."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix != ".lock":
                path.unlink(missing_ok=True)

    @property
    def lock(self) -> Path:
        """Held by the run that works here."""
        return self.folder / LOCK

    def write(self, place: int, labels: NDArray[np.uint8]) -> None:
        """Save a scan's (N,) uint8 training ids.

        Raises:
            CacheError: The disk is full, or the folder may not be written.
        """
        replace_file(self._path(place), zlib.compress(labels.tobytes(), 1), scratch=self._scratch)
        with writing(self.folder):
            self._finished.add(f"{place:06d}", {"points": len(labels)})

    def read(self, place: int, *, n: int) -> NDArray[np.uint8] | None:
        """A scan's (N,) uint8 training ids; None if it is not finished, or damaged."""
        try:
            data = zlib.decompress(read_whole(self._path(place)))
        except (FileNotFoundError, zlib.error):
            return None
        return np.frombuffer(data, np.uint8) if len(data) == n else None

    def has(self, place: int) -> bool:
        """Whether a scan is finished; `read` still may find it damaged."""
        return f"{place:06d}" in self._finished.parts and self._path(place).is_file()

    def remove(self) -> None:
        """Remove everything: the zip is complete."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def clear(out: Path) -> None:
        """Remove what a run left that was killed between its complete zip and `remove`.

        An unfinished run, which is to replace the zip, has a record newer than the zip; it stays.
        """
        folder = _folder(out)
        if folder.is_symlink() or not folder.is_dir():
            return
        with (
            contextlib.suppress(OSError, CacheError),  # the zip is there: nothing depends on it
            lock_file(folder / LOCK, exclusive=True, wait=False) as is_alone,
        ):
            if is_alone and _changed_ns(folder / RECORD) <= out.stat().st_mtime_ns:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Close the record; what is finished stays."""
        if self._record is not None:
            self._record.close()

    @property
    def _finished(self) -> WorkRecord:
        assert self._record is not None, "begin first"
        return self._record

    def _path(self, place: int) -> Path:
        return self.folder / f"{place:06d}.z"


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def _changed_ns(path: Path) -> int:
    """When a file was last written; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def busy(folder: Path) -> CacheError:
    """Another run works on the same zip."""
    return CacheError(
        f"{folder}: another run is writing this submission. Wait for it, or choose another `out`."
    )
