"""`pass2d predict`: labels for any point files, from a checkpoint alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import Pass2DError
from pass2d.common.files import make_folder
from pass2d.common.prefetch import Pause, prefetch
from pass2d.common.progress import Progress, Silent
from pass2d.points.binary import BinaryOptions
from pass2d.points.columns import error_words
from pass2d.points.mapping import InputMapping
from pass2d.points.raw_format import own_binary
from pass2d.train.checkpoints.onnx_file import file_digest, is_onnx
from pass2d.train.inference.input_check import InputWarning, no_statistics
from pass2d.train.inference.labelling import Labelled
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.segmenter import ScanLabels, Segmenter, scan_labels
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan
from pass2d.train.prediction.files import find_scans, refuse_input_as_result
from pass2d.train.prediction.jobs import FileJob, ScanReader, Stream, arriving_jobs
from pass2d.train.prediction.outputs import LabelledScan, Outputs, encoded, format_notes
from pass2d.train.prediction.past import FolderPoses, no_poses
from pass2d.train.prediction.remarks import Remarks
from pass2d.train.prediction.result_folder import ResultFolder

if TYPE_CHECKING:
    import torch

    from pass2d.train.checkpoints.trained import TrainedNetwork

__all__ = ["Outputs", "PredictSummary", "ScanLabels", "Segmenter", "Stream", "predict"]


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file that could not be labelled."""

    points: Path
    reason: str
    """One line that names the file."""


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """A file that has been labelled, now or before."""

    points: Path
    files: tuple[Path, ...]
    """What was written, or kept."""
    n: int | None
    """Points; None for results that were kept."""


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """Summary of a prediction."""

    out: Path
    scans: int
    """Files labelled by this run."""
    kept: int
    """Files with existing results of the same settings."""
    points: int
    """Labels written by this run."""
    class_points: NDArray[np.int64]
    """(C,) labels per training id."""
    names: tuple[str, ...]
    """(C,) of the training ids."""
    failed: tuple[FailedFile, ...]
    """The exit code is 1 when there are any."""
    notes: tuple[str, ...]
    """Remarks about files that were labelled nevertheless, e.g. about NaN coordinates."""
    warnings: tuple[InputWarning, ...]
    """How the input differs from the training data, one warning of each kind."""
    seconds: float
    """Without loading the checkpoint."""

    @property
    def scans_per_s(self) -> float:
        """Speed, files read and written included."""
        return self.scans / max(self.seconds, 1e-9)


def predict(
    inputs: Path | Stream,
    checkpoint: Path | TrainedNetwork,
    out: Path,
    *,
    votes: VotePlan = SINGLE_PASS,
    outside: OutsidePolicy = "nearest",
    outputs: Outputs | None = None,
    png: bool = False,
    overwrite: bool = False,
    columns: int | None = None,
    dtype: str | None = None,
    mapping: InputMapping | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    backend: str = "auto",
    poses: FolderPoses = no_poses,
    progress: Progress | None = None,
    on_result: Callable[[ScanResult], None] | None = None,
) -> PredictSummary:
    """Label raw point files.

    Args:
        inputs: A point file, or a folder whose point files (also in sub-folders) are labelled: see
            `points.registry`. Or a stream of paths: each file is labelled as its path arrives; one
            that cannot be labelled is reported, and the next one follows.
        checkpoint: A file, or one that is loaded already. It contains grid, label table, colours
            and statistics of its training data. Or an exported network (.onnx), which needs no
            torch.
        out: Folder of the results: ``NAME.label`` with a raw id for every raw point, in the same
            sub-folders as the inputs, and other files as set in ``outputs``. Existing results of
            the same input and settings are kept.
        votes: Test-time augmentation.
        outside: Whether points outside the volume take the label of the nearest predicted point
            ("nearest"), or 0 ("ignore").
        outputs: Which files to write; by default ``.label`` files.
        png: Draw each scan, whatever is set in ``outputs``.
        overwrite: Replace any existing results.
        columns: Numbers per point of ``.bin`` files; detected by default.
        dtype: Of their numbers, a key of `cache.clouds.columns.DTYPES`; detected by default.
        mapping: Names of columns, units, offset, rotation; by default as in the description of the
            training data, if it has one, else x, y, z, signal in metres.
        batch_size: Scans per pass through the network; by default what suits the device.
        device: Defaults to the GPU if there is one.
        backend: Of the sparse convolutions; by default what suits the device.
        poses: Poses of a folder's scans, for networks trained on several scans; without them each
            scan is labelled by itself, with a warning.
        progress: Receives every scan, failed files, and each kind of difference between the input
            and the training data.
        on_result: Receives every finished scan.

    Returns:
        A summary. A file or sub-folder that cannot be read does not stop the others; it is listed
        in ``failed``.

    Raises:
        DataError: There is no input, two inputs have the same result, an existing result is of
            other settings, or a result cannot be written.
        CheckpointError: The checkpoint cannot be read.
        ConfigError: Fewer than 3 columns, or an invalid batch size.
    """
    BinaryOptions(usual=4, columns=columns, dtype=dtype)  # refuse them before anything is made
    outputs = replace(outputs or Outputs(), png=png or (outputs is not None and outputs.png))
    progress = progress or Silent()
    closed: list[FileJob] = []
    scans = None
    if not isinstance(inputs, Stream):
        scans = find_scans(
            inputs,
            out,
            say=progress.say,
            on_closed=lambda place, why: closed.append(FileJob(points=place, failure=why)),
        )
    if scans is not None:
        refuse_input_as_result(scans, outputs.suffixes)
    settings = {
        "checkpoint": _digest(checkpoint if isinstance(checkpoint, Path) else checkpoint.source),
        "--votes": str(votes),
        "--outside": outside,
        "--columns": str(columns),
        "--dtype": str(dtype),
        "columns, units and place": repr(mapping or InputMapping()),
        "--format, --confidence, --png": " ".join(outputs.suffixes),
    }
    make_folder(out, "results")
    folder = ResultFolder(out, outputs.suffixes, settings, overwrite=overwrite)
    if scans is not None:
        folder.require_free(scans)
    segmenter = Segmenter.load(
        checkpoint,
        device=device,
        votes=votes,
        outside=outside,
        batch_size=batch_size,
        backend=backend,
    )
    own = segmenter.card.info
    binary = own_binary(own, columns=columns, dtype=dtype)
    reader = ScanReader(segmenter, folder, binary=binary, mapping=mapping, poses=poses)
    run = _Run(
        segmenter,
        folder,
        out,
        outputs=outputs,
        progress=progress,
        on_result=on_result,
    )
    if isinstance(inputs, Stream):
        return run.over(arriving_jobs(inputs, out, outputs.suffixes), reader, total=0)
    return run.over(
        chain(closed, (FileJob(points=scan.points, file=scan) for scan in scans or ())),
        reader,
        total=len(closed) + len(scans or ()),
    )


def _digest(checkpoint: Path) -> str:
    if is_onnx(checkpoint):
        return file_digest(checkpoint)
    from pass2d.train.checkpoints.checkpoint import content_digest

    return content_digest(checkpoint)


class _Run:
    """One prediction: what it has counted so far."""

    def __init__(
        self,
        segmenter: Segmenter,
        folder: ResultFolder,
        out: Path,
        *,
        outputs: Outputs,
        progress: Progress,
        on_result: Callable[[ScanResult], None] | None,
    ) -> None:
        self._segmenter = segmenter
        self._folder = folder
        self._out = out
        self._outputs = outputs
        self._progress = progress
        self._on_result = on_result
        self._remarks = Remarks(self._progress)
        self._failed: list[FailedFile] = []
        self._class_points = np.zeros(len(segmenter.names), np.int64)
        self._scans = self._kept = 0

    def over(
        self, jobs: Iterator[FileJob | Pause], reader: ScanReader, *, total: int
    ) -> PredictSummary:
        """Read, label and write all jobs; ``total`` 0 if their number is unknown."""
        start = time.perf_counter()
        self._progress.start("predict", total=total, unit="scans")
        for note in format_notes(self._outputs, self._segmenter.card.info):
            self._remarks.note(note)
        if not self._segmenter.card.input_statistics:
            self._remarks.warn(no_statistics())
        try:
            labelled = map(_result, self._segmenter.label(jobs, reader, keep_going=True))
            for job in prefetch(self._write, labelled, must_finish=True):
                if not isinstance(job, Pause):
                    self._report(job)
        finally:
            self._folder.close()
        return PredictSummary(
            out=self._out,
            scans=self._scans,
            kept=self._kept,
            points=int(self._class_points.sum()),
            class_points=self._class_points,
            names=self._segmenter.names,
            failed=tuple(self._failed),
            notes=self._remarks.notes,
            warnings=self._remarks.warnings,
            seconds=time.perf_counter() - start,
        )

    def _write(self, job: FileJob | Pause) -> FileJob | Pause:
        if isinstance(job, Pause) or job.result is None or job.file is None or job.xyz is None:
            return job
        scan = LabelledScan(
            name=job.file.name,
            xyz=job.xyz,
            labels=job.result.labels,
            raw_ids=self._segmenter.raw_ids(job.result.labels),
            scores=job.result.scores,
        )
        info = self._segmenter.card.info
        written = self._folder.write(job.file, encoded(scan, self._outputs, info))
        return replace(job, written=tuple(written), xyz=None, prepared=None)

    def _report(self, job: FileJob) -> None:
        for warning in job.warnings:
            self._remarks.warn(warning)
        if job.failure:
            self._failed.append(FailedFile(points=job.points, reason=job.failure))
            self._progress.say(job.failure)
        elif job.result is None:
            self._kept += 1
        else:
            self._scans += 1
            self._class_points += np.bincount(job.result.labels, minlength=len(self._class_points))
        for note in job.notes:
            self._remarks.note(note)
        if self._on_result is not None and not job.failure:
            n = None if job.result is None else len(job.result.labels)
            self._on_result(ScanResult(points=job.points, files=job.written, n=n))
        self._progress.advance()


def _result(found: Labelled[FileJob | Pause]) -> FileJob | Pause:
    """A job with the network's predictions."""
    job = found.item
    if isinstance(job, Pause) or job.prepared is None:
        return job
    if found.error is None:
        return replace(job, result=scan_labels(found.passes[0]))
    is_ours = isinstance(found.error, Pass2DError)
    words = str(found.error) if is_ours else error_words(found.error)
    failure = f"{job.points}: could not be labelled: {words}"
    return replace(job, prepared=None, xyz=None, failure=failure)
