"""Disturbs commands in one place, and says whether they ended as they must.

A case is a seed and a number: they choose the command and what happens: a file of its input is
wrong, it is killed or interrupted, its cache lies in a bucket that others write to. A world of
a few tiny inputs is made once; each case gets a fresh copy under the same path, so that all it
prints can be compared with what the undamaged world gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import stat
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from harm import HARMS, STRUCTURAL
from harness_buckets import URL, attack, filled, objects
from harness_ends import INTERRUPTED, LAST_LINE, Moment, choose_moment, run_until
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.commands.doctor.process import Answer

LIMIT_S = 120
"""A command that takes longer on a few hundred points hangs."""
HARMED, ENDED, BUCKET = "harmed", "ended", "bucket"
"""What happens to a command: a wrong file, a signal, a bucket that others write to."""
ONLY_IN_FOLDERS = frozenset({"folder", "fifo", "broken link", "folder elsewhere"})
"""Harms that no object of a bucket can have."""
_BY_CHANCE = re.compile("[0-9a-f]{32}")
"""In the names of what is written aside."""
SEALED, RAW, FREE = "sealed", "raw", "free"
"""What a change of a file must lead to: the same result or a word about it, always; the same where
what is left cannot be a valid file; nothing but an orderly end."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """Files of one kind that a command reads."""

    glob: str
    """Below the case's folder."""
    kind: str
    may_be_left_out: bool = False
    """Nothing tells that one of them is gone."""


class Part(NamedTuple):
    """A file or folder of the world: how it is made, in a folder that holds others."""

    make: Callable[[Path], None]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command on a world that it must get through."""

    name: str
    words: tuple[str, ...]
    """Its arguments; it runs in the case's folder."""
    needs: tuple[str, ...]
    """Folders of the world that are copied for it."""
    inputs: tuple[Input, ...] = ()
    writes: tuple[str, ...] = ()
    """What it may change below the case's folder."""
    adds: tuple[str, ...] = ()
    """Folders in which it may make files, and change none."""
    code: int = 0
    """How it ends undisturbed."""
    compared: str | tuple[str, ...] = ""
    """Only values whose path begins so must be the same."""
    restores: tuple[str, ...] = ()
    """Values whose path begins so must be the same where it ends well, whatever it says."""
    then: tuple[str, ...] = ()
    """A command that must also end well where this one did."""
    kind: str = HARMED
    is_long: bool = False
    """Left out where the number of cases is not given."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int | None
    out: str
    err: str
    fault: str = ""
    """A traceback, or that it hung."""
    result: dict[str, Any] = field(default_factory=dict)
    """Each value of its JSON by path, and each file that it wrote by hash."""
    hidden: frozenset[str] = frozenset()
    """Paths below the case's folder with a name that begins with a dot; "*": any number."""


class HangError(BaseException):
    """The time is up."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command that is disturbed in one way."""

    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.number}"


class Trial(NamedTuple):
    """What was done to a command, what is wrong with how it ended, and how it ended."""

    done: str
    wrong: str
    outcome: Outcome


class Harness:
    """The world, its commands, and what each gives undisturbed."""

    def __init__(
        self, root: Path, commands: tuple[Command, ...], parts: Mapping[str, Part]
    ) -> None:
        self.world = root / "world"
        self.world.mkdir()
        self.case = root / "case"
        self._scratch = root / "scratch"
        self._commands = commands
        self._parts = parts
        self._expected: dict[str, Outcome] = {}
        self._calls: dict[str, int] = {}

    def check(self, case: Case) -> str:
        """Run a case.

        Returns:
            What is wrong with how it ended; empty if nothing.
        """
        choose = random.Random(f"{case.seed} {case.number}")
        command = self._commands[case.number % len(self._commands)]
        check = {HARMED: self._harmed, ENDED: self._ended, BUCKET: self._attacked}
        done, wrong, outcome = check[command.kind](command, choose)
        if not wrong:
            return ""
        return (
            f"case {case}: {done}: pass2d {' '.join(command.words)}\n{wrong}\n"
            f"exit code {outcome.code}, {outcome.fault}\n"
            f"stderr: {outcome.err[:1500]} ... {outcome.err[-1500:]}\n"
            f"stdout: {outcome.out[-1500:]}\n"
            f"again: pytest tests/test_cli_harm.py --harm-seed {case.seed} "
            f"--harm-case {case.number}"
        )

    def _harmed(self, command: Command, choose: random.Random) -> Trial:
        """A file of its input is wrong."""
        self._lay_out(command)
        role = choose.choice(command.inputs)
        file = self._one_of(role, choose)
        name = choose.choice(sorted(HARMS))
        HARMS[name](file, choose, self.case / "innocent")
        before = _snapshot(self.case, command)
        outcome = self._run(command, pipes=[file] if name == "fifo" else [])
        wrong = _changes(before, _snapshot(self.case, command), command)
        if not wrong and command.then and outcome.code == 0:
            then = self._invoke(command.then, [])
            wrong = f"then {command.then}: {then}" if then.code or then.fault else ""
        wrong = _disorder(outcome, file, command.code) or wrong
        must_be_said = role.kind == SEALED or (role.kind == RAW and name in STRUCTURAL)
        must_be_said &= not (role.may_be_left_out and name == "missing")
        if not wrong and outcome.code == command.code and must_be_said:
            said = outcome.out + outcome.err
            is_said = _says(said, file) or (role.kind == RAW and file.parent.name in said)
            is_said |= f"{file.parent} is a link" in said
            is_said |= '"staying": [\n' in said  # by name, a sequence that lost all its scans
            # Nobody read the file itself if it is as it was made wrong.
            of_file = f"file {file.relative_to(self.case)}"
            wrong = self._another_result(command, outcome, command.compared, but=of_file)
            wrong = "" if is_said else wrong
        if not wrong and command.restores and outcome.code == command.code:
            wrong = self._another_result(command, outcome, command.restores)
        return Trial(f"{name} of {file.relative_to(self.case)}", wrong, outcome)

    def _ended(self, command: Command, choose: random.Random) -> Trial:
        """It is killed or interrupted; the same command again gives what it gives undisturbed."""
        if command.name not in self._calls:
            self._lay_out(command)
            never = Moment(number=signal.SIGTERM, call=0, delay_s=0)
            code, _, err, self._calls[command.name] = self._run_until(command, never)
            result, hidden = self._written(command), self._hidden()
            first = Outcome(code=code, out="", err=err, result=result, hidden=hidden)
            self._expected[command.name] = self._common(command, first, self._fresh(command))
        moment = choose_moment(choose, self._calls[command.name])
        self._lay_out(command)
        before = _snapshot(self.case, command)
        code, out, err, _ = self._run_until(command, moment)
        outcome = Outcome(code=code, out=out, err=err)
        after = _snapshot(self.case, command)
        is_killed = code == -signal.SIGKILL
        wrong = _bad_end(outcome, moment) or _changes(before, after, command, is_killed=is_killed)
        if not wrong:
            outcome = self._run(command, pipes=[])
            wrong = self._another_result(command, outcome, "file")
            is_there = not wrong and "--overwrite" in outcome.err
            if not wrong and (outcome.fault or (outcome.code != 0 and not is_there)):
                wrong = "the same command again does not end well"
            elif wrong:
                wrong = f"again: {wrong}"
            elif left := outcome.hidden - self._undisturbed(command).hidden:
                wrong = f"again: left over: {sorted(left)[:5]}"
        return Trial(str(moment), wrong, outcome)

    def _attacked(self, command: Command, choose: random.Random) -> Trial:
        """Its cache lies in a bucket that others can write to, or that lost bytes."""
        self._lay_out(command)
        local, more = self.case / "cache", {}
        role = choose.choice(command.inputs)
        if choose.random() < 0.5:
            file = self._one_of(role, choose)
            done = choose.choice(sorted(HARMS.keys() - ONLY_IN_FOLDERS))
            HARMS[done](file, choose, self.case / "innocent")
        else:
            done, file, more = attack(local, choose)
        before = _snapshot(self.case, command)
        outcome = self._run(command, pipes=[], more=more)
        strays = [path for path in self.case.parent.rglob("*") if "evil" in path.name]
        wrong = (
            _disorder(outcome, file, command.code)
            or _changes(before, _snapshot(self.case, command), command)
            or (f"written: {strays}" if strays else "")
        )
        said = outcome.out + outcome.err
        is_said = _says(said, file) or "not of pass2d" in said or "is not part of" in said
        if not wrong and role.kind == SEALED and outcome.code == command.code and not is_said:
            wrong = self._another_result(command, outcome, command.compared)
        return Trial(f"{done} of {file}", wrong, outcome)

    def _one_of(self, role: Input, choose: random.Random) -> Path:
        files = sorted(path for path in self.case.glob(role.glob) if path.is_file())
        assert files, role.glob
        return choose.choice(files)

    def _another_result(
        self,
        command: Command,
        outcome: Outcome,
        start: str | tuple[str, ...],
        *,
        but: str = "",
    ) -> str:
        """What differs, of values whose path begins so, from what the command gives undisturbed."""
        differing = [
            key
            for key, value in self._undisturbed(command).result.items()
            if key.startswith(start) and key != but and outcome.result.get(key) != value
        ]
        return f"silently another result: {differing[:5]}" if differing else ""

    def _run_until(self, command: Command, moment: Moment) -> tuple[int | None, str, str, int]:
        return run_until(command.words, self.case, moment, self._scratch, LIMIT_S)

    def _undisturbed(self, command: Command) -> Outcome:
        """What does not change from run to run."""
        if command.name not in self._expected:
            first, second = (self._fresh(command) for _ in range(2))
            self._expected[command.name] = self._common(command, first, second)
        return self._expected[command.name]

    def _common(self, command: Command, first: Outcome, second: Outcome) -> Outcome:
        """What two undisturbed runs agree on."""
        assert first.code == second.code == command.code, (command, first, second)
        same = {k: v for k, v in first.result.items() if second.result.get(k) == v}
        hidden = first.hidden | second.hidden
        return Outcome(code=0, out="", err="", result=same, hidden=hidden)

    def _fresh(self, command: Command) -> Outcome:
        self._lay_out(command)
        return self._run(command, pipes=[])

    def _lay_out(self, command: Command) -> None:
        self._gather((*command.needs, "innocent"))

    def _gather(self, names: tuple[str, ...]) -> None:
        """A fresh folder that holds these parts of the world."""
        for name in names:
            if not (self.world / name).exists():
                self._make(name)
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        for name in names:
            copy = shutil.copytree if (self.world / name).is_dir() else shutil.copy2
            copy(self.world / name, self.case / name)

    def _make(self, name: str) -> None:
        """Make a part where it will lie: a cache remembers its sources' paths."""
        part = self._parts[name]
        self._gather(part.needs)
        with contextlib.chdir(self.case):
            part.make(Path(name))
        (self.case / name).rename(self.world / name)

    def _run(
        self, command: Command, pipes: list[Path], more: dict[str, bytes] | None = None
    ) -> Outcome:
        """Run a command; of a bucket, what the folder ``cache`` and ``more`` hold."""
        if command.kind == BUCKET:
            with filled(self.case / "cache", more or {}):
                shutil.rmtree(self.case / "cache")
                before = objects()
                outcome = self._invoke(command.words, pipes)
                written = objects()
            if URL not in command.writes:
                changed = sorted(dict(before.items() ^ written.items()))
                written, fault = {}, f"changed in the bucket: {changed}" if changed else ""
                outcome = replace(outcome, fault=outcome.fault or fault)
        else:
            outcome = self._invoke(command.words, pipes)
            written = self._written(command)
        result = {**_leaves(outcome.out), **written}
        return replace(outcome, result=result, hidden=self._hidden())

    def _hidden(self) -> frozenset[str]:
        paths = (str(path.relative_to(self.case)) for path in self.case.rglob("*"))
        return frozenset(_BY_CHANCE.sub("*", path) for path in paths if "/." in f"/{path}")

    def _written(self, command: Command) -> dict[str, str]:
        """Each file that a command wrote by hash, but for its own notes (hidden ones)."""
        places = [self.case / name for name in command.writes]
        return {
            f"file {path.relative_to(self.case)}": hashlib.md5(_lasting(path)).hexdigest()
            for place in places
            for path in sorted([place, *place.rglob("*")])
            if path.is_file()
            and not path.is_symlink()
            and path.name != "previous.safetensors"  # the state of the save before, whenever it was
            and "/." not in f"/{path}"[len(str(place)) :]
        }

    def _invoke(self, words: tuple[str, ...], pipes: list[Path]) -> Outcome:
        with contextlib.chdir(self.case), _watched(pipes), _quick_doctor():
            warnings.simplefilter("ignore")  # a user sees them and goes on
            try:
                result = CliRunner().invoke(app, list(words), obj=_no_probes)
            except HangError as error:
                fault = f"no end after {LIMIT_S} s: {_trace(error)}"
                return Outcome(code=-1, out="", err="", fault=fault)
        fault, error = "", result.exception
        if error is not None and not isinstance(error, SystemExit):
            fault = _trace(error)
        return Outcome(code=result.exit_code, out=result.stdout, err=result.stderr, fault=fault)


def _lasting(file: Path) -> bytes:
    """What of a file does not depend on the moment: no run times, no number of a generation.

    Two undisturbed runs may agree on a run time by chance, and a third one not.
    """
    data = file.read_bytes()
    if file.parent.parent.name == "rows":  # and no hash of the text with the run time
        return re.sub(rb'"seconds":[0-9.e-]+|"xxh3":"[0-9a-f]+"', b"", data)
    if file.name == "shards.parquet":
        with contextlib.suppress(pa.ArrowException, OSError, ValueError, KeyError):
            table = pq.read_table(pa.BufferReader(data))
            return str(table.drop_columns(["writer", "seconds"]).to_pylist()).encode()
    if file.name == "hashes.json":  # those of the tables, which are compared themselves
        return b""
    if file.name == "counts.jsonl":  # each run that is resumed writes its settings again
        return b"\n".join(sorted(set(data.split(b"\n")) - {b""}))
    if file.name == "CURRENT" and re.fullmatch(rb"gen-\d{6}\n?", data):
        # A killed run may have made a generation without naming it.
        return b"a generation"
    return data


def _disorder(outcome: Outcome, file: Path, code: int) -> str:
    """What no ending may be."""
    said = outcome.out + outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    is_named = _names(outcome.out, file) or any(_names(e, file) or " --" in e for e in errors)
    faults = {
        "no orderly end": outcome.fault != "",
        "neither 0 nor 1": outcome.code not in (0, 1),
        "a traceback": "Traceback (most recent" in said,
        "a line that nobody can read": any(
            len(line) > 2100 or not line.isprintable() for line in outcome.err.splitlines()
        ),
        "more than one error": len(errors) > 1,
        "an error, and exit code 0": outcome.code == 0 and errors != [],
        "no error that names the file or an option": outcome.code == 1 and not is_named,
    }
    found = [name for name, is_there in faults.items() if is_there]
    if code == 1 and found == [list(faults)[-1]]:
        return ""  # as undisturbed
    return ", ".join(found)


def _names(text: str, file: Path) -> bool:
    """Whether a text names a file, its folder, the scan of that number, or where a link led."""
    names = (file.name, file.stem, file.parent.name, file.parent.parent.name, "/innocent/")
    return any(name in text or json.dumps(name)[1:-1] in text for name in names)


def _says(text: str, file: Path) -> bool:
    """Whether a text names a file, or PandaSet's scan, by more than a word that stands anywhere."""
    words = {file.stem, *("/".join(file.parts[-n:]) for n in range(1, len(file.parts)))}
    scan = (*file.parts[-4:-3], file.name.split(".")[0])
    return any(word in text for word in {*words, "/".join(scan)} if len(word) > 4)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-3500:]


def _no_probes(name: str, *_: str, timeout_s: float) -> Answer:
    """What the doctor hears of libraries: asking them takes many seconds."""
    gpu = {"device": "cuda:0", "name": "H100", "memory": 80 << 30, "capability": "9.0"}
    if name == "gpus":
        return Answer(values={"devices": [gpu], "architectures": ["sm_90"]})
    sound = {"version": "2", "cuda": "12.6", "sum": 64**3, "free": 79 << 30, "sums": [1.0, 14.0]}
    return Answer(values={**sound, "forward_error": 0, "backward_error": 0})


@contextlib.contextmanager
def _quick_doctor() -> Iterator[None]:
    """Let the doctor look at the files of a case alone."""
    nothing = {name: lambda *_: [] for name in ("package_findings", "disk_findings")}
    with mock.patch.multiple("pass2d.commands.doctor.examine", **nothing):
        yield


@contextlib.contextmanager
def _watched(pipes: list[Path]) -> Iterator[None]:
    """Raise in the main thread when the time is up; let threads go that wait for a pipe."""

    def end(number: int, frame: object) -> None:
        raise HangError

    def release() -> None:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))

    late = threading.Timer(LIMIT_S + 5, release)
    late.daemon = True
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LIMIT_S)
    late.start()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        late.cancel()
        release()


def _bad_end(outcome: Outcome, moment: Moment) -> str:
    """What no end by a signal may be; a command may also have ended just before."""
    wanted = INTERRUPTED.get(moment.number, -moment.number)
    if outcome.code not in (0, wanted):
        return f"exit code {outcome.code}, expected {wanted}: {outcome.err[-2000:]}"
    lines = outcome.err.splitlines()
    if "Traceback (most recent" in outcome.err or any(x.startswith("error:") for x in lines):
        return f"more than that it was interrupted: {outcome.err[-2000:]}"
    if outcome.code in INTERRUPTED.values():
        is_told = LAST_LINE in lines[-1:] or any(moment.number.name in x for x in lines)
        if not is_told or lines.count(LAST_LINE) > 1:
            return f"not one line that it was interrupted: {outcome.err[-2000:]}"
    return ""


def _snapshot(root: Path, command: Command) -> dict[str, tuple[object, ...]]:
    """Every file below a folder but for what the command may change."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if str(here / name) not in command.writes]
        for name in (*folders, *files):
            if str(here / name) in command.writes:
                continue
            info = (root / here / name).lstat()
            data = (info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else ()
            found[str(here / name)] = (stat.S_IFMT(info.st_mode), *data)
    return found


def _changes(
    before: dict[str, tuple[object, ...]],
    after: dict[str, tuple[object, ...]],
    command: Command,
    *,
    is_killed: bool = False,
) -> str:
    """What a command changed that it must leave alone."""
    changed = {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        and not (key not in before and key.split("/")[0] in command.adds)
        and not (is_killed and key.startswith(".pass2d-"))  # goes with the next run
    }
    return f"changed outside of its output: {sorted(changed)[:5]}" if changed else ""


def _leaves(text: str) -> dict[str, Any]:
    """The values of a JSON document (or lines) by their paths; {} of another text."""
    try:
        todo: list[tuple[str, Any]] = [("", json.loads(text))]
    except ValueError:
        return {"text": text}
    found: dict[str, Any] = {}
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{path}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            todo += [(f"{path}[{place}]", item) for place, item in enumerate(value)]
        else:
            found[path] = value
    return found
