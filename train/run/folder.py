"""The folder of a run: its settings, its checkpoints, its metrics."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from torch import Tensor

from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.common.files import remove_leftovers, whole_file
from pass2d.common.progress import Progress
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pass2d.train.checkpoints.runs import (
    RunFolder,
    as_typed,
    holds_checkpoints,
    holds_lines,
    run_folders,
)
from pass2d.train.distributed.process_group import ProcessGroup


def open_folder(root: Path, *, resume: bool, group: ProcessGroup) -> RunFolder:
    """Make the folder of a new run, or find that of an old one.

    Raises:
        ConfigError: a new run where one exists, nothing to resume, or no permission.
    """
    folder = RunFolder(root=root)
    group.wait()  # all processes check before any of them writes
    if resume and not folder.settings.is_file():
        inner = ", ".join(as_typed(run.root) for run in run_folders(root)[:3])
        hint = f". Runs below it: {inner}. Name one by `run_root`" if inner else ""
        raise ConfigError(f"{root}: no run to resume here (no {folder.settings.name}){hint}")
    if not resume and folder.settings.exists():
        raise ConfigError(
            f"{root}: holds a run already. Continue it with `resume`, or choose another folder."
        )
    checkpoints = folder.last.parent
    if checkpoints.is_symlink() and not checkpoints.is_dir():
        raise ConfigError(
            f"{checkpoints}: a link to {checkpoints.readlink()}, where no folder is. Is its disk "
            "mounted?"
        )
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{root}: the run folder cannot be made: {error.strerror}. Choose another one."
        ) from error
    group.wait()
    return folder


@contextmanager
def left_unmade(folder: RunFolder, group: ProcessGroup, *, is_new: bool) -> Iterator[None]:
    """Remove the files of a run that ended before its first step was logged.

    Args:
        folder: of the run, whose lock is held.
        group: its main process does it.
        is_new: the folder was made for this run and goes, too.
    """
    try:
        yield
    except BaseException:
        if group.is_main:
            with suppress(OSError):  # not empty
                _unmake(folder, is_new=is_new)
        raise


def _unmake(folder: RunFolder, *, is_new: bool) -> None:
    if holds_lines(folder) or holds_checkpoints(folder):
        return
    for path in (folder.settings, folder.metrics, *folder.tensorboard.glob("events.*")):
        path.unlink(missing_ok=True)
    if is_new:
        if folder.tensorboard.exists():
            folder.tensorboard.rmdir()
        folder.last.parent.rmdir()
        folder.root.rmdir()


@contextmanager
def only_run_in(folder: RunFolder, group: ProcessGroup) -> Iterator[None]:
    """Keep other runs out of a folder; the end of the process also releases it.

    Raises:
        ConfigError: another run is at work there.
    """
    if not group.is_main:
        yield
        return
    checkpoints = folder.last.parent
    with ExitStack() as stack:
        for path in (folder.root, checkpoints):  # a link may lead two runs to the same checkpoints
            stack.enter_context(_locked(path))
            remove_leftovers(path)
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a folder that a run works in."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{path}: another run is at work in this folder. Wait until it has ended, or "
                "choose another folder."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once.

    Raises:
        ConfigError: the disk is full or the folder cannot be written.
    """
    try:
        with whole_file(path) as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def save_state(folder: RunFolder, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write a new state, given by name of tensor; the previous one is kept as a fallback.

    Raises:
        CheckpointError: it cannot be written; the states before are untouched.
    """
    save_checkpoint(folder.incoming, tensors, card)
    if folder.last.exists():
        folder.last.replace(folder.previous)
    folder.incoming.replace(folder.last)


def newest_state(folder: RunFolder, progress: Progress) -> Checkpoint | None:
    """The newest complete state of a run; a damaged one is skipped, with a message.

    Returns:
        None when the run ended before its first state was written.

    Raises:
        CheckpointError: there are states, but none is whole.
    """
    damaged: list[CheckpointError] = []
    for path in (folder.incoming, folder.last, folder.previous):
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path)
            if state.card.holds != "training":
                raise CheckpointError(
                    f"{path}: holds a network for inference, not the state of a run. A new run may "
                    "start from its weights (start_from)."
                )
        except CheckpointError as error:
            damaged.append(error)
            progress.say(f"warning: {error}")
            continue
        if path == folder.previous:
            progress.say(f"resuming from the state before it, {path}")
        return state
    if damaged:
        raise damaged[0]
    return None
