"""Chooses a backend: what a name means on a device, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
import torch

from pass2d.common.errors import ConfigError
from pass2d.common.spconv_builds import spconv_builds, spconv_problem
from pass2d.common.text import unknown
from pass2d.models.backends.interface import Backend
from pass2d.models.backends.native import Native
from pass2d.models.backends.spconv import Spconv
from pass2d.models.backends.spconv import library as spconv_library
from pass2d.models.backends.triton import Triton
from pass2d.models.backends.triton import library as triton_library

BackendName = Literal["auto", "native", "spconv", "triton"]
"""The allowed values of the setting."""

_BACKENDS: Mapping[str, Backend] = {
    backend.name: backend for backend in (Native(), Spconv(), Triton())
}
_MODULES = {"spconv": "spconv", "triton": "spconv_triton"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A backend for a device."""

    backend: Backend
    why: str
    """A clause for people: "spconv has no ..."."""


def choose_backend(name: str, device: torch.device) -> Choice:
    """Find the backend that a name means on a device.

    Args:
        name: Of `BackendName`. "auto": native on a CPU, where it needs torch alone; on CUDA spconv,
            else spconv-triton, whichever is installed and works; native elsewhere.
        device: Where the network computes.

    Raises:
        ConfigError: An unknown name, or a backend that does not work there; says what to do.
    """
    if name not in get_args(BackendName):
        raise ConfigError(unknown(name, get_args(BackendName), what="backend"))
    if name != "auto":
        problem = _problem(name, device.type)
        if problem:
            raise ConfigError(f"backend {name!r} on {device.type}: {problem}")
        return Choice(backend=_BACKENDS[name], why="as set")
    if device.type == "cpu":
        return Choice(backend=_BACKENDS["native"], why="on a CPU it needs torch alone")
    if device.type != "cuda":
        return Choice(backend=_BACKENDS["native"], why=f"the only one on {device.type}")
    problems: list[str] = []
    for other in ("spconv", "triton"):
        problem = _problem(other, device.type)
        if not problem:
            return Choice(backend=_BACKENDS[other], why="; ".join([*problems, "installed"]))
        problems.append(f"{other}: {problem}")
    return Choice(backend=_BACKENDS["native"], why="; ".join(problems))


@lru_cache(maxsize=16)
def _problem(name: str, device_type: str) -> str:
    """Why a backend does not work on a kind of device; "" if it does."""
    if name == "native":
        return ""
    if device_type not in ({"cpu", "cuda"} if name == "spconv" else {"cuda"}):
        return f"{_MODULES[name]} does not support it; use native"
    if find_spec(_MODULES[name]) is None:
        extra = "'spconv-cu118>=2.3.8'" if name == "spconv" else "'pass2d[triton]'"
        return f"{_MODULES[name]} is not installed: pip install {extra}"
    if name == "spconv" and (problem := spconv_problem(spconv_builds(), np.__version__)):
        return problem
    try:
        (spconv_library if name == "spconv" else triton_library)()
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{_MODULES[name]} cannot be imported: {reason}"
    return ""
