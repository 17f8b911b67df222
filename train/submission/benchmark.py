"""What each benchmark's server accepts: entry names, types, allowed ids, required scans."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.motion import with_moving_classes
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.common.text import unknown
from pass2d.train.inference.tasks import Task, chosen_tasks
from pass2d.train.submission.label_files import LabelFiles, label_files, scan_files

META_KEYS = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")
"""Of nuScenes' submission.json: which sensors and data the method uses; all five, true or false."""
DESCRIPTION_FILE = "description.txt"
"""SemanticKITTI: an optional text beside `sequences/`."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a server wants its zip."""

    entry: str
    """Name of a prediction file in the zip: a format of split, sequence, frame_index, token."""
    pattern: re.Pattern[str]
    """Of such names: group (sequence, or the server's name of the split) and scan."""
    takes_raw_ids: bool
    """uint32 raw ids; else uint8 training ids, which may not be 0."""
    has_meta: bool
    """`SPLIT/submission.json` says what the method uses, and names hold the split."""
    has_folders: bool
    """Folders have entries of their own, names hold the sequence, a description may be there."""


FORMS = {
    "semantickitti": Form(
        entry="sequences/{sequence}/predictions/{frame_index:06d}.label",
        pattern=re.compile(r"sequences/([0-9]{2})/predictions/([0-9]{6})\.label"),
        takes_raw_ids=True,
        has_meta=False,
        has_folders=True,
    ),
    "nuscenes": Form(
        entry="lidarseg/{split}/{token}_lidarseg.bin",
        pattern=re.compile(r"lidarseg/([A-Za-z0-9_]+)/([0-9A-Za-z]+)_lidarseg\.bin"),
        takes_raw_ids=False,
        has_meta=True,
        has_folders=False,
    ),
}
"""By the name that a data set's facts give its benchmark."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set's rules, with the lists that its table holds."""

    info: DatasetInfo
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Official sequences (nuScenes: scenes) of each split."""
    scan_counts: Mapping[str, int] = field(default_factory=dict)
    """Official scans per sequence; empty if they are not published."""

    @property
    def name(self) -> str:
        """A key of `FORMS`."""
        return self.info.facts.benchmark

    @property
    def form(self) -> Form:
        """How the zip must look.

        Raises:
            ConfigError: the benchmark is unknown.
        """
        try:
            return FORMS[self.name]
        except KeyError:
            raise ConfigError(
                f"{self.info.facts.title}: {unknown(self.name, tuple(FORMS), what='benchmark')}"
            ) from None

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of a prediction file."""
        return np.dtype("<u4") if self.form.takes_raw_ids else np.dtype("u1")

    def entry_names(
        self, reader: CacheReader, positions: Sequence[int], *, split: str
    ) -> list[str]:
        """Where each scan's predictions lie in the zip; ``split`` is the server's name."""
        scans = reader.scans
        return [
            self.form.entry.format(
                split=split,
                sequence=str(scans.sequence[position]),
                frame_index=int(scans.frame_index[position]),
                token=str(scans.token[position]) or str(scans.scan_id[position]),
            )
            for position in positions
        ]

    def encode(self, name: str, labels: NDArray[np.uint8], task: Task) -> bytes:
        """Encode a network's training ids (N,) as the file of that name for the task's server."""
        folded = task.fold[labels]
        if not self.form.takes_raw_ids:
            return folded.astype("u1").tobytes()
        return np.array(task.labels.training_to_raw, "<u4")[folded].tobytes()

    def tasks(self, wanted: str | None = None) -> tuple[Task, ...]:
        """The tasks that have a server, or the one that is wanted.

        Raises:
            ConfigError: there is no such task.
        """
        info = with_moving_classes(self.info)
        names = None if wanted is None else (wanted,)
        return chosen_tasks(info, names, source=self.info.facts.title)

    def is_allowed(self, task: Task) -> NDArray[np.bool_]:
        """(65536,) which low 16 bits a prediction of a task may have."""
        allowed = np.zeros(1 << 16, np.bool_)
        if not self.form.takes_raw_ids:
            allowed[1 : self.info.labels.n_classes] = True
        elif task.ranked:  # its files hold its own ids, not those of the things
            allowed[list(task.labels.training_to_raw)] = True
        else:
            allowed[list(task.labels.raw_to_training)] = True
        return allowed

    def legal(self, tasks: Sequence[Task]) -> str:
        """What `is_allowed` takes, for messages."""
        if not self.form.takes_raw_ids:
            return f"expected 1 to {self.info.labels.n_classes - 1} in uint8"
        if all(task.ranked for task in tasks):
            own = ", ".join(str(raw_id) for task in tasks for raw_id in task.labels.training_to_raw)
            return f"expected one of {own} ({tasks[0].title})"
        return "which is not a raw id of the label table"

    def server_split(self, split: str, sequences: Iterable[str]) -> str:
        """The server's name of a split; nuScenes' mini version has splits of its own."""
        if not self.form.has_meta:
            return split
        there, mini = set(sequences), f"mini_{split}"
        return mini if there and there == set(self.splits.get(mini, ())) else split

    def missing_sequences(self, server_split: str, sequences: Iterable[str]) -> list[str]:
        """Official sequences (scenes) of a split that are not there."""
        there = set(sequences)
        return [name for name in self.splits.get(server_split, ()) if name not in there]


@dataclass(frozen=True, kw_only=True)
class DescribedFiles(Benchmark):
    """No server's rules: label files named as those of a described data set, or by scan id."""

    files: LabelFiles

    @property
    def name(self) -> str:
        """For people."""
        return self.info.name

    @property
    def form(self) -> Form:
        """Names are those of `files`."""
        return Form(
            entry="",
            pattern=re.compile(r"(?!)"),
            takes_raw_ids=True,
            has_meta=False,
            has_folders=False,
        )

    def entry_names(
        self, reader: CacheReader, positions: Sequence[int], *, split: str
    ) -> list[str]:
        """The paths of the label files below the root of the data set."""
        return self.files.names(reader, positions)

    def encode(self, name: str, labels: NDArray[np.uint8], task: Task) -> bytes:
        """Encode (N,) training ids as a label file."""
        return self.files.encode(name, task.fold[labels])


def benchmark_of(reader: CacheReader, benchmarks: Sequence[Benchmark]) -> Benchmark:
    """The benchmark of a prepared data set, or label files where it has none.

    Raises:
        ConfigError: it has no raw ids to write, or its benchmark is unknown.
    """
    facts = reader.info.facts
    if reader.info.description is not None:
        files = label_files(reader.info, where=reader.root)
        return DescribedFiles(info=reader.info, files=files)
    for benchmark in benchmarks:
        if benchmark.name == facts.benchmark:
            return benchmark
    if facts.benchmark:
        known = tuple(benchmark.name for benchmark in benchmarks)
        raise ConfigError(f"{reader.root}: {unknown(facts.benchmark, known, what='benchmark')}")
    return DescribedFiles(info=reader.info, files=scan_files(reader.info))


def submission_json(meta: Mapping[str, bool]) -> bytes:
    """NuScenes' `<split>/submission.json`."""
    return json.dumps({"meta": {key: meta[key] for key in META_KEYS}}, indent=1).encode()


def parse_meta(text: str | None) -> dict[str, bool]:
    """Read "use_camera=true,use_external=false"; inference uses the lidar and nothing else.

    Raises:
        ConfigError: an unknown flag, or no yes or no.
    """
    meta = {key: key == "use_lidar" for key in META_KEYS}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in META_KEYS or value.lower() not in ("true", "false"):
            raise ConfigError(
                f"`meta` {part.strip()!r}: expected FLAG=true or FLAG=false with a FLAG of "
                f"{', '.join(META_KEYS)}"
            )
        meta[key] = value.lower() == "true"
    return meta


@dataclass(frozen=True, kw_only=True)
class EntryName:
    """A prediction file's name, taken apart."""

    benchmark: str
    """A key of `FORMS`."""
    group: str
    """Sequence, or nuScenes' name of the split."""
    scan: str
    """Six digits, or a token."""


def parse_entry(name: str) -> EntryName | None:
    """Take a name in a zip apart; None when it is no prediction file of any benchmark."""
    for benchmark, form in FORMS.items():
        if match := form.pattern.fullmatch(name):
            return EntryName(benchmark=benchmark, group=match[1], scan=match[2])
    return None


def no_predictions(foreign: Sequence[str]) -> str:
    """What a zip without prediction files looks like instead."""
    for name in foreign:
        inner = name.split("/", 1)[-1]
        if parse_entry(inner) is not None:
            return (
                f"everything lies below {name.split('/', 1)[0]}/: zip what is in that folder, "
                "not the folder"
            )
    shown = ", ".join(foreign[:3]) or "nothing"
    return (
        f"no prediction files (found {shown}); expected sequences/NN/predictions/NNNNNN.label "
        "or lidarseg/SPLIT/TOKEN_lidarseg.bin (label files of a described data set: give "
        "`cache_root`)"
    )
