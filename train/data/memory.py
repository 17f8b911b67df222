"""Where the arrays of a batch go: ordinary memory, or memory that is used again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Gives memory for a field: name, shape, type."""


def heap(_name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`Allocate` from ordinary memory."""
    return torch.empty(shape, dtype=dtype)
