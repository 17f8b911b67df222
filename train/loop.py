"""The training loop: stream, step, log, validate, save; ends, stops and resumes exactly."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pass2d.cache.clouds.statistics import input_statistics
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Progress, Silent
from pass2d.models.backends.determinism import fixed_order
from pass2d.models.backends.tf32 import tf32_products
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_tensors, save_checkpoint
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import (
    ProcessGroup,
    any_process,
    from_main,
    joined_group,
    share_buffers,
)
from pass2d.train.optim.schedule import is_out_of_patience
from pass2d.train.recipes.recipe import Recipe, to_toml
from pass2d.train.run.ahead import Batches
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.choice import RunChoice, choose_run
from pass2d.train.run.folder import (
    left_unmade,
    newest_state,
    only_run_in,
    open_folder,
    save_state,
    write_text,
)
from pass2d.train.run.journal import Journal, LogWindow, introduction, require_tensorboard
from pass2d.train.run.resume import first_state, require_no_state_yet
from pass2d.train.run.state import RunState, base_card, state_card, state_tensors
from pass2d.train.run.step import optimizer_step, require_finite, require_finite_network
from pass2d.train.run.stop import StopRequest, stop_requests
from pass2d.train.run.validate import averaged, is_due, refresh_average, validate

_AGREE_STEPS = {"cpu": 1, "cuda": 20}
"""How often several processes check whether to stop, which synchronises with the GPU."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    run_root: Path
    last: Path
    """The newest state."""
    best: Path
    """The best network, for eval and predict; before the first validation the last one."""
    epochs: int
    """Whole epochs done."""
    steps: int
    best_miou: float | None
    """0..1, by the recipe's protocol; None without validation."""
    is_complete: bool
    """False: a signal ended the run early; `resume` continues it."""
    stopped_by: str
    """"SIGINT", "SIGTERM", "patience", or "" when all epochs were done."""


def run(
    cache_root: Path | str,
    recipe: Recipe,
    *,
    run_root: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    dataset: str | None = None,
) -> TrainResult:
    """Train a network from a prepared cache.

    Args:
        cache_root: what `pass2d prepare` wrote.
        recipe: all settings.
        run_root: folder of this run, made if it does not exist; None: a new one below ``runs/``.
        resume: continue the run in that folder, or the newest with these settings below ``runs/``;
            start a new one if there is none.
        progress: receives every scan and every line of the log.
        dataset: which data set, if the cache holds several.

    Raises:
        CacheError: no such cache, or a scan cannot be read.
        ConfigError: the settings do not fit the cache, the folder or the run to resume; or the
            gradients stay non-finite.
        CheckpointError: a checkpoint cannot be read or written.
        LostProcessError: another process of the group is gone.
        ReportedByOtherProcessError: another process of the group has failed and says why.
    """
    if recipe.torch_threads:
        torch.set_num_threads(recipe.torch_threads)
    with (
        joined_group(recipe.device, progress=progress, lost_after_s=recipe.lost_after_s) as group,
        CacheReader.open(cache_root, dataset=dataset) as reader,
        stop_requests() as stop,
        tf32_products(recipe.tf32),
        fixed_order(recipe.deterministic and group.device.type == "cuda"),
    ):
        heard = progress if progress is not None and group.is_main else Silent()
        if group.is_main and recipe.log.tensorboard:
            require_tensorboard()
        choice: RunChoice | None = None
        if group.is_main:
            choice = choose_run(run_root, recipe, reader.fingerprint, resume=resume, progress=heard)
        choice = from_main(choice, group)
        folder = open_folder(choice.root, resume=choice.is_resumed, group=group)
        with (
            only_run_in(folder, group),
            left_unmade(folder, group, is_new=choice.is_new),
        ):
            with stop.raising():  # until here nothing would be lost
                loop = _prepared(
                    reader,
                    recipe,
                    group,
                    folder=folder,
                    stop=stop,
                    progress=heard,
                    resume=choice.is_resumed,
                )
            return loop.run()


def _prepared(
    reader: CacheReader,
    recipe: Recipe,
    group: ProcessGroup,
    *,
    folder: RunFolder,
    stop: StopRequest,
    progress: Progress,
    resume: bool,
) -> _Loop:
    """Everything before the first step."""
    stored = newest_state(folder, progress) if resume else None
    if resume and stored is None:
        require_no_state_yet(folder)
        progress.say("the run ended before its first checkpoint: starting over")
    job = assemble(reader, recipe, group, progress, is_resumed=stored is not None)
    card = base_card(job)
    state = first_state(job, stored, folder, card, progress=progress)
    return _Loop(job, state, folder=folder, card=card, stop=stop, progress=progress)


class _Loop:
    """The parts of a run while it runs."""

    def __init__(
        self,
        job: Job,
        state: RunState,
        *,
        folder: RunFolder,
        card: Card,
        stop: StopRequest,
        progress: Progress,
    ) -> None:
        self._job, self._state, self._folder = job, state, folder
        self._stop, self._progress = stop, progress
        statistics = input_statistics(job.reader, job.plan.positions)
        self._card = Card(**{**vars(card), "input_statistics": statistics})
        self._journal = (
            Journal(
                folder,
                progress,
                step=job.step_at(state.cursor),
                epochs_done=state.cursor / job.n_scans,
                validated=state.validated,
                tensorboard=job.recipe.log.tensorboard,
            )
            if job.group.is_main
            else None
        )
        self._stream = BatchStream(
            job.reader,
            job.plan,
            job.recipe.stream,
            cursor=state.cursor,
            device=job.group.device,
        )
        self._batches = Batches(job, self._stream)
        self._window = LogWindow()
        self._announced_epoch = -1

    def run(self) -> TrainResult:
        """Train to the end, or until asked to stop."""
        try:
            if self._job.group.is_main:  # written last: a folder with this file holds a run
                # The override applies once: else the file, used as a recipe, would always override.
                recipe = replace(self._job.recipe, resume_anyway=False)
                write_text(self._folder.settings, to_toml(recipe))
            for line in introduction(self._job, self._folder, self._state.cursor):
                self._progress.say(line)
            stopped_by = self._epochs()
            if self._must_export():
                self._export_last()
        finally:
            self._stream.close()
            if self._journal is not None:
                self._journal.close()
        return self._result(stopped_by)

    def _epochs(self) -> str:
        """Return the reason why the run ended: "", "patience" or a signal's name."""
        job, state = self._job, self._state
        while True:
            if is_due(job, state):
                if not self._validate():
                    return self._stop.signal_name
                self._save()
            if state.cursor >= job.recipe.epochs * job.n_scans:
                return ""
            if is_out_of_patience(state.val_miou, patience=job.recipe.validation.patience):
                self._progress.say(
                    f"no better mIoU for {job.recipe.validation.patience} validations: the run ends"
                )
                return "patience"
            if self._must_stop():
                self._save()
                return self._stop.signal_name or "SIGTERM"
            self._announce_epoch()
            if not self._has_data():
                self._save()
                return self._stop.signal_name
            self._step()

    def _has_data(self) -> bool:
        """Wait for the next batch; False when a signal came before a store answered.

        A process of several must not stop alone: they wait for each other in the step.
        """
        if self._job.group.world > 1:
            return True
        with self._stop.at_once():
            if not self._stop:
                self._batches.wait()
                return True
        return False

    def _step(self) -> None:
        job, state, log = self._job, self._state, self._job.recipe.log
        scans = optimizer_step(job, state, self._batches)
        self._window.add(scans)
        self._progress.advance(scans)
        step = job.step_at(state.cursor)
        is_epoch_end = state.cursor % job.n_scans == 0
        is_last = state.cursor == job.recipe.epochs * job.n_scans
        is_logged = step % log.every_steps == 0 or is_last
        if is_logged or job.group.device.type == "cpu":
            require_finite(job, state, self._batches.last)
        if is_logged:
            self._window.write(job, state, self._stream, self._journal)
        if is_epoch_end or (log.save_steps and step % log.save_steps == 0):
            self._save()

    def _validate(self) -> bool:
        """Return False if a signal interrupted it: the state before it is saved already."""
        if any_process(bool(self._stop), self._job.group):
            return False
        self._announced_epoch = -1
        is_done = validate(
            self._job,
            self._state,
            folder=self._folder,
            journal=self._journal,
            card=self._card,
            progress=self._progress,
            stop=self._stop,
        )
        self._window.restart(self._stream)
        return is_done

    def _save(self) -> None:
        share_buffers(self._job.network, self._job.group)
        if self._job.group.is_main:
            save_state(
                self._folder,
                state_tensors(self._job, self._state),
                state_card(self._job, self._state, self._card),
            )

    def _must_export(self) -> bool:
        """Whether no validation has chosen a network, or the one that it chose is gone."""
        group, best = self._job.group, self._folder.best
        if not self._state.validated:
            return True
        is_gone = group.is_main and not best.exists()
        if is_gone:
            self._progress.say(f"warning: {best} is gone: the last network takes its place")
        return any_process(is_gone, group)

    def _export_last(self) -> None:
        """Write the last network, or its averaged weights, as the best one."""
        job, state = self._job, self._state
        is_ready = refresh_average(job, state, self._stop)
        with averaged(job, state) if is_ready else nullcontext():
            require_finite_network(job)
            if job.group.is_main:
                tensors = network_tensors(job.network.inference_state())
                save_checkpoint(self._folder.best, tensors, self._card)

    def _must_stop(self) -> bool:
        job = self._job
        every = _AGREE_STEPS.get(job.group.device.type, 20)
        if job.group.world > 1 and job.step_at(self._state.cursor) % every:
            return False
        return any_process(bool(self._stop), job.group)

    def _announce_epoch(self) -> None:
        job = self._job
        epoch, place = divmod(self._state.cursor, job.n_scans)
        if epoch != self._announced_epoch:
            self._announced_epoch = epoch
            title = f"train, epoch {epoch + 1}/{job.recipe.epochs}"
            self._progress.start(title, total=job.n_scans - place, unit="scans")

    def _result(self, stopped_by: str) -> TrainResult:
        job, state = self._job, self._state
        return TrainResult(
            run_root=self._folder.root,
            last=self._folder.last,
            best=self._folder.best,
            epochs=state.cursor // job.n_scans,
            steps=job.step_at(state.cursor),
            best_miou=max(state.val_miou, default=None),
            is_complete=stopped_by in ("", "patience"),
            stopped_by=stopped_by,
        )
