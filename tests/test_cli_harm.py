"""No file, signal or bucket ends a command in a traceback, a hang, or silence.

`--harm-cases 1000 --harm-seed 7` runs more of them, `--harm-inputs waymo,bags` only commands that
read these parts of the world; what fails names its number for `--harm-case`.
"""

from __future__ import annotations

import itertools

import pytest
from harness import Case, Harness
from harness_world import COMMANDS, PARTS


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("harness"), COMMANDS, PARTS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        seed = metafunc.config.getoption("--harm-seed")
        cases = [Case(seed=seed, number=number) for number in _numbers(metafunc.config)]
        metafunc.parametrize("case", cases, ids=str)


def _numbers(config: pytest.Config) -> list[int]:
    """The cases that are asked for: each command once unless their number is given."""
    only, count = config.getoption("--harm-case"), config.getoption("--harm-cases")
    inputs = config.getoption("--harm-inputs")
    if only is not None:
        return [only]
    wanted = set(inputs.split(",")) if inputs else set()
    chosen = [
        place
        for place, command in enumerate(COMMANDS)
        if (not inputs or wanted & set(command.needs)) and (count or inputs or not command.is_long)
    ]
    if inputs and not (chosen and wanted <= set(PARTS)):
        raise pytest.UsageError(f"--harm-inputs {inputs}: choose from {', '.join(PARTS)}")
    first, n = config.getoption("--harm-first"), len(COMMANDS)
    numbers = (number for number in itertools.count(first) if number % n in chosen)
    return list(itertools.islice(numbers, count or len(chosen)))


def test_a_disturbed_command_ends_in_order(harness: Harness, case: Case) -> None:
    wrong = harness.check(case)
    assert not wrong, wrong
