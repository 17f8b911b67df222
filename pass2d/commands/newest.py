"""The default of --checkpoint: the best network of the newest run, with a message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pass2d.common.errors import ConfigError

if TYPE_CHECKING:
    from pass2d.commands.console import Console


def chosen_network(checkpoint: Path | None, console: Console) -> Path:
    """The checkpoint that was named, else the newest run's.

    Raises:
        ConfigError: none was named, and no run has one.
    """
    if checkpoint is not None:
        return checkpoint
    from pass2d.train.checkpoints.runs import RUNS, as_typed, newest_network, run_folders

    found = newest_network()
    if found is None:
        runs = run_folders()
        there = f"none of the {len(runs)} runs has a network yet" if runs else "there is no run"
        raise ConfigError(
            f"no --checkpoint given, and below {RUNS.resolve()} {there}. Train a network (pass2d "
            "train), or give --checkpoint FILE.safetensors"
        )
    console.say(f"checkpoint: {as_typed(found.path)} ({found.reason})")
    return found.path
