"""Input and output voxels per kernel offset, from sorted int64 keys.

spconv's own search on a CPU numbers voxels with 32 bits, which overflow silently for a full lidar
scan at 0.05 m. These lists have no such limit.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from pass2d.models.backends.interface import Volume
from pass2d.models.voxel_keys import KeyPacking


class Pairs(NamedTuple):
    """Input and output rows of each offset of a kernel; output rows ascend within an offset."""

    inputs: tuple[Tensor, ...]
    """Per offset (n,) int64."""
    outputs: tuple[Tensor, ...]
    """Per offset (n,) int64."""
    n_out: int

    def transposed(self, n_in: int) -> Pairs:
        """The same pairs from outputs to inputs; the inputs ascend as well."""
        return Pairs(self.outputs, self.inputs, n_in)


def neighbour_pairs(coords: Tensor, volume: Volume, *, size: int = 3) -> Pairs:
    """Pairs of a submanifold convolution, except those of the centre, which are (row, row).

    Args:
        coords: (V, 4) integers, distinct, sorted by (batch, x, y, z).
        volume: Holds them.
        size: Of the kernel, 3 or 5: keys of two rows lie two empty cells apart, so that a step of
            at most two cells never meets a voxel of another row.

    Returns:
        For size 3 27 offsets, k = 9 (da + 1) + 3 (db + 1) + (dc + 1) with a, b, c in the order of
        ``volume.axes``: the input lies at that offset from the output. Size 5 likewise.
    """
    packing, cells = _packed(coords, volume)
    keys = packing.pack(cells)
    step_x, step_y, _ = packing.steps
    reach = size // 2
    steps = range(-reach, reach + 1)
    found: list[tuple[Tensor, Tensor]] = []
    for dx, dy in product(steps, steps):
        if (dx, dy) < (0, 0):
            found += _column_pairs(keys, dx * step_x + dy * step_y, reach=reach)
    found += _column_pairs(keys, 0, reach=reach)[:reach]
    # The second half are the opposite offsets: the same pairs, read backwards.
    nothing = keys[:0]
    found += [(nothing, nothing), *((outputs, inputs) for inputs, outputs in reversed(found))]
    if volume.axes == "zyx":
        found = [
            found[size**2 * (k % size) + size * (k // size % size) + k // size**2]
            for k in range(size**3)
        ]
    inputs, outputs = zip(*found, strict=True)
    return Pairs(inputs, outputs, len(keys))


def _column_pairs(keys: Tensor, column: int, *, reach: int) -> list[tuple[Tensor, Tensor]]:
    """(input, output) rows for dz = -reach .. reach in the column of cells at a key distance."""
    # Cells that follow each other in z have keys, and so rows, that follow each other: one search
    # for the lowest of them finds all.
    lowest = keys + (column - reach)
    place = torch.searchsorted(keys, lowest)
    past_end = torch.cat([keys, keys.new_full((1,), -1)])
    pairs = []
    for dz in range(2 * reach + 1):
        is_found = past_end.index_select(0, place) == lowest + dz
        outputs = is_found.nonzero().flatten()
        pairs.append((place.index_select(0, outputs), outputs))
        place = place + is_found
    return pairs


def child_pairs(coords: Tensor, volume: Volume) -> tuple[Pairs, Tensor]:
    """Pairs of a convolution of size 2 and stride 2: each voxel is an input of its parent only.

    Args:
        coords: (V, 4) int32, distinct, sorted by (batch, x, y, z).
        volume: Holds them.

    Returns:
        8 offsets, k = 4 (a % 2) + 2 (b % 2) + c % 2 with a, b, c in the order of ``volume.axes``;
        and the (V_out, 4) int32 parents, sorted likewise.
    """
    of_child = torch.cat([coords[:, :1], coords[:, 1:] >> 1], 1)
    packing, cells = _packed(of_child, volume)
    distinct, parent = torch.unique(packing.pack(cells), return_inverse=True)
    parents = coords.new_empty((len(distinct), 4))
    parents[parent] = of_child
    odd = coords[:, 1:].long() & 1
    offset = 4 * odd[:, 0] + 2 * odd[:, 1] + odd[:, 2]
    _, children = torch.sort(offset, stable=True)
    inputs = children.split(torch.bincount(offset, minlength=8).tolist())
    return Pairs(inputs, tuple(parent[rows] for rows in inputs), len(parents)), parents


def _packed(coords: Tensor, volume: Volume) -> tuple[KeyPacking, Tensor]:
    """How to number the voxels, and their coordinates as batch, x, y, z."""
    a, b, c = volume.extent
    if volume.axes == "xyz":
        return KeyPacking(extent=(a, b, c), batch_size=volume.batch_size), coords
    packing = KeyPacking(extent=(c, b, a), batch_size=volume.batch_size)
    return packing, coords[:, [0, 3, 2, 1]]
