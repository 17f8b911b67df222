"""`--augment noise`: corruptions before the published augmentation, by seed, epoch and scan."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import write_sample_cache
from pipeline_files import write_sequence
from test_train_stream import plan_for as train_plan
from train_samples import INSTANCE_COPY, assert_same_tensors, final_weights, tiny_recipe

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.corruptions.cloud import Cloud
from pass2d.corruptions.registry import (
    CORRUPTIONS,
    Variant,
    corrupt,
    corruption_table,
    parse_variants,
)
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.stages.labels import map_labels
from pass2d.train.data.collate import collate
from pass2d.train.data.corrupt import corrupted_record
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig, draw_scan
from pass2d.train.data.scan import count_points
from pass2d.train.data.stream import BatchStream, StreamConfig
from pass2d.train.loop import run

NOISE = AugmentConfig(mode="noise", crop_hw=(32, 96), noise_probability=0.9)
ALL = Fields(label=True, instance=True, image=True, pixels=True)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=5, sequences=("00", "08"))
    return CacheReader.open(root)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_sequence(root, "00", (0, 1), n=600)
    listing = list_semkitti(root)
    prepare(listing, root / "cache" / "semkitti", PrepareConfig(workers=0), Silent())
    return root


plan_for = partial(train_plan, augment=NOISE, batch_size=2)


def test_all_other_draws_are_those_of_full(reader: CacheReader) -> None:
    for scan in range(30):
        configs = [AugmentConfig(mode=mode) for mode in ("full", "noise")]
        grid = reader.info.grid
        draws = [asdict(draw_scan(c, seed=1, epoch=2, scan=scan, grid=grid)) for c in configs]
        assert draws[0].pop("corruption") is None
        draws[1].pop("corruption")
        assert draws[0] == draws[1]


def test_corruptions_are_drawn_with_the_probability_evenly(reader: CacheReader) -> None:
    config = AugmentConfig(mode="noise", noise_probability=0.6)
    drawn = [
        draw_scan(config, seed=0, epoch=0, scan=scan, grid=reader.info.grid).corruption
        for scan in range(3000)
    ]
    found = Counter("none" if variant is None else variant.name for variant in drawn)
    assert found["none"] == pytest.approx(1200, abs=100)
    for name in CORRUPTIONS:
        assert found[name] == pytest.approx(225, abs=60)
    assert len(set(drawn)) == 25
    only = AugmentConfig(
        mode="noise", noise_probability=1, noise_corruptions=("fog",), noise_severities=("light",)
    )
    drawn = [
        draw_scan(only, seed=0, epoch=0, scan=scan, grid=reader.info.grid).corruption
        for scan in range(20)
    ]
    assert set(drawn) == {Variant(name="fog", severity="light")}


@pytest.mark.parametrize("with_outside", [False, True])
def test_pixels_stay_with_their_points(raw: Path, with_outside: bool) -> None:
    with CacheReader.open(raw / "cache") as reader:
        record = reader.read(0, replace(ALL, outside=with_outside))
        view = record.cameras[0]
        pixel_of = {
            tuple(record.xyz[:, row].tolist()): tuple(view.pixel_rc[:, i].tolist())
            for i, row in enumerate(view.point_index)
        }
        for variant in parse_variants("beam_missing:light,cross_sensor:light,crosstalk:heavy"):
            after = corrupted_record(record, variant=variant, seed=3, info=reader.info)
            seen = after.cameras[0]
            assert 0 < len(seen.point_index) <= len(view.point_index)
            assert (np.diff(seen.point_index) > 0).all()
            for i, row in enumerate(seen.point_index):
                xyz = tuple(after.xyz[:, row].tolist())
                assert pixel_of[xyz] == tuple(seen.pixel_rc[:, i].tolist())
            if variant.name != "crosstalk":
                there = {tuple(column) for column in after.xyz.T.tolist()} & set(pixel_of)
                assert len(seen.point_index) == len(there)


def test_with_the_outside_points_it_is_the_corruption_of_the_raw_file(raw: Path) -> None:
    file = raw / "sequences/00/velodyne/000001.bin"
    points = np.fromfile(file, "<f4").reshape(-1, 4)
    raw_labels = np.fromfile(raw / "sequences/00/labels/000001.label", "<u4")
    table = corruption_table("semantickitti")
    with CacheReader.open(raw / "cache") as reader:
        record = reader.read(1, Fields(label=True, instance=True, outside=True))
        label = map_labels(raw_labels, table=reader.info.labels, file=file)
        cloud = Cloud(xyz=points[:, :3].T.copy(), signal=points[:, 3].copy(), label=label,
                      instance=raw_labels >> 16, sensor=table.sensor)  # fmt: skip
        for variant in parse_variants("all:heavy"):
            if variant.name == "incomplete_echo":
                continue  # outside points have no instance in the cache
            expected = corrupt(cloud, variant, table=table, rng=np.random.default_rng(9))
            after = corrupted_record(record, variant=variant, seed=9, info=reader.info)
            assert after.n_raw == len(expected.source) == count_points(after)
            assert np.array_equal(after.xyz, expected.xyz[:, after.raw_index])
            assert np.array_equal(after.label, expected.carried(label)[after.raw_index])
            others = np.setdiff1d(np.arange(after.n_raw), after.raw_index)
            assert np.array_equal(after.outside_xyz, expected.xyz[:, others])
            assert np.array_equal(after.outside_label, expected.carried(label)[others])


def test_a_scan_that_nothing_would_be_left_of_stays(reader: CacheReader) -> None:
    one = ScanRecord(
        scan_id="one",
        n_raw=1,
        xyz=np.array([[5], [0], [-3.95]], np.float32),
        signal=np.array([0.3], np.float32),
        raw_index=np.zeros(1, np.int32),
        label=np.array([9], np.uint8),
    )
    blur = Variant(name="motion_blur", severity="heavy")
    shaken = [corrupted_record(one, variant=blur, seed=s, info=reader.info) for s in range(20)]
    assert all(record.n == 1 for record in shaken)
    assert 0 < sum(record is one for record in shaken) < 20


def content(reader: CacheReader, plan: StreamPlan, count: int, threads: int) -> list[torch.Tensor]:
    stream = BatchStream(reader, plan, StreamConfig(threads=threads))
    try:
        taken = []
        for _ in range(count):
            batch = next(stream)
            assert batch is not None
            taken += [batch.channels.clone(), batch.labels.clone(), batch.point_index.clone()]
        return taken
    finally:
        stream.close()


def test_batches_are_the_same_whatever_the_threads(reader: CacheReader) -> None:
    plan = plan_for(reader)
    one, three = (content(reader, plan, 6, threads) for threads in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    full = content(reader, plan_for(reader, augment=replace(NOISE, mode="full")), 6, 1)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one, full, strict=True))


def test_another_epoch_is_corrupted_in_another_way(reader: CacheReader) -> None:
    plan = plan_for(
        reader, augment=replace(NOISE, noise_corruptions=("motion_blur",), noise_probability=1)
    )
    first, again, next_one = (load_scan(reader, plan, 0, epoch=e).record.xyz for e in (0, 0, 1))
    assert np.array_equal(first, again)
    assert first.shape != next_one.shape or not np.array_equal(first, next_one)


def test_mix_appends_instances_of_corrupted_partners(reader: CacheReader) -> None:
    plan = plan_for(
        reader, augment=replace(NOISE, mixes=INSTANCE_COPY, noise_probability=1), size_hw=None
    )
    scans = [load_scan(reader, plan, 0, epoch=e) for e in range(8)]
    for scan in scans:
        (added,) = scan.added
        assert added.draw.corruption is not None
        assert (added.record.instance != 0).all()
    raw = collate(scans, with_images=False, size_hw=(0, 0))
    copies = sum(count - 1 for _, count in raw.repeated)
    assert raw.channels.shape[1] + copies == sum(s.n for s in scans)


def test_hashes_would_be_stale(reader: CacheReader) -> None:
    assert not NOISE.keeps_hashes
    with pytest.raises(ValueError, match="stale"):
        plan_for(reader, scales=(1, 2))


@pytest.mark.slow
def test_training_with_noise_gives_the_same_weights_whatever_the_threads(
    reader: CacheReader, tmp_path: Path
) -> None:
    for threads in (1, 2):
        recipe = tiny_recipe("augment.mode=noise", "epochs=1", f"stream.threads={threads}",
                             "augment.noise_probability=0.9")  # fmt: skip
        run(reader.root, recipe, run_root=tmp_path / str(threads), progress=Silent())
    assert_same_tensors(final_weights(tmp_path / "1"), final_weights(tmp_path / "2"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augment.mode=noisy", "did you mean 'noise'?"),
        ("augment.noise_probability=1.5", "noise_probability is a probability"),
        ('augment.noise_corruptions=["fogg"]', "did you mean 'fog'?"),
        ("augment.noise_corruptions=[]", "noise_corruptions must name at least one"),
        ('augment.noise_severities=["strong"]', "expected one of 'light'"),
    ],
)
def test_wrong_settings_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_recipe(override)
    assert said in str(error.value)
