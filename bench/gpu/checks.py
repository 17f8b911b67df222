"""The doctor, the GPU tests and the golden tests, as the people who have them run them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.gpu.setup import Clock, Row, Setup
from pass2d.commands.doctor.examine import examine
from pass2d.commands.doctor.finding import Finding
from pass2d.common.progress import Silent

ROOT = Path(__file__).resolve().parents[2]
_COUNT = re.compile(r"(\d+) (passed|failed|error|errors|skipped|deselected|xfailed)")


Examine = Callable[..., list[Finding]]
Ask = Callable[[Sequence[str], float], tuple[str, bool]]
"""Runs a command within so many seconds: what it printed, and whether it ended by itself."""


def ask(command: Sequence[str], seconds: float) -> tuple[str, bool]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds, cwd=ROOT
        )
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
        return (out.decode(errors="replace") if isinstance(out, bytes) else out), False
    return done.stdout, True


def doctor(_setup: Setup, _clock: Clock, *, examine: Examine = examine) -> Iterator[Row]:
    """Every finding on the libraries and the GPU."""
    for finding in examine(None, progress=Silent()):
        yield Row(
            part="doctor",
            what=finding.name,
            measured=f"{finding.state}: {finding.found}",
            beside="" if finding.state == "ok" else finding.remedy,
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
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rf", "--tb=line"]
    command += ["-p", "no:cacheprovider", *map(str, files)]
    out, has_ended = ask(command, max(clock.left, 1))
    if not has_ended:
        yield Row(part=part, what="ended", measured="not done in time")
    counts = Counter({kind: int(n) for n, kind in _COUNT.findall(out)})
    shown = ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind != "deselected")
    names = ", ".join(file.stem for file in files)
    last = (out.strip().splitlines() or ["no answer"])[-1]
    yield Row(part=part, what=names, measured=shown or last[:200], beside="all pass")
    for line in re.findall(r"^FAILED .*$|^ERROR .*$", out, flags=re.MULTILINE)[:20]:
        name, _, reason = line.partition(" - ")
        yield Row(part=part, what=name.removeprefix("FAILED "), measured=reason[:200])
