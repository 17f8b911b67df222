"""`pass2d submit`: a split's predictions as the zip that the benchmark's server accepts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pass2d.cache.keys import hash_file
from pass2d.cache.motion import with_moving_classes
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.files import lock_file, whole_file, writing
from pass2d.common.progress import Progress, Silent
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.evaluation.evaluate import fit_classes, require_same_data
from pass2d.train.inference.labels import label_scans
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.scans import CachedScans, ScanInput
from pass2d.train.inference.tasks import Task, chosen_tasks
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan
from pass2d.train.stacks.choose import require_poses
from pass2d.train.submission.archive import write_archive
from pass2d.train.submission.benchmark import (
    DESCRIPTION_FILE,
    Benchmark,
    benchmark_of,
    parse_meta,
    submission_json,
)
from pass2d.train.submission.contents import read_description
from pass2d.train.submission.parts import Parts, busy
from pass2d.train.submission.scans import SubmittedScans, own_points, require_complete
from pass2d.train.submission.verify import VerifyReport, verify_submission


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """What is submitted and how."""

    split: str = "test"
    task: str | None = None
    """The server's task, a name of `tasks.Task`, to whose classes predictions are reduced; by
    default that of the network's own classes."""
    votes: VotePlan = SINGLE_PASS
    outside: OutsidePolicy = "nearest"
    """See ``OutsidePolicy``; nuScenes accepts only "nearest"."""
    description: Path | None = None
    """SemanticKITTI: becomes `description.txt`."""
    meta: tuple[tuple[str, bool], ...] = ()
    """nuScenes: flags of `submission.json`; by default those of `parse_meta`."""
    allow_partial: bool = False
    """Write a zip although the server would refuse it: scans or sequences are missing."""
    overwrite: bool = False
    """Replace a zip that is already there."""


@dataclass(frozen=True, kw_only=True)
class SubmitSummary:
    """What was written."""

    out: Path
    report: VerifyReport
    """Of the finished zip, read again."""
    reused: int
    """Scans that an interrupted run had finished."""
    seconds: float
    notes: tuple[str, ...]
    is_complete: bool
    """Whether all official scans are in it; else the server refuses it."""


def submit(
    checkpoint: Path | TrainedNetwork,
    cache_root: Path | str,
    out: Path,
    *,
    benchmarks: Sequence[Benchmark],
    config: SubmitConfig,
    dataset: str | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> SubmitSummary:
    """Predict a split and write the zip; nothing of that name is there before it is verified.

    If it is interrupted, the same call continues where it stopped: finished scans are kept in
    `.NAME.parts` beside the zip.

    Args:
        checkpoint: An inference export or a training state, or one that is loaded already.
        cache_root: What `pass2d prepare` wrote.
        out: The zip.
        benchmarks: The rules of the known benchmarks.
        config: Split, votes, options of the server.
        dataset: Which data set, if the cache holds several.
        device: Defaults to the GPU if there is one.
        progress: Receives every scan.

    Raises:
        CheckpointError, CacheError: They cannot be read, or the zip cannot be written.
        ConfigError: Checkpoint, cache and options do not belong together.
        DataError: Scans are missing, or the zip is already there.
    """
    progress, started = progress or Silent(), time.perf_counter()
    if out.is_dir():
        raise DataError(f"{out}: a folder. `out` names the zip to write.")
    if out.suffix.lower() != ".zip":
        raise DataError(f"{out}: the name of a submission ends in .zip")
    if out.exists() and not config.overwrite:
        Parts.clear(out)
        raise DataError(f"{out} is already there. Choose another `out`, or set `overwrite`.")
    description = None if config.description is None else read_description(config.description)
    trained = trained_network(checkpoint, device)
    with CacheReader.open(cache_root, dataset=dataset) as reader:
        benchmark = _benchmark(reader, benchmarks, config)
        fit_classes(reader, trained.card)
        info = require_same_data(trained, reader.info)
        wanted = None if config.task is None else (config.task,)
        task = chosen_tasks(info, wanted, source=trained.source)[0]
        reader.expect_all()
        scans = SubmittedScans(reader, benchmark, config.split)
        notes, is_complete = require_complete(
            reader,
            scans,
            benchmark,
            split=config.split,
            allow_partial=config.allow_partial,
        )
        for note in notes:
            progress.say(note)
        job = {
            "checkpoint": hash_file(trained.source),
            "cache": reader.fingerprint,
            "split": config.split,
            "votes": [str(config.votes), config.votes.seed],
            "outside": config.outside,
            "version": 1,
        }
        parts = Parts(out, job)
        with lock_file(parts.lock, exclusive=True, wait=False) as is_alone, closing(parts):
            if not is_alone:
                raise busy(parts.folder)
            reused, is_other = parts.begin()
            if is_other:
                progress.say(
                    f"{parts.folder}: what another run left was of another checkpoint, cache or "
                    "option: thrown away"
                )
            elif reused:
                progress.say(f"{reused} scans were finished by an interrupted run")
            work = _Work(
                trained,
                reader,
                scans,
                info=info,
                task=task,
                parts=parts,
                config=config,
                description=description,
                progress=progress,
            )
            work.predict()
            report = work.pack(out, benchmark)
            parts.remove()
    return SubmitSummary(
        out=out,
        report=report,
        reused=reused,
        seconds=time.perf_counter() - started,
        notes=(*notes, *work.notes),
        is_complete=is_complete,
    )


def _benchmark(
    reader: CacheReader, benchmarks: Sequence[Benchmark], config: SubmitConfig
) -> Benchmark:
    if reader.info.corruption is not None:
        raise ConfigError(
            f"{reader.root}: a corrupted data set ({reader.info.corruption.collection}); servers "
            f"want the clean scans. Choose `dataset={reader.info.corruption.clean}`."
        )
    found = benchmark_of(reader, benchmarks)
    if (
        with_moving_classes(found.info).labels.names
        != with_moving_classes(reader.info).labels.names
    ):
        raise ConfigError(
            f"{reader.root}: {reader.info.labels.n_classes - 1} classes of its own; the server "
            f"wants the {found.info.labels.n_classes - 1} of {found.info.name}."
        )
    title = found.info.facts.title
    if not found.form.takes_raw_ids and config.outside == "ignore":
        raise ConfigError(
            f"`outside=ignore`: {title} refuses unlabelled points. Use `outside=nearest`."
        )
    if config.description is not None and not found.form.has_folders:
        has = "; it has `meta`" if found.form.has_meta else ""
        raise ConfigError(f"`description`: {title} takes none{has}")
    if config.meta and not found.form.has_meta:
        has = "; it has `description`" if found.form.has_folders else ""
        raise ConfigError(f"`meta`: {title} takes none{has}")
    return found


@dataclass(frozen=True, kw_only=True)
class _SubmittedScan:
    scan: ScanInput
    position: int
    """Row of the reader's scan table."""
    n_own: int
    """Points that the server counts, which come first; those of added sweeps follow."""


class _Work:
    """Predicts what is missing, then packs."""

    def __init__(
        self,
        trained: TrainedNetwork,
        reader: CacheReader,
        scans: SubmittedScans,
        *,
        info: DatasetInfo,
        task: Task,
        parts: Parts,
        config: SubmitConfig,
        description: bytes | None,
        progress: Progress,
    ) -> None:
        self.notes: list[str] = []
        self._network, self._reader, self._scans = trained.network, reader, scans
        self._info, self._task = info, task
        self._parts, self._config, self._progress = parts, config, progress
        self._description = description
        self._place = {position: i for i, position in enumerate(scans.positions)}
        usual = reader.scans.label_histogram[:, 1:].sum(axis=0)
        self._last_resort = int(usual.argmax()) + 1
        """Class of points of scans that lie wholly outside the volume."""
        self._n: dict[int, int] = {}
        stack = trained.card.stack
        require_poses(reader.scans, scans.positions, stack, where=str(reader.root))
        self._cached = CachedScans(
            reader,
            trained.network,
            plans=(config.votes,),
            outside=config.outside,
            progress=progress,
            stack=stack,
        )

    def predict(self) -> None:
        """Predict every scan that is not finished."""
        todo = [p for p in self._scans.positions if not self._parts.has(self._place[p])]
        self._progress.start("predict", total=len(self._scans.positions), unit="scans")
        self._progress.advance(len(self._scans.positions) - len(todo))
        self._predict(todo)
        self._cached.say_unhashed(self._progress)

    def _predict(self, todo: Sequence[int]) -> None:
        config = self._config
        for found in label_scans(
            self._network,
            todo,
            self._load,
            info=self._info,
            plans=(config.votes,),
            # Servers do not accept class 0: the best of the others is used.
            allow_ignored=False,
        ):
            position = found.item.position
            labels = found.passes[0].labels[: found.item.n_own].cpu().numpy()
            if config.outside == "nearest" and not labels.all():
                labels = np.where(labels == 0, self._last_resort, labels).astype(np.uint8)
                name = self._info.labels.names[self._last_resort]
                self._note(
                    f"{self._reader.scans.scan_id[position]}: no point lies in the volume; "
                    f"all are given {name}, the most frequent class"
                )
            self._parts.write(self._place[position], labels)
            self._progress.advance()

    def _load(self, position: int) -> _SubmittedScan:
        record, scan = self._cached.read(position, label=False)
        return _SubmittedScan(scan=scan, position=position, n_own=record.raw().n_own)

    def _note(self, note: str) -> None:
        self.notes.append(note)
        self._progress.say(note)

    def pack(self, out: Path, benchmark: Benchmark) -> VerifyReport:
        """Write the zip under a temporary name, read it back, rename it."""
        aside = self._parts.folder / "submission.tmp"
        expected = {
            name: self._points(position)
            for name, position in zip(self._scans.names, self._scans.positions, strict=True)
        }
        with writing(out), whole_file(out, aside=aside):
            write_archive(aside, self._entries(benchmark))
            report = verify_submission(
                aside,
                [benchmark],
                split=self._config.split,
                task=self._task.name,
                expected=expected,
                allow_partial=self._config.allow_partial,
                progress=self._progress,
            )
            if not report.is_sound:
                raise DataError(
                    f"{out}: the zip did not pass its own check, so it was not kept: "
                    f"{'; '.join(report.problems[:3])}. Check the disk."
                )
        return report

    def _points(self, position: int) -> int:
        """Points of the scan's own file: those of added sweeps come after and are not submitted."""
        if position not in self._n:
            self._n[position] = own_points(self._reader, position)
        return self._n[position]

    def _entries(self, benchmark: Benchmark) -> Iterator[tuple[str, bytes]]:
        scans = self._scans
        if benchmark.form.has_meta:
            meta = {**parse_meta(None), **dict(self._config.meta)}
            yield "lidarseg/", b""
            yield f"lidarseg/{scans.server_split}/", b""
            yield f"{scans.server_split}/", b""
            yield f"{scans.server_split}/submission.json", submission_json(meta)
        if self._description is not None:
            yield DESCRIPTION_FILE, self._description
        if benchmark.form.has_folders:
            yield "sequences/", b""
        folders: set[str] = set()
        self._progress.start("pack", total=len(scans.positions), unit="scans")
        for place, (name, position) in enumerate(zip(scans.names, scans.positions, strict=True)):
            for folder in _folders(name) if benchmark.form.has_folders else ():
                if folder not in folders:
                    folders.add(folder)
                    yield folder, b""
            labels = self._parts.read(place, n=self._points(position))
            if labels is None:  # a torn file of an interrupted run
                self._predict([position])
                labels = self._parts.read(place, n=self._points(position))
            assert labels is not None
            yield name, benchmark.encode(name, labels, self._task)
            self._progress.advance()


def _folders(name: str) -> Iterator[str]:
    head = Path(name).parts[:-1]
    for count in range(2, len(head) + 1):
        yield f"{'/'.join(head[:count])}/"
