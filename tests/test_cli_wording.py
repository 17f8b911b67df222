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

SPOKEN = sorted(
    path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] not in "_."
)
"""Packages whose messages name no option: all but the command's own."""
SPOKEN.remove("commands")

AS_WRITTEN = {"--votes", "--outside", "--columns", "--dtype", "--format, --confidence, --png"}
"""Keys of ``predict.jsonl``: renamed, they would make a folder's earlier results foreign ones."""

_OPTION = re.compile(r"(?<![\w-])--[a-z*]")
_OTHERS = re.compile(r"pip install .*|pass2d [a-z ]+$")
"""Options of another program; who made a file."""
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
        ("`prepare(corrupt=all, root=DIR)`", "`pass2d prepare --corrupt all --root DIR`"),
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
    """Each string of a room that is no docstring, with where it stands; "*" for what it formats."""
    for path in sorted((PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        nodes = list(ast.walk(tree))
        passed = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
        for node in nodes:  # a whole comes before its parts
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) in passed or not (is_text or isinstance(node, ast.JoinedStr)):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            passed |= {id(part) for part in parts}
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts
            )
            is_code = "{" in text or "</" in text  # styles and pages
            if not is_code and text not in AS_WRITTEN:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", _OTHERS.sub("", text)


@pytest.mark.parametrize("room", SPOKEN)
def test_the_library_names_no_options(room: str) -> None:
    for where, text in messages(room):
        assert not _OPTION.search(text), f"{where}: {text}"
        assert not _COMMAND.search(text), f"{where}: {text}"
        for term in _TERM.findall(text):
            assert term in OPTIONS or term in COMMANDS, f"{where}: unknown `{term}`"
