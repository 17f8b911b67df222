"""What happened between two lines of the log: losses, speed, time spent waiting for data."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import Team, gather_names, sum_over_team
from pass2d.train.run.advice import waiting_advice
from pass2d.train.run.assemble import Job
from pass2d.train.run.journal import Journal
from pass2d.train.run.state import RunState
from pass2d.train.run.step import rate_at


class LogWindow:
    """Measures since the last line."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._wait_s = 0.0
        self._scans = 0

    def add(self, scans: int) -> None:
        """A step of so many scans is done."""
        self._scans += scans

    def restart(self, stream: BatchStream) -> None:
        """Begin anew: what came before (a validation) is not the loop's doing."""
        self._start, self._wait_s, self._scans = time.perf_counter(), stream.wait_s, 0

    def write(
        self, job: Job, state: RunState, stream: BatchStream, journal: Journal | None
    ) -> None:
        """Write the line and begin anew; here and only here the loop waits for the device."""
        means = mean_losses(state.totals, job.team)
        state.totals = {}
        skipped = int(state.skips.total)
        seconds = max(time.perf_counter() - self._start, 1e-9)
        wait_share = (stream.wait_s - self._wait_s) / seconds
        speed = self._scans / seconds
        self.restart(stream)
        if journal is None:
            return
        rate = rate_at(job, state, max(state.cursor - 1, 0))
        epoch, step = (state.cursor - 1) // job.n_scans + 1, job.step_at(state.cursor)
        measured = {"scans_per_s": speed, "wait_share": wait_share, "skipped": skipped}
        journal.write("train", step, {"epoch": epoch, **means, "lr": rate, **measured})
        total = job.recipe.epochs * job.length.steps_per_epoch
        journal.say(
            f"epoch {epoch}/{job.recipe.epochs} step {step}/{total}: loss {means['loss']:.4f}, "
            f"lr {rate:.4g}, {speed:.2f} scans/s, {wait_share:.0%} waiting for data"
            + (f", {skipped} steps skipped" if skipped else "")
        )
        journal.say_once(waiting_advice(wait_share, job.recipe.stream, job.reader))


def mean_losses(totals: dict[str, Tensor], team: Team) -> dict[str, float]:
    """Means of the losses since the last line of the log, over all processes."""
    names = sorted(totals)
    if team.world > 1:
        names = sorted(set().union(*gather_names(names)))
    zero = torch.zeros(2, dtype=torch.float64, device=team.device)
    sums = torch.stack([totals.get(name, zero) for name in names])
    sum_over_team([sums], team)
    return {name: s / w for name, (s, w) in zip(names, sums.tolist(), strict=True)}
