"""Training, validation and evaluation on several scans together, on small caches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import scan_points, write_sequence
from train_samples import TASEG_STEPS

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.commands.folder_poses import folder_poses
from pass2d.common.errors import CacheError, ConfigError, ShapeError
from pass2d.common.progress import Silent
from pass2d.corruptions.registry import parse_variants
from pass2d.pipeline.corrupted import corrupted_listings
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare, prepare_all
from pass2d.pipeline.run import plan as plan_module
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.inference.labels import label_scans
from pass2d.train.inference.scans import CachedScans, eval_scan
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.inference.sequence import SequenceSegmenter
from pass2d.train.inference.votes import SINGLE_PASS
from pass2d.train.loop import run
from pass2d.train.prediction.predict import predict
from pass2d.train.recipes.recipe import load_recipe, network_settings
from pass2d.train.robustness.cached import robust_cache
from pass2d.train.robustness.published_sets import robust_folders
from pass2d.train.stacks.config import StackConfig

INLINE = PrepareConfig(workers=0, shard_scans=2)
SMALL = (
    *("epochs=1", "batch_size=1", "device=cpu", "log.tensorboard=false", "log.every_steps=1"),
    *("stream.threads=1", "stream.prefetch=1", "validation.every_epochs=1"),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stacks")
    for sequence in ("00", "08"):
        folder = write_sequence(root / "raw", sequence, (0, 1, 2), n=400)
        poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {2 * place}\n" for place in range(3))
        (folder / "poses.txt").write_text(poses)
    prepare(list_semkitti(root / "raw"), root / "semkitti", INLINE, Silent())
    return root


@pytest.mark.parametrize(
    "name",
    [
        *(f"{name}-3scans" for name in ("2dpass", "minkowskinet", "minkunet34", "spvcnn")),
        "spvcnn-17scans-steps",
    ],
)
def test_recipes_name_what_they_do(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.classes == "moving"
    network_settings(recipe)
    if name.endswith("steps"):
        assert recipe.stack.steps == TASEG_STEPS
        assert (recipe.stack.past, recipe.stack.time) == (16, "flag")
    else:
        assert recipe.stack == StackConfig(past=2, time="lag")


@pytest.mark.parametrize("name", ["2dpass-3scans", "minkowskinet-3scans", "spvcnn-17scans-steps"])
def test_a_network_is_trained_and_evaluated_on_stacks(
    cache: Path, tmp_path: Path, name: str
) -> None:
    heard: list[str] = []

    class Heard(Silent):
        def say(self, line: str) -> None:
            heard.append(line)

    overrides = ["network.settings.hidden=16"] if name.startswith("2dpass") else []
    recipe = load_recipe(name, [*SMALL, *overrides])
    result = run(cache, recipe, run_root=tmp_path / "run", progress=Heard())
    assert result.best_miou is not None
    fewer = "2 of 3" if recipe.stack.past == 2 else "3 of 3"
    assert any(f"{fewer} training scans have fewer than" in line for line in heard)
    trained = trained_network(tmp_path / "run/checkpoints/best.safetensors", "cpu")
    assert trained.card.stack == recipe.stack
    assert trained.card.info.labels.n_classes == 26
    assert trained.network.point_channels == 5
    report = evaluate(trained, cache, split="val")
    (line,) = [
        json.loads(text)
        for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
        if '"val"' in text
    ]
    assert line["miou_official"] == pytest.approx(report.passes[0].official.miou, abs=1e-9)


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    place = tmp_path_factory.mktemp("runs") / "run"
    run(cache, load_recipe("minkowskinet-3scans", SMALL), run_root=place)
    return trained_network(place / "checkpoints/best.safetensors", "cpu")


def test_a_stream_a_folder_and_a_cache_get_the_same_answers(
    cache: Path, tmp_path: Path, trained: TrainedNetwork
) -> None:
    velodyne = cache / "raw/sequences/08/velodyne"
    summary = predict(velodyne, trained, tmp_path / "out", poses=folder_poses)
    assert (summary.scans, summary.failed) == (3, ())
    assert not [w for w in summary.warnings if w.kind == "poses"]
    sequence = SequenceSegmenter(Segmenter.load(trained))
    for frame in range(3):
        points = np.fromfile(velodyne / f"{frame:06d}.bin", "<f4").reshape(-1, 4)
        pose = np.eye(4)
        pose[0, 3] = 2 * frame
        answer = sequence(points, pose)
        raw_ids = np.fromfile(tmp_path / f"out/{frame:06d}.label", "<u4")
        names = trained.card.info.labels
        assert np.array(names.training_to_raw)[answer.labels].tolist() == raw_ids.tolist()
        with CacheReader.open(cache) as reader:
            found = answers(reader, trained, f"08/{frame:06d}")
        np.testing.assert_array_equal(found, answer.labels)


def answers(reader: CacheReader, trained: TrainedNetwork, scan_id: str) -> np.ndarray:
    """Labels of one scan of a cache."""
    cached = CachedScans(
        reader.tell_motion(),
        trained.network,
        plans=(SINGLE_PASS,),
        outside="nearest",
        progress=Silent(),
        stack=trained.card.stack,
    )
    position = int(np.flatnonzero(reader.scans.scan_id == scan_id)[0])
    load = lambda place: eval_scan(*cached.read(place, label=True))  # noqa: E731
    (found,) = label_scans(trained.network, [position], load, info=reader.info)
    return found.passes[0].labels.numpy()


def test_a_folder_without_poses_is_labelled_scan_by_scan_with_a_warning(
    cache: Path, tmp_path: Path, trained: TrainedNetwork
) -> None:
    velodyne = cache / "raw/sequences/08/velodyne"
    summary = predict(velodyne, trained, tmp_path / "out")
    (warning,) = [w for w in summary.warnings if w.kind == "poses"]
    assert "trained on 3 scans together" in warning.message
    assert summary.scans == 3
    # Results are kept as long as the poses are the same: with poses they are made again.
    assert predict(velodyne, trained, tmp_path / "out").kept == 3
    again = predict(velodyne, trained, tmp_path / "out", poses=folder_poses)
    assert (again.scans, again.kept) == (3, 0)
    assert predict(velodyne, trained, tmp_path / "out", poses=folder_poses).kept == 3


def test_a_pose_that_is_no_motion_is_refused(trained: TrainedNetwork) -> None:
    sequence = SequenceSegmenter(Segmenter.load(trained))
    with pytest.raises(ShapeError, match="a rotation and a translation"):
        sequence(np.zeros((3, 4), np.float32), 2 * np.eye(4))
    with pytest.raises(ShapeError, match="pose"):
        sequence(np.zeros((3, 4), np.float32), np.eye(3))


def test_inference_sees_the_stack_that_training_sees(cache: Path, trained: TrainedNetwork) -> None:
    with CacheReader.open(cache) as reader:
        cached = CachedScans(
            reader.tell_motion(),
            trained.network,
            plans=(SINGLE_PASS,),
            outside="nearest",
            progress=Silent(),
            stack=trained.card.stack,
        )
        position = int(np.flatnonzero(reader.scans.scan_id == "08/000002")[0])
        _, scan = cached.read(position, label=False)
        assert scan.points.shape == (1200, 5)
        assert len(scan.rows) == scan.n == 400
        assert [scan.points[400 * place, 4] for place in range(3)] == [0, 1, 2]
        raw = [
            reader.read(position - lag, Fields(label=False, outside=True)).raw().points
            for lag in range(3)
        ]
        for lag in range(3):
            there = scan.points[400 * lag : 400 * (lag + 1)]
            moved = raw[lag][:, :3] - [2 * lag, 0, 0]
            np.testing.assert_allclose(there[:, :3], moved, atol=1e-5)
            np.testing.assert_array_equal(there[:, 3], raw[lag][:, 3])


def test_a_cache_that_an_earlier_version_prepared_says_what_to_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "containers", lambda job, info: ("lidar", "camera", "voxel"))
    prepare(list_semkitti(cache / "raw"), tmp_path / "semkitti", INLINE, Silent())
    recipe = load_recipe("minkowskinet-3scans", SMALL)
    with pytest.raises(CacheError, match="Run `prepare` again: it adds what is missing"):
        run(tmp_path, recipe, run_root=tmp_path / "a")
    static = replace(recipe, data=replace(recipe.data, classes="static"))
    with pytest.raises(ConfigError, match="no poses of sequence 00, 08"):
        run(tmp_path, static, run_root=tmp_path / "b")
    steps = load_recipe("spvcnn-17scans-steps", [*SMALL, "stack.steps=[1, 2]"])
    with pytest.raises(ConfigError, match="expected 20: one per class"):
        run(cache, steps, run_root=tmp_path / "c")


def test_robust_stacks_corrupted_caches_as_in_training(
    cache: Path, tmp_path: Path, trained: TrainedNetwork
) -> None:
    listing = list_semkitti(cache / "raw", splits=("val",))
    listings = [listing, *corrupted_listings(listing, parse_variants("fog:light"))]
    prepare_all(listings, tmp_path / "cache", INLINE, Silent())
    report = robust_cache(trained, tmp_path / "cache", tmp_path / "out", dataset="semkitti")
    assert [(found.corruption, found.severity) for found in report.results] == [
        ("clean", ""),
        ("fog", "light"),
    ]
    # The corruption benchmarks are of the classes without motion.
    alone = evaluate(trained, tmp_path / "cache", split="val", dataset="semkitti")
    folded = {found.task.name: found.official.miou for found in alone.passes[0].tasks}
    scores, _ = report.results[0].scores(report.info, sees_outside=True)
    assert scores.miou == pytest.approx(folded["single"], abs=1e-9)


def test_robust_refuses_published_sets_of_single_scans(
    tmp_path: Path, trained: TrainedNetwork
) -> None:
    folder = tmp_path / "SemanticKITTI-C/fog/light/velodyne"
    folder.mkdir(parents=True)
    scan_points(100).tofile(folder / "000000.bin")
    with pytest.raises(ConfigError, match="trained on 3 scans together, but the published sets"):
        robust_folders(trained, tmp_path / "SemanticKITTI-C", tmp_path / "out")
