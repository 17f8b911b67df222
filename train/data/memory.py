"""Memory for the arrays of a batch: newly allocated or reused."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Gives memory for a field: name, shape, type."""


def heap(_name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate an array of ordinary memory, see `Allocate`."""
    return torch.empty(shape, dtype=dtype)
