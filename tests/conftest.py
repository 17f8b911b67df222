"""Shared fixtures: where the reference data lies, and what a user without it skips."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

# Before anything loads torch: its threads spin while they wait, which starves tests on busy cores,
# and where several processes test (pytest-xdist) each has one core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is loaded until all tests are collected stays: looking for garbage in it is a fifth of the
# work of collecting, and later of each look.
gc.disable()

_OF_THE_USER = ("AWS_", "BOTO", "FSSPEC_", "RAY_", "PASS2D_LOCAL_", "PASS2D_STORE_")


def _forget_the_users_settings() -> None:
    """Tests talk to servers of their own on loopback, whatever account, proxy or Ray is set."""
    for name in list(os.environ):
        if name.startswith(_OF_THE_USER) or name.lower().endswith("_proxy"):
            del os.environ[name]
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # else ~/.aws
        os.environ[name] = os.devnull
    os.environ["FSSPEC_CONFIG_DIR"] = os.devnull  # else ~/.config/fsspec
    fsspec.config.conf.clear()  # a plugin of pytest may have loaded it before


_forget_the_users_settings()
# Programs that a shell starts in the background ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SHARED = PROJECT_ROOT.parent / "shared"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _without_fsync() -> Iterator[None]:
    """Tests survive no power cut: do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and recorded numbers beside the checkout; skips without it."""
    if not (SHARED / "SPEC.md").is_file():
        pytest.skip("no ../shared (real scans and recorded numbers) beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def real_semkitti(shared: Path) -> Path:
    """Three real SemanticKITTI sequences (00, 08, 11), four scans."""
    return shared / "real" / "semantickitti"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fault-rounds 20`: the fault tests repeat that often (flips, kills, failing writes).

    `--harm-cases 1000 --harm-seed 7`: so many disturbed commands, in other ways than by seed 0.
    """
    parser.addoption("--fault-rounds", type=int, default=1, help="repeat fault tests this often")
    parser.addoption("--harm-cases", type=int, help="disturbed commands; each once if not given")
    parser.addoption("--harm-inputs", help="only commands that read these, e.g. waymo,bags")
    parser.addoption("--harm-first", type=int, default=0, help="the first one's number")
    parser.addoption("--harm-seed", type=int, default=0, help="chooses how")
    parser.addoption("--variety-cases", type=int, default=4, help="described folders to try")
    parser.addoption("--variety-first", type=int, default=0, help="the first one's number")
    parser.addoption("--variety-seed", type=int, default=0, help="chooses them")
    parser.addoption("--harm-case", type=int, help="only this one")


@pytest.fixture
def fault_rounds(request: pytest.FixtureRequest) -> int:
    """How often a fault test repeats its random choices."""
    return int(request.config.getoption("--fault-rounds"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once why so many tests were skipped."""
    if not (SHARED / "SPEC.md").is_file():
        terminalreporter.write_line(
            "No ../shared beside this checkout: tests on real scans and recorded numbers skipped."
        )
