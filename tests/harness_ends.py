"""Ends a command at a chosen moment: killed, by Ctrl-C or by SIGTERM, in a process of its own."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from team_samples import exit_code

INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
LAST_LINE = "interrupted: finished work is kept"
CALLS = ("open", "os.", "shutil.", "tempfile.")
"""Audited calls that are counted: those that touch files."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A signal, and when the process sends it to itself."""

    number: signal.Signals
    call: int
    """With this call that touches a file; 0: never."""
    delay_s: float
    """So long after it: native code writes too, and makes no such calls."""

    def __str__(self) -> str:
        return f"{self.number.name} {self.delay_s:.3f} s after call {self.call}"


def choose_moment(choose: random.Random, calls: int) -> Moment:
    """A random one of a command that makes so many calls."""
    number = choose.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
    delay_s = choose.choice((0.0, 0.0, choose.uniform(0, 0.1)))
    return Moment(number=number, call=choose.randrange(1, calls + 1), delay_s=delay_s)


def run_until(
    words: tuple[str, ...], folder: Path, moment: Moment, scratch: Path, limit_s: float
) -> tuple[int | None, str, str, int]:
    """Run a command in a folder.

    Returns:
        Exit code (negative: the signal that killed it, None: no end in time), what it wrote to
        standard output and error, and how many calls it made.
    """
    scratch.mkdir(exist_ok=True)
    files = [scratch / name for name in ("calls", "out", "err")]
    for file in files:
        file.write_bytes(bytes(8) if file.name == "calls" else b"")
    code = exit_code(_run, words, str(folder), moment, [str(f) for f in files], limit_s=limit_s)
    out, err = (file.read_text(errors="replace") for file in files[1:])
    return code, out, err, struct.unpack("q", files[0].read_bytes())[0]


def _run(words: tuple[str, ...], folder: str, moment: Moment, files: list[str]) -> None:
    """What the process does."""
    os.chdir(folder)
    for descriptor, file in zip((1, 2), files[1:], strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.fsync = lambda fd: None
    sys.argv = ["pass2d", *words]
    for number in INTERRUPTED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else 0)
    from pass2d.cli import main

    _watch_calls(moment, files[0])
    main()


def _watch_calls(moment: Moment, file: str) -> None:
    """Count the calls into a file, and send the signal when its moment has come."""
    descriptor = os.open(file, os.O_RDWR)
    counter = mmap.mmap(descriptor, 8)
    count = 0

    def send() -> None:
        os.kill(os.getpid(), moment.number)

    def hear(event: str, arguments: object) -> None:
        nonlocal count
        if not event.startswith(CALLS):
            return
        count += 1
        struct.pack_into("q", counter, 0, count)
        if count == moment.call and moment.delay_s:
            timer = threading.Timer(moment.delay_s, send)
            timer.daemon = True
            timer.start()
        elif count == moment.call:
            send()

    sys.addaudithook(hear)
