"""`pass2d predict`: label files for any point files, with a checkpoint and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import ConfigError, DataError, Pass2DError
from cache.progress import Progress, Silent
from train.ahead import computed_ahead
from train.eval_scans import Outside
from train.evaluate import NO_VOTES
from train.infer import pass_size
from train.points.mapping import InputMapping
from train.predict_files import (
    ScanFile,
    find_scans,
    make_folder,
    read_points,
    require_free,
    write_labels,
)
from train.render import birds_eye, range_image, save_png
from train.segmenter import PreparedPoints, ScanLabels, Segmenter
from train.tta import VotePlan

__all__ = ["PredictSummary", "ScanLabels", "Segmenter", "predict"]

SAID_NOTES = 5
"""Remarks about single files that are said at once; the summary counts them all."""


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file that could not be labelled."""

    points: Path
    reason: str
    """One line that names the file."""


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What a prediction did."""

    out: Path
    scans: int
    """Label files written."""
    points: int
    """Labels in them."""
    class_points: NDArray[np.int64]
    """(C,) labels per training id."""
    names: tuple[str, ...]
    """(C,) of the training ids."""
    failed: tuple[FailedFile, ...]
    """The exit code is 1 when there are any."""
    notes: tuple[str, ...]
    """Remarks about files that were labelled all the same, e.g. of NaN coordinates."""
    seconds: float
    """Without loading the checkpoint."""

    @property
    def scans_per_s(self) -> float:
        """Speed, files read and written included."""
        return self.scans / max(self.seconds, 1e-9)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A file on its way: read, then labelled, then written; or failed."""

    file: ScanFile
    xyz: NDArray[np.float32]
    """(3, N) of all points, for the pictures."""
    prepared: PreparedPoints | None
    """None: it could not be read."""
    failure: str = ""
    notes: tuple[str, ...] = ()
    """How the file was read."""
    result: ScanLabels | None = None


def predict(
    inputs: Path,
    checkpoint: Path,
    out: Path,
    *,
    votes: VotePlan = NO_VOTES,
    outside: Outside = "nearest",
    png: bool = False,
    overwrite: bool = False,
    columns: int | None = None,
    mapping: InputMapping | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Label raw point files.

    Args:
        inputs: A file of points, or a folder whose files of points (also in sub-folders) are
            taken: .bin, .npy, .pcd, .ply, .las, .laz.
        checkpoint: It carries grid, label table and colours.
        out: Folder of the results: ``NAME.label`` with a raw id for every raw point, in the same
            sub-folders as the inputs. With ``png`` also ``NAME_above.png`` and ``NAME_range.png``.
        votes: Test-time augmentation.
        outside: Whether points outside the volume take the label of the nearest predicted point
            ("nearest"), or 0 ("ignore").
        png: Draw each scan.
        overwrite: Replace results that are already there.
        columns: Numbers per point of ``.bin`` files; found out without.
        mapping: Which column is which, units, place, rotation; x, y, z, signal as they are without.
        device: The GPU if there is one, without.
        progress: Is told of every scan, and of files that failed.

    Returns:
        What was done. A file that cannot be read does not stop the others: it is in ``failed``.

    Raises:
        DataError: No input, two inputs for one result, a result that is already there, or a result
            that cannot be written.
        CheckpointError: The checkpoint cannot be read.
        ConfigError: Fewer than 4 columns.
    """
    progress = progress or Silent()
    if columns is not None and columns < 3:
        raise ConfigError(f"columns must be at least 3 (x, y, z), got {columns}")
    files = find_scans(inputs, out)
    make_folder(out)
    if not overwrite:
        require_free(files, with_png=png)
    segmenter = Segmenter.load(checkpoint, device=device, votes=votes, outside=outside)
    mapping = mapping or InputMapping()

    def read(file: ScanFile) -> _Job:
        return _read(file, segmenter, columns, mapping)

    return _run(files, segmenter, out, read=read, png=png, progress=progress)


def _run(
    files: list[ScanFile],
    segmenter: Segmenter,
    out: Path,
    *,
    read: Callable[[ScanFile], _Job],
    png: bool,
    progress: Progress,
) -> PredictSummary:
    start = time.perf_counter()
    failed: list[FailedFile] = []
    notes: list[str] = []
    class_points = np.zeros(len(segmenter.names), np.int64)
    written = 0

    def write(job: _Job) -> _Job:
        if job.result is not None:
            _write(job, job.result, segmenter, png=png)
        return job

    progress.start("predict", total=len(files), unit="scans")
    jobs = computed_ahead(read, files)
    for job in computed_ahead(write, _segmented(jobs, segmenter)):
        if job.prepared is None or job.result is None:
            failed.append(FailedFile(points=job.file.points, reason=job.failure))
            progress.say(job.failure)
        else:
            written += 1
            class_points += np.bincount(job.result.labels, minlength=len(class_points))
            for note in (*job.notes, *_notes(job.file, job.prepared)):
                notes.append(note)
                if len(notes) <= SAID_NOTES:
                    progress.say(note)
        progress.advance()
    return PredictSummary(
        out=out,
        scans=written,
        points=int(class_points.sum()),
        class_points=class_points,
        names=segmenter.names,
        failed=tuple(failed),
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )


def _read(file: ScanFile, segmenter: Segmenter, columns: int | None, mapping: InputMapping) -> _Job:
    try:
        usual = segmenter.card.info.raw_columns
        points, notes = read_points(file.points, mapping, columns=columns, usual=usual)
        prepared = segmenter.prepare(points)
        if prepared.n and prepared.n_not_finite == prepared.n:
            raise DataError(
                f"{file.points}: none of {prepared.n} points has coordinates that a lidar could "
                "measure (within 1 km): check --unit, --map and, for .bin, --columns"
            )
    except Pass2DError as error:
        empty = np.zeros((3, 0), np.float32)
        return _Job(file=file, xyz=empty, prepared=None, failure=str(error))
    return _Job(file=file, xyz=points[:, :3].T, prepared=prepared, notes=tuple(notes))


def _segmented(jobs: Iterator[_Job], segmenter: Segmenter) -> Iterator[_Job]:
    """Label jobs, several at once; in their order."""
    size = pass_size(next(segmenter.network.parameters()).device)
    batch: list[_Job] = []
    points = 0
    for job in jobs:
        more = 0 if job.prepared is None else len(job.prepared.points)
        if batch and (points + more > size.points or len(batch) == size.scans):
            yield from _label(batch, segmenter)
            batch, points = [], 0
        batch.append(job)
        points += more
    yield from _label(batch, segmenter)


def _label(batch: list[_Job], segmenter: Segmenter) -> Iterator[_Job]:
    good = [(job, job.prepared) for job in batch if job.prepared is not None]
    results = iter(
        segmenter.segment([scan for _, scan in good], names=[job.file.name for job, _ in good])
    )
    for job in batch:
        if job.prepared is None:
            yield job
        else:
            yield replace(job, result=next(results))


def _write(job: _Job, result: ScanLabels, segmenter: Segmenter, *, png: bool) -> None:
    write_labels(job.file.labels, segmenter.raw_ids(result.labels))
    if png:
        table = segmenter.card.info.labels
        above = birds_eye(job.xyz, result.labels, table, title=job.file.name)
        save_png(above, job.file.above_png)
        ranges = range_image(job.xyz, result.labels, table, title=job.file.name)
        save_png(ranges, job.file.range_png)


def _notes(file: ScanFile, scan: PreparedPoints) -> list[str]:
    notes = []
    if scan.n_not_finite:
        notes.append(
            f"{file.points}: {scan.n_not_finite} of {scan.n} points have no finite coordinates "
            "or lie beyond 1 km: labelled 0"
        )
    if scan.n_bad_signal:
        notes.append(
            f"{file.points}: the signal of {scan.n_bad_signal} points is no number: taken as 0"
        )
    if scan.n and not len(scan.rows):
        notes.append(f"{file.points}: no point lies in the network's volume: all labelled 0")
    return notes
