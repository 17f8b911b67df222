"""Weighted sums over lists of rows: the kernel of all means, sums and lookups."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@lru_cache(maxsize=1)
def scatter_library() -> Any:
    """torch-scatter if it is installed, else None; the numbers are the same."""
    if importlib.util.find_spec("torch_scatter") is None:
        return None
    return importlib.import_module("torch_scatter")


def _serves(device: torch.device) -> bool:
    """Whether the installed torch-scatter works on a device: a build for CPUs raises on a GPU."""
    return device.type == "cpu" or torch.ops.torch_scatter.cuda_version() != -1


def bag_sum(
    features: Tensor, *, index: Tensor | None, offsets: Tensor | None, weight: Tensor | None
) -> Tensor:
    """Sum weighted rows.

    Args:
        features: (R, H), contiguous.
        index: (K,) int64 rows; None: all, in order.
        offsets: (S + 1,) int64 ascending, last K; None: each entry is a sum of its own.
        weight: (K,) factors; None: ones.

    Returns:
        (S, H): row s sums ``weight[k] * features[index[k]]``, k in offsets[s]:offsets[s + 1].
    """
    if weight is not None:
        weight = weight.to(features.dtype)
    if offsets is None:
        rows = features if index is None else features.index_select(0, index)
        return rows if weight is None else rows * weight[:, None]
    scatter = scatter_library()
    if scatter is not None and index is None and weight is None and _serves(features.device):
        return scatter.segment_csr(features, offsets, reduce="sum")
    if index is None:
        index = torch.arange(len(features), device=features.device)
    return functional.embedding_bag(
        index,
        features,
        offsets,
        mode="sum",
        per_sample_weights=weight,
        include_last_offset=True,
    )


def segment_sum(features: Tensor, offsets: Tensor) -> Tensor:
    """Sum consecutive rows: (S, H), row s sums features[offsets[s]:offsets[s + 1]]."""
    return bag_sum(features, index=None, offsets=offsets, weight=None)
