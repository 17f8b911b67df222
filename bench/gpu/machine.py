"""On what and with what a run was made."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from bench.gpu.setup import Clock, Row, Setup

DEVICE = "device"
NOT_SEEN = "torch does not see it"


def machine(setup: Setup, _clock: Clock) -> Iterator[Row]:
    """The device first; in a process of its own, since a driver may hang."""
    yield _fact(DEVICE, device_of(setup))
    yield _fact("date", str(datetime.datetime.now(tz=datetime.UTC).date()))
    folder = str(Path(__file__).parent)
    yield _fact("commit", _answer("git", "-C", folder, "rev-parse", "--short", "HEAD"))
    yield _fact("torch", f"{torch.__version__} (CUDA {torch.version.cuda})")
    builds = {
        f"{one.name} {one.version}"
        for one in metadata.distributions()
        if (one.name or "").startswith("spconv")
    }
    yield _fact("sparse convolutions", ", ".join(sorted(builds)) or "no spconv")
    query = ("--query-gpu=driver_version", "--format=csv,noheader")
    yield _fact("driver", _answer("nvidia-smi", *query) or "none")


def device_of(setup: Setup) -> str:
    if not setup.is_cuda:
        return "a CPU"
    index = setup.torch_device.index or 0
    if not torch.cuda.is_available() or torch.cuda.device_count() <= index:
        return NOT_SEEN
    properties = torch.cuda.get_device_properties(setup.torch_device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _fact(name: str, value: str) -> Row:
    return Row(part="machine", what=name, measured=value)


def _answer(*command: str) -> str:
    """The first line that a command says; "" without one."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or [""])[0]
