"""Reads every file of a raw data set by the stages that prepare it, and collects the problems."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.schema import DatasetInfo, LabelTable
from pass2d.cache.statistics import NEEDED_BY, lacks_classes, seem_training_ids
from pass2d.common.errors import CacheError
from pass2d.common.processes import usable_cores
from pass2d.common.progress import Progress
from pass2d.pipeline.compose import read_picture, visible_points
from pass2d.pipeline.datasets.draw_calibration import draw_calibrations
from pass2d.pipeline.datasets.layout import Examined
from pass2d.pipeline.datasets.tally import ScanCount, Tally, sampled, unnamed_ids
from pass2d.pipeline.doubts import (
    EdgeScores,
    edge_doubts,
    edge_sample,
    edge_scores,
    odd_sizes,
    order_doubts,
    picture_doubts,
    require_in_volume,
    scan_doubts,
    thorough,
)
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.run.jobs import cut_into_shards
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.counts import count_labels
from pass2d.pipeline.stages.labels import UNNAMED
from pass2d.pipeline.stages.read import Attempt, attempt_scan, read_sweep
from pass2d.pipeline.stages.volume import split_volume

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
    """The findings on one scan."""

    problems: tuple[Problem, ...]
    pictures: tuple[PictureSize, ...]
    class_counts: NDArray[np.int64] | None
    """(C,) points per training id; None without readable labels."""
    n_bytes: int
    """Bytes of the scan's files."""
    count: ScanCount
    """What the scan adds to the table of its split."""
    edges: tuple[EdgeScores, ...] = ()
    """Of a scan whose edges are compared."""


def check_examined(
    seen: Examined,
    *,
    png: Path | None,
    cameras: Sequence[str],
    progress: Progress,
    tally: Tally | None = None,
) -> list[Problem]:
    """Read all files of a listed data set.

    Args:
        seen: problems found from names and tables.
        png: folder of one picture per sequence and camera, with the points on it; None: none.
        cameras: their names where there are several.
        progress: scans read and their bytes.
        tally: counts the contents of each split; ids without a name are then reported once for all
            scans.

    Returns:
        The problems in ``seen``, then those in the files.
    """
    problems = [*seen.problems, *check_scans(seen.scans, seen.info, progress=progress, tally=tally)]
    if png is not None:
        draw_calibrations(
            seen.scans, seen.info, png, problems=problems, cameras=cameras, progress=progress
        )
    return problems


def check_scans(
    scans: Sequence[ScanSource],
    info: DatasetInfo,
    *,
    progress: Progress,
    tally: Tally | None = None,
) -> list[Problem]:
    """Read all files of these scans in threads (reading and decoding release the GIL).

    Args:
        scans: to look at.
        info: label table and file layout of the data set.
        progress: one unit per scan, with the bytes read.
        tally: counts what is in each split; ids without a name are then said once, of all scans.

    Returns:
        Every problem, in the order of the scans; then pictures whose size is not that of most
        pictures of their sequence and camera, calibrations that fit better when turned, and splits
        whose labels have no class.
    """
    progress.start("checking", total=len(scans), unit="scans")
    problems = _listing_problems(scans)
    pictures: dict[tuple[str, int], list[tuple[Path, tuple[int, int]]]] = {}
    counts: dict[str, NDArray[np.int64]] = {}
    folders: dict[str, Path] = {}
    edges: list[EdgeScores] = []
    for scan, findings in _in_threads(scans, info):
        progress.advance(nbytes=findings.n_bytes)
        problems += [p for p in findings.problems if tally is None or p.kind != UNNAMED]
        if tally is not None:
            tally.add(scan, findings.count, findings.class_counts)
        edges += findings.edges
        for picture in findings.pictures:
            group = pictures.setdefault((scan.sequence, picture.camera), [])
            group.append((picture.file, (picture.height, picture.width)))
        if findings.class_counts is not None and scan.labels is not None:
            counts[scan.split] = counts.get(scan.split, 0) + findings.class_counts
            folders.setdefault(scan.split, scan.labels.parent)
    for group in pictures.values():
        problems += odd_sizes(group)
    problems += edge_doubts(edges)
    for split, of_split in counts.items():
        problems += class_problems(folders[split], of_split, split=split, labels=info.labels)
    return problems


def class_problems(
    place: Path, counts: NDArray[np.int64], *, split: str, labels: LabelTable
) -> Iterator[Problem]:
    """What is suspicious about the labels of a split.

    Args:
        place: a folder of its labels.
        counts: (C,) points per training id.
        split: its name.
        labels: the data set's.
    """
    if found := lacks_classes(counts):
        yield Problem(
            file=place,
            found=f"in split {split} {found}",
            expected="labels with classes, for training and evaluation",
            remedy="Are they labels of another tool, or of a test set? They cannot be "
            "used for training or evaluation.",
            severity="error" if split in NEEDED_BY else "warning",
            kind=f"classes of {split}",
        )
    elif lost := seem_training_ids(counts, labels):
        yield Problem(
            file=place,
            found=f"in split {split} no point of {', '.join(labels.names[c] for c in lost)}: no "
            f"raw id above {labels.n_classes - 1}",
            expected=f"raw ids up to {max(labels.raw_to_training)}",
            remedy=f"Are they training ids 0..{labels.n_classes - 1}? Then write the raw ids.",
            severity="warning",
            kind=f"training ids in {split}",
        )


def _listing_problems(scans: Sequence[ScanSource]) -> list[Problem]:
    """What prevents `prepare` from dividing the scans into shards."""
    try:
        cut_into_shards(scans, shard_scans=64)
    except CacheError as error:
        return [
            Problem(
                file=scans[0].points,
                found=str(error),
                expected="a valid, unique name for each scan",
                remedy="`prepare` refuses the data set.",
            )
        ]
    return []


def check_scan(
    scan: ScanSource, info: DatasetInfo, *, is_thorough: bool = True, has_edges: bool = False
) -> ScanFindings:
    """Read one scan's files and report everything that is wrong or suspicious.

    Args:
        scan: to look at.
        info: label table and file layout of the data set.
        is_thorough: look at the ground and the order of the labels, too.
        has_edges: compare the edges of scan and pictures, too.
    """
    problems: list[Problem] = []
    found = attempt_scan(
        scan.points, scan.labels, info, panoptic_file=scan.panoptic, scan_id=scan.scan_id
    )
    count = _count(found, info)
    problems += [_problem_of(file, error) for file, error in found.errors]
    points, raw, xyz, rows = found.points, None, None, np.arange(0)
    if points is not None:
        before = len(problems)
        in_volume = partial(require_in_volume, points, info=info, file=scan.points)
        _attempt(scan.points, in_volume, problems)
        if len(problems) == before:
            raw = np.ascontiguousarray(points[:, :4].T)
            rows = (
                np.flatnonzero(is_measured(raw)) if info.drops_invalid else np.arange(len(points))
            )
            raw = raw.take(rows, axis=1)
            problems += scan_doubts(raw, info=info, file=scan.points, is_thorough=is_thorough)
            inside = split_volume(raw[:3], grid=info.grid).inside
            xyz, rows = raw[:3].take(inside, axis=1), rows[inside]
            label, file = found.label, scan.labels
            if is_thorough and file and label is not None and len(label) == len(points):
                problems += order_doubts(xyz, label[rows], rows=rows, file=file)
            outside = raw.shape[1] - xyz.shape[1]
            count = replace(count, outside=outside, points=raw.shape[1], sample=sampled(raw))
    for sweep in scan.sweeps:
        _attempt(sweep.points, partial(read_sweep, sweep.points, info), problems)
    class_counts = None
    if found.label is not None:
        class_counts = count_labels(found.label, n_classes=info.labels.n_classes)
    pictures, images = [], []
    is_seen = None if xyz is None else np.zeros(xyz.shape[1], np.bool_)
    for camera, file in enumerate(scan.images):
        look_at = partial(read_picture, scan, camera, info)
        image = None if file is None else _attempt(file, look_at, problems)
        images.append(image if has_edges else None)
        if file is not None and image is not None:
            height, width, _ = image.shape
            shape = height, width
            pictures.append(PictureSize(camera, file, *shape))
            if xyz is not None and scan.image_from_lidar is not None:
                look = partial(visible_points, scan, camera, xyz, info, rows=rows, image_hw=shape)
                visible = _attempt(file, look, problems)
                if visible is None:
                    continue
                n_visible = len(visible.point_index)
                if is_seen is not None:
                    is_seen[visible.point_index] = True
                problems += picture_doubts(
                    scan, camera, xyz, image=image, image_hw=shape, n_visible=n_visible
                )
    if is_seen is not None and pictures:
        count = replace(count, pictured=len(is_seen), seen=int(is_seen.sum()))
    return ScanFindings(
        count=count,
        problems=tuple(problems),
        pictures=tuple(pictures),
        class_counts=class_counts,
        edges=tuple(edge_scores(scan, raw[:3], images)) if has_edges and raw is not None else (),
        n_bytes=sum(file.stat().st_size for file in scan.files() if file.exists()),
    )


def _count(found: Attempt, info: DatasetInfo) -> ScanCount:
    """What the labels alone say."""
    labels = found.label
    return ScanCount(
        labelled=0 if labels is None else len(labels),
        nothing=0 if labels is None else int(np.count_nonzero(labels == 0)),
        unnamed=Counter() if found.raw_labels is None else unnamed_ids(found.raw_labels, info),
    )


def _attempt(file: Path, work: Callable[[], T], problems: list[Problem]) -> T | None:
    """The result of the work, or None and one more problem."""
    try:
        return work()
    except (ProblemError, OSError) as error:
        problems.append(_problem_of(file, error))
    return None


def _problem_of(file: Path, error: ProblemError | OSError) -> Problem:
    if isinstance(error, ProblemError):
        return error.problem
    found = (error.strerror or type(error).__name__).lower()  # a disk or network that fails on it
    return Problem(file=file, found=found, expected="a readable file", remedy=_AGAIN)


def _in_threads(
    scans: Sequence[ScanSource], info: DatasetInfo
) -> Iterator[tuple[ScanSource, ScanFindings]]:
    """Findings in the order of the scans, with a bounded number of scans in flight."""
    looked_at, compared = thorough(scans), edge_sample(scans)
    n_threads = min(_MAX_THREADS, usable_cores())
    waiting: deque[tuple[ScanSource, Future[ScanFindings]]] = deque()

    def look(scan: ScanSource) -> ScanFindings:
        return check_scan(
            scan,
            info,
            is_thorough=scan.scan_id in looked_at,
            has_edges=scan.scan_id in compared,
        )

    with ThreadPoolExecutor(n_threads) as pool:
        for scan in scans:
            waiting.append((scan, pool.submit(look, scan)))
            if len(waiting) > 2 * n_threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
