"""Training, validation and evaluation on several scans together, on small caches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import write_sequence

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run import plan as plan_module
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.checkpoints.trained import trained_network
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.inference.scans import CachedScans
from pass2d.train.inference.votes import SINGLE_PASS
from pass2d.train.loop import run
from pass2d.train.recipes.recipe import load_recipe, network_settings
from pass2d.train.stacks.config import TASEG_STEPS, StackConfig

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
    "name", ["2dpass-3scans", "minkowskinet-3scans", "spvcnn-3scans", "spvcnn-17scans-steps"]
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
    official = next(s for s in report.passes[0].scores if s.protocol == "official")
    assert line["miou_official"] == pytest.approx(official.miou, abs=1e-9)


def test_inference_sees_the_stack_that_training_sees(cache: Path, tmp_path: Path) -> None:
    recipe = load_recipe("minkowskinet-3scans", [*SMALL, "augment.mode=none"])
    run(cache, recipe, run_root=tmp_path / "run")
    trained = trained_network(tmp_path / "run/checkpoints/best.safetensors", "cpu")
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
