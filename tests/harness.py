"""Runs commands on inputs that are wrong in one place, and says whether they ended as they must.

A case is a seed and a number: they choose the command, the file and what happens to it. A world of
a few tiny inputs is made once; each case gets a fresh copy under the same path, so that all it
prints can be compared with what the undamaged world gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from harm import HARMS, STRUCTURAL
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.commands.doctor.finding import Finding

LIMIT_S = 45
"""A command that takes longer on a few hundred points hangs."""
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


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command on a world that it must get through."""

    name: str
    words: tuple[str, ...]
    """Its arguments; it runs in the case's folder."""
    needs: tuple[str, ...]
    """Folders of the world that are copied for it."""
    inputs: tuple[Input, ...]
    writes: tuple[str, ...] = ()
    """What it may change below the case's folder."""
    code: int = 0
    """How it ends undisturbed."""
    compared: str = ""
    """Only values whose path ends so must be the same."""
    then: tuple[str, ...] = ()
    """A command that must also end well where this one did."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str
    fault: str = ""
    """A traceback, or that it hung."""
    result: dict[str, Any] = field(default_factory=dict)
    """Each value of its JSON by path, and each file that it wrote by hash."""


class HangError(BaseException):
    """The time is up."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file of one command's input, harmed in one way."""

    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.number}"


class Harness:
    """The world, its commands, and what each gives undisturbed."""

    def __init__(
        self, root: Path, commands: tuple[Command, ...], make: Callable[[Path], None]
    ) -> None:
        self.world = root / "world"
        self.case = root / "case"
        make(self.case)  # where it will lie: a cache remembers its sources' paths
        self.case.rename(self.world)
        self._commands = commands
        self._expected: dict[str, Outcome] = {}

    def check(self, case: Case) -> str:
        """Run a case.

        Returns:
            What is wrong with how it ended; empty if nothing.
        """
        choose = random.Random(f"{case.seed} {case.number}")
        command = self._commands[case.number % len(self._commands)]
        self._lay_out(command)
        role = choose.choice(command.inputs)
        files = sorted(path for path in self.case.glob(role.glob) if path.is_file())
        assert files, (command.name, role.glob)
        file = choose.choice(files)
        name = choose.choice(sorted(HARMS))
        HARMS[name](file, choose, self.case / "innocent")
        before = _snapshot(self.case, command.writes)
        outcome = self._run(command, pipes=[file] if name == "fifo" else [])
        touched = _snapshot(self.case, command.writes)
        wrong = _disorder(outcome, file, command.code)
        must_be_said = role.kind == SEALED or (role.kind == RAW and name in STRUCTURAL)
        must_be_said &= not (role.may_be_left_out and name in ("missing", "folder", "fifo"))
        if not wrong and outcome.code == command.code and must_be_said:
            said = outcome.out + outcome.err
            is_said = _says(said, file) or (role.kind == RAW and file.parent.name in said)
            wrong = "" if is_said else "silence"
        if wrong == "silence":
            expected = self._undisturbed(command).result
            differing = [
                key
                for key, value in expected.items()
                if key.endswith(command.compared) and outcome.result.get(key) != value
            ]
            wrong = f"silently another result: {differing[:5]}" if differing else ""
        if not wrong and before != touched:
            changed = {
                key for key in before.keys() | touched if before.get(key) != touched.get(key)
            }
            wrong = f"changed outside of its output: {sorted(changed)[:5]}"
        if not wrong and command.then and outcome.code == 0:
            after = self._invoke(command.then, [])
            wrong = f"then {command.then}: {after}" if after.code or after.fault else ""
        if not wrong:
            return ""
        where = file.relative_to(self.case)
        return (
            f"case {case}: {name} of {where}: pass2d {' '.join(command.words)}\n{wrong}\n"
            f"exit code {outcome.code}, {outcome.fault}\nstderr: {outcome.err[-3000:]}\n"
            f"stdout: {outcome.out[-1500:]}\n"
            f"again: pytest tests/test_cli_harm.py --harm-seed {case.seed} "
            f"--harm-case {case.number}"
        )

    def _undisturbed(self, command: Command) -> Outcome:
        """What does not change from run to run."""
        if command.name not in self._expected:
            first, second = (self._fresh(command) for _ in range(2))
            assert first.code == command.code, (command, first)
            same = {k: v for k, v in first.result.items() if second.result.get(k) == v}
            self._expected[command.name] = Outcome(code=0, out="", err="", result=same)
        return self._expected[command.name]

    def _fresh(self, command: Command) -> Outcome:
        self._lay_out(command)
        return self._run(command, pipes=[])

    def _lay_out(self, command: Command) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        for name in (*command.needs, "innocent"):
            copy = shutil.copytree if (self.world / name).is_dir() else shutil.copy2
            copy(self.world / name, self.case / name)

    def _run(self, command: Command, pipes: list[Path]) -> Outcome:
        outcome = self._invoke(command.words, pipes)
        result = _leaves(outcome.out)
        for name in command.writes:
            for path in sorted([self.case / name, *(self.case / name).rglob("*")]):
                if path.is_file() and not path.is_symlink():
                    data = path.read_bytes()
                    result[f"file {path.relative_to(self.case)}"] = hashlib.md5(data).hexdigest()
        return Outcome(
            code=outcome.code, out=outcome.out, err=outcome.err, fault=outcome.fault, result=result
        )

    def _invoke(self, words: tuple[str, ...], pipes: list[Path]) -> Outcome:
        with contextlib.chdir(self.case), _watched(pipes), _without_probes():
            warnings.simplefilter("ignore")  # a user sees them and goes on
            try:
                result = CliRunner().invoke(app, list(words))
            except HangError as error:
                fault = f"no end after {LIMIT_S} s: {_trace(error)}"
                return Outcome(code=-1, out="", err="", fault=fault)
        fault, error = "", result.exception
        if error is not None and not isinstance(error, SystemExit):
            fault = _trace(error)
        return Outcome(code=result.exit_code, out=result.stdout, err=result.stderr, fault=fault)


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
    """Whether a text names a file, its folder, or the scan of that number."""
    return any(
        name in text for name in (file.name, file.stem, file.parent.name, file.parent.parent.name)
    )


def _says(text: str, file: Path) -> bool:
    """Whether a text names a file by more than a word that stands anywhere."""
    words = {str(Path(*file.parts[-2:])), file.name, file.stem}
    return any(word in text for word in words if len(word) > 4)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-3500:]


@contextlib.contextmanager
def _without_probes() -> Iterator[None]:
    """Let the doctor look at files alone: its probes of libraries take many seconds."""
    nothing: list[object] = []
    answers = {
        "torch_findings": lambda ask: (nothing, []),
        "scatter_findings": lambda devices, ask: nothing,
        "ray_findings": lambda **options: nothing,
        "package_findings": lambda: nothing,
        "disk_findings": lambda folder: nothing,
        "NO_SPCONV": Finding(name="spconv", state="ok", found="", remedy=""),
    }
    with mock.patch.multiple("pass2d.commands.doctor.examine", **answers):
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


def _snapshot(root: Path, writes: tuple[str, ...]) -> dict[str, tuple[object, ...]]:
    """Every file below a folder but for what may change."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if str(here / name) not in writes]
        for name in (*folders, *files):
            if str(here / name) in writes:
                continue
            info = (root / here / name).lstat()
            data = (info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else ()
            found[str(here / name)] = (stat.S_IFMT(info.st_mode), *data)
    return found


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
