"""Text from files in messages and pages: short, on one line, and never code."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from rich.table import Table

from pass2d.commands.console import clear_errors, print_rich
from pass2d.common.errors import CacheError
from pass2d.common.html import Cell, escape, notes, page, script_json, section, table
from pass2d.common.text import and_more, and_so_on, one_line, quoted, shown

HOSTILE = (
    "a<!--<script>b",
    "</script><b>",
    "\"'><img src=x>",
    "[/red][bold]",
    "line\nbreak\x1b[31m\x00",
    "\u2028\u2029\u202e\udcff",
    "x" * 10_000,
)


def test_names_are_cut_in_their_middle_and_escaped() -> None:
    assert shown("car") == "car"
    assert shown("a\nb\x1b[31m\u2028\u202e") == r"a\nb\x1b[31m\u2028\u202e"
    assert shown("a" * 500 + "z") == "a" * 42 + "..." + "a" * 14 + "z"
    assert shown("abc" * 10, longest=10) == "abcab...bc"
    assert quoted("it's") == "'it's'"
    assert quoted(3) == "3"


def test_any_value_can_be_shown() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(10**5000) == "an integer of 16,610 bits"
    for value in (deep, {"a": deep}, list(range(10**6)), b"x" * 10**6, float("nan"), None):
        assert 0 < len(quoted(value)) <= 60


def test_message_is_one_line_that_keeps_its_file_and_its_remedy() -> None:
    text = one_line("f.json: found\n   " + "word " * 5000 + "\r\nexpected.\tRun it again.")
    assert len(text) == 8000
    assert text.isprintable()
    assert text.startswith("f.json: found word word")
    assert text.endswith(r"expected.\tRun it again.")
    path = "/".join(["a folder of forty characters or even more"] * 12)
    assert one_line(f"{path}: missing") == f"{path}: missing"
    assert len(one_line("x" * 10_000)) == 120


@pytest.mark.parametrize("name", HOSTILE)
def test_error_is_one_line_on_stderr(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = CacheError(f"file: class {name} is unknown. Run it again.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises(Exception, match="1"), clear_errors():
        raise error
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {error}\n"
    assert err[:-1].isprintable()
    assert err.endswith("Run it again.\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_table_shows_names_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = Table(title=f"title {name}")
    result.add_column("class", overflow="fold")
    result.add_row(name)
    print_rich(result)
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    if name.isprintable() and len(name) < 100:
        assert name in printed


@pytest.mark.parametrize("name", HOSTILE)
def test_strings_in_a_page_are_text(name: str) -> None:
    text = page(name, name, [section(name, table([name], [[Cell(text=name)]]), notes([name]))])
    tags = re.findall(r"<[^>]*>", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    plain = page("", "", [section("", table([""], [[Cell(text="")]]), notes([""]))])
    assert tags == re.findall(r"<[^>]*>", re.sub(r"<style>.*?</style>", "", plain, flags=re.DOTALL))
    assert escape(name) in text
    text.encode()


@pytest.mark.parametrize("name", HOSTILE)
def test_json_in_a_script_is_inert_and_the_same_value(name: str) -> None:
    text = script_json({name: [name]})
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == {name: [name]}


def test_of_many_names_the_first_are_listed() -> None:
    names = ["00", "01", "02"]
    assert [and_more(names, n) for n in (1, 2, 3)] == [
        "00 and 2 more",
        "00, 01 and 1 more",
        "00, 01, 02",
    ]
    assert [and_so_on(iter(names), n) for n in (1, 3)] == ["00, ...", "00, 01, 02"]
    assert and_more([], 2) == and_so_on([], 2) == ""
