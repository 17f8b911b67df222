"""Recipes: published values, overrides, and errors that name the right key."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from train_samples import INSTANCE_COPY
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.common.errors import ConfigError
from pass2d.synth.config import preset
from pass2d.train.optim.optimizer import build_optimizer
from pass2d.train.optim.schedule import RunLength, learning_rate, warmup_steps
from pass2d.train.recipes.files import recipe_names, recipe_summary
from pass2d.train.recipes.recipe import (
    Recipe,
    load_recipe,
    network_settings,
    to_toml,
    without_images,
)


def test_every_recipe_loads_and_comes_back_from_its_own_toml(tmp_path: Path) -> None:
    names = recipe_names()
    assert {
        "2dpass-small",
        "2dpass-large",
        "2dpass-nuscenes-128",
        "2dpass-nuscenes-256",
        "baseline",
        "baseline-nuscenes",
        "minkowskinet",
        "minkowskinet-nuscenes",
        "spvcnn",
        "spvcnn-nuscenes",
    } <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert recipe.name == name
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(recipe))
        assert load_recipe(str(path)) == recipe


LARGE_SCALES = [2, 4, 8, 16, 16, 16]
PUBLISHED = {
    # name: epochs, scans per batch and device, network, Lovasz weight, schedule, mixes, crop
    "2dpass-small": (64, 8, ([2, 4, 8, 16], 64, True), 0.1, "cosine-step", (), (320, 480)),
    "baseline": (64, 8, ([2, 4, 8, 16], 64, False), 0.1, "cosine-step", (), (320, 480)),
    "2dpass-large": (
        64,
        4,
        (LARGE_SCALES, 256, True),
        1.0,
        "cosine-epoch",
        INSTANCE_COPY,
        (320, 480),
    ),
    "2dpass-nuscenes-128": (80, 8, (LARGE_SCALES, 128, True), 1.0, "cosine-epoch", (), None),
    "baseline-nuscenes": (80, 8, (LARGE_SCALES, 128, False), 1.0, "cosine-epoch", (), None),
    "2dpass-nuscenes-256": (80, 8, (LARGE_SCALES, 256, True), 1.0, "cosine-epoch", (), None),
    "minkowskinet": (64, 8, "minkowskinet", 1.0, "cosine-step", (), None),
    "spvcnn": (64, 8, "spvcnn", 1.0, "cosine-step", (), None),
    "minkowskinet-nuscenes": (80, 32, "minkowskinet", 1.0, "cosine-epoch", (), None),
    "spvcnn-nuscenes": (80, 32, "spvcnn", 1.0, "cosine-epoch", (), None),
}
"""docs/maths.md, sections 2, 4, 6 and 7."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_recipe_holds_the_published_settings(name: str) -> None:
    epochs, batch_size, network, lambda_lovasz, schedule, mixes, crop_hw = PUBLISHED[name]
    recipe = load_recipe(name)
    sgd = recipe.optimizer
    assert (sgd.kind, sgd.learning_rate, sgd.momentum, sgd.nesterov) == ("sgd", 0.24, 0.9, True)
    assert (sgd.weight_decay, sgd.clip_norm) == (1e-4, 1)
    assert (recipe.epochs, recipe.batch_size, recipe.accumulate) == (epochs, batch_size, 1)
    assert recipe.average.kind == "none"
    assert recipe.precision == "float32"
    assert recipe.validation.patience == 50
    plan = recipe.schedule
    assert (plan.kind, plan.warmup_steps) == (schedule, -1)
    assert (plan.t_max_offset_epochs, plan.floor) == (-4, 1e-5)
    weights = recipe.loss
    assert weights.lambda_lovasz == lambda_lovasz
    assert (weights.lambda_2d, weights.lambda_xm) == (1, 0.05)
    # The rate: zero at the end, or the floor 4 epochs before it, from which it rises again.
    length = RunLength(epochs=epochs, steps_per_epoch=100)
    rates = [learning_rate(plan, 0.24, step=100 * epoch, length=length) for epoch in range(epochs)]
    assert rates[0] == 0.24
    if schedule == "cosine-step":
        last = learning_rate(plan, 0.24, step=100 * epochs - 1, length=length)
        assert last == pytest.approx(0.24 * (math.pi / (100 * epochs)) ** 2 / 4, rel=1e-6)
        pair = replace(length, world=2)
        assert warmup_steps(plan, world=1) == 0
        assert [warmup_steps(plan, world=n) for n in (2, 3, 4, 8)] == [500, 333, 250, 125]
        assert learning_rate(plan, 0.24, step=249, length=pair) == pytest.approx(0.12)
    else:
        assert rates[epochs - 4] == pytest.approx(1e-5)
        assert rates.index(min(rates)) == epochs - 4
        middle = (epochs - 4) // 2
        assert rates[middle] == pytest.approx((0.24 + 1e-5) / 2)
        assert learning_rate(plan, 0.24, step=100 * middle + 99, length=length) == rates[middle]
    assert recipe.data.class_weights == "auto"  # SemanticKITTI yes, nuScenes no
    augment = recipe.augment
    assert (augment.mode, augment.mixes, augment.cameras) == ("full", mixes, "one")
    assert (augment.dropout, augment.dropout_ratio) == ("copy", 0.2)
    assert (augment.scale, augment.translate_m) == (0.05, 0.1)
    assert (augment.rotate, augment.flip) == (True, True)
    assert (augment.jitter, augment.mirror, augment.resize_hw) == (0.4, 0.5, None)
    kind, settings = network_settings(recipe)
    if isinstance(network, str):
        assert kind == network
        return
    assert augment.crop_hw == crop_hw
    assert kind == "2dpass"
    got = (settings["block_scales"], settings["hidden"], settings["image_branch"])
    assert got == network


def test_the_demo_trains_200_steps_on_ten_streets_and_keeps_two_unseen() -> None:
    world, recipe = preset("demo"), load_recipe("demo")
    unseen = {"08", "11"}  # validation, and one without labels for predictions
    streets = set(world.sequences) - unseen
    assert unseen < set(world.sequences)
    assert recipe.data.limit == 0
    assert recipe.epochs * len(streets) * world.scans // recipe.batch_size == 200
    assert recipe.augment.crop_hw is not None
    assert all(c <= s for c, s in zip(recipe.augment.crop_hw, world.image_hw, strict=True))


def test_every_recipe_for_a_published_network_is_in_the_table() -> None:
    others = {"demo", "overfit", "vavit", "vavit-nuscenes", "vavit-small"}
    others |= {
        f"{name}-mix{dataset}"
        for name in ("2dpass", "minkowskinet", "minkunet34", "spvcnn")
        for dataset in ("", "-nuscenes")
    }
    others |= {f"{name}-3scans" for name in ("2dpass", "minkowskinet", "minkunet34", "spvcnn")}
    others |= {"spvcnn-17scans-steps", "spvcnn-pandaset"}
    others |= {"minkunet34-mix-8gpus", "minkunet34-mix-nuscenes-8gpus"}
    assert set(recipe_names()) - set(PUBLISHED) == others


@pytest.mark.parametrize(("name", "drop_path"), [("vavit", 0.5), ("vavit-nuscenes", 0.3)])
def test_vavit_is_trained_with_the_published_settings(name: str, drop_path: float) -> None:
    recipe = load_recipe(name)
    assert (recipe.epochs, recipe.batch_size, recipe.precision) == (45, 8, "bf16")
    optimizer, plan, augment = recipe.optimizer, recipe.schedule, recipe.augment
    assert (optimizer.kind, optimizer.learning_rate, optimizer.weight_decay) == (
        "adamw",
        0.001,
        0.003,
    )
    assert (plan.kind, plan.warmup_epochs) == ("warmup-cosine", 4)
    assert recipe.loss.lambda_lovasz == 1
    assert (augment.dropout_ratio, augment.scale, augment.translate_m) == (0, 0.1, 0)
    kind, settings = network_settings(recipe)
    assert kind == "vavit"
    assert settings["drop_path"] == drop_path
    assert settings["augment_features"] is True


@pytest.mark.parametrize(
    ("overrides", "decay"),
    [
        ([], 1e-4),
        (["optimizer.kind=adam"], 0.0),
        (["optimizer.kind=adam", "optimizer.weight_decay=0.01"], 0.01),
        (["optimizer.weight_decay=0"], 0.0),
        (["optimizer.kind=adam", "optimizer.weight_decay=none"], 0.0),
    ],
)
def test_weight_decay_is_that_of_sgd_and_none_with_adam_unless_it_is_set(
    tmp_path: Path, overrides: list[str], decay: float
) -> None:
    recipe = load_recipe("baseline", overrides)
    assert recipe.optimizer.weight_decay == decay
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(recipe))
    assert f"weight_decay = {decay}\n" in path.read_text()  # runs of before, too, say the number
    assert load_recipe(str(path)).optimizer == recipe.optimizer
    group = build_optimizer(nn.Linear(2, 2), recipe.optimizer).param_groups[0]
    assert group["weight_decay"] == decay


def test_the_small_recipe_is_every_default() -> None:
    assert replace(load_recipe("2dpass-small"), name="x") == Recipe(name="x")


def test_overrides_are_toml_values_or_bare_words() -> None:
    recipe = load_recipe(
        "2dpass-small",
        [
            "optimizer.learning_rate=1",
            "optimizer.kind = adam",
            "augment.crop_hw=[64, 128]",
            "augment.resize_hw=none",
            "network.settings.hidden=32",
            'data.train_splits=["train", "val"]',
            "log.tensorboard=false",
        ],
    )
    assert recipe.optimizer.learning_rate == 1.0
    assert recipe.optimizer.kind == "adam"
    assert recipe.augment.crop_hw == (64, 128)
    assert network_settings(recipe)[1]["hidden"] == 32
    assert recipe.data.train_splits == ("train", "val")
    assert recipe.log.tensorboard is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rte=0.1", "did you mean 'learning_rate'"),
        ("optimiser.learning_rate=0.1", "did you mean 'optimizer'"),
        ("epoch=3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("augment.crophw=[64, 128]", "augment: unknown key 'crophw'; did you mean 'crop_hw'?"),
        ("augmnt.mix=true", "unknown key 'augmnt'; did you mean 'augment'?"),
        ("network.setings.hidden=4", "network: unknown key 'setings'; did you mean 'settings'?"),
        ("schedule.warmup_step=4", "did you mean 'warmup_steps'?"),
        ("log.every_step=4", "override 'log.every_step=4'.log: unknown key 'every_step'"),
        ("learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("lerning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("lr=1", "did you mean 'optimizer.learning_rate'?"),
        ("optimizer.epochs=3", r"did you mean 'epochs' \(outside the tables\)"),
        ("train.epochs=3", r"unknown key 'train'; did you mean 'epochs' \(outside the tables\)"),
        ("loss.hidden=3", "did you mean 'network.settings.hidden'?"),
        ("kind=adam", "did you mean 'optimizer.kind' or 'schedule.kind'"),
        ("data.zzz=3", "choose from class_weights, classes, limit, sequences, train_splits"),
        ("network.settings.hiden=3", "did you mean 'hidden'"),
        ("network.config=2dpass-smal", "did you mean '2dpass-small'"),
        ("optimizer.kind=adm", "did you mean 'adam'"),
        ("epochs=many", "override 'epochs=many': epochs: expected a whole number, got 'many'"),
        ("epochs=1.5", "expected a whole number"),
        ("epochs=true", "expected a whole number"),
        ("epochs=0", "override 'epochs=0': epochs must be at least 1, got 0"),
        ("augment.crop_hw=[100, 480]", "multiples of 16"),
        ("augment.crop_hw=[320]", "expected 2 values"),
        ("augment.mode=lattice; augment.mix=true", "mixes: the voxels change"),
        ("augment.mode=none; augment.extra={fog=1}", "extra: the voxels change"),
        (
            "augment.mixes=[{instnce-copy=1}]",
            "unknown mix 'instnce-copy'; did you mean 'instance-copy'",
        ),
        (
            "augment.mixes=[{instance-copy=0.7}, {instance-copy=1.2}]",
            "a probability, 0..1, got 1.2",
        ),
        ("augment.mixes=[{}]", "mixes: of {} at most one is applied"),
        ("augment.mixes=3", "mixes: expected a list, got 3"),
        ("augment.mixes=[laser]", "mixes: expected a list, got"),
        ("augment.mixes=['laser']", r"mixes[0]: expected a table, got 'laser'"),
        ("augment.mixes=[{instance-copy='x'}]", r"mixes[0].instance-copy: expected a number"),
        ("augment.extra={foog=0.5}", "unknown augmentation 'foog'; did you mean 'fog'"),
        ("augment.extra={fog=-0.5}", "fog has a probability, 0..1, got -0.5"),
        ("optimizer=3", "expected a table"),
        ("epochs.x=3", "is a value, not a table"),
        ("epochs", "expected KEY=VALUE"),
        ("epochs=2\nseed=9", "several lines; give each setting by its own"),
        ("epochs=2\n[optimizer]\nlearning_rate=1", "several lines; give each setting by its own"),
        ("optimizer.learning_rate=nan", "learning_rate: expected a finite number, got nan"),
        ("optimizer.betas=[0.9, 1.5]", "betas must be at least 0 and below 1, got [0.9, 1.5]"),
        ("start_from=caf\udce9", r"start_from: expected text without control characters"),
        ("name=a\rb", "expected text without control characters, got 'a\\\\rb'"),
        ("schedule.kind=plateau; validation.every_epochs=0", "follows the validations"),
        ("schedule.kind=cosine-epoch; schedule.floor=0.9", "above optimizer.learning_rate = 0.24"),
        ("schedule.floor=-1", "schedule.floor must not be negative, got -1.0"),
        ("schedule.warmup_steps=-7", "-1 .as published. or more, got -7"),
        ("data.sequences=[]", 'sequences must name one, or be "none"'),
        ("seed=99999999999999999999", "seed must lie in 0..9223372036854775807"),
        ("torch_threads=1000000", "torch_threads must lie in 0..1024"),
        ("stream.prefetch=1000000000", "prefetch must lie in 1..256"),
        (
            "network.settings.hidden=big",
            "network.settings.hidden: expected a whole number, got 'big'",
        ),
        ("network.settings.image_branch=1", "settings.image_branch: expected true or false, got 1"),
        ("network.config=xyz", "minkowskinet, minkunet34, "),
    ],
)
def test_a_wrong_setting_is_one_clear_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_recipe("2dpass-small", override.split("; "))


def test_a_wrong_recipe_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean '2dpass-small'"):
        load_recipe("2dpas-small")
    with pytest.raises(ConfigError, match=r"gone\.toml: the recipe cannot be read"):
        load_recipe(str(tmp_path / "gone.toml"))
    path = tmp_path / "mine.toml"
    path.write_text("epochs = ")
    with pytest.raises(ConfigError, match=r"mine\.toml: not a TOML file"):
        load_recipe(str(path))
    path.write_text("[optimizer]\nlerning_rate = 1\n")
    (tmp_path / "other.toml").write_text("[network]\nsettings = {crop_hw = 3}")
    with pytest.raises(ConfigError, match=r"other\.toml\.network\.settings: unknown key 'crop_hw'"):
        load_recipe(str(tmp_path / "other.toml"))
    with pytest.raises(ConfigError, match=r"mine\.toml\.optimizer: unknown key 'lerning_rate'"):
        load_recipe(str(path))
    path.write_text('extends = "2dpass-large"\nlearning_rate = 1\n')
    with pytest.raises(ConfigError, match=r"did you mean 'optimizer\.learning_rate'\?"):
        load_recipe(str(path))
    path.write_text("[network.settings]\nhiden = 8\n")
    with pytest.raises(ConfigError, match="did you mean 'hidden'"):
        load_recipe(str(path))


def test_the_command_proposes_the_right_key(tmp_path: Path) -> None:
    words = ["train", "--cache", str(tmp_path), "--run", str(tmp_path / "run")]
    for typo, proposal in (
        ("augment.jiter=0", "did you mean 'jitter'?"),
        ("learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
    ):
        result = CliRunner().invoke(app, [*words, "--set", typo])
        assert result.exit_code == 1
        (line,) = [x for x in result.stderr.splitlines() if x]
        assert line.startswith(f"error: override {typo!r}")
        assert line.endswith(proposal)
    assert not (tmp_path / "run").exists()


def test_the_command_lists_the_recipes_with_what_they_are() -> None:
    result = CliRunner().invoke(app, ["train", "--list-recipes"])
    assert result.exit_code == 0
    words = " ".join(result.stdout.replace("│", " ").split())
    assert all(name in words for name in recipe_names())
    assert "minkowskinet MinkowskiNet on SemanticKITTI: all points of a scan" in words
    assert "GPU memory of the recipes is not measured" in words
    for name in recipe_names():
        if "-mix" in name or "scans" in name:  # of others, or of nobody: scores that are not ours
            summary = recipe_summary(name)
            assert "have not trained it" in summary, name
            assert "ublished" in summary, name


def test_a_file_named_like_a_recipe_may_change_it(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text('extends = "baseline"\nepochs = 3\n')
    assert load_recipe(str(path)) == replace(load_recipe("baseline"), epochs=3)
    path.write_text('extends = "baseline.toml"\n')
    with pytest.raises(ConfigError, match="extends itself"):
        load_recipe(str(path))


def test_a_recipe_file_may_have_a_mark_or_a_name_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.toml")
    path.write_bytes(b'\xef\xbb\xbfextends = "baseline"\n')
    recipe = load_recipe(str(path))
    assert recipe == replace(load_recipe("baseline"), name="caf?")


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ConfigError, match=r"a\.toml: extends itself by way of .*b\.toml"):
        load_recipe(str(tmp_path / "a.toml"))


def test_a_recipe_may_change_another_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "2dpass-large"\nepochs = 3\n[augment]\nmix = false\n')
    recipe = load_recipe(str(path))
    large = load_recipe("2dpass-large")
    assert recipe == replace(large, name="mine", epochs=3, augment=replace(large.augment, mixes=()))


def test_the_baseline_has_no_image_branch() -> None:
    recipe = without_images(load_recipe("2dpass-large"))
    assert network_settings(recipe)[1]["image_branch"] is False
    with pytest.raises(ConfigError, match="minkowskinet has none"):
        without_images(load_recipe("minkowskinet"))


def test_spvcnn_with_mixes_is_trained_with_the_published_settings() -> None:
    recipe = load_recipe("spvcnn-mix")
    assert (recipe.epochs, recipe.batch_size * recipe.accumulate) == (36, 24)
    sgd, plan = recipe.optimizer, recipe.schedule
    assert (sgd.kind, sgd.learning_rate, sgd.momentum, sgd.nesterov) == ("sgd", 0.48, 0.9, False)
    assert (sgd.weight_decay, sgd.clip_norm) == (1e-4, 10)
    assert (plan.kind, plan.warmup_epochs) == ("warmup-cosine", 1)
    assert (recipe.loss.label_smoothing, recipe.loss.lambda_lovasz) == (0.1, 1)
    assert recipe.augment.mixes == ({"polar-mix": 0.5},)
    assert (recipe.augment.scale, recipe.augment.translate_m) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("name", "n_devices"),
    [
        ("minkunet34-mix", 1),
        ("minkunet34-mix-nuscenes", 1),
        ("minkunet34-mix-8gpus", 8),
        ("minkunet34-mix-nuscenes-8gpus", 8),
    ],
)
def test_minkunet34_is_trained_with_the_published_settings(name: str, n_devices: int) -> None:
    recipe = load_recipe(name)
    assert (recipe.epochs, recipe.precision) == (36, "fp16")
    assert recipe.batch_size == 2
    assert recipe.batch_size * recipe.accumulate * n_devices == 16
    optimizer, plan, augment = recipe.optimizer, recipe.schedule, recipe.augment
    assert (optimizer.kind, optimizer.learning_rate, optimizer.weight_decay) == (
        "adamw",
        0.008,
        0.01,
    )
    assert optimizer.clip_norm == 10
    assert (plan.kind, plan.drop_epochs, plan.factor) == ("multistep", (24, 32), 0.1)
    assert (recipe.loss.lambda_lovasz, recipe.loss.label_smoothing) == (0, 0)
    assert recipe.data.class_weights == "off"
    assert (augment.rotate, augment.flip, augment.translate_m) == (True, False, 0)
    assert (augment.scale, augment.scale_z, augment.dropout_ratio) == (0.05, True, 0)
    kind, settings = network_settings(recipe)
    assert (kind, settings["head"], settings["width_factor"]) == ("minkunet34", "v2", 1)


@pytest.mark.parametrize(
    "name", ["2dpass-mix", "minkowskinet-mix", "2dpass-mix-nuscenes", "minkunet34-mix"]
)
def test_exactly_one_of_two_mixes_is_applied(name: str) -> None:
    assert load_recipe(name).augment.mixes == ({"laser-mix": 0.5, "polar-mix": 0.5},)
