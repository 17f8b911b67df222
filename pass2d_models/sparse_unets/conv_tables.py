"""Which voxel feeds which: the index tables of sparse convolutions, made before the forward pass.

On the CPU the tables are built here, from sorted int64 keys. spconv's own CPU search numbers
voxels with 32 bits that wrap in silence, which one full turn of a lidar at 0.05 m exceeds; these
tables have no such limit, and the batch need not be split. On CUDA spconv builds them, for
implicit GEMM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from spconv.core import ConvAlgo
from spconv.pytorch import ops
from torch import Tensor

from pass2d.models.inputs import TensorRecord
from pass2d.models.sparse_unets.voxel_keys import KeyPacking

_SHAPE_STEP = 16
"""spconv drops the last plane of an odd axis: shapes are multiples of the coarsest stride."""


@dataclass(frozen=True, kw_only=True)
class PairTable(TensorRecord):
    """Rows of inputs and outputs per kernel offset, for spconv's Native algorithm."""

    pairs: Tensor
    """(2, K, P) int32: input rows, output rows; P is the largest count."""
    counts: Tensor
    """(K,) int32 pairs per offset; 0 at the centre of a submanifold kernel, which needs none."""
    n_out: int
    """Output voxels."""


@dataclass(frozen=True, kw_only=True)
class GemmTable(TensorRecord):
    """What spconv's implicit GEMM reads, named as there."""

    pair_fwd: Tensor
    pair_bwd: Tensor
    pair_mask_fwd: tuple[Tensor, ...]
    pair_mask_bwd: tuple[Tensor, ...]
    mask_argsort_fwd: tuple[Tensor, ...]
    mask_argsort_bwd: tuple[Tensor, ...]
    masks: tuple[NDArray[np.uint32], ...]
    n_out: int
    """Output voxels."""


ConvTable = PairTable | GemmTable


def neighbour_pairs(keys: Tensor, *, packing: KeyPacking) -> PairTable:
    """Pairs of a 3x3x3 submanifold convolution.

    Args:
        keys: (V,) int64 of the voxels, ascending.
        packing: made the keys.

    Returns:
        27 offsets, k = 9 (dx + 1) + 3 (dy + 1) + (dz + 1): input at offset d of the output.
    """
    step_x, step_y, _ = packing.steps
    rows = torch.arange(len(keys), device=keys.device)
    found: list[tuple[Tensor, Tensor]] = []
    for column in (-step_x - step_y, -step_x, -step_x + step_y, -step_y):
        found += _column_pairs(keys, rows, column)
    is_next = keys[1:] == keys[:-1] + 1
    found.append((rows[:-1][is_next], rows[1:][is_next]))
    counts = [len(inputs) for inputs, _ in found]
    pairs = keys.new_zeros((2, 27, max(*counts, 1)), dtype=torch.int32)  # spconv wants P > 0
    for k, (inputs, outputs) in enumerate(found):
        # The offset 26 - k is the opposite one: the same pairs, read backwards.
        pairs[0, k, : counts[k]] = inputs
        pairs[1, k, : counts[k]] = outputs
        pairs[0, 26 - k, : counts[k]] = outputs
        pairs[1, 26 - k, : counts[k]] = inputs
    both = torch.tensor([*counts, 0, *reversed(counts)], dtype=torch.int32)
    return PairTable(pairs=pairs, counts=both, n_out=len(keys))


def _column_pairs(keys: Tensor, rows: Tensor, column: int) -> list[tuple[Tensor, Tensor]]:
    """(input, output) rows for dz = -1, 0, 1 in the column of cells at a key distance."""
    # Cells that follow each other in z have keys, and so rows, that follow each other: one search
    # for the lowest of the three finds all.
    lowest = keys + (column - 1)
    place = torch.searchsorted(keys, lowest)
    past_end = torch.cat([keys, keys.new_full((1,), -1)])
    pairs = []
    for dz in range(3):
        is_found = past_end[place] == lowest + dz
        pairs.append((place[is_found], rows[is_found]))
        place = place + is_found
    return pairs


def child_pairs(coords: Tensor, parent: Tensor, *, n_parents: int) -> PairTable:
    """Pairs of a convolution of size 2 and stride 2: each voxel feeds its parent alone.

    Args:
        coords: (V, 4) integers: batch, x, y, z of the finer voxels.
        parent: (V,) int64 row of each one's parent.
        n_parents: coarser voxels.

    Returns:
        8 offsets, k = 4 dx + 2 dy + dz.
    """
    odd = coords[:, 1:].long() & 1
    offset = 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
    _, children = torch.sort(offset, stable=True)
    counts = torch.bincount(offset, minlength=8)
    pairs = coords.new_zeros((2, 8, int(counts.max())), dtype=torch.int32)
    for k, rows in enumerate(children.split(counts.tolist())):
        pairs[0, k, : len(rows)] = rows
        pairs[1, k, : len(rows)] = parent[rows]
    return PairTable(pairs=pairs, counts=counts.int(), n_out=n_parents)


def gemm_table(
    coords: Tensor, *, extent: tuple[int, int, int], batch_size: int, size: int
) -> tuple[GemmTable, Tensor]:
    """Let spconv build a table on CUDA.

    Args:
        coords: (V, 4) int32: batch, x, y, z.
        extent: cells along x, y, z.
        batch_size: samples.
        size: 3: submanifold, stride 1; 2: stride 2.

    Returns:
        The table and the (V_out, 4) int32 output coordinates, in spconv's order.
    """
    result = ops.get_indice_pairs_implicit_gemm(
        coords,
        batch_size,
        [-(-cells // _SHAPE_STEP) * _SHAPE_STEP for cells in extent],
        ConvAlgo.MaskImplicitGemm,
        ksize=[size] * 3,
        stride=[1 if size == 3 else 2] * 3,
        padding=[0] * 3,
        dilation=[1] * 3,
        out_padding=[0] * 3,
        subm=size == 3,
        transpose=False,
        is_train=True,
    )
    table = GemmTable(
        pair_fwd=result[2],
        pair_bwd=result[3],
        pair_mask_fwd=tuple(result[4]),
        pair_mask_bwd=tuple(result[5]),
        mask_argsort_fwd=tuple(result[6]),
        mask_argsort_bwd=tuple(result[7]),
        masks=tuple(result[8]),
        n_out=len(result[0]),
    )
    return table, result[0]
