"""Stored neighbours in training and evaluation: the same numbers as without, or not used at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from heard import Heard
from logical_runs import small_recipe
from pipeline_files import write_sequence
from thinned_caches import INLINE, prepare_changed, with_thinned

from pass2d.cache.fields import STORED_THINNING, Fields
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest, publish_generation, publishing
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.cache.tables import Tables
from pass2d.common.errors import ShapeError
from pass2d.common.progress import Silent
from pass2d.common.thinning import ThinningConfig, thinned_scan
from pass2d.models.inputs import PointBatch, ThinnedPoints
from pass2d.models.vavit.vavit import PreparedPillars, VaViT
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import without_dropped
from pass2d.train.data.stream import BatchStream
from pass2d.train.data.thinned import ThinningPlan, joined
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.evaluation.evaluate import count_scans
from pass2d.train.inference.logits import vote_logits
from pass2d.train.inference.scans import CachedScans
from pass2d.train.inference.votes import IDENTITY, SINGLE_PASS, Vote, VotePlan
from pass2d.train.run.ahead import prepared_batch
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.step import losses_of

Caches = tuple[Path, Path, Path]
FIRST = "network.settings.thinning=first"
FULL = "augment.mode=full"
SIXTEEN = "network.settings.neighbours=16"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Caches:
    """The same scans without and with stored neighbours, and with them the farthest first."""
    root = tmp_path_factory.mktemp("scans")
    write_sequence(root / "raw", "00", (0, 1, 2), n=400)
    write_sequence(root / "raw", "08", (0, 5), n=300)
    listing = list_semkitti(root / "raw")
    prepare(listing, root / "plain" / "semkitti", INLINE, Silent())
    prepare(with_thinned(listing), root / "stored" / "semkitti", INLINE, Silent())
    prepare_changed(
        listing,
        root / "reversed" / "semkitti",
        lambda found: replace(found, apart=found.apart[::-1]),
    )
    return root / "plain", root / "stored", root / "reversed"


def job_of(reader: CacheReader, *overrides: str, heard: Heard | None = None) -> Job:
    recipe = small_recipe("vavit-small", FULL, SIXTEEN, "batch_size=2", *overrides)
    return assemble(reader, recipe, ProcessGroup(device=torch.device("cpu")), heard or Silent())


def first_batches(root: Path, *overrides: str, n: int = 3) -> list[tuple[PreparedPillars, float]]:
    """What the network is shown, and the loss."""
    with CacheReader.open(root) as reader:
        job = job_of(reader, *overrides)
        job.network.train()
        stream = BatchStream(reader, job.plan, job.recipe.stream)
        found = []
        try:
            for _ in range(n):
                raw = next(stream)
                assert raw is not None
                prepared = prepared_batch(job, raw, seed=1)
                assert isinstance(prepared, PreparedPillars)
                found.append((prepared, float(losses_of(job, prepared).total.detach())))
        finally:
            stream.close()
    return found


def assert_same(one: PreparedPillars, other: PreparedPillars) -> None:
    for name in ("features", "neighbours", "pillar_of_point", "pillar_xy", "row_of_point"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_training_with_stored_ones_is_training_without(caches: Caches) -> None:
    plain, stored, reverse = (first_batches(root, FIRST) for root in caches)
    for (a, loss), (b, b_loss), (c, _) in zip(plain, stored, reverse, strict=True):
        assert_same(a, b)
        assert loss == b_loss
        assert torch.equal(c.neighbours, a.neighbours.flip(1))  # they are read, not looked for


def test_what_the_stream_finds_holds_for_the_moved_points(caches: Caches) -> None:
    for prepared, _ in first_batches(caches[0], FIRST):
        xyz = prepared.features[:, 1:4].double()
        apart = (xyz[prepared.neighbours] - xyz[:, None]).norm(dim=2)
        assert bool((apart.diff(dim=1) > -1e-5).all())
        scan = torch.bucketize(
            prepared.pillar_of_point, torch.tensor(prepared.lengths).cumsum(0), right=True
        )
        for number in range(len(prepared.lengths)):
            own = xyz[scan == number]
            nearest = torch.cdist(own, own).sort(dim=1).values[:, 1:17]
            assert torch.allclose(apart[scan == number], nearest, atol=1e-5)


def test_random_points_are_drawn_by_scan_and_epoch_alone(caches: Caches) -> None:
    """Not by the threads, the cache, or torch's generator; another epoch draws others."""
    heard = Heard()
    one, other = first_batches(caches[0], n=4), first_batches(caches[1], "stream.threads=3", n=4)
    for (a, _), (b, _) in zip(one, other, strict=True):
        assert_same(a, b)
    with CacheReader.open(caches[1]) as reader:
        plan = job_of(reader, heard=heard).plan
    assert plan.thinning == ThinningPlan(config=STORED_THINNING, is_random=True)
    assert not [line for line in heard.lines if "neighbours" in line]
    coarse = ThinningConfig(cell_m=5.0, neighbours=16)
    xyz = np.random.default_rng(0).uniform(-9, 9, (400, 3)).astype(np.float32)
    draws = [thinned_scan(xyz, coarse, rng=np.random.default_rng([s, 1])).rows for s in (1, 1, 2)]
    assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()


@pytest.mark.parametrize(
    "override",
    [
        "augment.dropout_ratio=0.2",
        "augment.scale_z=false",
        "augment.mixes=[{pillar-mix=1.0}]",
        "augment.extra={fog=0.5}",
        "augment.mode=noise",
    ],
)
def test_stored_ones_are_not_read_where_points_change(caches: Caches, override: str) -> None:
    heard = Heard()
    with CacheReader.open(caches[1]) as reader:
        plan = job_of(reader, FIRST, override, heard=heard).plan
    assert plan.thinning is not None
    assert not plan.thinning.is_stored
    (said,) = [line for line in heard.lines if line.startswith("neighbours are looked for")]
    assert "augment drops points, mixes scans or stretches them" in said


def test_stretched_points_have_the_neighbours_of_where_they_lie(
    caches: Caches,
) -> None:
    """One factor on x and y, none on z: other points are near afterwards."""
    for prepared, _ in first_batches(
        caches[1], FIRST, "augment.scale_z=false", "augment.scale=0.9"
    ):
        xyz = prepared.features[:, 1:4].double()
        apart = (xyz[prepared.neighbours] - xyz[:, None]).norm(dim=2)
        assert bool((apart.diff(dim=1) > -1e-5).all())


@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(),
        AugmentConfig(dropout_ratio=0, scale_z=True, mixes=({"pillar-mix": 1.0},)),
        AugmentConfig(dropout_ratio=0, scale=0.1, scale_z=False),
        AugmentConfig(dropout_ratio=0, scale_z=True, mode="noise"),
    ],
)
def test_a_plan_refuses_stale_ones(augment: AugmentConfig) -> None:
    def plan(augment: AugmentConfig, *, with_outside: bool = True) -> StreamPlan:
        return StreamPlan(
            positions=np.arange(3),
            batch_size=1,
            seed=0,
            augment=augment,
            size_hw=None,
            with_outside=with_outside,
            thinning=ThinningPlan(config=STORED_THINNING, is_random=False, is_stored=True),
        )

    with pytest.raises(ValueError, match="cached neighbours are stale"):
        plan(augment)
    kept = AugmentConfig(dropout_ratio=0, scale_z=True)
    assert plan(kept).augment.keeps_neighbours
    with pytest.raises(ValueError, match="all their points"):
        plan(kept, with_outside=False)


def seen(root: Path, network: VaViT, votes: Vote) -> tuple[list[torch.Tensor], list[bool]]:
    """Logits of all scans of a cache, and whether each came with stored neighbours."""
    with CacheReader.open(root) as reader:
        cached = CachedScans(
            reader, network, plans=(SINGLE_PASS,), outside="nearest", progress=Silent()
        )
        scans = [cached.read(place, label=True)[1] for place in range(len(reader.scans))]
    logits = vote_logits(
        network,
        [torch.from_numpy(scan.points) for scan in scans],
        [[votes]] * len(scans),
        thinned=[scan.thinned for scan in scans],
    )
    return [one.of_points() for one in logits], [scan.thinned is not None for scan in scans]


def network_of(root: Path, *overrides: str) -> VaViT:
    with CacheReader.open(root) as reader:
        network = job_of(reader, *overrides).network
    assert isinstance(network, VaViT)
    return network.eval()


def test_evaluation_with_stored_ones_is_evaluation_without(
    caches: Caches,
) -> None:
    """A vote that moves points thins them where they lie then."""
    network, seen_by_network = network_of(caches[0]), []
    network.register_forward_pre_hook(lambda _, given: seen_by_network.append(given[0].neighbours))
    moved = Vote(translation_m=(0.03, 0.0, 0.0))
    for vote in (IDENTITY, moved):
        (plain, none), (stored, every), (_, _) = (seen(root, network, vote) for root in caches)
        assert all(every)
        assert not any(none)
        for a, b in zip(plain, stored, strict=True):
            assert torch.equal(a, b)
        of_plain, _, of_reverse = seen_by_network
        assert torch.equal(of_reverse, of_plain.flip(1) if vote is IDENTITY else of_plain)
        seen_by_network.clear()


def test_counts_are_the_same_with_votes_too(caches: Caches) -> None:
    network, plans = network_of(caches[0]), (SINGLE_PASS, VotePlan(kind="random", count=2))
    found = []
    for root in caches[:2]:
        with CacheReader.open(root) as reader:
            positions = reader.select(split="val")
            found.append(
                count_scans(
                    network, reader, positions, plans=plans, outside="nearest", progress=Silent()
                )
            )
    for a, b in zip(*found, strict=True):
        assert a.total.sum() > 0
        assert torch.equal(a.total, b.total)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("network.settings.cell_m=0.2", "the network takes 16 neighbours in cells of 0.2 m"),
        ("network.settings.neighbours=8", "the network takes 8 neighbours in cells of 0.1 m"),
    ],
)
def test_those_of_other_sizes_are_not_used(caches: Caches, setting: str, words: str) -> None:
    network, heard = network_of(caches[0], setting), Heard()
    with CacheReader.open(caches[1]) as reader:
        cached = CachedScans(
            reader, network, plans=(SINGLE_PASS,), outside="nearest", progress=heard
        )
        assert cached.read(0, label=False)[1].thinned is None
        assert heard.lines == [
            "neighbours are looked for in each scan: the cache holds 16 neighbours in cells of "
            f"0.1 m, {words}"
        ]
        heard.lines.clear()
        plan = job_of(reader, FIRST, setting, heard=heard).plan
    assert plan.thinning is not None
    assert not plan.thinning.is_stored
    assert any(words in line for line in heard.lines)


def test_shards_of_other_sizes_in_the_cache_are_not_used(caches: Caches, tmp_path: Path) -> None:
    """As of a version that stored others, beside sequences that were prepared since."""
    root = tmp_path / "semkitti"
    shutil.copytree(caches[1] / "semkitti", root)
    layout = Layout(root=root)
    manifest = load_manifest(layout)
    shards = manifest.tables.shards
    stages = shards["stage"].to_pylist()
    texts = shards["parameters"].to_pylist()
    texts[stages.index("thinned")] = json.dumps({"cell_m": 0.05, "neighbours": 16})
    column = shards.column_names.index("parameters")
    changed = shards.set_column(column, "parameters", pa.array(texts))
    with publishing(layout):
        publish_generation(
            layout, manifest.info, Tables(scans=manifest.tables.scans, shards=changed)
        )
    heard, network = Heard(), network_of(caches[0])
    with CacheReader.open(tmp_path) as reader:
        cached = CachedScans(
            reader, network, plans=(SINGLE_PASS,), outside="nearest", progress=heard
        )
        assert cached.read(0, label=False)[1].thinned is None
    assert "the cache holds 16 neighbours in cells of 0.05 m" in heard.lines[0]


def test_a_network_refuses_points_that_were_thinned_otherwise(
    caches: Caches,
) -> None:
    network = network_of(caches[0])
    points = torch.rand(40, 4)
    found = thinned_scan(points[:, :3].numpy(), ThinningConfig(cell_m=0.2, neighbours=16))
    other = joined([found], scan_starts=(0, 40), config=ThinningConfig(cell_m=0.2, neighbours=16))
    batch = PointBatch(points=points, offsets=torch.tensor([0, 40]), thinned=other.points())
    assert isinstance(batch.thinned, ThinnedPoints)
    with pytest.raises(ShapeError, match=r"must be 16 neighbours in cells of 0\.1 m"):
        network.prepare(batch)


def test_rows_that_training_leaves_out_take_their_answers_along(
    caches: Caches,
) -> None:
    with CacheReader.open(caches[1]) as reader:
        record = reader.read(0, Fields(outside=True, thinned=True))
    padded = _with_nowhere(record)
    assert padded.thinned is not None
    assert record.thinned is not None
    back = without_dropped(padded)
    assert back.thinned is not None
    assert back.n_raw == record.n_raw
    for name in ("rows", "apart", "answers"):
        assert np.array_equal(getattr(back.thinned, name), getattr(record.thinned, name))


def _with_nowhere(record: ScanRecord) -> ScanRecord:
    """With a row in front that holds no point."""
    assert record.thinned is not None
    assert record.outside_xyz is not None
    assert record.outside_signal is not None
    nowhere = np.array([[0], [0], [1000]], np.float32)
    return replace(
        record,
        n_raw=record.n_raw + 1,
        raw_index=record.raw_index + 1,
        outside_xyz=np.concatenate([nowhere, record.outside_xyz], axis=1),
        outside_signal=np.concatenate([[np.float32(0)], record.outside_signal]),
        outside_label=None,
        thinned=replace(
            record.thinned,
            rows=record.thinned.rows + 1,
            answers=np.concatenate([[0], record.thinned.answers]),
        ),
    )
