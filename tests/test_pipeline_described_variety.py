"""Whatever `--check` passes prepares, trains, evaluates, predicts and is drawn without an error.

`--variety-cases 200 --variety-seed 3` tries more folders; what fails names its number for
`--variety-first`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from described_course import train_and_use
from described_variety import write_variety
from typed import answer, pass2d

STOPPING = "split val: no scans"
"""Legal, and said: nothing can be measured on it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    first, count = option("--variety-first"), option("--variety-cases")
    metafunc.parametrize("number", range(first, first + count))


def test_what_the_check_passes_goes_all_the_way(
    number: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--variety-seed")
    root, cache = tmp_path / "raw", tmp_path / "cache"
    root.mkdir()
    description, points, oddity = write_variety(root, random.Random(f"{seed} {number}"))
    place = ("--describe", description, "--root", root)
    checked = pass2d("prepare", "folder", *place, "--check", "--json")
    found = json.loads(checked.stdout)
    errors = [one for one in found["problems"] if one["severity"] == "error"]
    said = f"{oddity}\n{description.read_text()}" + json.dumps(found["problems"], indent=1)
    if errors:
        assert oddity, said  # all others are as their descriptions say
        return
    try:
        answer("prepare", "folder", *place, "--cache", cache, "--workers", "0")
        train_and_use(cache, points[-1], tmp_path)
    except AssertionError as error:
        # What is odd may stop a later command, where the check has warned of it.
        if not (oddity and STOPPING in said):
            raise AssertionError(f"{error}\n{said}") from error
