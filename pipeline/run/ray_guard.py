"""Guard between a run and its Ray: however the run ends, it ends all of Ray's processes.

Started as a script that needs nothing but Python:

    python -I -S ray_guard.py FOLDER LIFELINE CHANNEL COMMAND ...

It starts the command and waits until the lifeline closes, whose other end the run alone holds: the
system closes it also when the run is killed. Processes that lose their parent become the guard's
own children (a subreaper, prctl(2)), so that none gets away.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.1
_KILL_S = 10.0
"""A process in the middle of a disk's answer cannot be killed before it has come."""


def end_with_parent() -> None:
    """Let this process be killed when the one that started it ends (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children(parent: int) -> dict[int, str]:
    """The processes that a process has started and that still run, with their programs' names."""
    return {pid: name for pid, (above, name) in _processes().items() if above == parent}


def is_running(pid: int) -> bool:
    """Whether a process runs: neither gone nor waiting to be buried."""
    return _status(pid) is not None


def end_descendants() -> None:
    """Kill all that this process, or one of its children, has started."""
    deadline = time.monotonic() + _KILL_S
    while (found := _descendants()) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _bury()
        time.sleep(0.01)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _status(pid: int) -> tuple[int, str] | None:
    """Parent and name of a process that runs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    state, parent = after.split()[:2]
    return None if state in "ZX" else (int(parent), before.partition("(")[2])


def _processes() -> dict[int, tuple[int, str]]:
    pids = [int(place.name) for place in Path("/proc").glob("[0-9]*")]
    return {pid: status for pid in pids if (status := _status(pid)) is not None}


def _descendants() -> list[int]:
    processes = _processes()
    found, last = [], [os.getpid()]
    while last:
        last = [pid for pid, (parent, _) in processes.items() if parent in last]
        found += last
    return found


def _bury() -> set[int]:
    """Take note of children that have ended. Returns them."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.add(pid)
    return ended


def main() -> None:
    """Run the command until it or the run has ended; then end what is left of it."""
    folder, lifeline, channel = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        process = subprocess.Popen(sys.argv[4:], pass_fds=(channel,))
        os.close(channel)
        while process.pid not in _bury() and not _is_closed(lifeline, _POLL_S):
            pass
        end_descendants()
        _is_closed(lifeline, None)  # the run reads Ray's log before
    finally:
        end_descendants()
        shutil.rmtree(folder, ignore_errors=True)


def _is_closed(lifeline: int, timeout_s: float | None) -> bool:
    """Whether the other end is closed; nothing is ever written to it."""
    return bool(select.select([lifeline], [], [], timeout_s)[0])


if __name__ == "__main__":
    main()
