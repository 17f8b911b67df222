"""Voxels, neighbours and interpolation of the sparse U-Nets against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.backends.interface import Axes, Volume
from pass2d.models.backends.pairs import Pairs, child_pairs, neighbour_pairs
from pass2d.models.sparse_unets.devoxelize import Cells, Corners
from pass2d.models.sparse_unets.quantize import quantize
from pass2d.models.voxel_keys import KeyPacking, VoxelIndex

FULL_TURN = (3184, 3168, 624)
"""Cells of a SemanticKITTI scan at 0.05 m: more than 2^32 with one sample."""


def random_cells(seed: int, *, extent: tuple[int, int, int], samples: int, count: int) -> Tensor:
    draw = np.random.default_rng(seed)
    corner = [draw.integers(0, size, count) for size in (samples, *extent)]
    near = np.stack(corner, 1)
    near[::2, 1:] = np.minimum(near[::2, 1:] // 40, np.array(extent) - 1)  # a dense part
    return torch.from_numpy(np.unique(near, axis=0).astype(np.int32))


def pairs_of(pairs: Pairs, k: int) -> set[tuple[int, ...]]:
    return set(zip(pairs.inputs[k].tolist(), pairs.outputs[k].tolist(), strict=True))


@pytest.mark.parametrize("axes", ["xyz", "zyx"])
@pytest.mark.parametrize("seed", range(3))
def test_tables_find_the_neighbours_and_parents_that_a_dictionary_finds(
    seed: int, axes: Axes
) -> None:
    cells = random_cells(seed, extent=FULL_TURN, samples=8, count=600)
    extent = FULL_TURN
    if axes == "zyx":
        cells, extent = cells[:, [0, 3, 2, 1]], extent[::-1]
    volume = Volume(extent=extent, batch_size=8, axes=axes)
    row_of = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
    around = neighbour_pairs(cells, volume)
    assert around.n_out == len(cells)
    for k, (da, db, dc) in enumerate(itertools.product((-1, 0, 1), repeat=3)):
        expected = {
            (row_of[(sample, a + da, b + db, c + dc)], row)
            for (sample, a, b, c), row in row_of.items()
            if (sample, a + da, b + db, c + dc) in row_of
        }
        assert pairs_of(around, k) == (set() if k == 13 else expected)
    down, coarse = child_pairs(cells, volume)
    parents = [tuple(parent) for parent in coarse.tolist()]
    order = [0, 1, 2, 3] if axes == "xyz" else [0, 3, 2, 1]
    assert parents == sorted(
        {(sample, a // 2, b // 2, c // 2) for sample, a, b, c in row_of},
        key=lambda parent: [parent[i] for i in order],
    )
    for k, (da, db, dc) in enumerate(itertools.product((0, 1), repeat=3)):
        expected = {
            (row, parents.index((sample, a // 2, b // 2, c // 2)))
            for (sample, a, b, c), row in row_of.items()
            if (a % 2, b % 2, c % 2) == (da, db, dc)
        }
        assert pairs_of(down, k) == expected
    for pairs in (around, down, down.transposed(len(cells))):
        assert all((rows.diff() > 0).all() for rows in pairs.outputs)


def test_voxels_whose_numbers_differ_by_two_to_the_32_stay_apart() -> None:
    # In a grid of 4096 x 4096 x 512 the linear indices of these two differ by exactly 2^32.
    volume = Volume(extent=(4096, 4096, 512), batch_size=1)
    cells = torch.tensor([[0, 1, 7, 7], [0, 2049, 7, 7]], dtype=torch.int32)
    assert sum(map(len, neighbour_pairs(cells, volume).inputs)) == 0
    beside = torch.tensor([[0, 0, 7, 7], [0, 1, 7, 7], [0, 2048, 7, 7]], dtype=torch.int32)
    # Rows 0 and 1, in both directions.
    assert sum(map(len, neighbour_pairs(beside, volume).inputs)) == 2


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
    # Corners may lie one cell outside on either side, as far as keys are padded.
    position = draw.uniform(-1, extent, (60, 3)).astype(np.float32) * stride
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
