"""Runs a probe in a process of its own, so that no crash and no hang ends the doctor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROBE_S = 180.0
"""A first import from a cold network disk takes a minute."""
PROBES = Path(__file__).with_name("probes.py")
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a probe answered."""

    values: dict[str, Any] | None
    """None: it failed."""
    failure: str = ""
    """One line: why there is none."""


Ask = Callable[..., Answer]
"""Like `ask`."""


def ask(*words: str, timeout_s: float) -> Answer:
    """Run a probe.

    Args:
        words: its name and arguments, see ``probes``.
        timeout_s: after so long it and its children are killed.
    """
    # -P: files in the current folder must not take the place of libraries.
    return run([sys.executable, "-P", str(PROBES), *words], timeout_s=timeout_s)


def run(command: list[str], *, timeout_s: float) -> Answer:
    """Run a command whose last line on stdout is a JSON object."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    # A file, not a pipe: children that survive would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return Answer(values=None, failure=f"does not start: {error}")
        _running.add(process)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return Answer(values=None, failure=f"no answer within {timeout_s:.3g} s")
        finally:
            _end(process)
        out.seek(0)
        err.seek(0)
        said, complained = (file.read().decode(errors="replace") for file in (out, err))
        return _answer(code, said, complained)


def _answer(code: int, out: str, err: str) -> Answer:
    if code < 0:
        return Answer(values=None, failure=f"crashed ({_signal_name(-code)})")
    lines = [line for line in err.splitlines() if line.strip()]
    if code:
        reason = lines[-1].strip() if lines else f"exit code {code}"
        return Answer(values=None, failure=reason[:300])
    try:
        values = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Answer(values=None, failure="gave no answer")
    return Answer(values=values)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the probe's session: on time-out, on Ctrl-C, and Ray's stragglers."""
    _kill(process)
    process.wait()
    _running.discard(process)


def end_all() -> None:
    """Kill all probes, whose results are not needed after Ctrl-C."""
    for process in tuple(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
