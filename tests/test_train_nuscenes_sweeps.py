"""nuScenes with past sweeps: their time goes into the network, the key frame alone is scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes_files import NuscenesFolder

from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError, ShapeError
from pass2d.common.progress import Silent
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.registry import build_network
from pass2d.pipeline.compose import lidar_record
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.loop import run
from pass2d.train.prediction.predict import predict
from pass2d.train.recipes.recipe import load_recipe

INLINE = PrepareConfig(workers=0)
WIDTH = {"2dpass-nuscenes-128": "hidden=16", "minkowskinet-nuscenes": "width_factor=0.1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nuscenes") / "raw"
    return NuscenesFolder(place, samples=2, sweeps=2, n=300).write()


@pytest.fixture(scope="module")
def cache_root(root: Path) -> Path:
    listing = list_nuscenes(root, sweeps=2, stored_hw=(32, 48))
    prepare(listing, root.parent / "cache" / "nuscenes", INLINE, Silent())
    return root.parent / "cache"


def test_time_goes_with_its_point_into_a_batch(cache_root: Path) -> None:
    augment = AugmentConfig(jitter=0, dropout_ratio=0)
    with CacheReader.open(cache_root) as reader:
        plan = StreamPlan(
            positions=np.arange(4), batch_size=2, seed=0, augment=augment, size_hw=None
        )
        scans = [load_scan(reader, plan, position, epoch=0) for position in (1, 3)]
        raw = collate(scans, with_images=False, size_hw=(0, 0))
        batch = point_batch(raw, config=augment, grid=reader.info.grid, device=raw.channels.device)
    times = [scan.record.time for scan in scans if scan.record.time is not None]
    np.testing.assert_array_equal(batch.points[:, 4].numpy(), np.concatenate(times))
    assert batch.labels is not None
    assert (batch.points[:, 4] > 0).any()
    assert not batch.labels[batch.points[:, 4] > 0].any()


@pytest.mark.parametrize("recipe", list(WIDTH))
def test_networks_learn_with_time_and_only_the_key_frame_is_scored(
    root: Path, cache_root: Path, tmp_path: Path, recipe: str
) -> None:
    settings = [
        "epochs=1",
        "batch_size=2",
        f"network.settings.{WIDTH[recipe]}",
        "log.tensorboard=false",
        "torch_threads=1",
    ]
    chosen = load_recipe(recipe, settings)
    result = run(cache_root, chosen, run_root=tmp_path / "run", progress=Silent())
    report = evaluate(result.best, cache_root, split="val")
    alone = list_nuscenes(root, splits=("val",))
    labelled = 0
    for scan in alone.scans:
        record = lidar_record(scan, alone.info)
        assert record.label is not None
        assert record.outside_label is not None
        labelled += np.count_nonzero(record.label) + np.count_nonzero(record.outside_label)
    assert report.passes[0].official.points == labelled
    summary = predict(alone.scans[0].points, result.best, tmp_path / "out")
    assert summary.points == 300
    prepare(alone, tmp_path / "other" / "nuscenes", INLINE, Silent())
    with pytest.raises(ConfigError, match="trained on scans with 2 added sweeps"):
        evaluate(result.best, tmp_path / "other", split="val")


def test_a_voxel_has_the_label_of_its_key_frame_points() -> None:
    """Three points in one cell: two of a sweep, without label, and one of the key frame."""
    points = torch.tensor([[1.0, 1, 1, 9, 0], [1.01, 1, 1, 9, 0.1], [1.02, 1, 1, 9, 0.1]])
    labels = torch.tensor([3, 0, 0])
    network = build_network(
        "2dpass",
        {"hidden": 4, "block_scales": [2], "time_channel": True, "image_branch": False},
        grid=Grid(low=(-50, -50, -4), high=(50, 50, 3), shape=(1000, 1000, 70)),
        n_classes=5,
    ).train()
    offsets = torch.tensor([0, 3])
    batch = PointBatch(points=points, offsets=offsets, labels=labels)
    targets = network.prepare(batch).targets
    assert targets is not None
    assert targets.label.tolist() == [3]
    with pytest.raises(ShapeError, match=r"\(N, 5\): x, y, z, signal, time"):
        network.prepare(replace(batch, points=points[:, :4]))
