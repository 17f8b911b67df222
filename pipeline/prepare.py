"""Turns a listed data set into a cache: plans, runs the stages over shards, publishes."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pass2d.cache.failures import encode_failures
from pass2d.cache.rows import FailedScan
from pass2d.cache.urls import dataset_location, is_url
from pass2d.common.progress import Progress, Silent
from pass2d.pipeline.datasets.published_doubts import cache_doubts
from pass2d.pipeline.problem import Warned, merge_warnings
from pass2d.pipeline.run.describe import reason_lines
from pass2d.pipeline.run.destination import Destination, LocalFolder, opened, remote_folder
from pass2d.pipeline.run.jobs import ShardJob, cut_into_shards, with_instances
from pass2d.pipeline.run.next_generation import PublishedShards
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.run.plan import PreparePlan
from pass2d.pipeline.run.runners import InlineRunner, Runner, TaskFailure
from pass2d.pipeline.run.summary import ContainerSeconds, PrepareSummary, all_failures, summarize
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext, TaskResult
from pass2d.pipeline.run.workers import decided
from pass2d.pipeline.source import SourceListing

StartRunner = Callable[[TaskContext], Runner]
OpenPlace = Callable[..., contextlib.AbstractContextManager[Destination]]

__all__ = ["PrepareConfig", "PrepareSummary", "plan", "prepare", "prepare_all"]


def plan(listing: SourceListing, dataset_root: Path | str, config: PrepareConfig) -> PreparePlan:
    """What `prepare` would do; writes nothing there."""
    jobs = cut_into_shards(listing.scans, shard_scans=config.shard_scans)
    if isinstance(dataset_root, str) and is_url(dataset_root):
        with remote_folder(dataset_root, workers=0) as remote:
            return remote.plan(jobs, listing.info, config.profile)
    return LocalFolder(Path(dataset_root)).plan(jobs, listing.info, config.profile)


def prepare(
    listing: SourceListing,
    dataset_root: Path | str,
    config: PrepareConfig | None = None,
    progress: Progress | None = None,
    *,
    runner: StartRunner | None = None,
) -> PrepareSummary:
    """Prepare all listed scans; unchanged shards that exist already are kept.

    If it is interrupted, even by SIGKILL, the last generation is unchanged, and the next call
    continues where this one stopped.

    Args:
        listing: of a reader in `pipeline/datasets/`.
        dataset_root: e.g. cache/semkitti, created if missing; or a URL, s3://bucket/semkitti.
        config: workers, profile, shard size; None: Ray where that is faster, the default profile.
        progress: receives finished scans and errors.
        runner: runs the tasks; None: Ray or this process, as ``config`` says.

    Returns:
        What was done; `failed` lists the scans that could not be prepared.

    Raises:
        CacheError: the cache cannot be written, or is damaged or of another format version.
    """
    (summary,) = _prepare(
        [(listing, dataset_root)], config or PrepareConfig(), progress or Silent(), runner=runner
    )
    return summary


def prepare_all(
    listings: Sequence[SourceListing],
    cache_root: Path | str,
    config: PrepareConfig,
    progress: Progress,
    *,
    open_place: OpenPlace = opened,
) -> tuple[PrepareSummary, ...]:
    """Prepare several data sets into one cache, one after the other, with one start of Ray.

    Args:
        listings: each goes to the folder of its data set's name.
        cache_root: the folder of data sets, or its URL.
        config: workers, profile, shard size.
        progress: receives finished scans and errors.
        open_place: opens the folder or store of one data set.

    Raises:
        CacheError: as `prepare`; the data sets before it are complete.
    """
    places = [dataset_location(str(cache_root), listing.info.name) for listing in listings]
    targets = list(zip(listings, places, strict=True))
    return _prepare(targets, config, progress, open_place=open_place)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A data set and its open destination."""

    listing: SourceListing
    place: Destination
    todo: PreparePlan


def _prepare(
    targets: Sequence[tuple[SourceListing, Path | str]],
    config: PrepareConfig,
    progress: Progress,
    *,
    runner: StartRunner | None = None,
    open_place: OpenPlace = opened,
) -> tuple[PrepareSummary, ...]:
    """Plan all of them, decide on Ray once, then prepare one after the other."""
    with contextlib.ExitStack() as stack:
        planned = []
        for listing, dataset_root in targets:
            place = stack.enter_context(open_place(dataset_root, workers=config.workers))
            jobs = cut_into_shards(listing.scans, shard_scans=config.shard_scans)
            todo = place.plan(jobs, listing.info, config.profile)
            info = with_instances(listing.info, todo.has_panoptic)
            planned.append(_Planned(listing=replace(listing, info=info), place=place, todo=todo))
        config = decided(config, [one.todo for one in planned], progress)
        has_work = any(one.todo.tasks for one in planned)
        if len(planned) > 1 and config.workers != 0 and has_work:
            from pass2d.pipeline.run.ray_runner import connected

            stack.enter_context(connected(config))
        summaries = []
        for one in planned:
            if len(planned) > 1:
                progress.say(f"data set {one.listing.info.name}")
            summaries.append(_prepare_planned(one, config, progress, runner))
        return tuple(summaries)


def _prepare_planned(
    planned: _Planned, config: PrepareConfig, progress: Progress, runner: StartRunner | None
) -> PrepareSummary:
    started = time.perf_counter()
    listing, place, todo = planned.listing, planned.place, planned.todo
    for line in (*listing.notes, *reason_lines(todo)):
        progress.say(line)
    place.describe(listing.info)
    work = _Work(todo, progress)
    if todo.tasks:
        context = place.context(listing.info, config.profile)
        if runner is not None:
            work.run(runner(context))
        else:
            with _runner(context, config, progress) as usual:
                work.run(usual)
    published = place.publish(
        listing.info, PublishedShards(keys=work.keys, changed=work.changed, jobs=todo.jobs)
    )
    warned = merge_warnings(cache_doubts(published, listing), (*listing.warned, *work.warned))
    for warning in warned:
        progress.say(str(warning))
    summary = summarize(
        published,
        listing,
        warned=warned,
        dropped_points=work.dropped,
        dataset_root=place.name,
        failed=[*listing.failed, *work.failed],
        seconds=time.perf_counter() - started,
        seconds_by_container=work.seconds_by_container(),
        written_shards=work.written,
        kept_shards=len(todo.keys),
    )
    failed = all_failures(published, listing, summary, place.read_failed())
    place.write_failed(encode_failures(failed))
    return summary


@contextlib.contextmanager
def _runner(context: TaskContext, config: PrepareConfig, progress: Progress) -> Iterator[Runner]:
    if config.workers == 0:
        yield InlineRunner(context, max_retries=config.max_retries)
        return
    from pass2d.pipeline.run.ray_runner import RayRunner, connected

    with connected(config) as session:
        yield RayRunner(session, context, say=progress.say)


@dataclass
class _Open:
    """A shard in progress: containers that are still to be built."""

    job: ShardJob
    left: set[str]
    nbytes: int = 0


class _Work:
    """Schedules tasks: `lidar` of a shard first, then what depends on it."""

    def __init__(self, todo: PreparePlan, progress: Progress) -> None:
        self.keys = dict(todo.keys)
        self.changed: set[tuple[str, int]] = set()
        self.failed: list[FailedScan] = []
        self.warned: tuple[Warned, ...] = ()
        self.written = 0
        self.dropped = 0
        self._progress = progress
        self._seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        jobs = {job.shard: job for job in todo.jobs}
        self._open: dict[int, _Open] = {}
        for task in todo.tasks:
            shard = self._open.setdefault(task.shard, _Open(jobs[task.shard], set()))
            shard.left.add(task.container)
        self._ready: deque[ContainerTask] = deque()
        for shard in self._open.values():
            self._ready.extend(self._startable(shard))

    def run(self, runner: Runner) -> None:
        """Run everything; at most ``runner.window`` tasks are in flight."""
        total = sum(len(shard.job.scans) for shard in self._open.values())
        self._progress.start("preparing", total=total, unit="scans")
        flying = 0
        while self._ready or flying:
            while self._ready and flying < runner.window:
                runner.submit(self._ready.popleft())
                flying += 1
            outcome = runner.next_done()
            flying -= 1
            if isinstance(outcome, TaskFailure):
                self._failed(outcome)
            else:
                self._succeeded(outcome)

    def seconds_by_container(self) -> tuple[ContainerSeconds, ...]:
        """CPU time per container of this run."""
        return tuple(
            ContainerSeconds(container=name, compute=compute, write=write)
            for name, (compute, write) in self._seconds.items()
        )

    def _startable(self, shard: _Open) -> list[ContainerTask]:
        names = ["lidar"] if "lidar" in shard.left else sorted(shard.left)
        lidar_key = self.keys.get(("lidar", shard.job.shard), "")
        return [
            ContainerTask(
                container=name, job=shard.job, lidar_key="" if name == "lidar" else lidar_key
            )
            for name in names
        ]

    def _succeeded(self, result: TaskResult) -> None:
        shard = self._open[result.shard]
        self._seconds[result.container][0] += result.compute_seconds
        self._seconds[result.container][1] += result.write_seconds
        self.written += result.is_new
        self.dropped += result.dropped
        shard.nbytes += result.nbytes if result.is_new else 0
        self.warned = merge_warnings((), (*self.warned, *result.warned))
        for scan in result.failed:
            self._progress.say(f"{scan.scan_id}: {scan.reason}")
        if not result.key:
            self.failed += result.failed
            self._finish(shard)
            return
        self.keys[result.container, result.shard] = result.key
        self.changed.add((result.container, result.shard))
        shard.left.discard(result.container)
        if result.container == "lidar":
            # First in the queue: its points are still in the page cache.
            self._ready.extendleft(self._startable(shard))
        if not shard.left:
            self._finish(shard)

    def _failed(self, failure: TaskFailure) -> None:
        task = failure.task
        shard = self._open[task.job.shard]
        self._progress.say(f"shard {task.job.shard}, {task.container}: {failure.reason}")
        self.failed += [
            FailedScan(scan_id=scan.scan_id, container=task.container, reason=failure.reason)
            for scan in task.job.scans
        ]
        shard.left.discard(task.container)
        if task.container == "lidar" or not shard.left:
            self._finish(shard)

    def _finish(self, shard: _Open) -> None:
        shard.left.clear()
        self._progress.advance(len(shard.job.scans), nbytes=shard.nbytes)
