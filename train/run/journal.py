"""The log of a run: a line on the terminal, a line of JSON, TensorBoard; speed and advice."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError
from pass2d.common.files import read_whole
from pass2d.common.json import parse
from pass2d.common.processes import usable_cores
from pass2d.common.progress import Progress
from pass2d.common.text import one_line
from pass2d.models.backends.choice import choose_backend
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.data.stream import BatchStream, StreamConfig
from pass2d.train.distributed.process_group import ProcessGroup, gather_names, sum_over_group
from pass2d.train.recipes.renames import renamed_metrics
from pass2d.train.run.assemble import Job
from pass2d.train.run.folder import write_text
from pass2d.train.run.state import LossTotals, RunState
from pass2d.train.run.step import rate_at

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HIGH_WAIT_SHARE = 0.2
"""Above this share of time spent waiting for data the log says what to change."""
_ENOUGH_THREADS = 3
_ENOUGH_BATCHES = 4


def introduction(job: Job, folder: RunFolder, cursor: int) -> list[str]:
    """The lines with which a run tells what it is; ``cursor``: scans seen before."""
    trained, shipped = (job.network.n_parameters(inference_only=b) for b in (False, True))
    lines = [
        f"{job.recipe.name}: {job.network.kind} with {shipped / 1e6:.2f} M parameters "
        f"({trained / 1e6:.2f} M while training) on {job.group.device}"
        + (f" and {job.group.world - 1} more" if job.group.world > 1 else "")
        + f"; {job.n_scans} training and {len(job.val_positions)} validation scans; "
        f"run folder {folder.root}"
    ]
    if job.network.is_sparse:
        chosen = choose_backend(job.network.backend, job.group.device)
        lines.append(f"sparse convolutions: {chosen.backend.name} ({chosen.why})")
    checkpoints = folder.last.parent
    if checkpoints.is_symlink():
        lines.append(f"checkpoints go to {checkpoints.resolve()}: {checkpoints} is a link")
    source = getattr(job.network, "image_weights_from", None)
    # What another run's checkpoint gave, and what not, is said where it is read.
    is_fresh = cursor == 0 and not job.recipe.start_from
    if source is not None and job.network.needs_images and is_fresh:
        lines.append(
            f"the 2D branch starts from {source}"
            if source
            else "the 2D branch starts from random values; ImageNet weights of ResNet-34 help "
            "(network.settings.image_weights names a file)"
        )
    return lines


def require_tensorboard() -> None:
    """Import TensorBoard, before anything is made that needs it.

    Raises:
        ConfigError: it is missing, or broken in whatever way.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # a second to import
    except Exception as error:  # a protobuf of another version raises TypeError
        reason = one_line(f"{type(error).__name__}: {error}")[:200]
        raise ConfigError(
            f"TensorBoard cannot be imported ({reason}). Set log.tensorboard=false to train "
            "without its files (metrics.jsonl has the same numbers), or install it again: "
            "pip install --force-reinstall tensorboard"
        ) from error


class Journal:
    """Writes metrics; after resuming it drops the lines that came after the resumed state.

    Args:
        folder: of the run.
        progress: receives the lines for the user.
        step: optimizer steps that the run has done, by today's number of scans per step.
        epochs_done: epochs that it has done, with the part of the current one.
        validated: epochs after which it was validated.
        tensorboard: whether to write event files too.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        *,
        step: int,
        epochs_done: float = 0.0,
        validated: Sequence[int] = (),
        tensorboard: bool,
    ) -> None:
        self._progress = progress
        self._path = folder.metrics
        self._events = folder.tensorboard
        self._excepthook = threading.excepthook
        self._has_advised = False
        lines = lines_up_to(folder.metrics, step, epochs_done=epochs_done, validated=validated)
        kept, notes = under_new_names(lines)
        for note in notes:
            progress.say(f"{folder.metrics}: {note}")
        write_text(folder.metrics, "".join(kept))
        self._writer: SummaryWriter | None = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = partial(_print_other_errors, self._excepthook)
            with self._writing_events():
                self._writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one record: to metrics.jsonl with all values, to TensorBoard its numbers.

        Raises:
            ConfigError: the disk is full.
        """
        record = {"kind": kind, "step": step, **_finite_or_null(values)}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from error
        if self._writer is not None:
            with self._writing_events():
                for name, value in values.items():
                    if isinstance(value, (int, float)) and not isinstance(value, bool):
                        self._writer.add_scalar(f"{kind}/{name}", value, step)

    def say(self, text: str) -> None:
        """A line for a person."""
        self._progress.say(text)

    def say_once(self, advice: str) -> None:
        """Advice for a person, unless it is empty or some was given before."""
        if advice and not self._has_advised:
            self._has_advised = True
            self.say(advice)

    def close(self) -> None:
        """Flush what is left."""
        if self._writer is not None:
            try:
                with self._writing_events(), closing(self._writer):
                    self._writer.flush()  # raises what its thread could not write; close does not
            finally:
                threading.excepthook = self._excepthook

    @contextmanager
    def _writing_events(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{self._events}: cannot be written: {error.strerror}") from error
        except UnicodeError as error:  # a name that is no UTF-8, or a locale that cannot read it
            raise ConfigError(
                f"{self._events}: TensorBoard cannot write below a folder of that name: set "
                "log.tensorboard=false, or a UTF-8 locale (LC_ALL=C.UTF-8)"
            ) from error


def _finite_or_null(value: Any) -> Any:
    """JSON has neither NaN nor infinity, which the loss of a diverging run is."""
    if isinstance(value, Mapping):
        return {key: _finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_other_errors(
    others: Callable[[threading.ExceptHookArgs], object], args: threading.ExceptHookArgs
) -> None:
    """Keep TensorBoard's thread from printing a failed write: its next call raises it again."""
    is_writer = type(args.thread).__module__.startswith("tensorboard.")
    if not (is_writer and isinstance(args.exc_value, OSError)):
        others(args)


def lines_up_to(
    path: Path, step: int, *, epochs_done: float, validated: Sequence[int]
) -> list[str]:
    """The whole lines of a metrics file up to a state; a line that a kill cut off is dropped.

    Args:
        path: of the file.
        step: optimizer steps done; decides where a line lacks its "epochs_done". With another
            number of processes, the lines before have steps of other scans.
        epochs_done: epochs done.
        validated: epochs validated: a kill may have come between a validation's line and its state.
    """
    if not path.is_file():
        return []
    kept = []
    for line in read_whole(path).decode(errors="replace").splitlines(keepends=True):
        try:
            record = parse(line)
            done = record.get("epochs_done")
            is_later = record.get("step", 0) > step if done is None else done > epochs_done
        except (ValueError, AttributeError, TypeError):
            continue
        if is_later or not line.endswith("\n"):
            continue
        if record.get("kind") != "val" or record.get("epoch") in validated:
            kept.append(line)
    return kept


def under_new_names(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines of a metrics file with today's names, and a line for a person per old one."""
    renamed, said = [], dict[str, None]()
    for line in lines:
        record, notes = renamed_metrics(parse(line))
        said |= dict.fromkeys(notes)
        renamed.append(json.dumps(record, ensure_ascii=False) + "\n" if notes else line)
    return renamed, list(said)


class LogWindow:
    """Measures since the last line."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._start = clock, clock()
        self._wait_s = 0.0
        self._scans = 0

    def add(self, scans: int) -> None:
        """A step of so many scans is done."""
        self._scans += scans

    def restart(self, stream: BatchStream) -> None:
        """Start a new window, e.g. after a validation, whose time does not count."""
        self._start, self._wait_s, self._scans = self._clock(), stream.wait_s, 0

    def write(
        self, job: Job, state: RunState, stream: BatchStream, journal: Journal | None
    ) -> None:
        """Write the line and start a new window; only here does the loop wait for the device."""
        means = mean_losses(state.totals.by_name(), job.group)
        state.totals = LossTotals()
        skipped = int(state.skips.total)
        seconds = max(self._clock() - self._start, 1e-9)
        wait_share = (stream.wait_s - self._wait_s) / seconds
        speed = self._scans / seconds
        self.restart(stream)
        if journal is None:
            return
        rate = rate_at(job, state, max(state.cursor - 1, 0))
        epoch, step = (state.cursor - 1) // job.n_scans + 1, job.step_at(state.cursor)
        measured = {"scans_per_s": speed, "wait_share": wait_share, "skipped": skipped}
        done = {"epoch": epoch, "epochs_done": state.cursor / job.n_scans}
        journal.write("train", step, {**done, **means, "lr": rate, **measured})
        total = job.recipe.epochs * job.length.steps_per_epoch
        journal.say(
            f"epoch {epoch}/{job.recipe.epochs} step {step}/{total}: loss {means['loss']:.4f}, "
            f"lr {rate:.4g}, {speed:.2f} scans/s, {wait_share:.0%} waiting for data"
            + (f", {skipped} steps skipped" if skipped else "")
        )
        journal.say_once(waiting_advice(wait_share, job.recipe.stream, job.reader))


def mean_losses(totals: dict[str, Tensor], group: ProcessGroup) -> dict[str, float]:
    """Means of the losses over all processes, from (2,) sums and weights by name."""
    names = sorted(totals)
    if group.world > 1:
        names = sorted(set().union(*gather_names(names)))
    zero = torch.zeros(2, dtype=torch.float64, device=group.device)
    sums = torch.stack([totals.get(name, zero) for name in names])
    sum_over_group([sums], group)
    return {name: s / w for name, (s, w) in zip(names, sums.tolist(), strict=True)}


def waiting_advice(
    wait_share: float, config: StreamConfig, reader: CacheReader, *, cores: int | None = None
) -> str:
    """One line that suggests a setting that this run does not use; "" below `HIGH_WAIT_SHARE`.

    Args:
        wait_share: 0..1 of the time since the last line of the log.
        config: of the stream that was waited for.
        reader: of the cache that it reads.
        cores: that this process may use; asked of the system when None.
    """
    if wait_share <= HIGH_WAIT_SHARE:
        return ""
    have = usable_cores() if cores is None else cores
    remedies = []
    if config.threads < _ENOUGH_THREADS:
        remedies.append(f"raise stream.threads (now {config.threads}) to {_ENOUGH_THREADS}")
    if config.prefetch < _ENOUGH_BATCHES:
        remedies.append(f"raise stream.prefetch (now {config.prefetch}) to {_ENOUGH_BATCHES}")
    if "size" in reader.profiles:
        remedies.append("prepare the cache with `profile=speed`")
    if reader.is_remote:
        remedies.append("copy the cache to a local disk")
    else:
        remedies.append("put the cache on a faster local disk")
    if have <= config.threads:
        remedies.append(f"give the process more than its {have} CPU cores")
    return f"{wait_share:.0%} of the time goes by waiting for data: {'; '.join(remedies)}"
