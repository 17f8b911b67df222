"""The processes that train together: one per device, started by torchrun or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from cache.errors import ConfigError

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it gives up: a validation may take that long."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            distributed.barrier()


def choose_device(name: str) -> torch.device:
    """The device that a recipe names; "auto" is the process's GPU if there is one.

    Raises:
        ConfigError: the name is unknown, or there is no such device.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        device = torch.device("cuda", local if device.index is None else device.index)
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs. "
                "Use device=cpu, or install a driver that fits torch's CUDA."
            )
    return device


@contextmanager
def joined_team(device_name: str) -> Iterator[Team]:
    """Join the processes that torchrun started; alone without it."""
    device = choose_device(device_name)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Team(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Team(device=device, rank=distributed.get_rank(), world=world)
    finally:
        distributed.destroy_process_group()


def sum_gradients(parameters: Sequence[nn.Parameter], team: Team) -> None:
    """Add up the gradients of all processes, in one message; each has weighted its own before.

    A process without a gradient for a parameter (no scan left, no picture) adds zeros.
    """
    if team.world == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    joint = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(joint)
    parts = joint.split([gradient.numel() for gradient in gradients])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def share_buffers(network: nn.Module, team: Team) -> None:
    """Give all processes the first one's buffers (running statistics), as torch's DDP does."""
    if team.world > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)


def agree(value: bool, team: Team) -> bool:
    """Whether any process says yes; so that all stop at the same step."""
    if team.world == 1:
        return value
    flag = torch.tensor(int(value), device=team.device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def gather_names(names: list[str]) -> list[list[str]]:
    """Every process's names, by rank."""
    gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, names)
    return gathered


def sum_over_team(tensors: Sequence[Tensor], team: Team) -> None:
    """Add up tensors over all processes, in place."""
    if team.world > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)
