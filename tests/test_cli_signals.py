"""Ctrl-C and SIGTERM: 130 and 143 and one line in every command, whatever libraries make of it."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import goes_on, has_written

from pass2d.commands.console import Console, clear_errors
from pass2d.commands.signals import Signals
from pass2d.common.errors import CacheError, TerminatedError

PROJECT = Path(__file__).resolve().parents[1]
LINE = "interrupted: finished work is kept\n"
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture
def caught() -> Iterator[tuple[Signals, list[int]]]:
    """Takes this process's signals, and the codes with which it would have left at once."""
    left: list[int] = []
    clock = itertools.chain([10.0, 10.1], itertools.repeat(11.0))
    taken = Signals(leave=left.append, clock=lambda: next(clock))
    before = {number: signal.signal(number, taken.receive) for number, _ in CODES}
    yield taken, left
    for number, handler in before.items():
        signal.signal(number, handler)


def start(code: str, *words: object) -> subprocess.Popen[str]:
    program = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); {code}"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_ends_a_command_at_work(tmp_path: Path, number: signal.Signals, code: int) -> None:
    words = ("prepare", "synth", "--preset", "demo", "--workers", "0", "--out", tmp_path / "world")
    with start("from pass2d.cli import main; main()", *words) as process:
        while not has_written(tmp_path, ".bin"):
            assert goes_on(process)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert said.endswith(LINE)
    assert said.count(LINE) == 1


@pytest.mark.parametrize(("number", "code"), CODES)
def test_what_a_library_makes_of_it_does_not_count(
    caught: tuple[Signals, list[int]],
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    with pytest.raises(SystemExit) as ended, clear_errors(Console(signals=caught[0])):  # noqa: PT012
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            raise CacheError("damaged") from error
    assert (ended.value.code, capsys.readouterr().err) == (code, LINE)


def test_a_swallowed_signal_ends_the_command_where_it_goes_on(
    caught: tuple[Signals, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(signals=caught[0])
    done = []
    with pytest.raises(SystemExit) as ended, clear_errors(console):  # noqa: PT012
        for item in range(3):
            try:
                signal.raise_signal(signal.SIGTERM)
            except TerminatedError:
                done.append(item)
            console.advance()
    assert (done, ended.value.code, capsys.readouterr().err) == ([0], 143, LINE)


def test_also_one_that_was_swallowed_to_the_end(caught: tuple[Signals, list[int]]) -> None:
    with pytest.raises(SystemExit) as ended, caught[0].deciding():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemExit(0) from None
    assert ended.value.code == 130


def test_the_second_ends_at_once_but_not_the_first_ones_echo(
    caught: tuple[Signals, list[int]],
) -> None:
    _, left = caught
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert left == []
    signal.raise_signal(signal.SIGINT)
    assert left == [130]


STUCK = """
import ctypes, threading, time
import pass2d.commands.signals as s
s._ECHO_S = 0
s.SIGNALS.catch()
lock, take = ctypes.create_string_buffer(256), ctypes.CDLL(None).pthread_mutex_lock
take(lock)
main = sys._getframe()

def tell(line):
    while main.f_lineno != line:  # from there no signal is heard before the lock is waited for
        time.sleep(0.01)
    print("stuck", file=sys.stderr, flush=True)

threading.Thread(target=tell, args=(main.f_lineno + 2,), daemon=True).start()

take(lock)
"""


def test_the_second_ends_a_process_that_is_stuck_in_a_library() -> None:
    with start(STUCK) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "stuck\n"
        while process.poll() is None:  # each is heard on its own
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert (process.returncode, process.stderr.read()) == (143, LINE)


def test_a_command_that_ended_just_then_says_so_once(
    caught: tuple[Signals, list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    taken, left = caught
    taken.over()
    signal.raise_signal(signal.SIGTERM)
    assert left[:1] == [143]
    assert capfd.readouterr().err == LINE
