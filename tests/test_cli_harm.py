"""No file, signal or bucket ends a command in a traceback, a hang, or silence.

`--harm-cases 1000 --harm-seed 7` runs more of them; what fails names its number for `--harm-case`.
"""

from __future__ import annotations

import pytest
from harness import Case, Harness
from harness_world import COMMANDS, make_world


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("harness"), COMMANDS, make_world)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        option = metafunc.config.getoption
        seed, only = option("--harm-seed"), option("--harm-case")
        first = option("--harm-first")
        count = option("--harm-cases") or len(COMMANDS)
        numbers = range(first, first + count) if only is None else [only]
        cases = [Case(seed=seed, number=number) for number in numbers]
        metafunc.parametrize("case", cases, ids=str)


def test_a_disturbed_command_ends_in_order(harness: Harness, case: Case) -> None:
    wrong = harness.check(case)
    assert not wrong, wrong
