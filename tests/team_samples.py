"""Several processes on the CPU that compute together, for tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from pass2d.train.distributed.process_group import ProcessGroup, joined_group

Work = Callable[[ProcessGroup, dict[str, Any]], Any]
"""Runs in each process; what it returns is pickled."""

# Each process is a fork of one that has imported all this already.
_PRELOADED = ["torch", "pass2d.train.loop", "pass2d.train.distributed.sync_norm"]
_PRELOADED += ["torch._dynamo", "torchvision", "zarr.api.synchronous"]
_PRELOADED += ["cache_samples", "pytest", "train_samples"]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)


def exit_code(work: Callable[..., None], *given: Any, limit_s: float | None = None) -> int | None:
    """How a process ends that calls a function.

    Returns:
        Its exit code; negative for the signal that killed it; None where the time was up.
    """
    process = _CONTEXT.Process(target=work, args=given)
    process.start()
    process.join(limit_s)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return code


def in_processes(world: int, work: Work, given: dict[str, Any], folder: Path) -> list[Any]:
    """What a function returns in each of so many gloo processes, by rank."""
    assert exit_codes(world, _join, work, given, folder) == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def exit_codes(world: int, work: Callable[..., None], *given: Any) -> list[int | None]:
    """How so many processes end, by rank, that call a function as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        _CONTEXT.Process(target=_as_member, args=(rank, world, port, work, given))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _as_member(
    rank: int, world: int, port: int, work: Callable[..., None], given: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    values = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
    }
    with mock.patch.dict(os.environ, values):
        work(*given)


def _join(work: Work, given: dict[str, Any], folder: Path) -> None:
    with joined_group("cpu") as group:
        torch.save(work(group, given), folder / f"{group.rank}.pt")


def shallow_resnet(*, weights: None, norm_layer: type[nn.Module]) -> nn.Module:
    """ResNet-34's kinds of layers and widths, one block in each stage."""
    return ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=norm_layer)
