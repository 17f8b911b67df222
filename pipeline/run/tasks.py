"""The task of Ray workers and the inline runner: one container of one shard.

Arguments are small (paths and numbers), results are smaller; data is passed by disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.clouds.statistics import measured_points
from pass2d.cache.key_inputs import source_files
from pass2d.cache.keys import hash_file
from pass2d.cache.layout import Layout
from pass2d.cache.motion import moving_labels
from pass2d.cache.reading.shard_reader import read_points
from pass2d.cache.remote.writer import RemoteTarget, Workspace
from pass2d.cache.rows import (
    FailedScan,
    LidarEntry,
    MotionEntry,
    ScanSources,
    ShardHeader,
    ShardRow,
    SourceFile,
    commit_row,
    load_row,
)
from pass2d.cache.schema import CameraView, DatasetInfo, ScanRecord
from pass2d.cache.writing.writer import (
    write_camera_shard,
    write_lidar_shard,
    write_motion_shard,
    write_thinned_shard,
    write_voxel_shard,
)
from pass2d.common.errors import CacheError, Pass2DError
from pass2d.pipeline.compose import (
    camera_views,
    lidar_record,
    motion_record,
    pictures_at_hand,
    scan_counts,
    thinned_points,
    view_doubts,
    voxel_levels,
)
from pass2d.pipeline.doubts import (
    EdgeScores,
    edge_doubts,
    edge_sample,
    edge_scores,
    order_doubts,
    scan_doubts,
    thorough,
)
from pass2d.pipeline.problem import Problem, Warned, merge_warnings
from pass2d.pipeline.run.jobs import (
    ShardJob,
    camera_header,
    lidar_header,
    motion_header,
    thinned_header,
    voxel_header,
)
from pass2d.pipeline.source import ScanSource

_EDGE_PICTURES = 2
"""Compared of a sequence in a shard: a check compares more of them together."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What all tasks of a run share."""

    dataset_root: Path
    info: DatasetInfo
    profile: str
    remote: RemoteTarget | None = None
    """The store that the results go to; ``dataset_root`` then has no meaning."""
    workspace: Workspace | None = None
    """Of the task that runs now, if the results go to a store."""

    @property
    def layout(self) -> Layout:
        """Places on disk."""
        return Layout(root=self.dataset_root)


@dataclass(frozen=True, kw_only=True)
class ContainerTask:
    """One container of one shard, to be made."""

    container: str
    job: ShardJob
    lidar_key: str = ""
    """Key of the shard's `lidar` container; empty for `lidar` itself."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of a task for the driver; the rest is in the commit record."""

    container: str
    shard: int
    key: str
    """Empty when no scan of the shard could be prepared: nothing was written."""
    is_new: bool
    """False when the shard was there already, e.g. by an interrupted run."""
    nbytes: int
    compute_seconds: float
    """CPU time of reading and of the stages."""
    write_seconds: float
    """CPU time of encoding and writing."""
    failed: tuple[FailedScan, ...]
    warned: tuple[Warned, ...] = ()
    """Warnings about the prepared scans; none for a shard that existed already."""
    dropped: int = 0
    """Points not finite or too far, in those scans."""


def run_task(context: TaskContext, task: ContainerTask) -> TaskResult:
    """Make and publish one container of one shard.

    A scan with faulty files is left out and reported; any other failure is an error of the task.

    Raises:
        CacheError: the cache cannot be written, or the `lidar` shard is damaged.
        OSError: reading or writing failed temporarily; a retry may help.
    """
    makers: dict[str, Callable[[TaskContext, ContainerTask], TaskResult]] = {
        "lidar": _run_lidar,
        "camera": _run_camera,
        "voxel": _run_voxel,
        "motion": _run_motion,
        "thinned": _run_thinned,
    }
    if context.remote is None:
        return makers[task.container](context, task)
    with context.remote.workspace() as workspace:
        aside = replace(
            context, dataset_root=workspace.layout.root, remote=None, workspace=workspace
        )
        result = makers[task.container](aside, task)
        if result.key:
            workspace.publish(task.container, task.job.shard, result.key)
        return result


def _run_lidar(context: TaskContext, task: ContainerTask) -> TaskResult:
    clock = _Clock()
    job = task.job
    known: Hashed = {}
    sources = [lidar_sources(scan, known) for scan in job.scans]
    header = lidar_header(job, sources, info=context.info, profile=context.profile)
    found = _published(context, task, header, sources)
    if found is not None:
        return _result(found, clock, is_new=False)
    records: list[ScanRecord] = []
    entries: list[LidarEntry] = []
    failed: list[FailedScan] = []
    doubts: list[Problem] = []
    looked_at = thorough(job.scans)
    edges: list[EdgeScores] = []
    compared = edge_sample(job.scans, _EDGE_PICTURES)
    for scan in job.scans:
        try:
            record = lidar_record(scan, context.info)
        except Pass2DError as error:
            failed.append(FailedScan(scan_id=scan.scan_id, container="lidar", reason=str(error)))
            continue
        records.append(record)
        if context.info.corruption is None:  # else its clean data set was looked at
            points = measured_points(record)
            doubts += scan_doubts(
                points,
                info=context.info,
                file=scan.points,
                is_thorough=scan.scan_id in looked_at,
            )
            if scan.scan_id in looked_at:
                doubts += _order_doubts(scan, record)
            if scan.scan_id in compared:
                edges += edge_scores(scan, points[:3], pictures_at_hand(scan, context.info))
        entries.append(_lidar_entry(scan, record, context.info))
    clock.computed()
    if not records:
        return TaskResult(
            container="lidar",
            shard=job.shard,
            key="",
            is_new=False,
            nbytes=0,
            compute_seconds=clock.compute_seconds,
            write_seconds=0.0,
            failed=tuple(failed),
        )
    row = write_lidar_shard(
        context.layout,
        shard=job.shard,
        header=header,
        records=records,
        entries=entries,
        sources=sources,
        failed=failed,
    )
    dropped = sum(map(_dropped_points, records)) if context.info.drops_invalid else 0
    doubts += edge_doubts(edges)
    return replace(_result(row, clock, is_new=True, doubts=doubts), dropped=dropped)


def _order_doubts(scan: ScanSource, record: ScanRecord) -> Iterator[Problem]:
    """`order_doubts` of a scan's own points in the volume."""
    if scan.labels is not None and record.label is not None:
        own = slice(None) if record.time is None else record.time == 0
        xyz, label, rows = record.xyz[:, own], record.label[own], record.raw_index[own]
        yield from order_doubts(xyz, label, rows=rows, file=scan.labels)


def _dropped_points(record: ScanRecord) -> int:
    assert record.outside_xyz is not None
    return int(np.count_nonzero(~is_measured(record.outside_xyz)))


def _lidar_entry(scan: ScanSource, record: ScanRecord, info: DatasetInfo) -> LidarEntry:
    counts = scan_counts(record, info)
    return LidarEntry(
        scan_id=scan.scan_id,
        split=scan.split,
        sequence=scan.sequence,
        frame_index=scan.frame_index,
        token=scan.token,
        n_raw=record.n_raw,
        n=record.n,
        has_label=record.label is not None,
        label_histogram=tuple(counts.label_histogram.tolist()),
        range_histogram=tuple(counts.range_histogram.tolist()),
    )


def _run_camera(context: TaskContext, task: ContainerTask) -> TaskResult:
    clock = _Clock()
    lidar = _lidar_row(context, task)
    scans = task.job.only(lidar.entries.scan_ids())
    known: Hashed = {}
    sources = [camera_sources(scan, known) for scan in scans]
    header = camera_header(
        scans, sources, lidar_key=task.lidar_key, info=context.info, profile=context.profile
    )
    found = _published(context, task, header, sources)
    if found is not None:
        return _result(found, clock, is_new=False)
    pictures: list[tuple[CameraView | None, ...]] = []
    failed: list[FailedScan] = []
    doubts: list[Problem] = []
    nothing = (None,) * context.info.n_cameras
    has_any = [scan.image_from_lidar is not None and any(scan.images) for scan in scans]
    points = _read_points(context, lidar) if any(has_any) else [None] * len(scans)
    for scan, is_seen, record in zip(scans, has_any, points, strict=True):
        views: tuple[CameraView | None, ...] = nothing
        if is_seen and record is not None:
            try:
                views = camera_views(scan, record, context.info) or nothing
                if context.info.corruption is None:
                    doubts += view_doubts(scan, record, views)
            except Pass2DError as error:
                failed.append(
                    FailedScan(scan_id=scan.scan_id, container="camera", reason=str(error))
                )
        pictures.append(views)
    clock.computed()
    row = write_camera_shard(
        context.layout,
        shard=task.job.shard,
        header=header,
        scan_ids=[scan.scan_id for scan in scans],
        pictures=pictures,
        image_from_lidar=[scan.image_from_lidar for scan in scans],
        n_cameras=context.info.n_cameras,
        sources=sources,
        failed=failed,
    )
    return _result(row, clock, is_new=True, doubts=doubts)


def _run_voxel(context: TaskContext, task: ContainerTask) -> TaskResult:
    clock = _Clock()
    header = voxel_header(lidar_key=task.lidar_key, info=context.info, profile=context.profile)
    found = _published(context, task, header, [])
    if found is not None:
        return _result(found, clock, is_new=False)
    lidar = _lidar_row(context, task)
    hashes = [
        voxel_levels(record, grid=context.info.grid) for record in _read_points(context, lidar)
    ]
    clock.computed()
    row = write_voxel_shard(
        context.layout,
        shard=task.job.shard,
        header=header,
        scan_ids=lidar.entries.scan_ids(),
        hashes=hashes,
    )
    return _result(row, clock, is_new=True)


def _run_motion(context: TaskContext, task: ContainerTask) -> TaskResult:
    clock = _Clock()
    lidar = _lidar_row(context, task)
    scans: Sequence[ScanSource] = task.job.only(lidar.entries.scan_ids())
    header = motion_header(
        scans, lidar_key=task.lidar_key, info=context.info, profile=context.profile
    )
    found = _published(context, task, header, [])
    if found is not None:
        return _result(found, clock, is_new=False)
    records: list[ScanRecord | None] = []
    entries: list[MotionEntry] = []
    scans = [  # what a corruption is drawn by: `repair` knows it from the shard alone
        replace(scan, sequence=entry.sequence, frame_index=entry.frame_index)
        for scan, entry in zip(scans, lidar.entries.lidar, strict=True)
    ]
    for scan, record in zip(scans, _motion_points(context, lidar, scans), strict=True):
        moved = None if record is None else motion_record(scan, record, context.info)
        records.append(moved)
        entries.append(_motion_entry(scan, moved, context.info))
    clock.computed()
    row = write_motion_shard(
        context.layout, shard=task.job.shard, header=header, records=records, entries=entries
    )
    return _result(row, clock, is_new=True)


def _run_thinned(context: TaskContext, task: ContainerTask) -> TaskResult:
    clock = _Clock()
    header = thinned_header(lidar_key=task.lidar_key, profile=context.profile)
    found = _published(context, task, header, [])
    if found is not None:
        return _result(found, clock, is_new=False)
    lidar = _lidar_row(context, task)
    scans = [thinned_points(record) for record in _read_points(context, lidar, with_outside=True)]
    clock.computed()
    row = write_thinned_shard(
        context.layout,
        shard=task.job.shard,
        header=header,
        scan_ids=lidar.entries.scan_ids(),
        scans=scans,
    )
    return _result(row, clock, is_new=True)


def _motion_points(
    context: TaskContext, lidar: ShardRow, scans: Sequence[ScanSource]
) -> Iterator[ScanRecord | None]:
    """The scans' points where their label files say what moves; else None.

    Raises:
        CacheError: a label file is not the one that the points were labelled with.
    """
    has_label = [entry.has_label for entry in lidar.entries.lidar]
    if not context.info.facts.moving or not any(has_label):
        yield from [None] * len(scans)
        return
    hashes = {
        (scan.scan_id, file.role): file.xxh3
        for scan in source_files(lidar.header)
        for file in scan.files
    }
    for scan, record in zip(scans, _read_points(context, lidar), strict=True):
        known = hashes.get((scan.scan_id, "labels"))
        if known and scan.labels and source_file("labels", scan.labels).xxh3 != known:
            raise CacheError(
                f"{scan.labels}: not the labels that scan {scan.scan_id} was prepared with. They "
                "changed meanwhile: run `prepare` again."
            )
        yield record


def _motion_entry(scan: ScanSource, moved: ScanRecord | None, info: DatasetInfo) -> MotionEntry:
    n_classes, n_moving = info.labels.n_classes, len(info.facts.moving)
    counts = np.zeros(n_classes + n_moving, np.int64)
    if moved is not None and moved.label is not None and moved.motion is not None:
        label = moving_labels(moved.label, moved.motion, info)
        counts = np.bincount(label, minlength=len(counts))
    return MotionEntry(
        scan_id=scan.scan_id,
        has_motion=moved is not None,
        moving_histogram=tuple(counts[n_classes:].tolist()),
        pose=scan.pose,
        time_s=scan.time_s,
    )


def _lidar_row(context: TaskContext, task: ContainerTask) -> ShardRow:
    row = _find_row(context, "lidar", task.job.shard, task.lidar_key)
    if row is None:
        raise CacheError(
            f"{context.layout.row('lidar', task.job.shard, task.lidar_key)}: missing. Something "
            "removed it while `prepare` ran: run it again."
        )
    return row


def _find_row(context: TaskContext, container: str, shard: int, key: str) -> ShardRow | None:
    if context.workspace is not None:
        return context.workspace.bring_record(container, shard, key)
    return load_row(context.layout, container, shard, key)


def _read_points(
    context: TaskContext, lidar: ShardRow, *, with_outside: bool = False
) -> Iterator[ScanRecord]:
    if context.workspace is not None:
        return context.workspace.read_points(lidar, with_outside=with_outside)
    return read_points(context.layout, lidar, with_outside=with_outside)


def _published(
    context: TaskContext, task: ContainerTask, header: ShardHeader, sources: Sequence[ScanSources]
) -> ShardRow | None:
    """The record of a shard that is there already, with the sources' present paths and times."""
    layout = context.layout
    row = _find_row(context, task.container, task.job.shard, header.key)
    if row is None:
        return None
    is_here = layout.shard(task.container, task.job.shard, header.key).is_dir()
    if context.workspace is None and not is_here:
        return None
    if row.sources != tuple(sources):
        row = replace(row, sources=tuple(sources))
        commit_row(layout, row)
    return row


Hashed = dict[Path, SourceFile]
"""Files that a task has hashed: those that hold many scans are read once."""


def lidar_sources(scan: ScanSource, known: Hashed) -> ScanSources:
    """Points, labels and sweeps with their hashes; files that cannot be read have none."""
    files = tuple(_hashed(role, path, known) for role, path in scan.lidar_files())
    return ScanSources(scan_id=scan.scan_id, files=files)


def camera_sources(scan: ScanSource, known: Hashed) -> ScanSources:
    """Pictures and calibration with their hashes."""
    files = tuple(_hashed(role, path, known) for role, path in scan.camera_files())
    return ScanSources(scan_id=scan.scan_id, files=files)


def _hashed(role: str, path: Path, known: Hashed) -> SourceFile:
    if path not in known:
        known[path] = source_file(role, path)
    return replace(known[path], role=role)


def source_file(role: str, path: Path) -> SourceFile:
    """Hash one file; a missing one has no bytes and no hash, which is a fact for the key, too."""
    try:
        nbytes, mtime_ns, xxh3 = hash_file(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        nbytes, mtime_ns, xxh3 = 0, 0, ""
    return SourceFile(role=role, path=str(path), nbytes=nbytes, mtime_ns=mtime_ns, xxh3=xxh3)


class _Clock:
    """CPU seconds of a task's two halves."""

    def __init__(self) -> None:
        self._started = time.process_time()
        self.compute_seconds = 0.0

    def computed(self) -> None:
        """The arrays are computed; what follows is writing."""
        self.compute_seconds = time.process_time() - self._started

    def write_seconds(self) -> float:
        """Since `computed`."""
        return time.process_time() - self._started - self.compute_seconds


def _result(
    row: ShardRow, clock: _Clock, *, is_new: bool, doubts: Sequence[Problem] = ()
) -> TaskResult:
    return TaskResult(
        container=row.header.container,
        shard=row.shard,
        key=row.header.key,
        is_new=is_new,
        nbytes=row.nbytes,
        compute_seconds=clock.compute_seconds,
        write_seconds=clock.write_seconds() if is_new else 0.0,
        failed=row.failed,
        warned=merge_warnings(doubts),
    )
