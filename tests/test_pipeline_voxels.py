"""The voxel stage: recorded cells, hand-made cases, and the plain version over many seeds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pass2d.cache.schema import SCALES, GridConfig
from pass2d.common.errors import DataError, ShapeError
from pass2d.pipeline.stages.voxels import (
    cells_per_axis,
    distinct_cells,
    majority_labels,
    nests,
    voxelize,
)

SEMKITTI = GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
NUSCENES = GridConfig(low=(-50, -50, -4), high=(50, 50, 3), shape=(1000, 1000, 70))
GRIDS = {"semantickitti": SEMKITTI, "nuscenes": NUSCENES}
ODD = GridConfig(low=(-3, 0, -1), high=(2, 7, 1), shape=(33, 17, 7))


def plain_cell(point, grid: GridConfig, scale: int) -> tuple[int, int, int]:
    """One float32 operation after the other, as docs/maths.md, section 3 writes them."""
    cell = []
    for value, low, high, size in zip(point, grid.low, grid.high, grid.shape, strict=True):
        n = np.float32(np.ceil(size / scale))
        moved = np.float32(value) - np.float32(low)
        product = np.float32(n * moved)
        cell.append(int(np.float32(product / (np.float32(high) - np.float32(low)))))
    return tuple(cell)


def plain_voxels(xyz, label, grid: GridConfig, scale: int):
    cells = [plain_cell(point, grid, scale) for point in xyz.T]
    voxels = sorted(set(cells))
    votes = []
    for voxel in voxels:
        counts = Counter(int(c) for c, cell in zip(label, cells, strict=True) if cell == voxel)
        votes.append(min(c for c, n in counts.items() if n == max(counts.values())))
    return voxels, [voxels.index(cell) for cell in cells], votes


def points_in(grid: GridConfig, n: int, seed: int) -> np.ndarray:
    """(3, n) strictly inside, in clusters so that voxels hold several; some on cell borders."""
    rng = np.random.default_rng(seed)
    low, high = np.float32(grid.low), np.float32(grid.high)
    centres = rng.uniform(low, high, (max(n // 8, 1), 3))
    xyz = centres[rng.integers(0, len(centres), n)] + rng.normal(0, 0.1, (n, 3))
    borders = low + (high - low) * rng.integers(0, grid.shape, (n, 3)) / np.array(grid.shape)
    xyz = np.where(rng.random((n, 3)) < 0.2, borders, xyz).astype(np.float32)
    return np.clip(xyz, np.nextafter(low, high), np.nextafter(high, low)).T.copy()


def test_the_float_just_below_the_border_gets_a_cell_of_its_own() -> None:
    top = np.nextafter(np.float32(50), np.float32(0))
    (level,) = voxelize(np.array([[top], [0], [0]], np.float32), None, grid=SEMKITTI, scales=(1,))
    assert level.coord[0].tolist() == [1000]  # beyond the last cell


def test_voxels_of_the_recorded_frame(shared: Path) -> None:
    case = shared / "golden" / "case_k"
    inputs, golden = np.load(case / "inputs.npz"), np.load(case / "voxels.npz")
    xyz = np.ascontiguousarray(inputs["points"][:, :3].T)
    for level in voxelize(xyz, inputs["labels"], grid=SEMKITTI, scales=SCALES):
        coords_bzyx = golden[f"scale{level.scale}_coors_bzyx"]
        np.testing.assert_array_equal(level.coord[::-1].T, coords_bzyx[:, 1:])
        np.testing.assert_array_equal(level.inverse, golden[f"scale{level.scale}_coors_inv"])
        if level.scale < 16:  # the recorded network uses no voxel label there
            expected = golden[f"scale{level.scale}_voxel_label"]
            np.testing.assert_array_equal(level.label, expected)


@pytest.mark.parametrize(("case", "grid"), [("case_g4", SEMKITTI), ("case_g6", NUSCENES)])
def test_voxels_of_the_recorded_generated_scans(case: str, grid: GridConfig) -> None:
    folder = Path(__file__).parent / "data" / "golden_generated" / case
    inputs, golden = np.load(folder / "inputs.npz"), np.load(folder / "voxels.npz")
    for scan in range(int(inputs["batch_idx"].max()) + 1):
        rows = inputs["batch_idx"] == scan
        xyz = np.ascontiguousarray(inputs["points"][rows, :3].T)
        for level in voxelize(xyz, inputs["labels"][rows], grid=grid, scales=SCALES):
            coords_bzyx = golden[f"scale{level.scale}_coors_bzyx"]
            of_scan = coords_bzyx[:, 0] == scan
            np.testing.assert_array_equal(level.coord[::-1].T, coords_bzyx[of_scan, 1:])
            inverse = golden[f"scale{level.scale}_coors_inv"][rows]
            np.testing.assert_array_equal(level.inverse, inverse - np.flatnonzero(of_scan)[0])
            if (name := f"scale{level.scale}_voxel_label") in golden:
                np.testing.assert_array_equal(level.label, golden[name][of_scan])


@pytest.mark.parametrize("grid", [SEMKITTI, NUSCENES, ODD])
@pytest.mark.parametrize("seed", range(6))
def test_fast_version_equals_the_plain_one(grid: GridConfig, seed: int) -> None:
    xyz = points_in(grid, 150, seed)
    label = np.random.default_rng(seed).integers(0, 4, 150).astype(np.uint8)
    for level in voxelize(xyz, label, grid=grid, scales=SCALES):
        coord, inverse, votes = plain_voxels(xyz, label, grid, level.scale)
        assert [tuple(c) for c in level.coord.T.tolist()] == coord
        assert level.inverse.tolist() == inverse
        assert level.label.tolist() == votes


@pytest.mark.parametrize("grid", [SEMKITTI, NUSCENES])
def test_a_derived_scale_equals_the_one_computed_from_the_points(grid: GridConfig) -> None:
    for seed in range(20):
        xyz = points_in(grid, 4000, seed)
        together = voxelize(xyz, None, grid=grid, scales=SCALES)
        for level in together:
            (alone,) = voxelize(xyz, None, grid=grid, scales=(level.scale,))
            np.testing.assert_array_equal(level.coord, alone.coord)
            np.testing.assert_array_equal(level.inverse, alone.inverse)


def test_which_scales_nest() -> None:
    def nesting(grid: GridConfig) -> list[bool]:
        return [nests(grid, scale, 2 * scale) for scale in (1, 2, 4, 8)]

    assert nesting(SEMKITTI) == [True, True, False, False]
    # z: 70, 35, 18, 9, 5 cells: 8 nests in 4 although 4 nests in nothing.
    assert nesting(NUSCENES) == [True, False, True, False]
    assert nests(SEMKITTI, 1, 4)
    assert not nests(SEMKITTI, 1, 3)  # 1000 / 3 is no whole number, and 3 is no power of two
    assert not nests(SEMKITTI, 2, 1)


def test_grid_sizes_are_rounded_up() -> None:
    assert cells_per_axis(SEMKITTI, 8) == (125, 125, 8)
    assert cells_per_axis(SEMKITTI, 16) == (63, 63, 4)
    assert cells_per_axis(NUSCENES, 4) == (250, 250, 18)


def test_a_hand_computed_scan() -> None:
    grid = GridConfig(low=(0, 0, 0), high=(10, 10, 10), shape=(10, 10, 10))
    xyz = np.array([[2.5, 2.1, 0.5, 2.9], [3.0, 3.9, 9.5, 3.5], [1.0, 1.5, 5.5, 1.2]], np.float32)
    label = np.array([7, 3, 1, 3], np.uint8)
    (level,) = voxelize(xyz, label, grid=grid, scales=(1,))
    assert level.coord.T.tolist() == [[0, 9, 5], [2, 3, 1]]
    assert level.inverse.tolist() == [1, 1, 0, 1]
    assert level.label.tolist() == [1, 3]


def test_the_smallest_label_wins_a_tie_and_ignored_points_vote() -> None:
    inverse = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.int32)
    label = np.array([9, 4, 4, 9, 0, 0, 5, 6], np.uint8)
    assert majority_labels(label, inverse, n_voxels=3).tolist() == [4, 0, 6]


def test_no_points_give_no_voxels() -> None:
    for label in (None, np.zeros(0, np.uint8)):
        for level in voxelize(np.zeros((3, 0), np.float32), label, grid=SEMKITTI, scales=SCALES):
            assert level.coord.shape == (3, 0)
            assert level.inverse.shape == (0,)
            assert level.label is None if label is None else level.label.shape == (0,)


def test_types_are_those_of_the_cache() -> None:
    xyz = points_in(SEMKITTI, 100, 0)
    (level,) = voxelize(xyz, np.ones(100, np.uint8), grid=SEMKITTI, scales=(1,))
    assert (level.coord.dtype, level.inverse.dtype, level.label.dtype) == ("i2", "i4", "u1")


def test_a_grid_too_large_for_a_table_gives_the_same_voxels() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 40, (3, 500)).astype(np.int32)
    small = distinct_cells(cells, n_cells=(40, 40, 40))
    large = distinct_cells(cells, n_cells=(30_000, 30_000, 30_000))
    np.testing.assert_array_equal(small[0], large[0])
    np.testing.assert_array_equal(small[1], large[1])


def test_points_outside_the_grid_are_refused() -> None:
    xyz = np.array([[0, 60], [0, 0], [0, 0]], np.float32)
    with pytest.raises(DataError, match=r"cells 500\.\.1100"):
        voxelize(xyz, None, grid=SEMKITTI, scales=(1,))
    with pytest.raises(ShapeError, match=r"\(3, N\)"):
        voxelize(xyz.T, None, grid=SEMKITTI, scales=(1,))
