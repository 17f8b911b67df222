"""A network, a mix or an augmentation more: a function or a file, and a line in its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import write_sample_cache
from toy_mixes import add_all, lift, swap_sides
from toy_network import ToyNetwork
from train_samples import assert_same_tensors, final_weights

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.common.progress import Silent
from pass2d.models.registry import MODELS
from pass2d.train.checkpoints.checkpoint import read_card
from pass2d.train.data.augmentations import AUGMENTATIONS, Augmentation
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_scan
from pass2d.train.data.mixes import MIXES, Mix
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import LoadedScan
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.loop import run
from pass2d.train.recipes.recipe import load_recipe, to_toml

LINES = (
    (MODELS, {"toy": ToyNetwork}),
    (MIXES, {"swap": Mix(swap_sides), "all": Mix(add_all, partner="augmented")}),
    (AUGMENTATIONS, {"lift": Augmentation(lift)}),
)
"""The tables, and the line for each toy."""
OFF = AugmentConfig(
    dropout_ratio=0, rotate=False, flip=False, scale=0, translate_m=0, jitter=0, mirror=0
)


@pytest.fixture(autouse=True, scope="module")
def _toys() -> Iterator[None]:
    for table, lines in LINES:
        table.update(lines)  # type: ignore[attr-defined]
    yield
    for table, lines in LINES:
        for name in lines:
            del table[name]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=4, sequences=("00", "08"), n_points=400)
    return CacheReader.open(root)


def plan_for(reader: CacheReader, augment: AugmentConfig, **changes: object) -> StreamPlan:
    plan = StreamPlan(
        positions=reader.select(split="train"), batch_size=2, seed=5, augment=augment, size_hw=None
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_a_toy_network_trains_with_toy_mixes_and_is_evaluated(
    reader: CacheReader, tmp_path: Path
) -> None:
    recipe = load_recipe(
        "spvcnn",
        [
            "network.config=toy",
            "network.settings.width=6",
            "optimizer.kind=adam",
            "optimizer.learning_rate=0.02",
            *("epochs=3", "batch_size=2", "device=cpu", "torch_threads=1", "seed=1"),
            *("log.tensorboard=false", "log.every_steps=1"),
            "augment.mixes=[{swap=0.5, instance-copy=0.5}, {all=0.3}]",
            "augment.extra={lift=0.5, crosstalk=0.2}",
        ],
    )
    path = tmp_path / "written.toml"
    path.write_text(to_toml(recipe))
    assert load_recipe(str(path)) == recipe
    result = run(reader.root, recipe, run_root=tmp_path / "run", progress=Silent())
    assert (result.epochs, result.steps) == (3, 6)
    card = read_card(result.best)
    assert (card.architecture, card.settings) == ("toy", {"width": 6})
    report = evaluate(result.best, reader.root)
    assert report.architecture == "toy"
    assert report.best.official.miou == pytest.approx(card.metrics["val/miou_official"])
    threads = replace(recipe, stream=replace(recipe.stream, threads=3))
    run(reader.root, threads, run_root=tmp_path / "again", progress=Silent())
    assert_same_tensors(final_weights(tmp_path / "run"), final_weights(tmp_path / "again"))


def test_pixels_stay_with_their_points_through_mix_and_augmentation(reader: CacheReader) -> None:
    """2DPASS with pictures: what the partner brings has none."""
    augment = replace(OFF, mixes=({"swap": 1.0},), extra={"lift": 1.0}, crop_hw=(32, 96))
    plan = plan_for(reader, augment, size_hw=(32, 96))
    seen = 0
    for epoch in range(6):
        scan = load_scan(reader, plan, 0, epoch=epoch)
        fields = Fields(label=True, pixels=True)
        whole = reader.read(0, fields)
        pixel_of = pixels_by_place(whole)
        (view,) = scan.record.cameras
        assert (np.diff(view.point_index) > 0).all()
        for row, pixel in zip(view.point_index, view.pixel_rc.T.tolist(), strict=True):
            x, y, _ = scan.record.xyz[:, row].tolist()
            assert pixel_of[x, y] == tuple(pixel)
            seen += 1
        kept = {(x, y) for x, y in scan.record.xyz[:2].T.tolist()}
        assert len(view.point_index) == len(kept & set(pixel_of))
        assert scan.added == ()  # a stored partner's points are the scan's own from now on
    assert seen > 50


def pixels_by_place(record: ScanRecord) -> dict[tuple[float, float], tuple[int, int]]:
    (view,) = record.cameras
    places = record.xyz[:2, view.point_index].T.tolist()
    return {
        (x, y): (row, column)
        for (x, y), (row, column) in zip(places, view.pixel_rc.T.tolist(), strict=True)
    }


def test_a_stored_partner_moves_with_the_scan_and_an_augmented_one_by_itself(
    reader: CacheReader,
) -> None:
    for name, n_segments in (("swap", 1), ("all", 2)):
        augment = AugmentConfig(mixes=({name: 1.0},), extra={"lift": 1.0}, dropout_ratio=0)
        plan = plan_for(reader, augment)
        scan = load_scan(reader, plan, 0, epoch=1)
        raw = collate([scan], with_images=False, size_hw=(0, 0))
        assert len(raw.segment_starts) == n_segments + 1
        assert (scan.n, raw.channels.shape[1]) == (raw.scan_starts[-1],) * 2
        batch = point_batch(raw, config=augment, grid=reader.info.grid, device=torch.device("cpu"))
        maps = [(part.draw.linear, part.draw.shift_m) for part in scan.parts]
        start = 0
        for (linear, shift_m), part in zip(maps, scan.parts, strict=True):
            expected = part.record.xyz.T @ np.array(linear) + shift_m
            rows = slice(start, start + part.record.n)
            np.testing.assert_allclose(batch.points[rows, :3], expected, atol=1e-4)
            np.testing.assert_array_equal(batch.labels[rows], part.record.label)
            start = rows.stop


def test_points_outside_the_volume_are_mixed_too_for_networks_that_see_them(
    reader: CacheReader,
) -> None:
    plan = plan_for(reader, replace(OFF, mixes=({"all": 1.0},)), with_outside=True)
    scan = load_scan(reader, plan, 0, epoch=0)
    (added,) = scan.added
    other = int(np.flatnonzero(reader.scans.scan_id == added.record.scan_id)[0])
    assert scan.n == reader.scans.n_raw[0] + reader.scans.n_raw[other]
    assert reader.scans.n_raw[other] > reader.scans.n[other]
    swapped = load_scan(
        reader, replace(plan, augment=replace(OFF, mixes=({"swap": 1.0},))), 0, epoch=0
    )
    raw = collate([swapped], with_images=False, size_hw=(0, 0))
    assert raw.channels.shape[1] == swapped.n
    np.testing.assert_array_equal(raw.channels[:3], swapped.xyz)
    np.testing.assert_array_equal(raw.labels, swapped.label)


def test_of_a_group_at_most_one_mix_is_applied_with_its_probability(reader: CacheReader) -> None:
    applied: Counter[str] = Counter()

    def remember(name: str) -> Mix:
        def mix(scan: LoadedScan, _partner: LoadedScan, _rng: np.random.Generator) -> LoadedScan:
            applied[name] += 1
            return scan

        return Mix(mix)

    toys = {name: remember(name) for name in ("a", "b", "c")}
    MIXES.update(toys)
    try:
        plan = plan_for(reader, replace(OFF, mixes=({"a": 0.25, "b": 0.5}, {"c": 0.5})))
        both = 0
        for epoch in range(400):
            before = sum(applied.values())
            load_scan(reader, plan, 0, epoch=epoch)
            both += sum(applied.values()) - before == 2
    finally:
        for name in toys:
            del MIXES[name]
    assert applied["a"] == pytest.approx(100, abs=30)
    assert applied["b"] == pytest.approx(200, abs=35)
    assert applied["c"] == pytest.approx(200, abs=35)
    assert both == pytest.approx(150, abs=35)  # the groups are drawn apart


def test_partners_of_all_groups_are_drawn_anew_and_never_the_scan_itself(
    reader: CacheReader,
) -> None:
    plan = plan_for(reader, replace(OFF, mixes=({"all": 1.0}, {"all": 1.0})))
    pairs = set()
    for epoch in range(40):
        first, second = load_scan(reader, plan, 1, epoch=epoch).added
        pairs.add((first.record.scan_id, second.record.scan_id))
    own = reader.scans.scan_id[1]
    assert all(own not in pair for pair in pairs)
    assert len(pairs) == 9  # of three others each with each


def test_one_augmentation_more_leaves_the_others_as_they_were(reader: CacheReader) -> None:
    alone = plan_for(reader, replace(OFF, extra={"lift": 0.5}))
    beside = plan_for(reader, replace(OFF, extra={"lift": 0.5, "beam_missing": 0.5}))
    z_of = [load_scan(reader, alone, 0, epoch=e).record.xyz[2] for e in range(20)]
    original = reader.read(0, Fields()).xyz[2]
    lifted = [not np.array_equal(z, original) for z in z_of]
    assert 0 < sum(lifted) < 20
    fewer = 0
    for epoch, z in enumerate(z_of):
        after = load_scan(reader, beside, 0, epoch=epoch).record.xyz[2]
        assert set(after.tolist()) <= set(z.tolist())
        fewer += len(after) < len(z)
    assert 0 < fewer < 20


def test_a_mix_that_leaves_nothing_leaves_the_scan(reader: CacheReader) -> None:
    def nothing(scan: LoadedScan, *_: object) -> LoadedScan:
        return scan.kept(np.zeros(scan.n, bool))

    MIXES["nothing"] = Mix(nothing)
    try:
        plan = plan_for(reader, replace(OFF, mixes=({"nothing": 1.0},)))
        assert load_scan(reader, plan, 0, epoch=0).n == reader.scans.n[0]
    finally:
        del MIXES["nothing"]
