"""What an interrupted run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pass2d.common.work_record import WorkRecord

SETTINGS = {"checkpoint": "abc", "votes": [12, 0]}


def keep(path: Path, parts: dict[str, Any], settings: dict[str, Any] = SETTINGS) -> None:
    record = WorkRecord(path, settings)
    for name, facts in parts.items():
        record.add(name, facts)
    record.close()


def test_finished_parts_are_found_again_by_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.jsonl"
    assert WorkRecord(path, SETTINGS).parts == {}
    keep(path, {"a": {"n": 1}, "b": {}})
    keep(path, {"c": {}, "a": {"n": 2}})
    found = WorkRecord(path, {"checkpoint": "abc", "votes": (12, 0)})
    assert found.parts == {"a": {"n": 2}, "b": {}, "c": {}}
    assert found.differing == ()


def test_other_settings_take_nothing_over_and_say_which_differ(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    keep(path, {"a": {}})
    other = {**SETTINGS, "votes": [1, 0]}
    found = WorkRecord(path, other)
    assert (found.parts, found.differing) == ({}, ("votes",))
    keep(path, {"b": {}}, other)  # replaces the file
    assert WorkRecord(path, other).parts == {"b": {}}
    assert WorkRecord(path, SETTINGS).parts == {}
    assert WorkRecord(path, other, start_over=True).parts == {}


def test_a_run_that_is_killed_while_it_writes_loses_that_part_alone(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    keep(path, {"a": {}, "b": {}})
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(2, len(last)):  # 1: all but its line end
        path.write_bytes(whole[:-cut])
        keep(path, {"c": {}})
        assert WorkRecord(path, SETTINGS).parts.keys() == {"a", "c"}


def test_no_damaged_byte_changes_what_a_record_says(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    keep(path, {"a": {"n": 10}, "b": {"n": 20}})
    whole, parts = path.read_bytes(), WorkRecord(path, SETTINGS).parts
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert WorkRecord(path, SETTINGS).parts.items() <= parts.items()


def test_results_of_earlier_versions_are_still_known(tmp_path: Path) -> None:
    path = tmp_path / "predict.jsonl"
    lines = [{"settings": SETTINGS}, {"scan": "a", "input": [5, 7]}, {"scan": "b", "input": []}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"scan": "c", "inp\n[]\n')
    assert WorkRecord(path, SETTINGS).parts == {"a": {"input": [5, 7]}, "b": {"input": []}}
    found = WorkRecord(path, {**SETTINGS, "checkpoint": "other"})
    assert (found.parts, found.differing) == ({}, ("checkpoint",))


def test_a_record_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "record.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        keep(tmp_path / "record.jsonl", {"a": {}})
    assert (tmp_path / "elsewhere").read_text() == ""
