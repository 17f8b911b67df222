"""nuScenes in training and evaluation: one camera of six or all, large pictures, its rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from nuscenes_files import NuscenesFolder
from stub_network import StubNetwork

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.checkpoints.card import Card
from pass2d.train.data.batch import point_batch
from pass2d.train.data.collate import collate, common_crop
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.evaluation.evaluate import evaluate, evaluate_network
from pass2d.train.inference.metric import mask_forbidden_classes, official_scores
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.loop import run
from pass2d.train.recipes.recipe import load_recipe
from pass2d.train.run.assemble import picture_size

CPU = torch.device("cpu")
WHOLE = AugmentConfig(mode="lattice", crop_hw=None, jitter=0.0)


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two scans; one scan of each lacks CAM_BACK."""
    root = tmp_path_factory.mktemp("nuscenes")
    folder = NuscenesFolder(root / "raw", n=400)
    folder.drop(lambda name: "CAM_BACK__" in name and "500000" not in name)
    place = root / "cache" / "nuscenes"
    prepare(
        list_nuscenes(folder.write(), stored_hw=(32, 48)), place, PrepareConfig(workers=0), Silent()
    )
    return root / "cache"


@pytest.fixture(scope="module")
def reader(cache_root: Path) -> CacheReader:
    return CacheReader.open(cache_root)


def plan_for(reader: CacheReader, augment: AugmentConfig) -> StreamPlan:
    sizes = reader.scans.camera_hw.reshape(-1, 2)
    return StreamPlan(
        positions=np.arange(len(reader.scans)),
        batch_size=2,
        seed=3,
        augment=augment,
        size_hw=common_crop(augment, sizes[sizes[:, 0] > 0]),
    )


# cameras


def test_each_camera_with_a_picture_is_drawn_equally_often(reader: CacheReader) -> None:
    plan = plan_for(reader, WHOLE)
    for position in range(2):
        with_picture = np.flatnonzero(reader.scans.camera_hw[position, :, 0])
        pictures = [
            reader.read(position, _only(camera)).cameras[0].image for camera in with_picture
        ]
        drawn: Counter[int] = Counter()
        for epoch in range(300):
            (view,) = load_scan(reader, plan, position, epoch=epoch).record.cameras
            same = [i for i, picture in enumerate(pictures) if np.array_equal(picture, view.image)]
            drawn[same[0]] += 1
        expected = 300 / len(with_picture)
        assert len(drawn) == len(with_picture) in (5, 6)
        # Chi-squared with 4 or 5 degrees of freedom: above 21 once in a thousand.
        assert sum((n - expected) ** 2 / expected for n in drawn.values()) < 21


def _only(camera: int) -> Fields:
    return Fields(image=True, pixels=True, camera=camera)


def test_all_cameras_of_a_scan_go_into_its_batch(reader: CacheReader) -> None:
    config = replace(WHOLE, cameras="all", mirror=0.0)
    plan = plan_for(reader, config)
    scans = [load_scan(reader, plan, position, epoch=0) for position in (0, 1)]
    raw = collate(scans, with_images=True, size_hw=(32, 48))
    counts = [int((reader.scans.camera_hw[position, :, 0] > 0).sum()) for position in (0, 1)]
    assert raw.image_scan == (0,) * counts[0] + (1,) * counts[1]
    batch = point_batch(raw, config=config, grid=reader.info.grid, device=CPU)
    assert batch.images is not None
    assert batch.images.images.shape == (sum(counts), 3, 32, 48)
    views = [view for scan in scans for view in scan.record.cameras]
    place = 0
    for picture, (scan, view) in enumerate(zip(raw.image_scan, views, strict=True)):
        mine = batch.images.image_index == picture
        rows = batch.images.point_index[mine] - raw.scan_starts[scan]
        np.testing.assert_array_equal(rows, view.point_index)
        np.testing.assert_array_equal(batch.images.pixel_rc[mine], view.pixel_rc.T.astype(int))
        place += len(rows)
    assert place == len(batch.images.point_index)
    rows = batch.images.point_index.tolist()
    assert len(set(rows)) < len(rows)  # cameras overlap: such a point counts in both


def test_pictures_of_several_sizes_cannot_go_together(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2, info=sample_info(n_cameras=2))
    recipe = load_recipe("2dpass-small", ["augment.cameras=all"])
    with CacheReader.open(tmp_path) as cached:
        positions = cached.select(split="train")
        assert picture_size(cached, recipe, positions, Silent()) == (48, 192)
        cached.scans.camera_hw[positions[1], 1] = (48, 190)
        with pytest.raises(ConfigError, match=r"scan 00/000001 differ in size"):
            picture_size(cached, recipe, positions, Silent())
        one = load_recipe("2dpass-small")
        assert picture_size(cached, one, positions, Silent()) == (48, 176)


def test_a_large_picture_is_resized_whole(reader: CacheReader) -> None:
    config = replace(WHOLE, resize_hw=(16, 32), mirror=0.0)
    sizes = np.array([[900, 1600], [900, 1600]])
    assert common_crop(config, sizes) == (900, 1600)
    assert common_crop(WHOLE, sizes) == (896, 1600)
    plan = plan_for(reader, config)
    scan = load_scan(reader, plan, 0, epoch=0)
    raw = collate([scan], with_images=True, size_hw=(32, 48))
    batch = point_batch(raw, config=config, grid=reader.info.grid, device=CPU)
    assert batch.images is not None
    assert batch.images.images.shape == (1, 3, 16, 32)
    (view,) = scan.record.cameras
    expected = [[r * 16 // 32, c * 32 // 48] for r, c in view.pixel_rc.T.tolist()]
    assert batch.images.pixel_rc.tolist() == expected


# evaluation


def test_class_that_is_predicted_but_never_labelled_counts_as_0() -> None:
    counts = np.zeros((4, 4), np.int64)
    counts[1, 1], counts[1, 3], counts[2, 2], counts[2, 1] = 2, 1, 1, 1
    scores = official_scores(counts, absent_counts_zero=False)
    assert scores.iou[1:].tolist() == [0.5, 0.5, 0.0]
    assert (scores.miou, scores.absent) == (1 / 3, ())


def test_nuscenes_forbids_the_answer_0() -> None:
    logits = torch.tensor([[5.0, 1, 2], [0, -3, -4]])
    kitti, nuscenes = sample_info(), replace(sample_info(), layout="nuscenes")
    assert mask_forbidden_classes(logits, kitti).argmax(1).tolist() == [0, 0]
    assert mask_forbidden_classes(logits, nuscenes).argmax(1).tolist() == [2, 1]
    assert logits[0, 0] == 5


def test_evaluation_and_prediction_never_answer_0(tmp_path: Path) -> None:
    info = replace(sample_info(), layout="nuscenes")
    write_sample_cache(tmp_path, n_scans=1, info=info)
    network = StubNetwork(lambda points: torch.zeros(len(points), dtype=torch.int64))
    with CacheReader.open(tmp_path) as cached:
        counts = evaluate_network(network, cached, cached.select(split="val"))
        official, published = counts.scores(info)
    assert official.missed == 0
    assert official.points > published.points > 0
    card = Card(architecture="2dpass", settings={}, info=info)
    points = np.random.default_rng(0).uniform(-3, 1, (50, 4)).astype(np.float32)
    labels, sure = Segmenter(network, card)(points)
    assert labels.tolist() == [1] * 50
    assert np.isfinite(sure).all()


# the whole way


@pytest.mark.parametrize("cameras", ["one", "all"])
def test_2dpass_trains_and_is_evaluated(cache_root: Path, tmp_path: Path, cameras: str) -> None:
    settings = [
        "epochs=1",
        "batch_size=1",
        "network.settings.hidden=16",
        f"augment.cameras={cameras}",
        "log.tensorboard=false",
        "torch_threads=1",
    ]
    recipe = load_recipe("2dpass-nuscenes-128", settings)
    result = run(cache_root, recipe, run_root=tmp_path / "run", resume=False, progress=Silent())
    report = evaluate(result.best, cache_root, split="val")
    official = report.passes[0].official
    assert official.missed == 0
    assert official.points > 0
