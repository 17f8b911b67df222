"""Runs the parts one after the other, each within its time; writes the table as it grows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from bench.gpu.machine import NOT_SEEN
from bench.gpu.setup import Clock, Row, Setup, attempted
from bench.gpu.table import markdown

_GRACE = 0.9
"""Share of its time after which a part begins nothing new; at the whole it is ended."""
_ENDING_S = 5.0
"""So long a process may take to end that is killed."""


class Part(NamedTuple):
    """Of the run."""

    work: Callable[[Setup, Clock], Iterator[Row]]
    share: float
    """Of the time, relative to the others; what one leaves goes to those after it."""
    needs_device: bool = True
    """Whether it is left out where torch does not see the device."""


Runner = Callable[[Setup, str, Part, float], list[Row]]
"""Runs a part, named, within so many seconds."""


def run_all(
    parts: Mapping[str, Part],
    setup: Setup,
    *,
    only: Sequence[str] | None,
    seconds: float,
    runner: Runner,
) -> Iterator[str]:
    """The table after every part."""
    end = time.monotonic() + seconds
    wanted = {*(only or parts), "machine"}  # whose rows are the title
    chosen = {name: part for name, part in parts.items() if name in wanted}
    rows: list[Row] = []
    waiting = dict(chosen)
    for name, part in chosen.items():
        total = sum(other.share for other in waiting.values())
        limit = max(end - time.monotonic(), 1.0) * part.share / total
        del waiting[name]
        if part.needs_device and any(row.measured == NOT_SEEN for row in rows):
            said = f"left out: {setup.device}: {NOT_SEEN}"
            rows.append(Row(part=name, what="", measured=said, is_reached=False))
            continue
        begin = time.monotonic()
        found = runner(setup, name, part, limit)
        took = time.monotonic() - begin
        rows += found or [Row(part=name, what="", measured="no answer", is_reached=False)]
        print(f"{name}: {len(found)} rows in {took:.0f} of {limit:.0f} s", file=sys.stderr)
        yield markdown(rows, setup)
    yield markdown(rows, setup)


def rows_file(setup: Setup, name: str) -> Path:
    return setup.folder / f"{name}.jsonl"


def in_process(setup: Setup, name: str, part: Part, limit: float) -> list[Row]:
    """Run a part here; its rows also go into a file, each when it is known."""
    rows = []
    with rows_file(setup, name).open("w") as file:
        for row in attempted(name, "", part.work(setup, Clock(limit * _GRACE))):
            rows.append(row)
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
    return rows


def separate_process(setup: Setup, name: str, _: Part, limit: float) -> list[Row]:
    """Run a part in a process of its own, whose crash or hang ends nothing else."""
    command = [sys.executable, "-m", "bench.gpu", "--part", name, "--limit", f"{limit:.0f}"]
    command += ["--device", setup.device, "--out", str(setup.folder)]
    command += ["--small"] if setup.is_small else []
    # Small work in several threads on busy cores is spent waiting for each other.
    threads = {"OMP_NUM_THREADS": "1"} if setup.is_small else {}
    return watched(command, rows_file(setup, name), name=name, limit=limit, variables=threads)


def watched(
    command: Sequence[str],
    rows: Path,
    *,
    name: str,
    limit: float,
    variables: Mapping[str, str] | None = None,
) -> list[Row]:
    """What a process wrote into a file of rows, and how it ended if not well.

    Args:
        command: Starts the process.
        rows: The file.
        name: Of the part.
        limit: Seconds after which the process is ended.
        variables: Of its environment, beside those of this process.
    """
    rows.unlink(missing_ok=True)
    log = rows.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(variables or {})},
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it for ever
                process.wait(_ENDING_S)
    lines = rows.read_text().splitlines() if rows.is_file() else []
    found = [Row(**json.loads(line)) for line in lines if line.endswith("}")]
    if code is None:
        late = f"not done within {limit:.0f} s; its other rows are missing"
        found.append(Row(part=name, what="time", measured=late, is_reached=False))
    elif code:
        said = log.read_text(errors="replace").strip().splitlines() or [""]
        ended = f"failed: exit code {code}: {said[-1][:200]}"
        found.append(Row(part=name, what="", measured=ended, is_reached=False))
    return found
