"""The processes that train together: one per device, started by torchrun or alone."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # not in its __all__
from torch.distributed.rendezvous import rendezvous

from pass2d.common.errors import ConfigError, ReportedByOtherProcessError
from pass2d.common.progress import Progress, Silent
from pass2d.train.distributed.heartbeat import Heartbeat, LostProcessError
from pass2d.train.distributed.launch import LOST_CODE, RESUME_HINT, is_launched
from pass2d.train.optim.optimizer import laid_out_like

T = TypeVar("T")

_PATIENCE = timedelta(minutes=60)
"""How long a live process may keep the others waiting, e.g. during a validation."""
_MEETING = timedelta(minutes=5)
"""How long all processes may take to start."""
_OWN_FAULT = ("cuda error", "cuda failure", "unhandledcudaerror", "invalidusage", "invalidargument")
_LOSS = ("gloo", "connection", "socket", "broken pipe", "timed out", "timeout")
LOST_AFTER_S = 60.0
"""Seconds without a heartbeat after which a process counts as lost."""


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            with collective():
                distributed.barrier()


def choose_device(wanted: str | torch.device) -> torch.device:
    """Choose a device by name and make it the current one, on which spconv launches its kernels.

    Args:
        wanted: "cpu", "cuda", "cuda:1"; "auto" is the process's GPU if there is one.

    Raises:
        ConfigError: the name is unknown, networks cannot run there, the device does not exist, or
            there are too few for the processes.
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
    if n_gpus == 1:  # its own, if the launcher shows each process another: `require_own_gpus`
        return 0
    if n_local > n_gpus:
        raise _too_few(n_local, n_gpus)
    return local if index is None else index


def _too_few(n_local: int, n_gpus: int) -> ConfigError:
    return ConfigError(
        f"{n_local} processes are to run here, but torch sees {n_gpus} GPUs: start at most one per "
        "GPU (`nproc`), or use device=cpu"
    )


def gpu_identity(device: torch.device) -> str:
    """Which GPU of the world it is, whatever number it has for this process."""
    found = torch.cuda.get_device_properties(device)
    return f"{socket.gethostname()}/{getattr(found, 'uuid', device.index)}"


def require_own_gpus(store: Store, *, rank: int, world: int, identity: str) -> None:
    """Refuse processes that share a GPU, in all of them; each may call its own cuda:0.

    Args:
        store: connects the processes, which all call this.
        rank: of this process.
        world: processes.
        identity: of this process's GPU.

    Raises:
        ConfigError: two processes have the same GPU.
    """
    store.set(f"pass2d/gpu/{rank}", identity)
    everybody = [store.get(f"pass2d/gpu/{other}").decode() for other in range(world)]
    most = max(everybody.count(one) for one in everybody)
    if most > 1:
        raise _too_few(most, 1)


def is_follower() -> bool:
    """Whether another process of this machine reports errors that occur in all of them."""
    return is_one_of_many() and os.environ.get("LOCAL_RANK", "0") != "0"


def is_one_of_many() -> bool:
    """Whether torchrun or `--nproc` started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined_group(
    device_name: str,
    *,
    progress: Progress | None = None,
    lost_after_s: float = LOST_AFTER_S,
) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun or `--nproc` started; alone without them.

    An error that leaves the block ends all processes; one of them tells the user.

    Args:
        device_name: see `choose_device`.
        progress: receives a message when another process is lost.
        lost_after_s: how long a process may send no heartbeat.

    Raises:
        ConfigError: see `choose_device`; or the processes do not find each other.
        ReportedByOtherProcessError: another process has failed and says why.
    """
    if not is_one_of_many():
        yield ProcessGroup(device=choose_device(device_name))
        return
    try:
        device = choose_device(device_name)
    except ConfigError as error:
        raise (ReportedByOtherProcessError(1) if is_follower() else error) from error
    say = progress.say if progress is not None else Silent().say
    store, heartbeat, rank, world = _meet(say, lost_after_s)
    has_failed = False
    try:
        with collective():
            if device.type == "cuda":
                require_own_gpus(store, rank=rank, world=world, identity=gpu_identity(device))
            distributed.init_process_group(
                store=store, rank=rank, world_size=world, timeout=_PATIENCE, **backend_of(device)
            )
        heartbeat.start()
        group = ProcessGroup(device=device, rank=rank, world=world)
        yield group
        group.wait()
    except BaseException as error:
        has_failed = True
        spoken = heartbeat.farewell(error)
        if spoken is error:
            raise
        raise spoken from error
    finally:
        heartbeat.close()
        if has_failed:
            heartbeat.linger()
        # NCCL would wait for what the others never finish; the end of the process closes it.
        if distributed.is_initialized() and not (has_failed and device.type == "cuda"):
            distributed.destroy_process_group()


def _meet(say: Callable[[str], None], lost_after_s: float) -> tuple[Store, Heartbeat, int, int]:
    """Find the other processes: the store that connects all, heartbeat, rank and world."""
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
            raise ReportedByOtherProcessError(LOST_CODE if is_launched() else 1) from error
        reason = str(error).splitlines()[0].split(". Exception raised from")[0]
        raise ConfigError(
            f"the {os.environ['WORLD_SIZE']} processes could not connect: {reason}. Start "
            "them with torchrun or `nproc`; on several machines all must reach "
            f"{os.environ.get('MASTER_ADDR', 'MASTER_ADDR')} port "
            f"{os.environ.get('MASTER_PORT', 'MASTER_PORT')}."
        ) from error
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    heartbeat = Heartbeat(
        own, rank=rank, world=world, hosts_store=hosts_store, lost_after_s=lost_after_s, say=say
    )
    return store, heartbeat, rank, world


def backend_of(device: torch.device) -> dict[str, Any]:
    """How torch connects processes on such devices; a GPU is named, or a barrier would guess it."""
    if device.type == "cuda":
        return {"backend": "nccl", "device_id": device}
    return {"backend": "gloo"}


@contextmanager
def collective() -> Iterator[None]:
    """Around an operation in which all processes take part.

    Errors of this process alone (its GPU, its memory, a bug) are not changed.

    Raises:
        LostProcessError: another of them did not take part, and never will.
    """
    try:
        yield
    except RuntimeError as error:
        if not _tells_of_loss(error):
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2][:120]
        raise LostProcessError(
            f"the connection to another process broke ({reason}): it was killed, or its machine is "
            f"lost. All processes end. {RESUME_HINT}"
        ) from error


def _tells_of_loss(error: RuntimeError) -> bool:
    """Whether another process, and not this one, is what failed.

    NCCL reports a fault of its own GPU by a class of its own; gloo has no such class.
    """
    text = str(error).lower()
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
        return False
    if any(sign in text for sign in _OWN_FAULT):
        return False
    return isinstance(error, distributed.DistError) or any(sign in text for sign in _LOSS)


def sum_gradients(parameters: Sequence[nn.Parameter], group: ProcessGroup) -> None:
    """Sum the gradients of all processes, each of which has weighted its own.

    A process without a gradient for a parameter (no scan left, no picture, a skipped layer) adds
    zeros, and so does a single process: optimizers step the same parameters whatever the number of
    processes. The sums lie in memory as their parameters do, whose own order (channels_last) the
    messages do not keep.
    """
    if group.world == 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return
    sizes = [parameter.numel() for parameter in parameters]
    own = parameters[0].new_zeros(-(-sum(sizes) // group.world) * group.world)
    for parameter, part in zip(parameters, own[: sum(sizes)].split(sizes), strict=True):
        if parameter.grad is not None:
            part.view(parameter.shape).copy_(parameter.grad)
    parts = sum_by_rank(own, group)[: sum(sizes)].split(sizes)
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = laid_out_like(parameter, part.view(parameter.shape))


def sum_by_rank(own: Tensor, group: ProcessGroup) -> Tensor:
    """(K,) the sum of every process's values, in the order of ranks, with the same bits in all.

    So several processes compute, bit for bit, what one process computes that accumulates the same
    batches; the order of an all-reduce depends on its library. Each process adds up one share of
    the values: what travels is as much as with an all-reduce by a ring.

    Args:
        own: (K,) values of this process; K is a multiple of the number of processes.
        group: of this process.
    """
    received = torch.empty_like(own)
    with collective():
        distributed.all_to_all_single(received, own)
    share, *others = received.view(group.world, -1)
    for other in others:
        share += other
    total = torch.empty_like(own)
    with collective():
        distributed.all_gather_into_tensor(total, share)
    return total


def share_buffers(network: nn.Module, group: ProcessGroup) -> None:
    """Give all processes the first one's buffers (running statistics), as torch's DDP does."""
    if group.world > 1:
        with collective():
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


def any_process(value: bool, group: ProcessGroup) -> bool:
    """Whether the flag is set in any process, so that all stop at the same step."""
    if group.world == 1:
        return value
    flag = torch.tensor(int(value), device=group.device)
    with collective():
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def from_main(value: T | None, group: ProcessGroup) -> T:
    """The first process's value, in all processes; those of the others are ignored."""
    shared = [value]
    if group.world > 1:
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


def sum_over_group(tensors: Sequence[Tensor], group: ProcessGroup) -> None:
    """Sum tensors of any shape over all processes, in place."""
    if group.world > 1:
        with collective():
            for tensor in tensors:
                distributed.all_reduce(tensor)


def gather_over_group(tensor: Tensor, group: ProcessGroup) -> list[Tensor]:
    """Every process's tensor, by rank, on this process's device; the first dimension may differ."""
    if group.world == 1:
        return [tensor]
    length = torch.tensor(len(tensor), device=tensor.device)
    lengths = [torch.zeros_like(length) for _ in range(group.world)]
    with collective():
        distributed.all_gather(lengths, length)
        longest = int(max(lengths))
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        gathered = [torch.empty_like(padded) for _ in range(group.world)]
        distributed.all_gather(gathered, padded)
    return [part[: int(n)] for part, n in zip(gathered, lengths, strict=True)]
