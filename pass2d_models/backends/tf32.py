"""TF32 as one switch: matrix products, cuDNN and the sparse convolutions together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32_products(is_on: bool) -> Iterator[None]:
    """Inside this context, float32 products on an NVIDIA GPU use TF32's 10-bit mantissa, or do not.

    The sparse convolutions follow torch's setting (`is_tf32`). Augmentation of points and colours
    involves no matrix products and stays exact.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = is_on
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def is_tf32() -> bool:
    """Whether products may use TF32."""
    return torch.backends.cuda.matmul.allow_tf32
