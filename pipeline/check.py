"""Looks at every file of a raw data set with the stages that prepare it, and collects problems."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.progress import Progress
from cache.schema import DatasetInfo
from pipeline.compose import read_picture, read_points, read_raw_labels
from pipeline.problem import Problem, ProblemError
from pipeline.source import ScanSource
from pipeline.stages.labels import map_labels
from pipeline.stages.read import require_finite, require_same_length

_AGAIN = "The file is damaged: copy or download it again."
_MAX_THREADS = 16

T = TypeVar("T")


class PictureSize(NamedTuple):
    """Size of a picture that decodes."""

    camera: int
    file: Path
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class ScanFindings:
    """What the check of one scan saw."""

    problems: tuple[Problem, ...]
    pictures: tuple[PictureSize, ...]
    n_bytes: int
    """Bytes of the scan's files."""


def check_scans(
    scans: Sequence[ScanSource], info: DatasetInfo, *, progress: Progress
) -> list[Problem]:
    """Read all files of these scans in threads (reading and decoding release the GIL).

    Args:
        scans: to look at.
        info: label table and file layout of the data set.
        progress: one unit per scan, with the bytes read.

    Returns:
        Every problem, in the order of the scans; then pictures whose size is not that of most
        pictures of their sequence and camera.
    """
    progress.start("checking", total=len(scans), unit="scans")
    problems: list[Problem] = []
    pictures: dict[tuple[str, int], list[PictureSize]] = {}
    for scan, findings in _in_threads(scans, info):
        progress.advance(nbytes=findings.n_bytes)
        problems += findings.problems
        for picture in findings.pictures:
            pictures.setdefault((scan.sequence, picture.camera), []).append(picture)
    for group in pictures.values():
        problems += _odd_sizes(group)
    return problems


def check_scan(scan: ScanSource, info: DatasetInfo) -> ScanFindings:
    """Read one scan's files and name all that is wrong with them."""
    problems: list[Problem] = []
    points = _attempt(scan.points, lambda: read_points(scan.points, info), problems)
    if points is not None:
        _attempt(scan.points, lambda: require_finite(points, file=scan.points), problems)
        if len(points) == 0:
            problems.append(_empty(scan.points))
    for sweep in scan.sweeps:
        more = _attempt(sweep.points, partial(read_points, sweep.points, info), problems)
        if more is not None:
            _attempt(sweep.points, partial(require_finite, more, file=sweep.points), problems)
    if scan.labels is not None:
        _check_labels(scan, scan.labels, info, points=points, problems=problems)
    pictures = []
    for camera, file in enumerate(scan.images):
        shape = None if file is None else _attempt(file, partial(_shape, scan, camera), problems)
        if file is not None and shape is not None:
            pictures.append(PictureSize(camera, file, *shape))
    return ScanFindings(
        problems=tuple(problems),
        pictures=tuple(pictures),
        n_bytes=sum(file.stat().st_size for file in scan.files() if file.exists()),
    )


def _check_labels(
    scan: ScanSource,
    file: Path,
    info: DatasetInfo,
    *,
    points: NDArray[np.float32] | None,
    problems: list[Problem],
) -> None:
    n_points = None if points is None else len(points)
    read = partial(read_raw_labels, file, info, n_points=n_points)
    raw_labels = _attempt(file, read, problems)
    if raw_labels is None:
        return
    if points is not None:
        same_length = partial(
            require_same_length,
            n_points=len(points),
            n_labels=len(raw_labels),
            points_file=scan.points,
            labels_file=file,
        )
        _attempt(file, same_length, problems)
    _attempt(file, lambda: map_labels(raw_labels, table=info.labels, file=file), problems)


def _attempt(file: Path, work: Callable[[], T], problems: list[Problem]) -> T | None:
    """The result of the work, or None and one more problem."""
    try:
        return work()
    except ProblemError as error:
        problems.append(error.problem)
    except OSError as error:  # a disk or network that fails on this file
        found = (error.strerror or type(error).__name__).lower()
        problems.append(Problem(file=file, found=found, expected="a readable file", remedy=_AGAIN))
    return None


def _shape(scan: ScanSource, camera: int) -> tuple[int, int]:
    height, width, _ = read_picture(scan, camera).shape
    return height, width


def _in_threads(
    scans: Sequence[ScanSource], info: DatasetInfo
) -> Iterator[tuple[ScanSource, ScanFindings]]:
    """Findings in the order of the scans, with a bounded number of scans in flight."""
    n_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[ScanSource, Future[ScanFindings]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for scan in scans:
            waiting.append((scan, pool.submit(check_scan, scan, info)))
            if len(waiting) > 2 * n_threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _odd_sizes(pictures: list[PictureSize]) -> list[Problem]:
    common, _ = Counter((p.height, p.width) for p in pictures).most_common(1)[0]
    return [
        Problem(
            file=picture.file,
            found=f"a picture of {picture.width}x{picture.height} pixels",
            expected=f"{common[1]}x{common[0]}, as most pictures of the sequence",
            remedy="Is it of another sequence or camera? One calib.txt fits one size only.",
        )
        for picture in pictures
        if (picture.height, picture.width) != common
    ]


def _empty(file: Path) -> Problem:
    return Problem(file=file, found="an empty file", expected="points", remedy=_AGAIN)
