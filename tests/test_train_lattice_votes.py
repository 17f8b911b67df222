"""Lattice votes: the cached hashes under the grid's symmetries serve instead of voxelising."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from heard import Heard
from stub_network import StubNetwork, trained_stub

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import GridConfig
from pass2d.common.progress import Silent
from pass2d.models.inputs import Grid
from pass2d.models.network import Network
from pass2d.models.registry import build_network
from pass2d.train.data.lattice import ScanHash, scan_hashes, voted_voxels
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.evaluation.pictures import write_pictures
from pass2d.train.inference.logits import CachedVotes, vote_logits
from pass2d.train.inference.passes import PassSize
from pass2d.train.inference.scans import CachedScans, hashed_scales
from pass2d.train.inference.votes import LATTICE_VOTES, Vote, VotePlan
from pass2d.train.robustness.run import RobustRun
from pass2d.train.robustness.scans import cached_set
from pass2d.train.submission.benchmark import Benchmark
from pass2d.train.submission.submit import SubmitConfig, submit

VOXELISER = "pass2d.models.twodpass.hierarchy.root_cells"


@pytest.fixture(scope="module")
def small_network() -> Network:
    torch.manual_seed(0)
    grid = sample_info().grid
    return build_network(
        "2dpass",
        {"hidden": 4, "block_scales": [2, 4], "image_branch": False},
        grid=Grid(low=grid.low, high=grid.high, shape=grid.shape),
        n_classes=5,
    ).eval()


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=3, sequences=("08",), n_points=400)
    return root


def hashes_and_points(
    root: Path, network: Network
) -> tuple[list[tuple[ScanHash, ...]], list[torch.Tensor], GridConfig]:
    hashes, scans = [], []
    with CacheReader.open(root) as reader:
        grid = reader.info.grid
        for position in range(3):
            record = reader.read(position, Fields(label=True, voxels=True))
            found = scan_hashes(record.voxels, scales=network.scales, grid=grid)
            assert found is not None
            hashes.append(found)
            xyz_signal = np.concatenate([record.xyz, record.signal[None]]).T
            scans.append(torch.from_numpy(np.ascontiguousarray(xyz_signal)))
    return hashes, scans, grid


@pytest.mark.parametrize("vote", LATTICE_VOTES, ids=lambda v: str(v.symmetry))
def test_cached_hashes_under_each_symmetry_are_those_of_the_moved_points(
    cache_root: Path, small_network: Network, vote: Vote
) -> None:
    """Voxels, their order and the voxel of every point; two scans in one pass."""
    hashes, scans, grid = hashes_and_points(cache_root, small_network)
    assert vote.symmetry is not None
    starts = [0, len(scans[0]), len(scans[0]) + len(scans[2])]
    cached = voted_voxels(
        [hashes[0], hashes[2]], symmetries=[vote.symmetry] * 2, scan_starts=starts, grid=grid
    )
    for level in cached:
        cells, inverse = slow_cells([vote.apply(scans[0]), vote.apply(scans[2])], level.scale, grid)
        assert level.coords.tolist() == cells.tolist()
        assert level.inverse.tolist() == inverse.tolist()


def slow_cells(
    scans: list[torch.Tensor], scale: int, grid: GridConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted (batch, x, y, z) cells as (batch, z, y, x), and the row of each point."""
    size = np.array(
        [(high - low) / n for low, high, n in zip(grid.low, grid.high, grid.shape, strict=True)]
    )
    rows = []
    for index, points in enumerate(scans):
        fine = np.floor((points[:, :3].double().numpy() - grid.low) / size).astype(int)
        cell = fine // scale
        rows.append(np.concatenate([np.full((len(cell), 1), index), cell], axis=1))
    cells, inverse = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return cells[:, [0, 3, 2, 1]], inverse.reshape(-1)


def test_lattice_votes_voxelise_nothing_and_give_the_logits_of_doing_so(
    cache_root: Path, small_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes, scans, grid = hashes_and_points(cache_root, small_network)
    votes = [LATTICE_VOTES] * 3
    cached = CachedVotes(grid=grid, scans=hashes)
    anew = vote_logits(small_network, scans, votes)
    with monkeypatch.context() as patched:
        patched.setattr(VOXELISER, forbidden)
        together = vote_logits(small_network, scans, votes, hashes=cached)
        size = PassSize(points=700, scans=2)
        in_parts = vote_logits(small_network, scans, votes, size=size, hashes=cached)
        again = vote_logits(small_network, scans, votes, hashes=cached)
        with pytest.raises(AssertionError, match="voxelised"):
            vote_logits(small_network, scans, votes)
    for sides in zip(together, anew, in_parts, again, strict=True):
        first, *others, repeated = [one.of_points() for one in sides]
        for other in others:
            torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-4)
        assert torch.equal(first, repeated)


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("voxelised")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scales": (2, 4)}, ""),
        ({"scales": ()}, "makes voxels of its own"),
        ({"scales": (2, 3, 32)}, "the cache stores no voxels at scale 3, 32"),
        ({"low": (-40, -40, -4)}, "grid is not the cache's"),
        ({"own_shape": (500, 500, 60)}, "grid is not the cache's"),
        ({"low": (0, -50, -4), "cache_low": (0, -50, -4)}, "not square and centred"),
    ],
)
def test_votes_for_which_no_hash_serves_are_voxelised_anew_and_it_is_said(
    change: dict, reason: str
) -> None:
    high, shape = (50, 50, 2), (1000, 1000, 60)
    grid = Grid(low=change.get("low", (-50, -50, -4)), high=high, shape=shape)
    if "own_shape" in change:
        grid = Grid(low=grid.low, high=high, shape=change["own_shape"])
    network = SimpleNamespace(kind="net", grid=grid, scales=change.get("scales", (2, 4)))
    cache_grid = GridConfig(low=change.get("cache_low", (-50, -50, -4)), high=high, shape=shape)
    heard = Heard()
    lattice = (VotePlan(), VotePlan(kind="lattice", count=8))
    used = hashed_scales(network, cache_grid, lattice, heard)
    assert used == (() if reason else (2, 4))
    assert reason in heard.all()
    assert bool(heard.lines) == bool(reason)
    assert hashed_scales(network, cache_grid, (VotePlan(kind="random", count=12),), heard) == ()


class HashedStub(StubNetwork):
    """Answers by a rule, and wants the cache's hashes at two scales."""

    scales = (2, 4)


@pytest.mark.parametrize("work", ["evaluate", "pictures", "robust", "submit"])
def test_cached_hashes_serve_lattice_votes_wherever_scans_come_from_a_cache(
    cache_root: Path, tmp_path: Path, work: str
) -> None:
    trained = trained_stub(tmp_path / "stub.safetensors", HashedStub(), info=sample_info())
    votes = VotePlan(kind="lattice", count=8)
    report = evaluate(trained, cache_root, votes=votes)
    if work != "evaluate":
        trained.network.batches.clear()
    if work == "pictures":
        write_pictures(report, cache_root, tmp_path / "png", network=trained, votes=votes)
    if work == "robust":
        run = RobustRun(
            trained=trained,
            folder=tmp_path / "out",
            votes=votes,
            outside="nearest",
            limit=None,
            progress=Silent(),
        )
        with CacheReader.open(cache_root) as reader:
            cached = CachedScans(
                reader, trained.network, plans=(votes,), outside="nearest", progress=Silent()
            )
            (result,) = run.count([cached_set(cached, reader.select(split="val"))])
        assert np.array_equal(result.inside + result.outside, report.best.confusion)
    if work == "submit":
        rules = Benchmark(info=sample_info(), splits={"val": ("08",)})
        config = SubmitConfig(split="val", votes=votes, allow_partial=True)
        submit(trained, cache_root, tmp_path / "s.zip", benchmarks=[rules], config=config)
    batches = trained.network.batches
    assert sum(len(batch.offsets) - 1 for batch in batches) >= 2 * len(LATTICE_VOTES)
    assert {len(batch.voxels) for batch in batches} == {2}
