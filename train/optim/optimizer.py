"""Optimisers, clipping and the guard that skips non-finite steps; none waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pass2d.common.errors import CheckpointError

PUBLISHED_WEIGHT_DECAY = {"sgd": 1e-4, "adam": 0.0, "adamw": 0.01}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD with Nesterov momentum, as published, or Adam (docs/maths.md, section 7), or AdamW."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    """"adamw": Adam whose weight decay shrinks the weights instead of adding to the gradients."""
    learning_rate: float = 0.24
    """Peak rate for a batch of 8 scans."""
    momentum: float = 0.9
    """SGD only."""
    nesterov: bool = True
    """SGD only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam and AdamW only."""
    weight_decay: float | None = None
    """Of every parameter; "none": as published, 1e-4 with SGD and 0 with Adam, or 0.01 with AdamW.
    Settings that were written out hold the number."""
    clip_norm: float = 1.0
    """Largest norm of all gradients together; 0: no clipping."""
    max_skipped: int = 25
    """Non-finite steps in a row after which the run stops with an error."""

    def __post_init__(self) -> None:
        if self.weight_decay is None:
            object.__setattr__(self, "weight_decay", PUBLISHED_WEIGHT_DECAY[self.kind])
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.decay < 0 or self.clip_norm < 0:
            raise ValueError("weight_decay and clip_norm must not be negative")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {list(self.betas)}")
        if self.nesterov and self.kind == "sgd" and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.max_skipped < 1:
            raise ValueError(f"max_skipped must be at least 1, got {self.max_skipped}")

    @property
    def decay(self) -> float:
        """The weight decay in use."""
        assert self.weight_decay is not None
        return self.weight_decay


@dataclass(frozen=True, kw_only=True)
class SkipCounts:
    """Numbers of skipped steps, on the training device."""

    total: Tensor
    """() int64 since the start of the run."""
    in_a_row: Tensor
    """() int64 up to the last step."""


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser with its whole state laid out, so that a first step may be a skipped one.

    Fused kernels take the verdict "not finite" as a tensor: no step needs the host to know it.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if config.kind != "sgd":
        kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
        optimizer: torch.optim.Optimizer = kind(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.decay,
            fused=True,
        )
        for parameter in parameters:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return optimizer
    optimizer = torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.decay,
        fused=True,
    )
    if config.momentum > 0:
        for parameter in parameters:
            # Zeros give the same first step as none: momentum * 0 + gradient. A skipped first step
            # would otherwise leave the fused kernel's buffer uninitialised.
            optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
    return optimizer


def no_skips(device: torch.device) -> SkipCounts:
    """Counts of a run that has not begun."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return SkipCounts(total=zero, in_a_row=zero.clone())


def guarded_step(
    optimizer: torch.optim.Optimizer, skips: SkipCounts, *, rate: float, clip_norm: float
) -> SkipCounts:
    """Clip, then step unless a gradient is not finite; a skipped step changes nothing at all.

    The original zeroes such gradients and still lets momentum and weight decay move the weights.

    Args:
        optimizer: from `build_optimizer`; its parameters hold the gradients.
        skips: the counts so far.
        rate: learning rate of this step.
        clip_norm: see `OptimizerConfig`.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    parameters = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    lay_out(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm if clip_norm > 0 else torch.inf)
    refused = ~torch.isfinite(norm)
    # The attribute by which torch's own GradScaler hands the verdict to a fused optimiser.
    fused: Any = optimizer
    fused.found_inf = refused.to(torch.float32)
    fused.grad_scale = None
    try:
        optimizer.step()
    finally:
        del fused.found_inf, fused.grad_scale
    return SkipCounts(
        total=skips.total + refused, in_a_row=(skips.in_a_row + 1) * refused.to(torch.int64)
    )


@torch.no_grad()
def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Convert gradients and state to the memory format of their parameters, if it differs.

    Fused kernels walk through the memory of a parameter, its gradient and its state side by side:
    channels_last weights (the image network's) must not meet a contiguous gradient.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = laid_out_like(parameter, parameter.grad)
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = laid_out_like(parameter, value)


def laid_out_like(parameter: Tensor, values: Tensor) -> Tensor:
    """The values (of the parameter's shape) with the parameter's strides; unchanged if they match.

    Parameters are dense, so `torch.empty_like` has exactly their strides.
    """
    if values.stride() == parameter.stride():
        return values
    return torch.empty_like(parameter, dtype=values.dtype).copy_(values)


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state by parameter name, e.g. ``head.weight|momentum_buffer``."""
    state: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{name}|{key}"] = value
    return state


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, network: nn.Module, state: Mapping[str, Tensor]
) -> None:
    """Restore the state from `optimizer_tensors`, by name of tensor.

    Raises:
        CheckpointError: the state belongs to another network or another kind of optimiser.
    """
    own = optimizer_tensors(optimizer, network)
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())
        raise CheckpointError(
            f"the optimizer state of the checkpoint does not fit this run: {differing[:4]} differ. "
            "Resume with the recipe of that run, or start a new one from its weights (start_from)."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def first_nonfinite(network: nn.Module) -> str | None:
    """Name the first parameter whose gradient, or else value, is not finite; None when all are."""
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name}"
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"gradient of {name}"
    return None


class OutputWatch:
    """Watches every module's output during one forward pass, to name the first non-finite one."""

    def __init__(self, network: nn.Module) -> None:
        self.first_nonfinite: str | None = None
        self._handles = [
            module.register_forward_hook(self._hook(name or type(module).__name__))
            for name, module in network.named_modules()
        ]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self.first_nonfinite is None and any(
                not bool(torch.isfinite(tensor).all()) for tensor in float_tensors(output)
            ):
                self.first_nonfinite = name

        return look


def float_tensors(value: Any) -> list[Tensor]:
    """All floating-point tensors of any shape in a module's output, however nested."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in float_tensors(item)]
    if isinstance(value, Mapping):
        return float_tensors(tuple(value.values()))
    features = getattr(value, "features", None)  # spconv.SparseConvTensor
    if isinstance(features, Tensor):
        return float_tensors(features)
    return (
        float_tensors(tuple(vars(value).values())) if hasattr(value, "__dataclass_fields__") else []
    )
