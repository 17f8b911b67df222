"""The backend spconv: its Native algorithm on a CPU, implicit GEMM on CUDA."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pass2d.models.backends.implicit_gemm import GemmLibrary, gemm_halving, gemm_neighbours
from pass2d.models.backends.interface import Backend, ConvTable, Halving, Volume
from pass2d.models.backends.pairs import Pairs, child_pairs, neighbour_pairs


@lru_cache(maxsize=1)
def library() -> GemmLibrary:
    """The modules of spconv, imported without their slow parts."""
    core = importlib.import_module("spconv.core")
    # spconv calls a function of torch that warns every user once per run.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    # spconv describes each of its thousands of GPU kernels when it is imported: 8 s of CPU time.
    if torch.cuda.is_available():
        core.ALL_IMPGEMM_PARAMS[:] = of_floats(core.ALL_IMPGEMM_PARAMS)  # 5 s
    else:
        core.ALL_IMPGEMM_PARAMS.clear()  # 0.3 s
        core.ALL_NATIVE_PARAMS.clear()
    pytorch = importlib.import_module("spconv.pytorch")
    constants = importlib.import_module("spconv.constants")
    tools = importlib.import_module("spconv.tools")
    untimed, fp32_accum = tools.CUDAKernelTimer(False), True
    return GemmLibrary(
        pytorch.ops, pytorch.functional, constants, core.ConvAlgo, (untimed, fp32_accum)
    )


def of_floats(kernels: Sequence[Any]) -> list[Any]:
    """Descriptions of kernels without those for whole numbers, which no network here computes."""
    return [kernel for kernel in kernels if "int" not in str(kernel.dtype_a)]


@dataclass(frozen=True, kw_only=True)
class PairTable(ConvTable):
    """What spconv's Native algorithm reads."""

    pairs: Tensor
    """(2, K, P) int32: input rows, output rows; P is the largest count."""
    counts: Tensor
    """(K,) int32 pairs per offset; 0 at the centre of a submanifold kernel, which needs none."""
    n_out: int
    """Output voxels."""
    kind: Literal["submanifold", "down", "up"]
    """"up" reads the table of "down" backwards."""

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """See `ConvTable.convolve`; computes with the weight's type, whatever autocast says."""
        functional = library().functional
        apply = {
            "submanifold": functional.indice_subm_conv,
            "down": functional.indice_conv,
            "up": functional.indice_inverse_conv,
        }[self.kind]
        with torch.autocast(features.device.type, enabled=False):
            return apply(
                features.to(weight.dtype).contiguous(),
                weight,
                self.pairs,
                self.counts,
                self.n_out,
                library().algorithms.Native,
            )


class Spconv(Backend):
    """The library spconv, of any build."""

    name: ClassVar[str] = "spconv"

    def neighbours(self, coords: Tensor, volume: Volume, *, size: int = 3) -> ConvTable:
        """See `Backend.neighbours`."""
        if coords.is_cuda:
            return gemm_neighbours(library(), coords, volume, size=size)
        return _pair_table(neighbour_pairs(coords, volume, size=size), kind="submanifold")

    def halve(self, coords: Tensor, volume: Volume) -> Halving:
        """See `Backend.halve`."""
        if coords.is_cuda:
            return gemm_halving(library(), coords, volume)
        pairs, parents = child_pairs(coords, volume)
        down = _pair_table(pairs, kind="down")
        up = PairTable(pairs=down.pairs, counts=down.counts, n_out=len(coords), kind="up")
        return Halving(down, up, parents)


def _pair_table(pairs: Pairs, *, kind: Literal["submanifold", "down"]) -> PairTable:
    counts = [len(rows) for rows in pairs.inputs]
    padded = torch.zeros((2, len(counts), max(*counts, 1)), dtype=torch.int32)
    for k, count in enumerate(counts):
        padded[0, k, :count] = pairs.inputs[k]
        padded[1, k, :count] = pairs.outputs[k]
    return PairTable(
        pairs=padded,
        counts=torch.tensor(counts, dtype=torch.int32),
        n_out=pairs.n_out,
        kind=kind,
    )
