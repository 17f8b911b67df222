"""The files of a prediction: found or arriving, read, compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError, Pass2DError
from pass2d.common.prefetch import Pause
from pass2d.points.binary import BinaryOptions
from pass2d.points.columns import error_words
from pass2d.points.mapping import InputMapping
from pass2d.points.scan_file import read_columns_of
from pass2d.train.inference.input_check import InputWarning
from pass2d.train.inference.scans import ScanInput
from pass2d.train.inference.segmenter import PreparedPoints, ScanLabels, Segmenter
from pass2d.train.prediction.files import (
    ScanFile,
    refuse_input_as_result,
    scan_of_line,
)
from pass2d.train.prediction.intake import Intake
from pass2d.train.prediction.lines import arriving_lines
from pass2d.train.prediction.past import FolderPoses, PastFiles, no_poses
from pass2d.train.prediction.result_folder import ResultFolder
from pass2d.train.stacks.config import StackConfig


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Paths that arrive one per line."""

    descriptor: int = 0
    """Open for reading; 0 is standard input."""
    base: Path = field(default_factory=Path.cwd)
    """What relative paths start from; absolute. Results keep the folders below it."""


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """A file that is read, then labelled, then written; or failed, or kept."""

    points: Path
    file: ScanFile | None = None
    xyz: NDArray[np.float32] | None = None
    """(3, N) of all points."""
    prepared: PreparedPoints | None = None
    """None: it could not be read, or need not."""
    failure: str = ""
    notes: tuple[str, ...] = ()
    """How the file was read."""
    warnings: tuple[InputWarning, ...] = ()
    result: ScanLabels | None = None
    written: tuple[Path, ...] = ()
    """Also of results that were kept."""

    @property
    def scan(self) -> ScanInput | None:
        """What goes through the network."""
        return None if self.prepared is None else self.prepared.scan


def arriving_jobs(
    stream: Stream, out: Path, suffixes: tuple[str, ...]
) -> Iterator[FileJob | Pause]:
    """Files as their paths arrive; a line that names no point file becomes a failed job."""
    seen: dict[Path, Path] = {}
    for line in arriving_lines(stream.descriptor):
        if isinstance(line, Pause):
            yield line
            continue
        try:
            scan = scan_of_line(line, out=out, base=stream.base)
            refuse_input_as_result([scan], suffixes)
            if seen.setdefault(scan.target, scan.points) != scan.points:
                raise DataError(
                    f"{line} and {seen[scan.target]} would both be written to {scan.target}.*"
                )
            yield FileJob(points=scan.points, file=scan)
        except DataError as error:
            yield FileJob(points=Path(line), failure=str(error))


class ScanReader:
    """Reads files and compares them with the training data; called in threads."""

    def __init__(
        self,
        segmenter: Segmenter,
        folder: ResultFolder,
        *,
        binary: BinaryOptions,
        mapping: InputMapping | None,
        poses: FolderPoses = no_poses,
    ) -> None:
        self._past = PastFiles(segmenter.card.stack, poses, self._points_of)
        folder.context = self._past.identity
        self._segmenter = segmenter
        self._folder = folder
        self._binary = binary
        self._intake = Intake(segmenter, mapping)

    def __call__(self, job: FileJob | Pause) -> FileJob | Pause:
        """Read a job's file, unless its results are kept; what goes wrong is in the job."""
        if isinstance(job, Pause) or job.file is None:
            return job
        try:
            if self._folder.state(job.file) == "kept":
                return replace(job, written=tuple(self._folder.files(job.file)))
            return self._read(job, job.file.name)
        except Pass2DError as error:
            return replace(job, failure=str(error))
        except MemoryError:
            return replace(
                job,
                failure=f"{job.points}: more points than fit the memory: cut it into parts.",
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the other files are labelled
            return replace(job, failure=f"{job.points}: could not be read: {error_words(error)}")

    def _read(self, job: FileJob, name: str) -> FileJob:
        where = str(job.points)
        found, layout_options = read_columns_of(job.points, self._binary)
        warnings = []
        if layout_options:
            note = f"{where}: {found.note}" if found.note else ""
            warnings.append(InputWarning(kind="columns", option=layout_options, message=note))
            found = replace(found, note="")
        past = self._past.before(job.points)
        taken = self._intake.take(found, file=job.points.name, where=where, name=name, past=past)
        warnings += taken.warnings
        if self._segmenter.card.stack.past and not self._past.has_poses(job.points):
            warnings.append(_no_pose(job.points, self._segmenter.card.stack))
        if taken.is_nowhere:
            failure = taken.nowhere("check `unit`, `map`; for .bin `columns`, `dtype`")
            failure = f"{where}: {failure}"
            return replace(job, failure=failure, warnings=tuple(warnings))
        return replace(
            job,
            xyz=taken.points[:, :3].T,
            prepared=taken.prepared,
            notes=taken.notes,
            warnings=tuple(warnings),
        )

    def _points_of(self, file: Path) -> NDArray[np.float32]:
        """(N, 4) of a file, as `_read` takes them."""
        found, _ = read_columns_of(file, self._binary)
        return self._intake.mapping(file.name).apply(found, where=str(file))


def _no_pose(file: Path, stack: StackConfig) -> InputWarning:
    return InputWarning(
        kind="poses",
        option="",
        message=f"{file}: no pose is known (poses.txt and calib.txt beside its folder): it is "
        f"labelled by itself, but the network was trained on {stack.past + 1} scans together",
    )
