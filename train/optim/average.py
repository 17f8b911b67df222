"""Averaged weights: SWA (a mean over epochs) and EMA (a moving mean over steps).

Not torch's `AveragedModel`: it reads its counter on the host at every step, which synchronises with
the GPU, averages the counters of BatchNorm too, and copies the network, which is impossible with a
process group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Averaged weights, which are validated and exported instead of the latest ones."""

    kind: Literal["none", "swa", "ema"] = "none"
    decay: float = 0.999
    """EMA: share of the mean that each step keeps."""
    start_share: float = 0.75
    """SWA: share of the epochs to skip before averaging starts."""
    norm_batches: int = 100
    """SWA: batches used to re-estimate the BatchNorm statistics of the mean before validation."""

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"average.decay must lie between 0 and 1, got {self.decay}")
        if not 0 <= self.start_share < 1:
            raise ValueError(f"average.start_share must lie in 0..1, got {self.start_share}")
        if self.norm_batches < 1:
            raise ValueError(f"average.norm_batches must be at least 1, got {self.norm_batches}")


class WeightAverage:
    """A running mean of a network's floating tensors, buffers included."""

    def __init__(self, network: nn.Module) -> None:
        self.count = 0
        """Sets of weights in the mean."""
        self.tensors = {
            name: tensor.detach().clone()
            for name, tensor in network.state_dict().items()
            if tensor.is_floating_point()
        }

    @torch.no_grad()
    def add(self, network: nn.Module, *, weight: float) -> None:
        """Move the mean towards the network's current weights; the first set replaces it."""
        state = network.state_dict()
        now = [state[name] for name in self.tensors]
        share = 1.0 if self.count == 0 else weight
        torch._foreach_lerp_(list(self.tensors.values()), now, share)
        self.count += 1

    @torch.no_grad()
    def set_buffers(self, network: nn.Module) -> None:
        """Take a network's buffers (running statistics) as those of the mean."""
        for name, buffer in network.named_buffers():
            if name in self.tensors:
                self.tensors[name].copy_(buffer)

    def load(self, tensors: Mapping[str, Tensor], *, count: int) -> None:
        """Restore a stored mean, by name of tensor."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.count = count

    @contextmanager
    def swapped_in(self, network: nn.Module) -> Iterator[None]:
        """Give the network the mean's weights for the block; afterwards exactly its own."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.tensors, strict=False)
        try:
            yield
        finally:
            network.load_state_dict(own)
