"""A switch for bit-reproducible results on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.deterministic

_filling: Any = torch.utils.deterministic
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def fixed_order(is_on: bool) -> Iterator[None]:
    """Inside this context, sums on a GPU have a fixed order; an operation without one is an error.

    torch uses deterministic algorithms for convolutions, lookups and their gradients. Sparse
    convolutions must be those of `native`: the other backends choose kernels by timing, and number
    the voxels of a strided convolution in the order in which threads find them.
    """
    if not is_on:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _filling.fill_uninitialized_memory,
        os.environ.get(_WORKSPACE),
    )
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # else cuBLAS may share memory between streams
    torch.use_deterministic_algorithms(True)
    _filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _filling.fill_uninitialized_memory = before[2]
        if before[3] is None:
            del os.environ[_WORKSPACE]
