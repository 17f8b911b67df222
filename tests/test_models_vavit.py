"""VaViT's own parts, against plain versions and where there is little to see."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from pass2d.common.errors import ConfigError, DataError, ShapeError
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import NEVER
from pass2d.models.registry import build_network
from pass2d.models.vavit.attention import Attention, rotations, turned
from pass2d.models.vavit.thinning import (
    Nearby,
    by_distance,
    nearest_neighbours,
    nearest_rows,
    pillars_of,
    thin,
)
from pass2d.models.vavit.vavit import PreparedPillars, VaViT, feature_maps
from pass2d.train.optim.losses import LossConfig, compute_loss

GRID = Grid(low=(-50.0, -50.0, -4.0), high=(50.0, 50.0, 2.0), shape=(1000, 1000, 60))
TINY = {"point_width": 6, "point_layers": 2, "width": 16, "depth": 2, "heads": 2, "head_width": 5}


def cloud(seed: int, n: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0, (2, 2, 0.3, 0.2), (n, 4)).astype(np.float32))


def batch_of(*clouds: Tensor, labels: bool = False) -> PointBatch:
    sizes = [len(points) for points in clouds]
    points = torch.cat(clouds)
    return PointBatch(
        points=points,
        offsets=torch.tensor([0, *np.cumsum(sizes).tolist()]),
        labels=torch.arange(len(points)) % 5 if labels else None,
    )


def network(**settings: object) -> VaViT:
    torch.manual_seed(1)
    made = build_network("vavit", {**TINY, "drop_path": 0.0, **settings}, grid=GRID, n_classes=5)
    assert isinstance(made, VaViT)
    for block in made.blocks:  # as after training: blocks do something
        torch.nn.init.normal_(block.gamma1, 0.5, 0.1)
        torch.nn.init.normal_(block.gamma2, 0.5, 0.1)
    return made


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_thinning_is_that_of_a_plain_loop(is_shuffled: bool) -> None:
    clouds = [cloud(0, 400), cloud(1, 250)]
    batch = batch_of(*clouds)
    order = torch.from_numpy(np.random.default_rng(2).permutation(650)) if is_shuffled else None
    rows, place = thin(batch.points, batch.offsets, cell_m=0.5, order=order)
    first: dict[tuple[int, int, int, int], int] = {}
    cell_of = {}
    for row in range(650) if order is None else order.tolist():
        scan = int(row >= 400)
        low = clouds[scan][:, :3].min(0).values
        x, y, z = ((batch.points[row, :3] - low) / torch.tensor(0.5)).long().tolist()
        cell_of[row] = (scan, x, y, z)
        first.setdefault(cell_of[row], row)
    assert rows.tolist() == [first[cell] for cell in sorted(first)]
    assert [rows[p].item() for p in place] == [first[cell_of[row]] for row in range(650)]


def test_neighbours_are_the_nearest_of_the_same_scan() -> None:
    points = torch.cat([cloud(3, 60), cloud(4, 40)])[:, :3].contiguous()
    found = nearest_neighbours([Nearby(part) for part in points.split([60, 40])], k=5)
    for row in range(100):
        start, stop = (0, 60) if row < 60 else (60, 100)
        apart = (points[start:stop] - points[row]).square().sum(1)
        assert found[row].tolist() == (apart.argsort()[1:6] + start).tolist()


def test_few_points_repeat_the_farthest_and_one_itself() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [9, 9, 9]])
    found = nearest_neighbours([Nearby(part) for part in points.split([3, 1])], k=4)
    assert found.tolist() == [[1, 2, 2, 2], [0, 2, 2, 2], [1, 0, 0, 0], [3, 3, 3, 3]]


def test_distances_on_a_device_find_what_the_tree_finds() -> None:
    points, queries = cloud(5, 300)[:, :3].contiguous(), cloud(6, 80)[:, :3].contiguous()
    by_tree = nearest_rows([Nearby(points)], queries, [80], near=torch.zeros(80).long())
    found = by_distance(points, queries, k=3)
    assert found[:, 0].tolist() == by_tree.tolist()


@pytest.mark.parametrize("far", [0, -3_000_000])
def test_pillars_are_the_distinct_rows(far: int) -> None:
    rng = torch.Generator().manual_seed(3)
    columns = torch.randint(-6, 9, (200, 2), generator=rng) + torch.tensor([far, 0])
    scan = torch.arange(200) // 70
    rows, place = torch.unique(torch.cat([scan[:, None], columns], 1), dim=0, return_inverse=True)
    of_scan, xy, found = pillars_of(columns, scan)
    assert torch.equal(torch.cat([of_scan[:, None], xy], 1), rows)
    assert torch.equal(found, place)
    assert [len(part) for part in pillars_of(columns[:0], scan[:0])] == [0, 0, 0]


def test_turns_depend_on_differences_of_places_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 7, 1, 16, generator=rng, dtype=torch.float64)
    xy = torch.randn(7, 2, generator=rng, dtype=torch.float64) * 20

    def scores(at: Tensor) -> Tensor:
        cos, sin = rotations(at, head_width=16)
        return torch.einsum("ihc,jhc->ij", turned(q, cos, sin), turned(k, cos, sin))

    shifted = xy + torch.tensor([13.5, -4.0], dtype=torch.float64)
    assert torch.allclose(scores(xy), scores(shifted), atol=1e-4)
    assert not torch.allclose(scores(xy), scores(xy * 1.1), atol=1e-2)


def test_attention_is_the_plain_formula_per_sample() -> None:
    torch.manual_seed(0)
    layer = Attention(16, 2).double()
    tokens, xy = torch.randn(9, 16).double(), torch.randn(9, 2).double()
    cos, sin = rotations(xy, head_width=8)
    got = layer(tokens, (4, 0, 5), cos, sin)
    want = []
    for rows in (slice(0, 4), slice(4, 9)):
        q, k, v = layer.qkv(tokens[rows]).view(-1, 3, 2, 8).unbind(1)
        q, k = turned(q, cos[rows], sin[rows]), turned(k, cos[rows], sin[rows])
        weights = (torch.einsum("ihc,jhc->hij", q, k) / math.sqrt(8)).softmax(2)
        want.append(layer.proj(torch.einsum("hij,jhc->ihc", weights, v).reshape(-1, 16)))
    assert torch.allclose(got, torch.cat(want), atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    alone, other = cloud(7, 300), cloud(8, 900)
    masked, published = network().eval(), network(padding="published").eval()
    published.pad_token.data.fill_(0.5)
    results = {}
    for name, made in (("masked", masked), ("published", published)):
        with torch.no_grad():
            one = made(made.prepare(batch_of(alone))).logits
            both = made(made.prepare(batch_of(alone, other))).logits[:300]
        results[name] = float((one - both).abs().max())
    assert results["masked"] < 1e-5
    assert results["published"] > 1e-3


def test_every_raw_point_takes_the_answer_of_its_nearest_thinned_point() -> None:
    points = cloud(9, 500)
    made = network(cell_m=0.4).eval()
    prepared = made.prepare(batch_of(points))
    assert isinstance(prepared, PreparedPillars)
    kept = prepared.features[:, 1:4]
    nearest = torch.cdist(points[:, :3], kept).argmin(1)
    assert prepared.row_of_point.tolist() == nearest.tolist()
    assert len(kept) < 400
    with torch.no_grad():
        logits = made(prepared).logits
    assert torch.equal(logits[:, 0], torch.full((500,), NEVER))
    assert float(logits.softmax(1)[:, 0].max()) == 0


def test_skipped_samples_change_nothing_and_others_are_scaled() -> None:
    made = network(drop_path=0.5).train()
    batch = batch_of(cloud(10, 200), cloud(11, 300), labels=True)
    torch.manual_seed(5)
    prepared = made.prepare(batch)
    assert isinstance(prepared, PreparedPillars)
    assert prepared.kept is not None
    tokens = torch.randn(sum(prepared.lengths), 16)
    cos, sin = rotations(prepared.pillar_xy, head_width=8)
    block, first = made.blocks[0], prepared.lengths[0]
    only_second = ((False, True), (False, True))
    got = block(tokens, prepared.lengths, cos, sin, kept=only_second, scale=2.0)
    assert torch.equal(got[:first], tokens[:first])
    alone = tokens[first:]
    half = alone + 2 * block.gamma1 * block.attention(
        block.norm1(alone), prepared.lengths[1:], cos[first:], sin[first:]
    )
    want = half + 2 * block.gamma2 * block.perceptron(block.norm2(half))
    assert torch.allclose(got[first:], want, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_it_learns_a_scan_by_heart(precision: torch.dtype) -> None:
    points = cloud(12, 400)
    labels = 1 + (points[:, 0] > 0).long() + 2 * (points[:, 1] > 0).long()
    batch = PointBatch(points=points, offsets=torch.tensor([0, 400]), labels=labels)
    made = network(augment_features=False).train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01)
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        prepared = made.prepare(batch)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            answer = made(prepared)
        loss = compute_loss(answer, prepared, config=LossConfig()).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_features_turn_apart_from_the_geometry() -> None:
    torch.manual_seed(0)
    maps = feature_maps(4000)
    det = torch.linalg.det(maps[:, :2, :2] / maps[:, 2:, 2:])
    assert float(det.abs().max()) == pytest.approx(1, abs=1e-5)
    assert float((det < 0).float().mean()) == pytest.approx(0.66, abs=0.03)
    low, high = torch.aminmax(maps[:, 2, 2])
    assert 0.9 <= float(low) < 0.91
    assert 1.09 < float(high) <= 1.1
    made = network(augment_features=True).train()
    batch = batch_of(cloud(13, 200), labels=True)
    torch.manual_seed(1)
    prepared = made.prepare(batch)
    assert isinstance(prepared, PreparedPillars)
    ranges = prepared.features[:, 1:4].norm(dim=1)
    assert torch.allclose(prepared.features[:, 4], ranges)
    rows, _ = thin(batch.points, batch.offsets, cell_m=0.1)
    factor = ranges.sort().values / batch.points[rows, :3].norm(dim=1).sort().values
    assert float(factor.std()) < 1e-3


def test_edges() -> None:
    made = network().eval()
    nothing = torch.zeros(0, 4)
    with torch.no_grad():
        assert made(made.prepare(batch_of(nothing))).logits.shape == (0, 5)
        one = cloud(14, 1)
        both = made(made.prepare(batch_of(one, nothing, cloud(15, 30)))).logits
        assert torch.isfinite(both).all()
        assert torch.allclose(both[:1], made(made.prepare(batch_of(one))).logits, atol=1e-5)
        with pytest.raises(ShapeError, match="finite metres"):
            made.prepare(batch_of(torch.tensor([[0.0, 0, 0, 0], [1e9, 0, 0, 0]])))
        with pytest.raises(ShapeError, match="finite metres"):
            made.prepare(batch_of(torch.tensor([[0.0, 0, 0, 0], [float("nan"), 0, 0, 0]])))
    made.train()
    with pytest.raises(DataError, match="scan 1"):
        made.prepare(batch_of(one, nothing, labels=True))
    with pytest.raises(ShapeError, match=r"training ids 0\.\.4"):
        made.prepare(PointBatch(points=one, offsets=torch.tensor([0, 1]), labels=torch.tensor([5])))
    batch = batch_of(one, labels=True)
    answer = made(made.prepare(batch))  # one point, one pillar: trains
    compute_loss(answer, made.prepare(batch), config=LossConfig()).total.backward()


@pytest.mark.parametrize(
    "wrong",
    [{"heads": 5}, {"padding": "none"}, {"drop_path": 1.0}, {"cell_m": 0.0}, {"neighbours": 0}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_network("vavit", wrong, grid=GRID, n_classes=5)


def test_it_works_where_spconv_cannot_be_imported() -> None:
    code = """
import sys
class NoSpconv:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("spconv", "cumm", "spconv_triton"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoSpconv())
import torch
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.registry import build_network
grid = Grid(low=(-50.0, -50.0, -4.0), high=(50.0, 50.0, 2.0), shape=(1000, 1000, 60))
network = build_network("vavit-small", {"depth": 1}, grid=grid, n_classes=5)
batch = PointBatch(points=torch.rand(50, 4) * 9, offsets=torch.tensor([0, 20, 50]))
network(network.prepare(batch)).logits.sum().backward()
assert all(p.grad is not None for p in network.head.parameters())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
