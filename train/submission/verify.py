"""Checks any submission zip as the benchmarks' servers do, entry by entry; nothing is unpacked."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.files import open_file
from pass2d.common.json import parse
from pass2d.common.progress import Progress, Silent
from pass2d.train.inference.tasks import Task, require_task
from pass2d.train.submission.benchmark import (
    DESCRIPTION_FILE,
    META_KEYS,
    Benchmark,
    DescribedFiles,
    EntryName,
    no_predictions,
    parse_entry,
)
from pass2d.train.submission.contents import (
    check_predictions,
    count_points,
    read_raw_ids,
    read_text,
)


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a zip holds and what is wrong with it."""

    path: Path
    benchmark: str
    """A key of `benchmark.FORMS`; "" when it fits none."""
    task: str
    """"single", "multi" or "mos": what the server scores; "" where there is no benchmark."""
    split: str
    """The server's name of the split."""
    scans: int
    points: int
    problems: tuple[str, ...]
    """One line each; none: the server takes it."""
    notes: tuple[str, ...]
    """Worth knowing, e.g. what could not be checked."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_submission(
    path: Path,
    benchmarks: Sequence[Benchmark],
    *,
    split: str = "test",
    task: str | None = None,
    expected: Mapping[str, int] | None = None,
    allow_partial: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a zip by the rules of its benchmark.

    Args:
        path: Any file.
        benchmarks: The rules that are known.
        split: SemanticKITTI: whose sequences must be there. nuScenes names its split itself.
        task: The server's task; by default the one that the ids in it suggest.
        expected: Points of every prediction file by its name in the zip, from a cache; without,
            sizes are only checked for being whole points.
        allow_partial: Do not require the official sequences and counts.
        progress: Receives every entry.

    Raises:
        DataError: The file is missing, or not a readable zip.
        ConfigError: SemanticKITTI has no such split, or there is no such task.
    """
    if task is not None:
        require_task(task)
    try:
        with os.fdopen(open_file(path), "rb") as file, zipfile.ZipFile(file) as archive:
            is_described = any(isinstance(one, DescribedFiles) for one in benchmarks)
            check = (_DescribedCheck if is_described else _Check)(
                path,
                archive,
                benchmarks,
                split=split,
                task=task,
                expected=expected,
                allow_partial=allow_partial,
            )
            return check.run(progress or Silent())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. `verify_zip` takes a submission zip.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder; expected a zip file.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{path}: not a whole zip file ({error}). Was the upload or copy cut off? "
            "Write it again (`submit`)."
        ) from error


class _Check:
    """One pass over a zip."""

    def __init__(
        self,
        path: Path,
        archive: zipfile.ZipFile,
        benchmarks: Sequence[Benchmark],
        *,
        split: str,
        task: str | None,
        expected: Mapping[str, int] | None,
        allow_partial: bool,
    ) -> None:
        self._path, self._archive, self._expected = path, archive, expected
        self._allow_partial = allow_partial
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._infos = archive.infolist()
        self._files: dict[str, tuple[zipfile.ZipInfo, EntryName]] = {}
        self._benchmarks = benchmarks
        self._split = split
        self._task = task
        self._held = np.zeros(1 << 16, np.bool_)
        """Which numbers the prediction files hold."""

    def run(self, progress: Progress) -> VerifyReport:
        benchmark = self._sort_entries()
        points, task = 0, ""
        if benchmark is not None:
            self._require_rest(benchmark)
            progress.start("verify", total=len(self._files), unit="entries")
            tasks = benchmark.tasks(self._task)
            for name, (info, _) in self._files.items():
                points += self._check_file(name, info, benchmark, tasks)
                progress.advance()
            task = self._found_task(benchmark, tasks)
            self._compare_expected()
        if self._expected is None and self._files:
            self._notes.append(
                "points per scan not checked: `cache_root` compares them with the prepared data"
            )
        return VerifyReport(
            path=self._path,
            benchmark="" if benchmark is None else benchmark.name,
            task=task,
            split=self._split,
            scans=len(self._files),
            points=points,
            problems=tuple(self._problems),
            notes=tuple(self._notes),
        )

    def _sort_entries(self) -> Benchmark | None:
        """Name what does not belong; find out which benchmark it is for."""
        self._require_once()
        kinds: Counter[str] = Counter()
        foreign = []
        for info in self._infos:
            entry = parse_entry(info.filename)
            if entry is not None:
                kinds[entry.benchmark] += 1
                self._files[info.filename] = info, entry
            elif not info.is_dir():
                foreign.append(info.filename)
        if not kinds:
            self._problem(no_predictions(foreign))
            return None
        kind = kinds.most_common(1)[0][0]
        foreign += [name for name, (_, entry) in self._files.items() if entry.benchmark != kind]
        self._files = {n: f for n, f in self._files.items() if f[1].benchmark == kind}
        benchmark = next(b for b in self._benchmarks if b.name == kind)
        if benchmark.form.has_meta:
            self._split = next(iter(self._files.values()))[1].group
        extra = f"{self._split}/submission.json" if benchmark.form.has_meta else DESCRIPTION_FILE
        for name in foreign:
            if name != extra:
                self._problem(f"{name}: does not belong in a submission")
        return benchmark

    def _require_once(self) -> None:
        for name, count in Counter(info.filename for info in self._infos).items():
            if count > 1:
                self._problem(f"{name}: occurs {count} times")

    def _require_rest(self, benchmark: Benchmark) -> None:
        if benchmark.form.has_meta:
            self._require_meta()
            if self._split not in benchmark.splits:
                known = ", ".join(benchmark.splits)
                self._problem(
                    f"lidarseg/{self._split}/: not a split of the server, which has {known}"
                )
            for name, (_, entry) in self._files.items():
                if entry.group != self._split:
                    self._problem(f"{name}: not of split {self._split}")
            return
        if self._split not in benchmark.splits:
            raise ConfigError(
                f"`split` {self._split!r}: {benchmark.info.name} has {', '.join(benchmark.splits)}"
            )
        if any(info.filename == DESCRIPTION_FILE for info in self._infos):
            self._text(DESCRIPTION_FILE)
        self._require_folders()
        by_sequence = Counter(entry.group for _, entry in self._files.values())
        wanted = benchmark.splits[self._split]
        for sequence in sorted(by_sequence):
            if sequence not in wanted:
                self._problem(
                    f"sequences/{sequence}: is not of split {self._split} "
                    f"({wanted[0]} to {wanted[-1]})"
                )
        if self._allow_partial:
            return
        for sequence in sorted({*wanted, *by_sequence}):
            self._require_frames(sequence, benchmark.scan_counts.get(sequence))

    def _require_frames(self, sequence: str, official: int | None) -> None:
        """Frames count from 0 without gaps, as the scans do, and to the official number."""
        frames = {int(entry.scan) for _, entry in self._files.values() if entry.group == sequence}
        whole = set(range(max(frames, default=-1) + 1 if official is None else official))
        wrong = [("missing", whole - frames), ("no such scan", frames - whole)]
        details = "".join(f"; {what}: {_some_frames(which)}" for what, which in wrong if which)
        if details:
            self._problem(
                f"sequences/{sequence}: {len(frames)} prediction files, expected {len(whole)}"
                f"{details}"
            )

    def _require_folders(self) -> None:
        """The server looks for the folders themselves, not only for what lies in them."""
        there = {info.filename for info in self._infos if info.is_dir()}
        sequences = sorted({entry.group for _, entry in self._files.values()})
        wanted = ["sequences/"]
        for sequence in sequences:
            wanted += [f"sequences/{sequence}/", f"sequences/{sequence}/predictions/"]
        for name in wanted:
            if name not in there:
                self._problem(f"{name}: the folder itself has no entry")

    def _require_meta(self) -> None:
        name = f"{self._split}/submission.json"
        text = self._text(name)
        if text is None:
            return
        try:
            meta = parse(text).get("meta")
        except (ValueError, AttributeError) as error:
            self._problem(f"{name}: not readable ({error})")
            return
        flags = meta if isinstance(meta, dict) else {}
        bad = [key for key in META_KEYS if not isinstance(flags.get(key), bool)]
        if bad:
            self._problem(f"{name}: meta must say true or false for {', '.join(bad)}")

    def _text(self, name: str) -> str | None:
        """The text of an entry that must be there; None, and a problem, when it cannot be read."""
        info = next((i for i in self._infos if i.filename == name), None)
        if info is None:
            self._problem(f"{name}: missing")
            return None
        try:
            return read_text(self._archive, info)
        except ValueError as error:
            self._problem(f"{name}: not readable ({error})")
            return None

    def _found_task(self, benchmark: Benchmark, tasks: Sequence[Task]) -> str:
        """The task whose numbers the zip holds; a problem where no task's are held by all files."""
        held = self._held
        if not held[1:].any():
            if held[0]:
                self._problem("no point has a class: every number of every prediction file is 0")
            return ""
        fitting = [task for task in tasks if not (held & ~benchmark.is_allowed(task)).any()]
        if not fitting:
            self._problem(
                "some prediction files hold numbers of one task, some of another: "
                f"{', '.join(task.title for task in tasks)}"
            )
            return ""
        # Files of moving object segmentation hold nothing else; classes with motion some that move.
        by_name = {task.name: task for task in fitting}
        moving = _moving_ids(benchmark)
        if "mos" in by_name:
            return "mos"
        is_moving = bool(held[moving].any())
        if "multi" in by_name and self._task == "multi" and not is_moving:
            self._notes.append("nothing moves in it: is it a submission of classes without motion?")
        if "single" in by_name and self._task == "single" and is_moving:
            self._notes.append("it holds ids of moving things, which count as those at rest")
        if len(fitting) == 1:
            return fitting[0].name
        return "multi" if is_moving else "single"

    def _check_file(
        self, name: str, info: zipfile.ZipInfo, benchmark: Benchmark, tasks: Sequence[Task]
    ) -> int:
        """Size and every number of a prediction file; returns its points, 0 of a faulty one."""
        wanted = None if self._expected is None else self._expected.get(name)
        if wanted == info.file_size == 0:
            return 0  # a scan without points
        try:
            count = count_points(info, benchmark)
            if wanted is not None and wanted != count:
                self._problem(f"{name}: {count:,} points, the scan has {wanted:,}")
            allowed = np.any([benchmark.is_allowed(task) for task in tasks], axis=0)
            legal = benchmark.legal(tasks)
            self._held |= check_predictions(
                self._archive, info, benchmark, allowed=allowed, legal=legal
            )
        except ValueError as error:
            self._problem(f"{name}: {error}")
            return 0
        return count

    def _compare_expected(self) -> None:
        if self._expected is None:
            return
        missing = [name for name in self._expected if name not in self._files]
        unknown = [name for name in self._files if name not in self._expected]
        for names, what in ((missing, "missing"), (unknown, "not a scan of the cache")):
            for name in names[:5]:
                self._problem(f"{name}: {what}")
            if len(names) > 5:
                self._problem(f"{len(names) - 5} more prediction files {what}")

    def _problem(self, text: str) -> None:
        line = f"{self._path.name}: {text}"
        # Names in a zip are untrusted: remove line breaks and terminal control characters.
        self._problems.append("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


class _DescribedCheck(_Check):
    """Of label files where those of a described data set lie: the cache says which."""

    def _sort_entries(self) -> Benchmark | None:
        self._require_once()
        (benchmark,) = self._benchmarks
        assert self._expected is not None
        for info in self._infos:
            entry = EntryName(benchmark=benchmark.name, group="", scan=info.filename)
            if info.filename in self._expected:
                self._files[info.filename] = info, entry
            elif not info.is_dir():
                self._problem(f"{info.filename}: not the label file of a scan of this split")
        return benchmark

    def _require_rest(self, benchmark: Benchmark) -> None:
        """There is no rest."""

    def _check_file(
        self, name: str, info: zipfile.ZipInfo, benchmark: Benchmark, tasks: Sequence[Task]
    ) -> int:
        assert isinstance(benchmark, DescribedFiles)
        assert self._expected is not None
        try:
            ids = read_raw_ids(self._archive, info, benchmark.files)
        except ValueError as error:
            self._problem(f"{name}: {error}")
            return 0
        if len(ids) != self._expected[name]:
            self._problem(f"{name}: {len(ids):,} points, the scan has {self._expected[name]:,}")
        held = np.zeros(1 << 16, np.bool_)
        held[ids] = True
        bad = np.flatnonzero(held & ~benchmark.is_allowed(tasks[0]))
        if len(bad):
            self._problem(f"{name}: holds {bad[0]}, {benchmark.legal(tasks)}")
        return len(ids)


def _moving_ids(benchmark: Benchmark) -> list[int]:
    moving = benchmark.info.facts.moving
    return [raw_id for one in moving for raw_id in one.raw_ids]


def _some_frames(frames: Collection[int]) -> str:
    named = ", ".join(f"{frame:06d}" for frame in sorted(frames)[:3])
    return named + (f" and {len(frames) - 3:,} more" if len(frames) > 3 else "")
