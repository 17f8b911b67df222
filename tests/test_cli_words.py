"""What the `pass2d` command calls things: the same everywhere, and as the documents say."""

import getpass
import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer import Context
from typer.main import get_command
from typer.testing import CliRunner

from pass2d import cli
from pass2d.cli import app
from pass2d.commands.console import Console

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = [PROJECT / "Makefile", *PROJECT.glob("*.md"), *PROJECT.glob("[a-z]*/**/*.md")]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    context = Context(group)
    for name in group.list_commands(context):  # their options are built when they are typed
        _, command, _ = group.resolve_command(context, [name])
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(get_command(app)))


def options(command: Any) -> set[str]:
    return {word for option in command.params for word in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_command_explains_itself_and_answers_in_json(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert all(option.help for option in command.params)
    assert "--json" in options(command)
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert shown.exit_code == 0
    assert "Usage: pass2d" in shown.stdout
    assert max(shown.stdout) < "\N{CYCLONE}"  # words such as :100: become pictures


def test_commands_that_take_a_url_take_its_local_folder() -> None:
    takes_url = {
        path
        for path, command in COMMANDS.items()
        for option in command.params
        if "URL" in (option.metavar or "")
    }
    assert len(takes_url) > 10
    assert all("--local-cache" in options(COMMANDS[path]) for path in takes_url)


def documented() -> Iterator[tuple[str, tuple[str, ...], set[str]]]:
    """Each line of a document that calls a command with options."""
    for document in DOCUMENTS:
        for line in document.read_text("utf-8").splitlines():
            for call in re.findall(r"pass2d ((?:[a-z]+ ?)[^`|]*)", line):
                words = call.split()
                path = next((p for p in COMMANDS if tuple(words[: len(p)]) == p), None)
                if path is not None:
                    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", call))
                    yield f"{document.name}: {line.strip()}", path, found


def test_documents_name_options_that_there_are() -> None:
    calls = list(documented())
    assert len(calls) > 40
    for line, path, found in calls:
        assert found <= options(COMMANDS[path]), line


def test_version_is_shown() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert re.fullmatch(r"pass2d \d+\.\d+\S*\n", shown.stdout)


def test_broken_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('no libblas')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; from pass2d.cli import main; main()"
    command = [sys.executable, "-c", code, "stats", "--cache", "x"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a package cannot be imported: no libblas")
    assert done.stderr.count("\n") == 1


def test_log_of_hours_has_a_line_a_minute() -> None:
    now, lines = [0.0], []
    console = Console(lambda: now[0], lambda text: lines.append((now[0], text)))
    console.start("train", total=10_000, unit="scans")
    for _ in range(10_000):
        now[0] += 1.0
        console.advance()
    times = [time for time, _ in lines]
    assert times[:3] == [5, 10, 15]
    assert times[-1] == 10_000
    assert max(b - a for a, b in itertools.pairwise(times)) == 60
    assert lines[-1][1] == "train: 10000/10000 scans, 1.0 scans/s"


def test_names_of_files_reach_a_terminal_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would make pictures of `:car:` and colours of `[red]`."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    console = Console()
    console.start("predict", total=2, unit="scans")
    console.say("/data/:car:/[red]x: read as it is")
    console.close()
    assert "/data/:car:/[red]x: read as it is" in terminal.getvalue()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_empty_argument_is_not_the_current_folder(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, name in (([""], f"the argument after {path[-1]}"), (["--out", ""], "--out")):
        result = CliRunner().invoke(app, [*path, *words])
        assert result.exit_code == 1
        assert f"error: {name} is empty: give a value" in result.output
    result = CliRunner().invoke(app, [*path, "--cache="])
    assert result.exit_code == 1
    assert "error: --cache is empty" in result.output
    assert not list(tmp_path.iterdir())


def test_a_home_of_nobody_is_one_error() -> None:
    words = ["stats", "--cache", "memory://x", "--local-cache", "~nobody-of-that-name/disk"]
    ended = CliRunner().invoke(app, words)
    assert (ended.exit_code, type(ended.exception)) == (1, SystemExit)
    assert ended.stderr.startswith("error: --local-cache ~nobody-of-that-name/disk: Could not")


@mock.patch.dict(os.environ)
def test_a_user_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        os.environ.pop(variable, None)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    cli.name_the_user()
    assert getpass.getuser() == "3999999999"
