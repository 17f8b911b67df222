"""The processes that train together: one per device, started by torchrun or alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # not in its __all__
from torch.distributed.rendezvous import rendezvous

from cache.errors import ConfigError, SaidElsewhereError
from cache.progress import Progress, Silent
from train.launch import LOST_CODE, is_launched
from train.vigil import LostProcessError, Vigil

T = TypeVar("T")

_PATIENCE = timedelta(minutes=60)
"""How long a process that lives may keep the others waiting: a validation may take that long."""
_MEETING = timedelta(minutes=5)
"""How long all processes may take to start."""
LOST_AFTER_S = 60.0
"""Seconds without a sign of life after which a process counts as lost."""


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
            with collective():
                distributed.barrier()


def choose_device(wanted: str | torch.device) -> torch.device:
    """Make a device that somebody names the current one, on which spconv's kernels are launched.

    Args:
        wanted: "cpu", "cuda", "cuda:1"; "auto" is the process's GPU if there is one.

    Raises:
        ConfigError: the name is unknown, the networks do not run there, there is no such device,
            or too few for the processes.
    """
    name = str(wanted)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # Not read by torch, which takes cuda:256 for cuda:0.
    match = re.fullmatch(r"cpu(?::0)?|cuda(?::(0|[1-9][0-9]{0,8}))?", name)
    if match is None:
        raise ConfigError(
            f"device {name!r}: the networks run on cpu and cuda only. Use auto, cpu, cuda or cuda:N"
        )
    if name.startswith("cpu"):
        return torch.device("cpu")
    index = _gpu_index(name, None if match[1] is None else int(match[1]))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _gpu_index(name: str, index: int | None) -> int:
    """Of the GPU that a device's name means to this process."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_local > 1 and index is not None:
        raise ConfigError(
            f"device {name!r} is one GPU, but {n_local} processes run here: use device=cuda, with "
            "which each takes its own"
        )
    if n_gpus == 0:
        raise ConfigError(
            f"device {name!r}: torch sees 0 GPUs. Use device=cpu, or install a driver that fits "
            "torch's CUDA."
        )
    if (index or 0) >= n_gpus:
        raise ConfigError(
            f"device {name!r}: torch sees {n_gpus} GPUs, the last is cuda:{n_gpus - 1}."
        )
    if n_local > n_gpus:
        raise ConfigError(
            f"{n_local} processes are to run here, but torch sees {n_gpus} GPUs: start at most one "
            "per GPU (--nproc; torchrun: --nproc-per-node), or use device=cpu"
        )
    return local if index is None else index


def is_follower() -> bool:
    """Whether another process of this machine says what goes wrong in all of them alike."""
    return is_one_of_many() and os.environ.get("LOCAL_RANK", "0") != "0"


def is_one_of_many() -> bool:
    """Whether torchrun or `--nproc` started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined_team(
    device_name: str,
    *,
    progress: Progress | None = None,
    lost_after_s: float = LOST_AFTER_S,
) -> Iterator[Team]:
    """Join the processes that torchrun or `--nproc` started; alone without them.

    An error that leaves the block ends all processes; one of them tells the user.

    Args:
        device_name: see `choose_device`.
        progress: is told when another process is lost.
        lost_after_s: how long a process may give no sign of life.

    Raises:
        ConfigError: see `choose_device`; or the processes do not find each other.
        SaidElsewhereError: another process has failed and says why.
    """
    if not is_one_of_many():
        yield Team(device=choose_device(device_name))
        return
    try:
        device = choose_device(device_name)
    except ConfigError as error:
        raise (SaidElsewhereError(1) if is_follower() else error) from error
    say = progress.say if progress is not None else Silent().say
    store, vigil, rank, world = _meet(say, lost_after_s)
    has_failed = False
    try:
        with collective():
            backend = "nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(
                backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE
            )
        vigil.start()
        team = Team(device=device, rank=rank, world=world)
        yield team
        team.wait()
    except BaseException as error:
        has_failed = True
        spoken = vigil.farewell(error)
        if spoken is error:
            raise
        raise spoken from error
    finally:
        vigil.close()
        if has_failed:
            vigil.linger()
        # NCCL would wait for what the others never finish; the end of the process closes it.
        if distributed.is_initialized() and not (has_failed and device.type == "cuda"):
            distributed.destroy_process_group()


def _meet(say: Callable[[str], None], lost_after_s: float) -> tuple[Store, Vigil, int, int]:
    """Find the other processes: the store that connects all, the vigil, this rank, the world."""
    try:
        store, rank, world = next(rendezvous("env://", timeout=_MEETING))
        own = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=_MEETING,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        if is_follower():
            raise SaidElsewhereError(LOST_CODE if is_launched() else 1) from error
        reason = str(error).splitlines()[0].split(". Exception raised from")[0]
        raise ConfigError(
            f"the {os.environ['WORLD_SIZE']} processes did not find each other: {reason}. Start "
            "them with torchrun or --nproc; on several machines all must reach "
            f"{os.environ.get('MASTER_ADDR', 'MASTER_ADDR')} port "
            f"{os.environ.get('MASTER_PORT', 'MASTER_PORT')}."
        ) from error
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    vigil = Vigil(
        own, rank=rank, world=world, hosts_store=hosts_store, lost_after_s=lost_after_s, say=say
    )
    return store, vigil, rank, world


@contextmanager
def collective() -> Iterator[None]:
    """Around an operation in which all processes take part.

    Raises:
        LostProcessError: one of them did not, and never will.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what gloo raises is of no class of its own
        reason = str(error).splitlines()[0].rpartition("] ")[2][:120]
        raise LostProcessError(
            f"the connection to another process broke ({reason}): it was killed, or its machine is "
            "lost. All processes end; the same command with --resume goes on from the last "
            "checkpoint."
        ) from error


def sum_gradients(parameters: Sequence[nn.Parameter], team: Team) -> None:
    """Add up the gradients of all processes, in one message; each has weighted its own before.

    A process without a gradient for a parameter (no scan left, no picture) adds zeros.
    """
    if team.world == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    joint = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with collective():
        distributed.all_reduce(joint)
    parts = joint.split([gradient.numel() for gradient in gradients])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def share_buffers(network: nn.Module, team: Team) -> None:
    """Give all processes the first one's buffers (running statistics), as torch's DDP does."""
    if team.world > 1:
        with collective():
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


def agree(value: bool, team: Team) -> bool:
    """Whether any process says yes; so that all stop at the same step."""
    if team.world == 1:
        return value
    flag = torch.tensor(int(value), device=team.device)
    with collective():
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def of_first(value: T | None, team: Team) -> T:
    """The first process's value, for all; what the others give does not count."""
    shared = [value]
    if team.world > 1:
        with collective():
            distributed.broadcast_object_list(shared, src=0)
    assert shared[0] is not None
    return shared[0]


def gather_names(names: list[str]) -> list[list[str]]:
    """Every process's names, by rank."""
    gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    with collective():
        distributed.all_gather_object(gathered, names)
    return gathered


def sum_over_team(tensors: Sequence[Tensor], team: Team) -> None:
    """Add up tensors over all processes, in place."""
    if team.world > 1:
        with collective():
            for tensor in tensors:
                distributed.all_reduce(tensor)


def gather_over_team(tensor: Tensor, team: Team) -> list[Tensor]:
    """Every process's tensor, by rank; the first dimension may differ."""
    if team.world == 1:
        return [tensor]
    length = torch.tensor(len(tensor), device=tensor.device)
    lengths = [torch.zeros_like(length) for _ in range(team.world)]
    with collective():
        distributed.all_gather(lengths, length)
        longest = int(max(lengths))
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        gathered = [torch.empty_like(padded) for _ in range(team.world)]
        distributed.all_gather(gathered, padded)
    return [part[: int(n)] for part, n in zip(gathered, lengths, strict=True)]
