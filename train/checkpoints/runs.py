"""Run folders: their files, where new ones are created, which one is the newest. No torch."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pass2d.common.errors import ConfigError
from pass2d.common.files import NO_PERMISSION, may_not_look

RUNS = Path("runs")
"""Default folder of runs, relative to the current one."""
_DEEPEST = 3
"""Depth to which runs are found below it: runs/first, runs/lr/0.1/first."""
_NO_NAME = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST_NAME = 80


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The paths of a run's files."""

    root: Path

    @property
    def settings(self) -> Path:
        """The complete recipe, as a recipe file."""
        return self.root / "settings.toml"

    @property
    def metrics(self) -> Path:
        """A JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def last(self) -> Path:
        """The newest state; resuming starts here."""
        return self.root / "checkpoints" / "last.safetensors"

    @property
    def previous(self) -> Path:
        """The state before, in case the newest is damaged."""
        return self.root / "checkpoints" / "previous.safetensors"

    @property
    def incoming(self) -> Path:
        """A complete state that is not the newest yet: exists only after a kill."""
        return self.root / "checkpoints" / "next.safetensors"

    @property
    def best(self) -> Path:
        """The best network so far, for inference."""
        return self.root / "checkpoints" / "best.safetensors"

    def ranked(self, epoch: int) -> Path:
        """One of the best networks, by epoch."""
        return self.root / "checkpoints" / f"epoch-{epoch:04d}.safetensors"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.root / "tensorboard"


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """The network to use if none is named."""

    path: Path
    reason: str
    """Why this one, as a readable text."""


def holds_checkpoints(folder: RunFolder) -> bool:
    """Whether a run has come to its first checkpoint."""
    return any(folder.last.parent.glob("*.safetensors"))


def holds_lines(folder: RunFolder) -> bool:
    """Whether a run has logged a step."""
    return folder.metrics.exists() and folder.metrics.stat().st_size > 0


def new_run_folder(recipe_name: str, *, runs: Path = RUNS) -> Path:
    """Make a new folder RECIPE-DATE-TIME, also unique among runs that start at the same moment.

    Raises:
        ConfigError: it cannot be made.
    """
    name = _NO_NAME.sub("-", recipe_name).strip("-.")[:_LONGEST_NAME] or "run"
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            folder = runs / (stem if number == 1 else f"{stem}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder.resolve()
            number += 1
    except OSError as error:
        raise ConfigError(
            f"{runs.resolve()}: no folder for the run can be made there: {error.strerror}. "
            "Choose one by `run_root`."
        ) from error


def run_folders(runs: Path = RUNS) -> list[RunFolder]:
    """All runs below a folder, the most recently started (or resumed) first.

    Raises:
        ConfigError: none can be seen, and a folder may not be read.
    """
    begun: list[tuple[int, str, RunFolder]] = []
    for folder in _runs_below(runs, _DEEPEST):
        with suppress(OSError):  # gone meanwhile
            begun.append((folder.settings.stat().st_mtime_ns, str(folder.root), folder))
    closed = [folder for folder in (runs, *_folders(runs)) if may_not_look(folder)]
    if closed and not begun:
        raise ConfigError(f"{closed[0].resolve()}: {NO_PERMISSION}.")
    return [folder for *_, folder in sorted(begun, key=lambda run: run[:2], reverse=True)]


def newest_network(runs: Path = RUNS) -> FoundNetwork | None:
    """The best network of the newest run that has one; None without any."""
    younger: list[RunFolder] = []
    for folder in run_folders(runs):
        if os.access(folder.best, os.F_OK):
            reason = "the best network of the newest run"
            if younger:
                reason += f" that has one: {as_typed(younger[0].root)} has none yet"
            return FoundNetwork(path=folder.best.resolve(), reason=reason)
        younger.append(folder)
    return None


def as_typed(path: Path) -> str:
    """A path as a user would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _runs_below(folder: Path, depth: int) -> Iterator[RunFolder]:
    """Runs in a folder's folders; a run holds no others."""
    for child in _folders(folder):
        run = RunFolder(root=child)
        if os.access(run.settings, os.F_OK):  # False where nothing may be looked at
            yield run
        elif depth > 1:
            yield from _runs_below(child, depth - 1)


def _folders(folder: Path) -> list[Path]:
    """Those in a folder, by name; none where it is not there or may not be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
