"""Finished scans of a submission that is on its way: what an interrupted run keeps."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import CacheError
from pass2d.common.files import read_whole, replace_file, writing

JOB_FILE = "job.json"


class Parts:
    """A folder beside the zip with one compressed file per scan.

    It belongs to one job (checkpoint, cache, options): another job starts anew. Each file is
    written aside and renamed, and carries a checksum, so that a killed run leaves no half answer.
    """

    def __init__(self, out: Path, job: Mapping[str, object]) -> None:
        self.folder = out.with_name(f".{out.name}.parts")
        self._scratch = self.folder / "tmp"
        self._job = json.dumps(job, sort_keys=True).encode()

    def begin(self) -> tuple[int, bool]:
        """Make the folder, or take it up.

        Returns:
            How many finished scans are there, and whether another job's were thrown away.

        Raises:
            CacheError: The disk is full, or the folder may not be written.
        """
        job_file = self.folder / JOB_FILE
        is_other = False
        with writing(self.folder):
            if self.folder.is_dir():
                is_same = job_file.is_file() and read_whole(job_file) == self._job
                if not is_same:
                    is_other = any(self.folder.glob("*.z"))
                    self._clear()
            self.folder.mkdir(parents=True, exist_ok=True)
        if not job_file.is_file():
            replace_file(job_file, self._job, scratch=self._scratch)
        return sum(1 for _ in self.folder.glob("*.z")), is_other

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
        return self.folder / "run.lock"

    def write(self, place: int, labels: NDArray[np.uint8]) -> None:
        """Keep a scan's training ids.

        Raises:
            CacheError: The disk is full, or the folder may not be written.
        """
        replace_file(self._path(place), zlib.compress(labels.tobytes(), 1), scratch=self._scratch)

    def read(self, place: int, *, n: int) -> NDArray[np.uint8] | None:
        """A scan's training ids; None when it is not finished, or damaged."""
        try:
            data = zlib.decompress(read_whole(self._path(place)))
        except (FileNotFoundError, zlib.error):
            return None
        return np.frombuffer(data, np.uint8) if len(data) == n else None

    def has(self, place: int) -> bool:
        """Whether a scan is finished; `read` still may find it damaged."""
        return self._path(place).is_file()

    def remove(self) -> None:
        """Throw all away: the zip is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, place: int) -> Path:
        return self.folder / f"{place:06d}.z"


def busy(folder: Path) -> CacheError:
    """Another run works on the same zip."""
    return CacheError(
        f"{folder}: another run writes this submission now. Wait for it, or choose another --out."
    )
