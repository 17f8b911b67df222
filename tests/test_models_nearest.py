"""Nearest points: a tree on a CPU and distances on a device answer as a full search does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch.utils._python_dispatch import TorchDispatchMode

from pass2d.common.nearest import nearest_by_tree
from pass2d.models.nearest import CELLS, nearest_by_distance
from pass2d.train.inference.passes import nearest_index

SHAPES = ("box", "street", "column", "one place", "far away", "grid", "twice", "one point")


def full_search(points: NDArray[np.float32], queries: NDArray[np.float32]) -> list[int]:
    """The lowest row of those at the smallest distance, query by query."""
    rows = []
    for query in queries.astype(np.float64):
        x, y, z = (points.astype(np.float64) - query).T
        rows.append(int(np.sqrt(x * x + y * y + z * z).argmin()))
    return rows


def made(shape: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 3) points and (Q, 3) queries; on a grid and among points twice most have several."""
    rng = np.random.default_rng(SHAPES.index(shape))
    points = rng.uniform(-50, 50, (6000, 3))
    if shape == "street":
        points = rng.normal(0, [30, 4, 1], (6000, 3))
    elif shape == "column":
        points[:, :2] = 3.0
    elif shape == "one place":
        points[:] = 7.0
        points[3000] = 7.5
    elif shape == "far away":
        points = points * 1e-3 + 1e6
    elif shape == "grid":
        points = np.indices((20, 20, 15)).reshape(3, -1).T[rng.permutation(6000)]
    elif shape == "twice":
        points[3000:] = points[2999::-1]
    elif shape == "one point":
        points = points[:1]
    known = points.astype(np.float32)
    near = known[:80] + np.where(rng.random((len(known[:80]), 3)) < 0.5, 0.5, 0)
    extreme = [[1e9, 0, 0], [-1e9, 3, 3], [0, 0, 0]]
    asked = np.concatenate([near, rng.uniform(-90, 90, (80, 3)), known[-20:], extreme])
    return known, asked.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_tree_and_distances_find_the_lowest_row_of_the_nearest(shape: str) -> None:
    points, queries = made(shape)
    expected = full_search(points, queries)
    assert nearest_by_tree(cKDTree(points), queries).tolist() == expected
    assert nearest_index(points.T, queries.T).tolist() == expected
    known, asked = torch.from_numpy(points), torch.from_numpy(queries)
    assert nearest_by_distance(known, asked).tolist() == expected
    assert nearest_by_distance(known, asked, n_queries=7, most=1000).tolist() == expected
    guess = torch.arange(len(queries)) % len(points)
    within = (known[guess].double() - asked.double()).norm(dim=1)
    assert nearest_by_distance(known, asked, within=within).tolist() == expected


def test_no_query_no_answer() -> None:
    points = torch.zeros(3, 3)
    assert nearest_by_distance(points, points[:0]).shape == (0,)
    assert nearest_by_tree(cKDTree(points.numpy()), points[:0].numpy()).shape == (0,)
    assert nearest_index(points.numpy(), points[:, :0].numpy()).shape == (0,)


class Largest(TorchDispatchMode):
    """Values of the largest tensor that an operation gives."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return result


def test_memory_is_bounded_however_many_points_there_are() -> None:
    rng = torch.Generator().manual_seed(0)
    points, queries = torch.rand(2, 12_000, 3, generator=rng) * 10
    with Largest() as largest:
        found = nearest_by_distance(points, queries[:500], most=50_000)
    assert largest.values <= max(50_000, points.numel(), (CELLS + 4) ** 2)
    assert found.tolist() == cKDTree(points).query(queries[:500])[1].tolist()


def test_trees_ask_for_few_answers_at_once_where_all_points_are_in_one_place() -> None:
    points = np.full((700, 3), 2.0, np.float32)
    assert nearest_by_tree(cKDTree(points), points[:40] + 1, most=1000).tolist() == [0] * 40
