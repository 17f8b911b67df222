"""The doctor, the GPU tests and the golden tests, as the people who have them run them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.gpu.setup import Clock, Row, Setup
from pass2d.commands.doctor.examine import examine
from pass2d.commands.doctor.finding import Finding
from pass2d.commands.doctor.process import Answer
from pass2d.commands.doctor.process import Ask as AskProbe
from pass2d.commands.doctor.process import ask as ask_probe
from pass2d.common.progress import Silent

ROOT = Path(__file__).resolve().parents[2]
_SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] [^ ]+: (.*)$", flags=re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|error|errors|skipped|deselected|xfailed)")


Examine = Callable[..., Iterable[Finding]]
Ask = Callable[[Sequence[str], float], tuple[str, bool]]
"""Runs a command within so many seconds: what it printed, and whether it ended by itself."""


def ask(
    command: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None
) -> tuple[str, bool]:
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=seconds,
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
        )
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
        return (out.decode(errors="replace") if isinstance(out, bytes) else out), False
    return done.stdout, True


def doctor(
    _setup: Setup, clock: Clock, *, examine: Examine = examine, ask_probe: AskProbe = ask_probe
) -> Iterator[Row]:
    """Every finding on the libraries and the GPU; a probe that hangs leaves time for the others."""

    def ask_in_time(*words: str, timeout_s: float) -> Answer:
        return ask_probe(*words, timeout_s=min(timeout_s, max(clock.left / 2, 1)))

    for finding in examine(None, progress=Silent(), ask=ask_in_time):
        yield Row(
            part="doctor",
            what=finding.name,
            measured=f"{finding.state}: {finding.found}",
            beside="" if finding.state == "ok" else f"to do: {finding.remedy}",
            is_reached=False if finding.state == "broken" else None,
        )


def gpu_tests(setup: Setup, clock: Clock, *, ask: Ask = ask) -> Iterator[Row]:
    """Tests with the marker `gpu` but the golden ones."""
    files = [file for file in marked_files() if "golden" not in file.name]
    yield from tested("tests", files[-1:] if setup.is_small else files, clock, ask)


def golden_tests(setup: Setup, clock: Clock, *, ask: Ask = ask) -> Iterator[Row]:
    """Recorded numbers, on the device."""
    files = [file for file in marked_files() if "golden" in file.name]
    yield from tested("golden", files[-1:] if setup.is_small else files, clock, ask)


def marked_files() -> list[Path]:
    """Test files in which the marker occurs, or in a module of checks that they take over."""
    tests = ROOT / "tests"
    modules = [p for p in sorted(tests.glob("*.py")) if "mark.gpu" in p.read_text()]
    shared = [p.stem for p in modules if not p.name.startswith("test_")]
    return [
        path
        for path in sorted(tests.glob("test_*.py"))
        if path in modules or any(f"from {name} import" in path.read_text() for name in shared)
    ]


def tested(part: str, files: Sequence[Path], clock: Clock, ask: Ask) -> Iterator[Row]:
    """Counts, and the name and reason of each test that fails."""
    if importlib.util.find_spec("pytest") is None:
        yield Row(part=part, what="pytest", measured="not installed", beside="pip install pytest")
        return
    # The project's own options say -q already: a second one would hide the counts.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rfEs", "--tb=line"]
    command += ["-p", "no:cacheprovider", *map(str, files)]
    out, has_ended = ask(command, max(clock.left, 1))
    if not has_ended:
        late = "not done in time; what it would have counted is missing"
        yield Row(part=part, what="time", measured=late, is_reached=False)
    counts = Counter({kind: int(n) for n, kind in _COUNT.findall(out)})
    bad = counts["failed"] + counts["error"] + counts["errors"]
    shown = ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind != "deselected")
    reasons = sorted({reason for _, reason in _SKIPPED.findall(out)})
    if reasons:
        shown += f" ({'; '.join(reasons)})"
    if counts["skipped"] and not bad + counts["passed"]:
        shown = f"none ran: {shown}"
    last = (out.strip().splitlines() or ["no answer"])[-1]
    yield Row(
        part=part,
        what=f"tests for a GPU in {', '.join(file.stem for file in files)}",
        measured=shown or last[:200],
        beside="goal: all pass",
        is_reached=bool(counts["passed"] and not bad and has_ended)
        if bad + counts["passed"]
        else None,
    )
    for line in re.findall(r"^FAILED .*$|^ERROR .*$", out, flags=re.MULTILINE)[:20]:
        name, _, reason = line.partition(" - ")
        name = name.removeprefix("FAILED ")
        yield Row(part=part, what=name, measured=reason[:200], is_reached=False)
