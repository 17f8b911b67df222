"""Votes against their definition, and how passes are put together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types
from torch import Tensor

from pass2d.common.errors import ConfigError
from pass2d.common.prefetch import prefetch
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Network, NetworkConfig, Prepared, Segmentation
from pass2d.train.inference.logits import vote_logits
from pass2d.train.inference.passes import PassSize, nearest_index
from pass2d.train.inference.votes import IDENTITY, LATTICE_VOTES, Vote, VotePlan, parse_votes


def points(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows)


def test_quarter_turn_takes_ahead_to_the_left_as_the_spec_writes_it() -> None:
    vote = Vote(xy_matrix=((0.0, 1.0), (-1.0, 0.0)), translation_m=(0.0, 0.0, 0.5))
    assert vote.apply(points((2, 3, 1, 0.25))).tolist() == [[-3, 2, 1.5, 0.25]]


def test_random_votes_are_rotations_with_small_shifts() -> None:
    votes = VotePlan(kind="random", count=400, seed=3).of("08/000000")
    matrices = np.array([vote.xy_matrix for vote in votes])
    assert np.allclose(np.linalg.det(matrices), 1)
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(2))
    quadrants = np.array([math.atan2(m[0][1], m[0][0]) for m in matrices]) // (math.pi / 2)
    assert np.unique(quadrants, return_counts=True)[1].min() > 60  # 100 expected in each
    shifts = np.array([vote.translation_m for vote in votes])
    assert shifts.std(axis=0) == pytest.approx([0.1] * 3, rel=0.2)


def test_random_votes_depend_on_seed_and_scan_alone() -> None:
    plan = VotePlan(kind="random", count=12)
    assert plan.of("08/000001") == plan.of("08/000001")
    assert plan.of("08/000001") != plan.of("08/000002")
    assert plan.of("08/000001") != VotePlan(kind="random", count=12, seed=1).of("08/000001")


def test_lattice_votes_are_the_eight_symmetries_of_the_square_exactly() -> None:
    moved = {tuple(vote.apply(points((1, 2, 3, 4)))[0].tolist()) for vote in LATTICE_VOTES}
    signs = [(a, b) for a in (1, -1) for b in (1, -1)]
    assert moved == {(a, 2 * b, 3, 4) for a, b in signs} | {(2 * a, b, 3, 4) for a, b in signs}
    assert LATTICE_VOTES[0] == IDENTITY
    scan = torch.from_numpy(np.random.default_rng(0).normal(0, 30, (500, 4)).astype(np.float32))
    for vote in LATTICE_VOTES:
        own = vote.apply(scan)[:, :2].abs().sort(dim=1).values
        assert torch.equal(own, scan[:, :2].abs().sort(dim=1).values)


def test_fixed_views_are_all_flips_turns_and_scales() -> None:
    views = parse_votes("flips-rotations-scales").of("08/000000")
    assert views == parse_votes("flips-rotations-scales", seed=5).of("08/000001")
    assert views[0] is IDENTITY
    given = points((1, 2, 4, 0.5))
    moved = {tuple(round(v, 4) for v in view.apply(given)[0].tolist()) for view in views}
    half = math.sqrt(0.5)
    expected = {
        (
            round(s * (a * c - b * t), 4),
            round(s * (a * t + b * c), 4),
            round(s * 4, 4),
            0.5,
        )
        for a in (1, -1)
        for b in (2, -2)
        for c, t in ((1, 0), (half, half), (half, -half))
        for s in (0.95, 1, 1.05)
    }
    assert len(moved) == len(expected) == 36
    apart = np.abs(np.array([*moved])[:, None] - np.array([*expected])).max(2)
    assert apart.min(0).max() < 1e-3
    assert apart.min(1).max() < 1e-3


def test_ten_views_are_five_scales_as_they_are_and_mirrored_in_both_axes() -> None:
    views = parse_votes("flips-scales").of("08/000000")
    assert views[0] is IDENTITY
    given = points((1, 2, 4, 0.5))
    moved = sorted([round(v, 4) for v in view.apply(given)[0].tolist()] for view in views)
    assert moved == sorted(
        [round(sign * s, 4), round(sign * 2 * s, 4), round(4 * s, 4), 0.5]
        for sign in (1, -1)
        for s in (0.9, 0.95, 1, 1.05, 1.1)
    )


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [
        ("1", "none", 1),
        ("none", "none", 1),
        ("12", "random", 12),
        ("Lattice", "lattice", 8),
        ("flips-rotations-scales", "flips-rotations-scales", 36),
        ("flips-scales", "flips-scales", 10),
    ],
)
def test_option_is_read(text: str, kind: str, count: int) -> None:
    plan = parse_votes(text)
    assert (plan.kind, plan.count) == (kind, count)


@pytest.mark.parametrize("text", ["", "0", "-3", "many", "1.5", "100000"])
def test_option_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="votes must be"):
        parse_votes(text)


class SumOfCoordinates(Network):
    """Answers each point with its moved coordinates: shows what votes do. Counts its passes."""

    def __init__(self) -> None:
        grid = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(10, 10, 6))
        super().__init__(NetworkConfig(), grid=grid, n_classes=4)
        self.passes: list[list[int]] = []
        self.most_points = 10**9
        self.seen = torch.zeros(0)

    def prepare(self, batch: PointBatch) -> Prepared:
        if len(batch.points) > self.most_points:
            raise torch.cuda.OutOfMemoryError("a stand-in for a small GPU")
        self.passes.append(batch.offsets.diff().tolist())
        self.seen = batch.points
        return Prepared(row_of_point=torch.arange(len(batch.points)), targets=None)

    def forward(self, prepared: Prepared) -> Segmentation:
        return Segmentation(row_logits=self.seen, row_of_point=prepared.row_of_point)


def test_logits_of_the_votes_are_summed_per_point() -> None:
    scans = [points((1, 2, 3, 4)), points((5, 6, 7, 8), (9, 10, 11, 12))]
    flipped = Vote(xy_matrix=((-1.0, 0.0), (0.0, 1.0)))
    logits = vote_logits(SumOfCoordinates(), scans, [(IDENTITY, flipped), (IDENTITY,)])
    sums = [one.of_points() for one in logits]
    assert sums[0].tolist() == [[0, 4, 6, 8]]
    assert sums[1].tolist() == scans[1].tolist()


def test_passes_are_filled_up_to_their_size() -> None:
    network = SumOfCoordinates()
    scans = [torch.ones(n, 4) for n in (3, 5, 0, 20)]
    votes = [(IDENTITY,) * 2, (IDENTITY,), (IDENTITY,), (IDENTITY,)]
    sums = vote_logits(network, scans, votes, size=PassSize(points=10, scans=2))
    assert network.passes == [[3, 3], [5], [20]]
    assert [tuple(s.of_points().shape) for s in sums] == [(3, 4), (5, 4), (0, 4), (20, 4)]


def test_pass_that_does_not_fit_the_gpu_is_halved() -> None:
    network = SumOfCoordinates()
    network.most_points = 5
    scans = [torch.full((3, 4), float(n)) for n in range(4)]
    sums = vote_logits(network, scans, [(IDENTITY,)] * 4)
    assert network.passes == [[3], [3], [3], [3]]
    assert [s.of_points()[0, 0].item() for s in sums] == [0, 1, 2, 3]
    network.most_points = 2
    with pytest.raises(torch.cuda.OutOfMemoryError):
        vote_logits(network, scans, [(IDENTITY,)] * 4)


def test_nearest_point_is_the_one_of_a_full_search() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(0, 20, (3, 300)).astype(np.float32)
    queries = rng.normal(0, 60, (3, 50)).astype(np.float32)
    distance = ((known[:, :, None].astype(float) - queries[:, None]) ** 2).sum(axis=0)
    assert nearest_index(known, queries).tolist() == distance.argmin(axis=0).tolist()
    assert len(nearest_index(known, queries[:, :0])) == 0


@pytest.mark.parametrize("shape", ["box", "street", "column", "one place", "far away"])
def test_nearest_among_many_points_is_the_one_of_a_whole_tree(shape: str) -> None:
    rng = np.random.default_rng(len(shape))
    n = 9000  # more than are searched as they are
    known = rng.uniform(-50, 50, (3, n))
    if shape == "street":
        known = rng.normal(0, [[30], [4], [1]], (3, n))
    elif shape == "column":
        known[:2] = 3.0
    elif shape == "one place":
        known[:] = 7.0
        known[:, 5000] = 7.5
    elif shape == "far away":
        known = known * 1e-3 + 1e6
    points = known.astype(np.float32)
    near = points[:, :200] + rng.normal(0, 0.1, (3, 200))
    queries = np.concatenate(
        [near, rng.uniform(-90, 90, (3, 200)), points[:, -50:], [[1e9], [-1e9], [0]]], axis=1
    ).astype(np.float32)
    expected = cKDTree(points.T).query(queries.T)[0]
    found = nearest_index(points, queries)
    apart = points[:, found].astype(np.float64) - queries
    np.testing.assert_allclose(np.sqrt((apart**2).sum(axis=0)), expected, rtol=1e-12)


def test_results_come_in_order_and_errors_at_their_item() -> None:
    assert list(prefetch(lambda n: n * n, range(20), threads=3, ahead=5)) == [
        n * n for n in range(20)
    ]
    results = prefetch(lambda n: 1 // (n - 2), range(5), threads=2, ahead=3)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_more_items_are_taken_than_may_wait() -> None:
    taken: list[int] = []

    def items() -> object:
        for n in range(100):
            taken.append(n)
            yield n

    results = prefetch(lambda n: n, items(), threads=1, ahead=3)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()
