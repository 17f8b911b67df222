"""Starts the processes of `--nproc`: one per device of this machine, as torchrun would.

This process only waits: it loads no torch, hands signals on, and ends all when one has failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pass2d
from pass2d.common.processes import require_few, usable_cores

RESUME_HINT = "Run it again with `resume` to continue from the last checkpoint."
LOST_CODE = 75
"""Exit code of a worker that lost the others: its launcher sees which one died, and reports it."""
_LAUNCHER = "PASS2D_LAUNCHER"
"""In a worker's environment: the process that started it."""
_ROOT = Path(pass2d.__file__).resolve().parents[1]
_POLL_S = 0.05
_GRACE_S = 10.0
"""Once a process has failed, how long the others may take to end by themselves."""
_SAVE_S = 600.0
"""After a signal, how long all may take to save and end."""
_PR_SET_PDEATHSIG = 1
# A signal before the program is ready ends it without a traceback. The current folder is not
# searched for modules (-P): a random.py there would hide a library.
_START = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, lambda *_: os._exit(130))\n"
    "signal.signal(signal.SIGTERM, lambda *_: os._exit(143))\n"
    f"sys.path.append({str(_ROOT)!r})\n"
    "sys.argv[0] = 'pass2d'\n"
    "from pass2d.train.distributed.launch import follow_launcher\n"
    "follow_launcher()\n"
    "from pass2d.cli import main\n"
    "main()\n"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the processes ended."""

    code: int
    """Exit code for the command."""
    error: str = ""
    """What to tell the user; "" when a process has done so already, or all went well."""


def is_launched() -> bool:
    """Whether this process was started by `launch`."""
    return _LAUNCHER in os.environ


def follow_launcher() -> None:
    """Make sure that a worker is told to save and end when the launcher itself is killed."""
    launcher = int(os.environ[_LAUNCHER])
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:
        os._exit(143)


def launch(
    arguments: Sequence[str],
    *,
    nproc: int,
    say: Callable[[str], None],
) -> Outcome:
    """Run a `pass2d` command in several processes of this machine until all have ended.

    Args:
        arguments: Of the command, its name first.
        nproc: How many processes.
        say: Receives a message when a signal is forwarded.

    Raises:
        ConfigError: More processes than the machine is trusted with.
    """
    require_few(nproc, "nproc")
    port = free_port()
    with _forwarded() as received:
        workers = [_start(arguments, rank=rank, nproc=nproc, port=port) for rank in range(nproc)]
        try:
            return _watch(workers, received, say=say)
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                worker.wait()


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(
    arguments: Sequence[str], *, rank: int, nproc: int, port: int
) -> subprocess.Popen[bytes]:
    environment = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // nproc)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # else a lost connection is told by every process
        "GLOO_SOCKET_IFNAME": "lo",
        **os.environ,
        _LAUNCHER: str(os.getpid()),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _START, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches only the launcher, which forwards it once
    )


@contextmanager
def _forwarded() -> Iterator[list[signal.Signals]]:
    """The signals that ask to end, as they come."""
    received: list[signal.Signals] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, receive) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _watch(
    workers: Sequence[subprocess.Popen[bytes]],
    received: list[signal.Signals],
    *,
    say: Callable[[str], None],
) -> Outcome:
    ended: dict[int, int] = {}
    handed_on, deadline = 0, float("inf")
    is_cut_off = False
    while len(ended) < len(workers):
        for rank, worker in enumerate(workers):
            code = worker.poll()
            if code is None or rank in ended:
                continue
            ended[rank] = code
            if code != 0:
                deadline = min(deadline, time.monotonic() + _GRACE_S)
        for number in received[handed_on:]:
            handed_on += 1
            _hand_on(number, workers)
            wait_s = _SAVE_S if handed_on == 1 else _GRACE_S
            deadline = min(deadline, time.monotonic() + wait_s)
            if handed_on == 1:
                say(f"{number.name}: the processes save and end; a second signal ends them at once")
        if time.monotonic() > deadline and not is_cut_off:
            is_cut_off = True
            for rank, worker in enumerate(workers):
                if rank not in ended:
                    worker.kill()
                    ended[rank] = LOST_CODE
        time.sleep(_POLL_S)
    return _outcome(ended, received, is_cut_off=is_cut_off)


def _hand_on(number: signal.Signals, workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _outcome(ended: dict[int, int], received: list[signal.Signals], *, is_cut_off: bool) -> Outcome:
    """Read the exit codes, in the order in which the processes ended."""
    for rank, code in ended.items():
        if code < 0:
            name = signal.Signals(-code).name
            hint = ": was there too little memory?" if code == -signal.SIGKILL else ""
            error = f"process {rank} of {len(ended)} was killed by {name}{hint}"
            return Outcome(code=1, error=f"{error} All others were ended. {RESUME_HINT}")
    if received and is_cut_off:
        return Outcome(code=1, error=f"the processes did not end in time: killed. {RESUME_HINT}")
    failed = [code for code in ended.values() if code not in (0, LOST_CODE)]
    if failed:
        return Outcome(code=failed[0])
    if LOST_CODE in ended.values():
        return Outcome(code=1, error=f"the processes lost each other: all ended. {RESUME_HINT}")
    return Outcome(code=0)
