"""The state that changes during a run, and how it is saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from pass2d.common.errors import CheckpointError
from pass2d.train.checkpoints.card import Card, Preprocessing
from pass2d.train.checkpoints.checkpoint import NETWORK, Checkpoint, network_tensors
from pass2d.train.optim.average import WeightAverage
from pass2d.train.optim.optimizer import (
    SkipCounts,
    build_optimizer,
    load_optimizer_tensors,
    no_skips,
    optimizer_tensors,
)
from pass2d.train.run.assemble import Job

OPTIMIZER, AVERAGE, TOTALS, SKIPS = "optimizer.", "average.", "totals.", "skips."


class LossTotals:
    """Sums of the losses, and of their weights, since the last line of the log; one tensor."""

    def __init__(self, by_name: Mapping[str, Tensor] | None = None) -> None:
        self._names = tuple(by_name or ())
        self._sums = torch.stack(list(by_name.values())) if by_name else torch.empty(0, 2)

    def add(self, values: Mapping[str, Tensor], *, share: float) -> None:
        """Add a batch's losses, () each on the device; not every batch has every term."""
        new = torch.stack(list(values.values())).to(torch.float64)
        weighted = torch.stack([new, torch.ones_like(new)], dim=1) * share
        if self._names == tuple(values):
            self._sums = self._sums + weighted
            return
        sums = self.by_name()
        for name, more in zip(values, weighted, strict=True):
            sums[name] = sums[name] + more if name in sums else more
        self._names, self._sums = tuple(sums), torch.stack(list(sums.values()))

    def by_name(self) -> dict[str, Tensor]:
        """(2,) float64 per loss, on the device: sum and its weight."""
        return dict(zip(self._names, self._sums, strict=True))


@dataclass(kw_only=True)
class RunState:
    """The state of a run between two optimizer steps."""

    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    scaler: GradScaler | None
    skips: SkipCounts
    cursor: int = 0
    """Scans seen since the start, on all devices together: epoch and place follow from it."""
    totals: LossTotals = field(default_factory=LossTotals)
    """Since the last line of the log."""
    validated: list[int] = field(default_factory=list)
    """Epochs (counted from 1) after which the network was validated."""
    val_miou: list[float] = field(default_factory=list)
    """mIoU of each, 0..1, by the recipe's protocol."""


def fresh_state(job: Job) -> RunState:
    """The state before the first step."""
    recipe = job.recipe
    return RunState(
        optimizer=build_optimizer(job.network, recipe.optimizer),
        average=None if recipe.average.kind == "none" else WeightAverage(job.network),
        scaler=fresh_scaler(job.group.device) if recipe.precision == "fp16" else None,
        skips=no_skips(job.group.device),
    )


def fresh_scaler(device: torch.device) -> GradScaler:
    """A loss scaler with its scale laid out: a process's first step may be one without a scan."""
    scaler = GradScaler(device.type)
    scaler.scale(torch.zeros((), device=device))
    return scaler


def state_tensors(job: Job, state: RunState) -> dict[str, Tensor]:
    """All tensors of a run by their names in a checkpoint."""
    tensors = network_tensors(job.network.state_dict())
    optimizer = optimizer_tensors(state.optimizer, job.network)
    tensors.update({OPTIMIZER + name: tensor for name, tensor in optimizer.items()})
    if state.average is not None:
        tensors.update({AVERAGE + name: t for name, t in state.average.tensors.items()})
    tensors.update({TOTALS + name: total.clone() for name, total in state.totals.by_name().items()})
    tensors[SKIPS + "total"] = state.skips.total
    tensors[SKIPS + "in_a_row"] = state.skips.in_a_row
    return tensors


def state_card(job: Job, state: RunState, base: Card) -> Card:
    """The card of a run's state."""
    run: dict[str, object] = {
        "cursor": state.cursor,
        "validated": state.validated,
        "val_miou": state.val_miou,
        "average_count": 0 if state.average is None else state.average.count,
        "n_scans": job.n_scans,
    }
    if state.scaler is not None:
        run["scaler"] = state.scaler.state_dict()
    return Card(**{**vars(base), "holds": "training", "run": run})


def base_card(job: Job) -> Card:
    """What every checkpoint of a run says of it."""
    settings = job.network.config.settings()
    if "image_weights" in settings:
        settings["image_weights"] = ""  # a file of this machine, and spent: the weights are inside
    return Card(
        architecture=job.network.kind,
        settings=settings,
        info=job.reader.info,
        preprocessing=Preprocessing(in_volume_only=job.network.uses_volume),
        stack=job.recipe.stack,
        provenance={
            "made_by": "pass2d train",
            "recipe": job.recipe.name,
            "seed": str(job.recipe.seed),
            "cache_fingerprint": job.reader.fingerprint,
            "world_size": str(job.group.world),
            "order": "scans" if job.plan.shards is None else "blocks of shards",
            "torch": torch.__version__,
            **(
                {"backend": job.network.backend_on(job.group.device).name}
                if job.network.is_sparse
                else {}
            ),
            "tf32": "on" if job.recipe.tf32 else "off",
            "deterministic": "on" if job.recipe.deterministic else "off",
        },
    )


def restore_state(job: Job, checkpoint: Checkpoint) -> RunState:
    """Restore the state of a run from a checkpoint.

    Raises:
        CheckpointError: the tensors are those of another network or optimiser.
    """
    device = job.group.device
    _load_network(job, checkpoint)
    state = fresh_state(job)
    load_optimizer_tensors(state.optimizer, job.network, checkpoint.part(OPTIMIZER))
    run = _checked_run(checkpoint.card.run)
    mean = checkpoint.part(AVERAGE)
    if state.average is not None and mean:  # none: resumed anyway with what was off before
        state.average.load(mean, count=run["average_count"])
    if state.scaler is not None and "scaler" in run:
        state.scaler.load_state_dict(run["scaler"])
    totals = {name: total.to(device) for name, total in checkpoint.part(TOTALS).items()}
    state.totals = LossTotals(totals)
    skips = checkpoint.part(SKIPS)
    state.skips = SkipCounts(total=skips["total"].to(device), in_a_row=skips["in_a_row"].to(device))
    epoch, place = divmod(run["cursor"], run["n_scans"])
    state.cursor = epoch * job.n_scans + min(place, job.n_scans)  # a changed cache has other scans
    state.validated, state.val_miou = list(run["validated"]), list(run["val_miou"])
    return state


def _checked_run(stored: Mapping[str, object]) -> dict[str, Any]:
    """The state that is no tensor, if it is one.

    Raises:
        CheckpointError: something is missing or of another type.
    """
    run: dict[str, Any] = dict(stored)
    wanted = {"cursor": int, "n_scans": int, "validated": list, "val_miou": list}
    wrong = [name for name, kind in wanted.items() if type(run.get(name)) is not kind]
    cursor, n_scans, count = (run.get(n, 0) for n in ("cursor", "n_scans", "average_count"))
    if not wrong:
        numbers = [*run["validated"], *run["val_miou"], count]
        is_sound = all(type(number) in (int, float) for number in numbers)
        if not is_sound or cursor < 0 or n_scans < 1:
            wrong = ["a number"]
    if wrong:
        raise CheckpointError(
            f"the state to resume has no {', '.join(wrong)}: its card is not of a run of pass2d. "
            "Use an older checkpoint, or start a new run from its weights (start_from)."
        )
    return run


def _load_network(job: Job, checkpoint: Checkpoint) -> None:
    stored, own = checkpoint.part(NETWORK), job.network.state_dict()
    differing = [
        f"{name} is {tuple(stored[name].shape) if name in stored else 'missing'}, expected "
        f"{tuple(own[name].shape) if name in own else 'none'}"
        for name in sorted(stored.keys() | own.keys())
        if name not in stored or name not in own or stored[name].shape != own[name].shape
    ]
    if differing:
        raise CheckpointError(
            f"the state to resume is of another network: {'; '.join(differing[:3])}. Resume with "
            "the classes and settings of that run, or start a new one from its weights "
            "(start_from): tensors that depend on the classes are then initialised again."
        )
    job.network.load_state_dict(stored)
