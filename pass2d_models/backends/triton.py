"""The backend spconv-triton: implicit GEMM on GPUs, including Blackwell and AMD."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from pass2d.models.backends.implicit_gemm import GemmLibrary, gemm_halving, gemm_neighbours
from pass2d.models.backends.interface import Backend, ConvTable, Halving, Volume


@lru_cache(maxsize=1)
def library() -> GemmLibrary:
    """The modules of spconv-triton, which have the same functions as spconv's."""
    pytorch = importlib.import_module("spconv_triton.pytorch")
    constants = importlib.import_module("spconv_triton.constants")
    return GemmLibrary(pytorch.ops, pytorch.functional, constants, pytorch.ConvAlgo)


class Triton(Backend):
    """The library spconv-triton, an optional dependency; it has no CPU code."""

    name: ClassVar[str] = "triton"

    def neighbours(self, coords: Tensor, volume: Volume, *, size: int = 3) -> ConvTable:
        """See `Backend.neighbours`."""
        return gemm_neighbours(library(), coords, volume, size=size)

    def halve(self, coords: Tensor, volume: Volume) -> Halving:
        """See `Backend.halve`."""
        return gemm_halving(library(), coords, volume)
