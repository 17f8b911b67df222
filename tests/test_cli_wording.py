"""The library speaks of arguments and functions, the command of options and commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli_words import COMMANDS as CALLS
from test_cli_words import options
from typer import Exit

from pass2d.commands.console import clear_errors
from pass2d.commands.wording import COMMANDS, OPTIONS, in_options, typed_messages
from pass2d.common.errors import CacheError

PACKAGE = Path(__file__).resolve().parents[1] / "pass2d"

SPOKEN = ("common", "corruptions", "models")
"""Packages and rooms whose messages name no option; add yours when its messages are done."""

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_COMMAND = re.compile(rf"\bpass2d ({'|'.join({path[0] for path in CALLS})})\b")
_TERM = re.compile(r"`([a-z][a-z0-9_]*)(?:=[^`\s]+)?`")


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("choose one by `dataset`", "choose one by --dataset"),
        ("`columns=4` or `dtype=float64`", "--columns 4 or --dtype float64"),
        ("allow `overwrite=True`", "allow --overwrite"),
        ("`workers=0` does without Ray", "--workers 0 does without Ray"),
        ("repair the cache (`repair`)", "repair the cache (`pass2d cache repair`)"),
        ("`cache_root`, `signal_scale=0.5`", "--cache, --signal-scale 0.5"),
        ("the file `foo` and `a b`", "the file `foo` and `a b`"),
    ],
)
def test_arguments_become_options(said: str, typed: str) -> None:
    assert in_options(said) == typed


def test_errors_are_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit), clear_errors():
        raise CacheError("x: checksum differs. Repair the cache (`repair`).")
    said = capsys.readouterr().err
    assert said == "error: x: checksum differs. Repair the cache (`pass2d cache repair`).\n"


def test_json_has_options_in_messages_and_data_as_it_is() -> None:
    given = {"failed": [{"file": "`dataset`", "reason": "name it: `dataset`"}], "notes": ("`out`",)}
    typed = {"failed": [{"file": "`dataset`", "reason": "name it: --dataset"}], "notes": ["--out"]}
    assert typed_messages(given) == typed


def test_what_is_said_can_be_typed() -> None:
    everywhere = set().union(*(options(command) for command in CALLS.values()))
    assert set(OPTIONS.values()) <= everywhere
    assert {tuple(words.split()[1:2]) for words in COMMANDS.values()} <= {p[:1] for p in CALLS}


def messages(room: str) -> Iterator[tuple[str, str]]:
    """Each string of a room that is no docstring, with where it stands."""
    for path in sorted((PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        documents = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in documents and "{" not in node.value:  # no style sheets
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


@pytest.mark.parametrize("room", SPOKEN)
def test_the_library_names_no_options(room: str) -> None:
    for where, text in messages(room):
        assert not _OPTION.search(text), f"{where}: {text}"
        assert not _COMMAND.search(text), f"{where}: {text}"
        for term in _TERM.findall(text):
            assert term in OPTIONS or term in COMMANDS, f"{where}: unknown `{term}`"
