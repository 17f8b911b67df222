"""The result of a check."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about the machine, and the remedy."""

    name: str
    state: State
    """"broken": something that pass2d needs does not work; the exit code is 1."""
    found: str
    remedy: str = ""
    """What to do; empty only if nothing is to be done."""


Check = Callable[[], Sequence[Finding]]


def guarded(name: str, check: Check) -> list[Finding]:
    """Run a check; whatever goes wrong in it is a finding, and the others run all the same."""
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001  # a check that fails must not end the others
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [
            Finding(
                name=name,
                state="broken",
                found=f"the check itself failed ({reason})",
                remedy="Report this line as a bug, with your versions of Python and pass2d.",
            )
        ]


def in_time(name: str, check: Check, *, seconds: float, remedy: str) -> list[Finding]:
    """Run a check that may never end, such as one that asks a network disk.

    Args:
        name: of the check.
        check: it runs in a thread, which is left alone when it takes too long.
        seconds: so long it may take.
        remedy: what to do then.
    """
    answers: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()

    def answer() -> None:
        answers.put(guarded(name, check))

    threading.Thread(target=answer, name=f"pass2d-{name}", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        found = f"no answer within {seconds:g} s"
        return [Finding(name=name, state="broken", found=found, remedy=remedy)]
