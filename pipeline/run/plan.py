"""What `prepare` would do, and why, by comparing every shard's keys with those on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.layout import ROW_FILE, SHARD_FOLDER, Layout, shard_name
from pass2d.cache.manifest import Manifest, current_number, load_manifest, require_version
from pass2d.cache.rows import ScanSources, ShardHeader, load_row
from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.run.jobs import (
    ShardJob,
    camera_header,
    containers,
    lidar_header,
    motion_header,
    numbered,
    thinned_header,
    voxel_header,
)
from pass2d.pipeline.run.reasons import FOLLOWS, NEW, difference, earlier_shards
from pass2d.pipeline.run.rounding import as_before
from pass2d.pipeline.run.source_index import SourceIndex
from pass2d.pipeline.source import ScanSource

_BYTES_PER_SCAN = {
    "lidar": 1_900_000,
    "camera": 700_000,
    "voxel": 550_000,
    "motion": 2_500,
    "thinned": 1_600_000,
}
_SECONDS_PER_SCAN = {
    "lidar": 0.02,
    "camera": 0.02,
    "voxel": 0.015,
    "motion": 0.005,
    "thinned": 0.35,
}
"""CPU, of 120k-point scans, `camera` per picture; used until this cache has its own figures."""


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """One container of one shard that has to be made."""

    container: str
    shard: int
    sequence: str
    scans: int
    reason: str
    nbytes: int
    """Estimate of what it will write."""
    seconds: float
    """Estimate of CPU time."""


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """All that `prepare` would do."""

    jobs: tuple[ShardJob, ...]
    tasks: tuple[PlannedTask, ...]
    keys: dict[tuple[str, int], str]
    """Keys of the shards that are done, by container and shard."""
    dropped: tuple[int, ...]
    """Shards of the listed sequences that the next generation will not have."""
    staying: tuple[str, ...]
    """Sequences of the last generation that are not listed; the next one has them as they are."""
    has_panoptic: bool
    """Whether a scan of the next generation has its instance ids from a file beside its labels."""

    @property
    def nbytes(self) -> int:
        """Estimate for all tasks."""
        return sum(task.nbytes for task in self.tasks)

    @property
    def seconds(self) -> float:
        """Estimate of CPU time for all tasks."""
        return sum(task.seconds for task in self.tasks)


@dataclass(frozen=True, kw_only=True)
class RemoteShards:
    """Shards that lie in a remote store; ``layout`` then holds the manifest alone."""

    committed: dict[str, set[str]]
    """By container the names of shards with a commit record."""
    bring: Callable[[Collection[tuple[str, str]]], None]
    """Copies commit records, given by container and name, into the layout."""


def plan_prepare(
    jobs: Sequence[ShardJob],
    layout: Layout,
    *,
    info: DatasetInfo,
    profile: str,
    remote: RemoteShards | None = None,
) -> PreparePlan:
    """Compare what is wanted with what is there. Reads no source file, only sizes and times.

    Args:
        jobs: of `cut_into_shards`.
        layout: the prepared data set's folder; it need not exist.
        info: of the listing.
        profile: of `PROFILES`.
        remote: of a store.
    """
    require_version(layout)
    has_manifest = layout.dataset_file.is_file() and current_number(layout) is not None
    manifest = load_manifest(layout) if has_manifest else None
    jobs = numbered(jobs, {} if manifest is None else _sequences(manifest))
    planner = _Planner(layout, manifest, info=info, profile=profile, jobs=jobs, remote=remote)
    tasks: list[PlannedTask] = []
    planned: list[ShardJob] = []
    for listed in jobs:
        job, found = listed, planner.plan(listed)
        if found and (job := planner.as_before(listed)) != listed:
            found = planner.plan(job)
        planned.append(job)
        tasks += found
    return PreparePlan(
        jobs=tuple(planned),
        tasks=tuple(tasks),
        keys=planner.keys,
        dropped=tuple(planner.dropped()),
        staying=planner.staying(),
        has_panoptic=any(scan.panoptic for job in jobs for scan in job.scans)
        or (manifest is not None and _has_panoptic(manifest, {job.sequence for job in jobs})),
    )


class _Planner:
    def __init__(
        self,
        layout: Layout,
        manifest: Manifest | None,
        *,
        info: DatasetInfo,
        profile: str,
        jobs: Sequence[ShardJob],
        remote: RemoteShards | None,
    ) -> None:
        self._layout = layout
        self._info = info
        self._profile = profile
        self._jobs = jobs
        self._committed = (
            {name: _committed(layout, name) for name in CONTAINERS}
            if remote is None
            else remote.committed
        )
        self._earlier = {} if manifest is None else earlier_shards(manifest)
        self._sequence_of = {} if manifest is None else _sequences(manifest)
        self._index = SourceIndex()
        if manifest is not None:
            self._index.add_table(manifest.tables.scans, manifest.tables.shards)
        shards = {job.shard for job in jobs}
        unlisted = {(s, name) for s, name in self._unlisted() if _number(name) in shards}
        if remote is not None:
            remote.bring(unlisted)
        self._unread: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for container, name in sorted(unlisted):
            self._unread[_number(name)].append((container, name))
        self.keys: dict[tuple[str, int], str] = {}

    def plan(self, job: ShardJob) -> list[PlannedTask]:
        """The tasks that one shard needs."""
        sources = self._sources(job.shard, job.scans, self._index.lidar_sources)
        if sources is None:
            return self._all_containers(job, self._source_reason("lidar", job))
        header = lidar_header(job, sources, info=self._info, profile=self._profile)
        if not self._is_done(header, job.shard):
            return self._all_containers(job, self._reason(header, job))
        self.keys["lidar", job.shard] = header.key
        kept = self._kept(job, header.key)
        return [
            *self._plan_camera(job, kept, header.key),
            *self._plan_voxel(job, header.key),
            *self._plan_motion(job, kept, header.key),
            *self._plan_thinned(job, header.key),
        ]

    def as_before(self, job: ShardJob) -> ShardJob:
        """Its scans with the numbers of the shards that are there, where only rounding differs."""
        return as_before(job, self._earlier)

    def dropped(self) -> list[int]:
        """Shards of listed sequences that no job has any more."""
        listed = {job.sequence for job in self._jobs}
        wanted = {job.shard for job in self._jobs}
        return sorted(
            shard
            for shard, sequence in self._sequence_of.items()
            if sequence in listed and shard not in wanted
        )

    def staying(self) -> tuple[str, ...]:
        """Sequences of the last generation that are not listed."""
        return tuple(sorted({*self._sequence_of.values()} - {job.sequence for job in self._jobs}))

    def _sources(
        self,
        shard: int,
        scans: Sequence[ScanSource],
        look_up: Callable[[ScanSource], ScanSources | None],
    ) -> list[ScanSources] | None:
        """The scans' files; None when one of them must be hashed first."""
        known = _all_known([look_up(scan) for scan in scans])
        if known is None and (names := self._unread.pop(shard, None)):
            # Records that the generation lacks: of an interrupted run, or older than it.
            self._index.add_rows(self._layout, names)
            known = _all_known([look_up(scan) for scan in scans])
        return known

    def _plan_camera(
        self, job: ShardJob, scans: Sequence[ScanSource], lidar_key: str
    ) -> list[PlannedTask]:
        sources = self._sources(job.shard, scans, self._index.camera_sources)
        if sources is None:
            return [self._task("camera", job, self._source_reason("camera", job))]
        header = camera_header(
            scans, sources, lidar_key=lidar_key, info=self._info, profile=self._profile
        )
        return self._plan_container(header, job)

    def _plan_voxel(self, job: ShardJob, lidar_key: str) -> list[PlannedTask]:
        header = voxel_header(lidar_key=lidar_key, info=self._info, profile=self._profile)
        return self._plan_container(header, job)

    def _plan_motion(
        self, job: ShardJob, scans: Sequence[ScanSource], lidar_key: str
    ) -> list[PlannedTask]:
        if "motion" not in containers(job, self._info):
            return []
        header = motion_header(scans, lidar_key=lidar_key, info=self._info, profile=self._profile)
        return self._plan_container(header, job)

    def _plan_thinned(self, job: ShardJob, lidar_key: str) -> list[PlannedTask]:
        if "thinned" not in containers(job, self._info):
            return []
        return self._plan_container(thinned_header(lidar_key=lidar_key, profile=self._profile), job)

    def _plan_container(self, header: ShardHeader, job: ShardJob) -> list[PlannedTask]:
        if self._is_done(header, job.shard):
            self.keys[header.container, job.shard] = header.key
            return []
        return [self._task(header.container, job, self._reason(header, job))]

    def _all_containers(self, job: ShardJob, reason: str) -> list[PlannedTask]:
        tasks = [self._task("lidar", job, reason)]
        after = reason if reason == NEW else FOLLOWS
        others = containers(job, self._info)[1:]
        return [*tasks, *(self._task(name, job, after) for name in others)]

    def _is_done(self, header: ShardHeader, shard: int) -> bool:
        return shard_name(shard, header.key) in self._committed[header.container]

    def _unlisted(self) -> set[tuple[str, str]]:
        """Stage and name of commit records that the current generation lacks."""
        listed = {(container, shard_name(n, e.key)) for (container, n), e in self._earlier.items()}
        return {(s, n) for s, names in self._committed.items() for n in names} - listed

    def _kept(self, job: ShardJob, lidar_key: str) -> tuple[ScanSource, ...]:
        earlier = self._earlier.get(("lidar", job.shard))
        if earlier is not None and earlier.key == lidar_key:
            return tuple(scan for scan in job.scans if scan.scan_id not in earlier.failed)
        row = load_row(self._layout, "lidar", job.shard, lidar_key)
        assert row is not None, lidar_key
        return job.only(row.entries.scan_ids())

    def _source_reason(self, container: str, job: ShardJob) -> str:
        if (container, job.shard) not in self._earlier:
            return NEW
        for scan in job.scans:
            files = scan.lidar_files() if container == "lidar" else scan.camera_files()
            for role, path in files:
                if self._index.lookup(role, path) is None:
                    return self._index.change(path)
        raise AssertionError(job.shard)

    def _reason(self, header: ShardHeader, job: ShardJob) -> str:
        earlier = self._earlier.get((header.container, job.shard))
        return NEW if earlier is None else difference(earlier, header)

    def _task(self, container: str, job: ShardJob, reason: str) -> PlannedTask:
        similar = [e for (s, _), e in self._earlier.items() if s == container][:100]
        per_scan = (float(_BYTES_PER_SCAN[container]), _SECONDS_PER_SCAN[container])
        if container == "camera":
            pictures = sum(image is not None for scan in job.scans for image in scan.images)
            per_scan = (per_scan[0], per_scan[1] * pictures / len(job.scans))
        if similar:
            per_scan = (
                sum(e.bytes_per_scan for e in similar) / len(similar),
                sum(e.seconds_per_scan for e in similar) / len(similar),
            )
        return PlannedTask(
            container=container,
            shard=job.shard,
            sequence=job.sequence,
            scans=len(job.scans),
            reason=reason,
            nbytes=round(per_scan[0] * len(job.scans)),
            seconds=per_scan[1] * len(job.scans),
        )


def _all_known(sources: Sequence[ScanSources | None]) -> list[ScanSources] | None:
    known = [source for source in sources if source is not None]
    return known if len(known) == len(sources) else None


def _number(name: str) -> int:
    return int(name.split("-", maxsplit=1)[0])


def _committed(layout: Layout, container: str) -> set[str]:
    """Names ("000003-0123456789ab") of shards that have both a folder and a commit record."""
    return _names(layout, container, SHARD_FOLDER) & _names(layout, f"rows/{container}", ROW_FILE)


def _names(layout: Layout, folder: str, pattern: Any) -> set[str]:
    place = layout.root / folder
    if not place.is_dir():
        return set()
    return {entry.name.split(".")[0] for entry in place.iterdir() if pattern.fullmatch(entry.name)}


def _has_panoptic(manifest: Manifest, listed: Collection[str]) -> bool:
    """Whether a scan of the sequences that were not listed, and so stay, has a panoptic file."""
    shards = manifest.tables.shards
    columns = (shards["sequence"].to_pylist(), shards["inputs"].to_pylist())
    return any(
        sequence not in listed and '["panoptic",' in inputs
        for sequence, inputs in zip(*columns, strict=True)
    )


def _sequences(manifest: Manifest) -> dict[int, str]:
    shards = manifest.tables.shards
    return dict(zip(shards["shard"].to_pylist(), shards["sequence"].to_pylist(), strict=True))
