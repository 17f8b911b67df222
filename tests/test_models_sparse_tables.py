"""Voxels, neighbours and interpolation of the sparse U-Nets against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.sparse_unets.conv_tables import PairTable
from pass2d.models.sparse_unets.devoxelize import Cells, Corners
from pass2d.models.sparse_unets.quantize import quantize
from pass2d.models.sparse_unets.voxel_keys import KeyPacking, VoxelIndex
from pass2d.models.sparse_unets.voxel_levels import build_levels

FULL_TURN = (3184, 3168, 624)
"""Cells of a SemanticKITTI scan at 0.05 m: more than 2^32 with one sample."""


def random_cells(seed: int, *, extent: tuple[int, int, int], samples: int, count: int) -> Tensor:
    draw = np.random.default_rng(seed)
    corner = [draw.integers(0, size, count) for size in (samples, *extent)]
    near = np.stack(corner, 1)
    near[::2, 1:] = np.minimum(near[::2, 1:] // 40, np.array(extent) - 1)  # a dense part
    return torch.from_numpy(np.unique(near, axis=0).astype(np.int32))


def pairs_of(table: PairTable, k: int) -> set[tuple[int, ...]]:
    count = int(table.counts[k])
    return {tuple(pair) for pair in table.pairs[:, k, :count].T.tolist()}


@pytest.mark.parametrize("seed", range(4))
def test_tables_find_the_neighbours_and_parents_that_a_dictionary_finds(seed: int) -> None:
    cells = random_cells(seed, extent=FULL_TURN, samples=8, count=600)
    fine, coarse = build_levels(cells, extent=FULL_TURN, batch_size=8, n_levels=2)
    row_of = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
    assert isinstance(fine.around, PairTable)
    for k, (dx, dy, dz) in enumerate(itertools.product((-1, 0, 1), repeat=3)):
        expected = {
            (row_of[(b, x + dx, y + dy, z + dz)], row)
            for (b, x, y, z), row in row_of.items()
            if (b, x + dx, y + dy, z + dz) in row_of
        }
        assert pairs_of(fine.around, k) == (set() if k == 13 else expected)
    assert isinstance(fine.down, PairTable)
    parents = sorted({(b, x // 2, y // 2, z // 2) for b, x, y, z in row_of})
    assert coarse.coords.tolist() == [list(parent) for parent in parents]
    for k, (dx, dy, dz) in enumerate(itertools.product((0, 1), repeat=3)):
        expected = {
            (row, parents.index((b, x // 2, y // 2, z // 2)))
            for (b, x, y, z), row in row_of.items()
            if (x % 2, y % 2, z % 2) == (dx, dy, dz)
        }
        assert pairs_of(fine.down, k) == expected


def test_voxels_whose_numbers_differ_by_two_to_the_32_stay_apart() -> None:
    # In a grid of 4096 x 4096 x 512 the linear indices of these two differ by exactly 2^32.
    cells = torch.tensor([[0, 1, 7, 7], [0, 2049, 7, 7]], dtype=torch.int32)
    (level,) = build_levels(cells, extent=(4096, 4096, 512), batch_size=1, n_levels=1)
    assert isinstance(level.around, PairTable)
    assert level.around.counts.sum() == 0
    beside = torch.tensor([[0, 0, 7, 7], [0, 1, 7, 7], [0, 2048, 7, 7]], dtype=torch.int32)
    (level,) = build_levels(beside, extent=(4096, 4096, 512), batch_size=1, n_levels=1)
    assert isinstance(level.around, PairTable)
    assert int(level.around.counts.sum()) == 2  # rows 0 and 1, in both directions


def test_more_voxels_than_63_bits_number_are_refused() -> None:
    with pytest.raises(ShapeError, match="are the coordinates metres"):
        KeyPacking(extent=(2**24, 2**24, 2**16), batch_size=1)


def slow_quantize(
    points: NDArray[np.float32], voxel_m: float
) -> tuple[list[tuple[int, ...]], list[int], list[int]]:
    cells = np.round(points[:, :3] / np.float32(voxel_m)).astype(np.int64)
    cells -= cells.min(0)
    rows = [tuple(cell) for cell in cells.tolist()]
    first: dict[tuple[int, ...], int] = {}
    for row, cell in enumerate(rows):
        first.setdefault(cell, row)
    ordered = sorted(first)
    return ordered, [first[cell] for cell in ordered], [ordered.index(cell) for cell in rows]


@pytest.mark.parametrize("seed", range(5))
def test_quantisation_equals_a_plain_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scans = [draw.normal(0, 0.3, (n, 4)).astype(np.float32) for n in (200, 0, 1, 150)]
    scans[0][:3, :3] = [
        [0.025, -0.075, 0.125],
        [0.05, 0.05, 0.05],
        [-0.025, 0.075, 0.175],
    ]  # halves
    offsets = np.cumsum([0, *map(len, scans)])
    cells = quantize(
        torch.from_numpy(np.concatenate(scans)), torch.from_numpy(offsets), voxel_m=0.05
    )
    rows, first, inverse = [], [], []
    for number, scan in enumerate(scans):
        if len(scan):
            ordered, its_first, its_inverse = slow_quantize(scan, 0.05)
            inverse += [len(rows) + cell for cell in its_inverse]
            first += [int(offsets[number]) + row for row in its_first]
            rows += [[number, *cell] for cell in ordered]
    assert cells.coords.tolist() == rows
    assert cells.first.tolist() == first
    assert cells.inverse.tolist() == inverse


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e7])
def test_coordinates_that_no_grid_can_hold_are_refused(bad: float) -> None:
    points = torch.zeros(3, 4)
    points[1, 2] = bad
    with pytest.raises(ShapeError, match="finite metres"):
        quantize(points, torch.tensor([0, 3]), voxel_m=0.05)


@pytest.mark.parametrize(("seed", "stride"), list(itertools.product(range(3), (1, 2, 4, 16))))
def test_reading_and_averaging_equal_plain_loops(seed: int, stride: int) -> None:
    draw = np.random.default_rng(seed)
    extent = (9, 7, 5)
    cells = random_cells(seed, extent=extent, samples=2, count=120)
    index = VoxelIndex.build(cells, packing=KeyPacking(extent=extent, batch_size=2))
    position = draw.uniform(-2, 11, (60, 3)).astype(np.float32) * stride
    sample = draw.integers(0, 2, 60)
    features = torch.from_numpy(draw.normal(size=(len(cells), 3)).astype(np.float32))
    point_features = torch.from_numpy(draw.normal(size=(60, 2)).astype(np.float32))
    where = (torch.from_numpy(position), torch.from_numpy(sample))
    row_of = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
    read, mean = np.zeros((60, 3)), np.zeros((len(cells), 2))
    members: dict[int, list[int]] = {}
    for point, (at, b) in enumerate(zip(position / stride, sample.tolist(), strict=True)):
        base = np.floor(at).astype(int)
        part = at - base
        total = 0.0
        for step in itertools.product((0, 1), repeat=3):
            row = row_of.get((b, *(base + step).tolist()))
            weight = np.prod(np.where(np.array(step) == 1, part, 1 - part))
            if row is not None:
                read[point] += weight * features[row].numpy()
                total += weight
        read[point] /= total + 1e-8
        row = row_of.get((b, *base.tolist()))
        if row is not None:
            members.setdefault(row, []).append(point)
    for row, points in members.items():
        mean[row] = point_features[points].numpy().mean(0)
    corners = Corners.find(*where, index=index, stride=stride)
    np.testing.assert_allclose(corners.read(features), read, atol=1e-5)
    averaged = Cells.find(*where, index=index, stride=stride).average(point_features)
    np.testing.assert_allclose(averaged, mean, atol=1e-6)
