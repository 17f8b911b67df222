"""Voxels, labels and links of a batch against plain slow versions, over seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batch_voxels import voxelize
from numpy.typing import NDArray
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.backends.native import Native
from pass2d.models.inputs import Grid, ScaleVoxels
from pass2d.models.twodpass.geometry import Geometry, build_geometry
from pass2d.models.twodpass.hierarchy import build_levels, inverse_of, piece_of
from pass2d.models.twodpass.voxels import (
    piece_label_counts,
    voxel_labels,
)

KITTI = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
NUSCENES = Grid(low=(-50, -50, -4), high=(50, 50, 3), shape=(1000, 1000, 70))
ODD = Grid(low=(-8.1, -7.3, -2), high=(9.2, 8.7, 1.7), shape=(173, 160, 37))
GRIDS = {"semantickitti": KITTI, "nuscenes": NUSCENES, "odd": ODD}


def made_up_batch(seed: int, grid: Grid, *, outside: float = 0.0) -> tuple[Tensor, Tensor]:
    """Clustered points of three scans, up to `outside` metres out of the volume."""
    rng = np.random.default_rng(seed)
    low, high = np.array(grid.low), np.array(grid.high)
    centers = rng.uniform(low, high, (40, 3))
    xyz = centers[rng.integers(0, 40, 3000)] + rng.normal(0, 0.4, (3000, 3))
    xyz = np.clip(xyz, low - outside + 1e-4, high + outside - 1e-4)
    points = np.column_stack([xyz, rng.random(3000)]).astype(np.float32)
    return torch.from_numpy(points), torch.tensor([0, 700, 701, 3000])


def plain_voxels(
    points: Tensor, offsets: Tensor, *, grid: Grid, scale: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """docs/maths.md, section 3, to the letter: rows (batch, x, y, z), lexicographic unique."""
    low, high = np.float32(grid.low), np.float32(grid.high)
    n = np.ceil(np.array(grid.shape) / scale).astype(np.float32)
    cells = np.floor(n * (points[:, :3].numpy() - low) / (high - low)).astype(np.int64)
    batch = np.searchsorted(offsets.numpy(), np.arange(len(points)), side="right") - 1
    rows, inverse = np.unique(np.column_stack([batch, cells]), axis=0, return_inverse=True)
    return rows, inverse.reshape(-1)


def as_rows(voxels: ScaleVoxels) -> NDArray[np.int64]:
    """(V, 4) batch, x, y, z."""
    coords = voxels.coords[:, [0, 3, 2, 1]].to(torch.int64)
    coords[:, 1:] += torch.tensor(voxels.origin)
    return coords.numpy()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("scales", [(1, 2, 4, 8, 16), (1,), (1, 3, 5), (2, 4, 6, 7, 32)])
@pytest.mark.parametrize("outside", [0.0, 3.0])
def test_voxels_equal_the_lexicographic_unique(
    name: str, scales: tuple[int, ...], outside: float
) -> None:
    for seed in range(3):
        points, offsets = made_up_batch(seed, GRIDS[name], outside=outside)
        for voxels in voxelize(points, offsets, grid=GRIDS[name], scales=scales):
            rows, inverse = plain_voxels(points, offsets, grid=GRIDS[name], scale=voxels.scale)
            np.testing.assert_array_equal(as_rows(voxels), rows)
            np.testing.assert_array_equal(voxels.inverse.numpy(), inverse)
            assert voxels.coords[:, 1:].min() >= 0
            assert (voxels.coords[:, 1:] < torch.tensor(voxels.shape)).all()
            assert all(cell % 2 == 0 for cell in voxels.origin)
            if outside == 0:
                assert voxels.origin == (0, 0, 0)


def test_point_just_below_the_upper_border_gets_room() -> None:
    top = np.nextafter(np.float32(50), np.float32(0))
    points = torch.tensor([[top, top, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    first, *_ = voxelize(points, torch.tensor([0, 2]), grid=KITTI, scales=(1, 2))
    cell = first.coords[1]
    assert (cell[1:] < torch.tensor(first.shape)).all()


def test_scans_of_more_than_2_to_the_32_cells_keep_their_voxels_apart() -> None:
    points = torch.zeros(200, 4)
    points[:, 0] = 49.0
    points[::2, :3] = torch.tensor([-49.0, -49.0, -3.9])
    points[1::2, 1:3] = torch.tensor([49.0, 1.9])
    offsets = torch.arange(0, 201, 2)
    assert 100 * np.prod(KITTI.shape) > 2**32
    finest, _ = voxelize(points, offsets, grid=KITTI, scales=(1, 2))
    assert finest.inverse.tolist() == list(range(200))


def test_points_too_far_apart_to_count_their_cells_are_an_error() -> None:
    points = torch.zeros(2, 4)
    points[1, :3] = 1e7
    with pytest.raises(ShapeError, match="are the coordinates metres"):
        voxelize(points, torch.tensor([0, 2]), grid=KITTI, scales=(1, 2))


def test_levels_of_known_voxels_equal_those_of_the_points() -> None:
    points, offsets = made_up_batch(5, KITTI)
    scales = (1, 2, 4, 8, 16)
    whole = voxelize(points, offsets, grid=KITTI, scales=scales)
    elsewhere = torch.zeros_like(points)  # the cells then come from the voxels, not from these
    levels = build_levels(elsewhere, offsets, grid=KITTI, scales=scales, voxels=whole)
    for t, expected in enumerate(whole):
        assert torch.equal(levels[t].coords, expected.coords)
        assert torch.equal(inverse_of(levels, t), expected.inverse)


def test_voxels_of_missing_scales_are_refused() -> None:
    points, offsets = made_up_batch(0, KITTI)
    voxels = voxelize(points, offsets, grid=KITTI, scales=(1, 2))
    with pytest.raises(ShapeError, match="scales"):
        build_levels(points, offsets, grid=KITTI, scales=(1, 4), voxels=voxels)


@pytest.mark.parametrize("seed", range(4))
def test_voxel_label_is_the_most_frequent_and_the_smallest_in_a_tie(seed: int) -> None:
    points, offsets = made_up_batch(seed, ODD)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 6, len(points)))
    levels = build_levels(points, offsets, grid=ODD, scales=(1, 2, 4, 8, 16))
    counts = piece_label_counts(levels, labels, n_classes=6)
    tied = 0
    for t, level in enumerate(levels):
        votes = np.zeros((len(level.coords), 6), np.int64)
        np.add.at(votes, (inverse_of(levels, t).numpy(), labels.numpy()), 1)
        tied += int(((votes == votes.max(1, keepdims=True)).sum(1) > 1).sum())
        np.testing.assert_array_equal(
            voxel_labels([level], [counts[t]])[0].numpy(), votes.argmax(1)
        )
    assert tied > 50


def plain_mean(rows: Tensor, index: Tensor, n: int) -> Tensor:
    total = rows.new_zeros((n, rows.shape[1])).index_add(0, index, rows)
    return total / torch.bincount(index, minlength=n)[:, None]


def geometry_of(
    seed: int, scales: tuple[int, ...], head_level: int
) -> tuple[Geometry, list[Tensor], list[Tensor], Tensor]:
    """The geometry, inverses and coords per level, and the head's row of each point."""
    points, offsets = made_up_batch(seed, ODD, outside=1.0)
    levels = build_levels(points, offsets, grid=ODD, scales=scales)
    geometry = build_geometry(
        points,
        levels=levels,
        grid=ODD,
        n_scans=3,
        head_level=head_level,
        convolved=range(len(levels)),
        backend=Native(),
    )
    inverses = [inverse_of(levels, t) for t in range(len(scales))]
    coords = [level.coords.to(torch.int64) for level in levels]
    return geometry, inverses, coords, piece_of(levels, head_level)


@pytest.mark.parametrize("seed", range(3))
def test_scale_links_are_means_over_points(seed: int) -> None:
    geometry, inverses, coords, _ = geometry_of(seed, (1, 2, 4, 8, 16), 1)
    for t, link in enumerate(geometry.links):
        features = torch.randn(len(coords[t]), 5, dtype=torch.float64, requires_grad=True)
        per_point = features.index_select(0, inverses[t])
        plain = plain_mean(per_point, inverses[t + 1], len(coords[t + 1]))
        ours = link @ features
        torch.testing.assert_close(ours, plain)
        aim = torch.randn_like(plain)
        for result, other in zip(
            torch.autograd.grad(ours, features, aim),
            torch.autograd.grad(plain, features, aim),
            strict=True,
        ):
            torch.testing.assert_close(result, other)


def test_groups_are_two_cells_wide_and_never_across_scans() -> None:
    geometry, _, coords, _ = geometry_of(1, (1, 2, 4, 8, 16), 1)
    for t, level in enumerate(geometry.levels):
        halved = torch.cat([coords[t][:, :1], coords[t][:, 1:] // 2], dim=1)
        groups, group = torch.unique(halved, dim=0, return_inverse=True)
        features = torch.randn(len(coords[t]), 4, dtype=torch.float64)
        plain = plain_mean(features, group, len(groups))[group]
        torch.testing.assert_close(level.group_lookup @ (level.group_mean @ features), plain)


@pytest.mark.parametrize("head_level", [0, 1, 2])
def test_descents_sum_the_voxels_of_all_scales_at_each_row(head_level: int) -> None:
    geometry, inverses, coords, row = geometry_of(2, (1, 2, 4, 8), head_level)
    features = [torch.randn(len(c), 3, dtype=torch.float64) for c in coords]
    total = None
    for descent, own in zip(reversed(geometry.descents), reversed(features), strict=False):
        here = descent.own @ own
        total = here if total is None else here + descent.coarser @ total
    assert total is not None
    plain = sum(f[i] for f, i in list(zip(features, inverses, strict=True))[head_level:])
    torch.testing.assert_close(total[row], plain)
