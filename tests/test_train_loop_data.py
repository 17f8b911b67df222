"""Runs on awkward data: no pictures, no labels, other classes; diverging, ending, learning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from heard import Heard
from thin_pictures import thin_pictures
from train_samples import final_weights, tiny_recipe

from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo, LabelTable
from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.train.checkpoints.checkpoint import load_checkpoint
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.loop import run
from pass2d.train.optim.schedule import RunLength, ScheduleConfig, idle_settings
from pass2d.train.run.assemble import fresh_network

WITH_PICTURES = ("network.settings.image_branch=true", "epochs=1", "batch_size=3")


@pytest.fixture(autouse=True)
def _small_image_network() -> Iterator[None]:
    with thin_pictures():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=3, sequences=("00", "01", "08"), n_points=300)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "run"
    run(data, tiny_recipe("epochs=1"), run_root=root)
    return root


def test_sequences_without_pictures_are_named_and_still_train(tmp_path: Path) -> None:
    """The first batch (three scans of 01) has no picture at all, the second has them all."""
    data = tmp_path / "cache"
    write_sample_cache(data, n_scans=3, sequences=("00", "01"), without_image=("01",), n_points=300)
    heard = Heard()
    recipe = tiny_recipe(*WITH_PICTURES, "batch_size=1", "log.save_steps=0")
    result = run(data, recipe, run_root=tmp_path / "run", progress=heard)
    assert result.is_complete
    assert "3 of 6 training scans have no picture (sequences 01)" in heard.all()
    assert "'val' has no labelled scan: the run is not validated" in heard.all()
    assert result.best_miou is None
    assert load_checkpoint(result.best).card.holds == "inference"
    weights = final_weights(tmp_path / "run")
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights.values())


def test_without_any_picture_the_error_names_the_way_out(tmp_path: Path) -> None:
    data = tmp_path / "cache"
    write_sample_cache(data, n_scans=2, sequences=("00",), image_hw=None, n_points=300)
    with pytest.raises(ConfigError, match=r"no training scan has a picture.*`baseline_only`"):
        run(data, tiny_recipe(*WITH_PICTURES), run_root=tmp_path / "run")
    result = run(data, tiny_recipe("epochs=1"), run_root=tmp_path / "baseline")
    assert result.is_complete


def test_small_pictures_give_the_largest_crop_that_all_hold(tmp_path: Path) -> None:
    data = tmp_path / "cache"
    write_sample_cache(data, n_scans=2, sequences=("00",), image_hw=(40, 90), n_points=300)
    heard = Heard()
    recipe = tiny_recipe(*WITH_PICTURES, "augment.crop_hw=[320, 480]", "log.save_steps=0")
    run(data, recipe, run_root=tmp_path / "run", progress=heard)
    assert "cropped to 32 x 80" in heard.all()


def test_pictures_below_16_pixels_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "cache"
    write_sample_cache(data, n_scans=2, sequences=("00",), image_hw=(12, 90), n_points=300)
    with pytest.raises(ConfigError, match=r"\[12, 90\].*smaller than the 16 x 16"):
        run(data, tiny_recipe(*WITH_PICTURES), run_root=tmp_path / "run")


def test_a_split_without_labels_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe('data.train_splits=["test"]')
    with pytest.raises(ConfigError, match="splits with labels: train, val"):
        run(data, recipe, run_root=tmp_path)


def test_training_on_train_and_val_takes_both(data: Path, tmp_path: Path) -> None:
    heard = Heard()
    recipe = tiny_recipe('data.train_splits=["train", "val"]', "epochs=1", "batch_size=8")
    run(data, recipe, run_root=tmp_path, progress=heard)
    assert "9 training and 3 validation scans" in heard.all()
    assert "3 of 3 validation scans are trained on too" in heard.all()


def test_a_split_named_twice_comes_once_and_a_wrong_one_is_refused(
    data: Path, tmp_path: Path
) -> None:
    heard = Heard()
    recipe = tiny_recipe('data.train_splits=["train", "train"]', "epochs=1", "batch_size=8")
    run(data, recipe, run_root=tmp_path / "twice", progress=heard)
    assert "6 training and 3 validation scans" in heard.all()
    with pytest.raises(ConfigError, match=r"validation\.split: unknown split 'vall'.*'val'"):
        run(data, tiny_recipe("validation.split=vall"), run_root=tmp_path / "wrong")


def test_a_mix_without_instance_ids_is_said(tmp_path: Path) -> None:
    info = replace(sample_info(), layout="nuscenes")
    write_sample_cache(tmp_path / "cache", n_scans=1, sequences=("00",), n_points=50, info=info)
    heard = Heard()
    recipe = tiny_recipe("augment.mixes=[{instance-copy=1}]", "epochs=1")
    run(tmp_path / "cache", recipe, run_root=tmp_path / "run", progress=heard)
    assert (
        "instance-copy changes nothing: the labels of nuScenes hold no instance ids" in heard.all()
    )


def test_a_resumed_run_no_longer_needs_the_file_of_the_2d_weights(
    data: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.pth"
    recipe = tiny_recipe(*WITH_PICTURES, f"network.settings.image_weights={gone}")
    alone = ProcessGroup(device=torch.device("cpu"))
    with CacheReader.open(data) as reader:
        fresh_network(reader, recipe, alone, is_resumed=True)
        with pytest.raises(CheckpointError, match=r"gone\.pth: no such file"):
            fresh_network(reader, recipe, alone)


def test_diverging_runs_end_and_name_the_first_bad_module(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "optimizer.learning_rate=1e30", "optimizer.max_skipped=3", "epochs=9", "batch_size=1"
    )
    with pytest.raises(
        ConfigError, match=r"3 steps in a row.*(output of module|parameter|loss).*learning_rate"
    ):
        run(data, recipe, run_root=tmp_path)


def test_a_run_that_skipped_every_step_is_no_success(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("loss.lambda_lovasz=1e39", "epochs=1", "batch_size=6")
    with pytest.raises(ConfigError, match=r"^1 step in a row .*: loss\. "):
        run(data, recipe, run_root=tmp_path)


@pytest.mark.parametrize("every", [0, 1])
def test_a_network_that_diverged_in_the_last_step_is_not_exported(
    every: int, data: Path, tmp_path: Path
) -> None:
    once = ("epochs=1", "batch_size=6", f"validation.every_epochs={every}")
    with pytest.raises(ConfigError, match=r"contain NaN or infinity .* has diverged\. Begin"):
        run(data, tiny_recipe("optimizer.learning_rate=1e300", *once), run_root=tmp_path)
    assert not (tmp_path / "checkpoints" / "best.safetensors").exists()


def test_scales_that_no_cache_stores_are_voxelised_in_training(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("augment.mode=none", "network.settings.block_scales=[2, 3]", "epochs=1")
    assert run(data, recipe, run_root=tmp_path).is_complete


def test_a_schedule_longer_than_the_run_is_said(data: Path, tmp_path: Path) -> None:
    heard = Heard()
    run(
        data, tiny_recipe("schedule.warmup_steps=99", "epochs=1"), run_root=tmp_path, progress=heard
    )
    assert "the warm-up takes 99 steps and the run 3: it never trains with" in heard.all()
    length = RunLength(epochs=5, steps_per_epoch=4)
    late = ScheduleConfig(kind="multistep", drop_epochs=(3, 5, 9))
    assert list(idle_settings(late, length=length)) == [
        "schedule.drop_epochs: [5, 9] come after the run's 5 epochs"
    ]
    warmup = ScheduleConfig(kind="warmup-cosine", warmup_epochs=5.5)
    assert [
        "schedule.warmup_epochs: the warm-up takes 22 steps" in s
        for s in idle_settings(warmup, length=length)
    ] == [True]


def test_half_precision_on_a_cpu_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        run(data, tiny_recipe("precision=fp16"), run_root=tmp_path)


def test_early_stopping_counts_validations(data: Path, tmp_path: Path) -> None:
    heard = Heard()
    recipe = tiny_recipe(
        "epochs=9", "validation.patience=2", "optimizer.learning_rate=1e-9", "batch_size=6"
    )
    result = run(data, recipe, run_root=tmp_path, progress=heard)
    assert result.is_complete
    assert result.stopped_by == "patience"
    assert result.epochs < 9
    assert "no better mIoU for 2 validations" in heard.all()


def test_the_best_networks_stay(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("epochs=4", "validation.keep_best=2", "batch_size=6")
    result = run(data, recipe, run_root=tmp_path)
    kept = sorted((tmp_path / "checkpoints").glob("epoch-*.safetensors"))
    assert len(kept) == 2
    scores = {p.name: load_checkpoint(p).card.metrics["val/miou_official"] for p in kept}
    assert max(scores.values()) == result.best_miou
    assert load_checkpoint(result.best).card.metrics["val/miou_official"] == result.best_miou


def other_classes() -> DatasetInfo:
    info = sample_info()
    labels = LabelTable(
        raw_to_training={**info.labels.raw_to_training, 99: 5},
        training_to_raw=(*info.labels.training_to_raw, 99),
        names=(*info.labels.names, "pole"),
        colors_rgb=(*info.labels.colors_rgb, (1, 2, 3)),
    )
    return replace(info, labels=labels)


def test_fine_tuning_with_other_classes_starts_the_heads_anew(
    trained: Path, tmp_path: Path
) -> None:
    data = tmp_path / "cache"
    write_sample_cache(data, n_scans=2, sequences=("00",), info=other_classes(), n_points=300)
    heard = Heard()
    start = trained / "checkpoints" / "best.safetensors"
    recipe = tiny_recipe("optimizer.learning_rate=1e-12", "epochs=1", f"start_from={start}")
    run(data, recipe, run_root=tmp_path / "run", progress=heard)
    assert "its 5 classes are not these 6: 2 tensors of the heads" in heard.all()
    before, after = load_checkpoint(start).part("network."), final_weights(tmp_path / "run")
    encoder = [n for n in before if n.startswith("encoder") and n.endswith("weight")]
    assert len(encoder) > 10
    for name in encoder:
        torch.testing.assert_close(before[name], after[name], atol=1e-7, rtol=1e-5)
    assert after["head.outer.weight"].shape[0] == 6


def test_fine_tuning_from_another_size_is_refused(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    start = trained / "checkpoints" / "best.safetensors"
    recipe = tiny_recipe("network.settings.hidden=8", f"start_from={start}")
    with pytest.raises(CheckpointError, match=r"do not give the sizes.*network\.settings"):
        run(data, recipe, run_root=tmp_path)


def test_adding_the_image_branch_when_fine_tuning_is_said(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    start = trained / "checkpoints" / "best.safetensors"
    heard = Heard()
    recipe = tiny_recipe(*WITH_PICTURES, f"start_from={start}", "log.save_steps=0", "data.limit=3")
    run(data, recipe, run_root=tmp_path, progress=heard)
    assert "not in it, and so new" in heard.all()


@pytest.mark.slow
def test_two_scans_are_learnt_by_heart(tmp_path: Path) -> None:
    data = tmp_path / "cache"
    write_sample_cache(data, n_scans=2, sequences=("00",), n_points=600)
    recipe = tiny_recipe(
        "augment.mode=none",
        "network.settings.hidden=32",
        "epochs=90",
        "validation.split=train",
        "validation.protocol=published",  # points outside are labelled road, all of them
        "validation.every_epochs=90",
        "optimizer.learning_rate=0.24",
        "log.save_steps=0",
        "log.every_steps=90",
    )
    result = run(data, recipe, run_root=tmp_path / "run")
    assert result.best_miou is not None
    assert result.best_miou > 0.95
