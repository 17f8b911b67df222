"""Learning rates over a run: pure functions of step and epoch (docs/maths.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

PUBLISHED_WARMUP_STEPS = 1000
"""Divided by the number of GPUs; one GPU trains without warm-up."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes; all kinds scale or replace `OptimizerConfig.learning_rate`."""

    kind: Literal[
        "cosine-step",
        "cosine-epoch",
        "warmup-cosine",
        "one-cycle",
        "step",
        "multistep",
        "plateau",
        "constant",
    ] = "cosine-step"
    """"cosine-step": to zero over all steps; "cosine-epoch": per epoch, to `floor`; "step": times
    `factor` every `step_epochs`; "multistep": times `factor` at each of `drop_epochs`;
    "warmup-cosine": linear over `warmup_epochs`, then a half cosine to zero at the last step;
    "one-cycle": a half cosine from 1/25 of the peak up to it over the share `rise` of all steps,
    then one down to 1/250,000 of it; "plateau": times `factor` when the validation mIoU no longer
    improves."""
    warmup_steps: int = -1
    """Linear warm-up before "cosine-step"; -1: as published, none on one device and 1000 // devices
    on several."""
    t_max_offset_epochs: int = -4
    """"cosine-epoch" reaches its floor at epochs + this and then rises again, as published."""
    floor: float = 1e-5
    """Lowest rate of "cosine-epoch" and "plateau"."""
    step_epochs: int = 20
    """Epochs between two drops of "step"."""
    warmup_epochs: float = 0.0
    """Linear warm-up of "warmup-cosine"."""
    rise: float = 0.3
    """Share of all steps until the peak of "one-cycle"."""
    drop_epochs: tuple[int, ...] = ()
    """Epochs, counted from 0, before which "multistep" drops."""
    factor: float = 0.1
    """What a drop of "step", "multistep" or "plateau" multiplies the rate with."""
    patience_epochs: int = 10
    """"plateau": validations without a better mIoU before the rate drops."""

    def __post_init__(self) -> None:
        if self.warmup_steps < -1:
            raise ValueError(
                f"schedule.warmup_steps must be -1 (as published) or more, got {self.warmup_steps}"
            )
        if self.floor < 0:
            raise ValueError(f"schedule.floor must not be negative, got {self.floor}")
        if not 0 < self.factor < 1:
            raise ValueError(f"schedule.factor must lie between 0 and 1, got {self.factor}")
        if self.step_epochs < 1 or self.patience_epochs < 1:
            raise ValueError("schedule.step_epochs and schedule.patience_epochs must be at least 1")
        if not (math.isfinite(self.warmup_epochs) and self.warmup_epochs >= 0):
            raise ValueError(
                f"schedule.warmup_epochs must not be negative, got {self.warmup_epochs}"
            )
        if not 0 < self.rise < 1:
            raise ValueError(f"schedule.rise must lie between 0 and 1, got {self.rise}")
        if (
            list(self.drop_epochs) != sorted({*self.drop_epochs})
            or min(self.drop_epochs, default=1) < 1
        ):
            raise ValueError(
                f"schedule.drop_epochs must be ascending and above 0, got {list(self.drop_epochs)}"
            )
        if self.kind == "multistep" and not self.drop_epochs:
            raise ValueError("schedule.kind = 'multistep' needs schedule.drop_epochs")


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """What a schedule must know about the run."""

    epochs: int
    steps_per_epoch: int
    """Optimizer steps: batches divided by the accumulation."""
    world: int = 1
    """Devices that train together."""


def learning_rate(
    config: ScheduleConfig,
    base: float,
    *,
    step: int,
    length: RunLength,
    val_miou: Sequence[float] = (),
) -> float:
    """The rate of optimizer step ``step`` (counted from 0 over the whole run).

    Args:
        config: the schedule.
        base: `OptimizerConfig.learning_rate`.
        step: optimizer steps done so far.
        length: of the whole run.
        val_miou: of the validations so far, oldest first; only "plateau" looks at it.
    """
    if config.kind in ("cosine-step", "warmup-cosine", "one-cycle"):
        return base * _step_multiplier(config, step=step, length=length)
    epoch = step // length.steps_per_epoch
    if config.kind == "cosine-epoch":
        t_max = max(1, length.epochs + config.t_max_offset_epochs)
        return cosine_epoch_rate(epoch, base=base, t_max=t_max, floor=config.floor)
    if config.kind == "plateau":
        drops = plateau_drops(val_miou, patience=config.patience_epochs)
        return max(base * config.factor**drops, min(config.floor, base))
    drops = {
        "step": epoch // config.step_epochs,
        "multistep": sum(epoch >= drop for drop in config.drop_epochs),
    }.get(config.kind, 0)
    return base * config.factor**drops


def idle_settings(config: ScheduleConfig, *, length: RunLength) -> Iterator[str]:
    """What of a schedule comes after the end of the run, which is too short for it."""
    total = length.epochs * length.steps_per_epoch
    warmup = {
        "cosine-step": warmup_steps(config, world=length.world),
        "warmup-cosine": round(config.warmup_epochs * length.steps_per_epoch),
    }.get(config.kind, 0)
    if warmup > total:
        name = "warmup_steps" if config.kind == "cosine-step" else "warmup_epochs"
        yield (
            f"schedule.{name}: the warm-up takes {warmup} steps and the run {total}: it never "
            "trains with optimizer.learning_rate"
        )
    late = [epoch for epoch in config.drop_epochs if epoch >= length.epochs]
    if config.kind == "multistep" and late:
        yield f"schedule.drop_epochs: {late} come after the run's {length.epochs} epochs"


def _step_multiplier(config: ScheduleConfig, *, step: int, length: RunLength) -> float:
    total = length.epochs * length.steps_per_epoch
    if config.kind == "one-cycle":
        return one_cycle_multiplier(step, total_steps=total, rise=config.rise)
    if config.kind == "warmup-cosine":
        warmup = round(config.warmup_epochs * length.steps_per_epoch)
        return warmup_cosine_multiplier(step, total_steps=total, warmup_steps=warmup)
    warmup = warmup_steps(config, world=length.world)
    return cosine_multiplier(step, total_steps=total, warmup_steps=warmup)


def warmup_steps(config: ScheduleConfig, *, world: int) -> int:
    """Steps of the linear warm-up."""
    if config.warmup_steps >= 0:
        return config.warmup_steps
    return PUBLISHED_WARMUP_STEPS // world if world > 1 else 0


def cosine_multiplier(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Share of the peak rate at a step: (step + 1) / warm-up, then a half cosine.

    The half cosine spans `total_steps` counted from the end of the warm-up, so with a warm-up it
    does not quite reach zero; past the end it rises again. Both as published.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / total_steps))


def warmup_cosine_multiplier(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Share of the peak rate: (step + 1) / warm-up, then a half cosine that ends at zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * done))


def one_cycle_multiplier(step: int, *, total_steps: int, rise: float) -> float:
    """Share of the peak rate by torch's OneCycleLR with its cosine and default divisors."""
    first, last = 1 / 25, 1 / 25 / 1e4
    top = rise * total_steps - 1
    if step <= top:
        low, high, done = first, 1.0, step / top if top > 0 else 1.0
    else:
        low, high = 1.0, last
        done = min(1.0, (step - top) / max(1.0, total_steps - 1 - top))
    return high + (low - high) / 2 * (1 + math.cos(math.pi * done))


def cosine_epoch_rate(epoch: int, *, base: float, t_max: int, floor: float) -> float:
    """The rate of an epoch by the recursion of torch's CosineAnnealingLR.

    The closed form differs from it in the last digits, and after `t_max` in none that matters; the
    recursion is what the published runs used.
    """
    rate = base
    for t in range(1, epoch + 1):
        if (t - 1 - t_max) % (2 * t_max) == 0:
            rate += (base - floor) * (1 - math.cos(math.pi / t_max)) / 2
        else:
            ratio = (1 + math.cos(math.pi * t / t_max)) / (1 + math.cos(math.pi * (t - 1) / t_max))
            rate = ratio * (rate - floor) + floor
    return rate


def plateau_drops(val_miou: Sequence[float], *, patience: int) -> int:
    """How often more than `patience` validations in a row brought no new best."""
    best, waited, drops = -math.inf, 0, 0
    for value in val_miou:
        if value > best:
            best, waited = value, 0
            continue
        waited += 1
        if waited > patience:
            drops, waited = drops + 1, 0
    return drops


def is_out_of_patience(val_miou: Sequence[float], *, patience: int) -> bool:
    """Whether the last `patience` validations all failed to beat the best one before them."""
    if patience < 1 or not val_miou:
        return False
    best_at = max(range(len(val_miou)), key=lambda i: (val_miou[i], -i))
    return len(val_miou) - 1 - best_at >= patience
