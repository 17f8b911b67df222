"""Learning rates over a run: pure functions of step and epoch (SPEC, section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PUBLISHED_WARMUP_STEPS = 1000
"""Divided by the number of GPUs; one GPU trains without warm-up."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes; all kinds scale or replace `OptimizerConfig.learning_rate`."""

    kind: Literal["cosine-step", "cosine-epoch", "step", "plateau", "constant"] = "cosine-step"
    """"cosine-step": to zero over all steps; "cosine-epoch": per epoch, to `floor`; "step": times
    `factor` every `step_epochs`; "plateau": times `factor` when val mIoU stands still."""
    warmup_steps: int = -1
    """Linear warm-up before "cosine-step"; -1: as published, none on one device and 1000 // devices
    on several."""
    t_max_offset_epochs: int = -4
    """"cosine-epoch" reaches its floor at epochs + this and then rises again, as published."""
    floor: float = 1e-5
    """Lowest rate of "cosine-epoch" and "plateau"."""
    step_epochs: int = 20
    """Epochs between two drops of "step"."""
    factor: float = 0.1
    """What a drop of "step" or "plateau" multiplies the rate with."""
    patience_epochs: int = 10
    """"plateau": validations without a better mIoU before the rate drops."""

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"schedule.factor must lie between 0 and 1, got {self.factor}")
        if self.step_epochs < 1 or self.patience_epochs < 1:
            raise ValueError("schedule.step_epochs and schedule.patience_epochs must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """What a schedule must know of the run around it."""

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
    epoch = step // length.steps_per_epoch
    if config.kind == "cosine-step":
        total = length.epochs * length.steps_per_epoch
        warmup = warmup_steps(config, world=length.world)
        return base * cosine_multiplier(step, total_steps=total, warmup_steps=warmup)
    if config.kind == "cosine-epoch":
        t_max = max(1, length.epochs + config.t_max_offset_epochs)
        return cosine_epoch_rate(epoch, base=base, t_max=t_max, floor=config.floor)
    if config.kind == "step":
        return base * config.factor ** (epoch // config.step_epochs)
    if config.kind == "plateau":
        drops = plateau_drops(val_miou, patience=config.patience_epochs)
        return max(base * config.factor**drops, min(config.floor, base))
    return base


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
