"""Old names in recipes, run folders, logs and cards: read, and the new one said in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from heard import Heard
from train_samples import INSTANCE_COPY, final_weights, tiny_recipe

from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.reports.card import card_json, card_tables
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import load_checkpoint, read_card, save_checkpoint
from pass2d.train.loop import run
from pass2d.train.recipes.recipe import load_recipe, to_toml
from pass2d.train.recipes.renames import renamed_metrics, renamed_settings


@pytest.mark.parametrize("ratio", ["0.1", "0", "0.0"])
def test_the_old_dropout_of_a_recipe_is_the_ratio(tmp_path: Path, ratio: str) -> None:
    path = tmp_path / "old.toml"
    path.write_text(f'extends = "baseline"\n[augment]\ndropout = {ratio}\nrotate = false\n')
    heard = Heard()
    recipe = load_recipe(str(path), progress=heard)
    assert (recipe.augment.dropout, recipe.augment.dropout_ratio) == ("copy", float(ratio))
    assert not recipe.augment.rotate
    assert len(heard.lines) == 1
    assert "old.toml: augment.dropout = " in heard.lines[0]
    assert "augment.dropout_ratio" in heard.lines[0]
    # What it is written as is read without a word.
    path.write_text(to_toml(recipe))
    assert load_recipe(str(path), progress=heard) == recipe
    assert len(heard.lines) == 1


def test_old_names_of_overrides_and_of_a_recipe_below() -> None:
    heard = Heard()
    old = ["augment.dropout=0.05", "validation.protocol=seed"]
    recipe = load_recipe("overfit", old, progress=heard)
    assert recipe.augment.dropout_ratio == 0.05
    assert recipe.validation.protocol == "published"
    assert len(heard.lines) == 2
    whole = load_recipe("overfit", ['augment={dropout = 0.05, mode = "none"}'], progress=heard)
    assert whole.augment == replace(recipe.augment, mode="none")
    new = load_recipe("overfit", ["augment.dropout=remove"], progress=heard)
    assert (new.augment.dropout, new.augment.dropout_ratio) == ("remove", 0.2)
    assert len(heard.lines) == 3


@pytest.mark.parametrize(("old", "new"), [("true", INSTANCE_COPY), ("false", ())])
def test_the_old_mix_of_a_recipe_is_a_group_of_one(
    tmp_path: Path, old: str, new: tuple[dict[str, float], ...]
) -> None:
    path = tmp_path / "old.toml"
    path.write_text(f'extends = "2dpass-large"\n[augment]\nmix = {old}\n')
    heard = Heard()
    recipe = load_recipe(str(path), progress=heard)
    assert recipe.augment.mixes == new
    assert len(heard.lines) == 1
    assert f"old.toml: augment.mix = {old} is called augment.mixes = [" in heard.lines[0]
    path.write_text(to_toml(recipe))
    assert load_recipe(str(path), progress=heard) == recipe
    assert load_recipe("2dpass-large", [f"augment.mix={old}"]).augment.mixes == new
    assert len(heard.lines) == 1
    with pytest.raises(ConfigError, match=r"augment: unknown key 'mix'; did you mean 'mixes'"):
        load_recipe("2dpass-large", ["augment.mix=3"])


@pytest.mark.parametrize("value", ["true", "[0.1]", '"drop"', "1.5"])
def test_a_dropout_that_is_neither_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="augment"):
        load_recipe("baseline", [f"augment.dropout={value}"])


def test_both_names_at_once_take_the_new_one() -> None:
    table, notes = renamed_settings({"augment": {"dropout": 0.3, "dropout_ratio": 0.1}})
    assert table == {"augment": {"dropout_ratio": 0.1}}
    assert len(notes) == 1
    assert renamed_settings({"augment": 3, "validation": []}) == (
        {"augment": 3, "validation": []},
        [],
    )


def test_metrics_keep_their_values_and_the_old_accuracy_its_name() -> None:
    old = {"val/miou_official": 0.5, "val/miou_seed": 0.25, "val/accuracy_seed": 0.75}
    new, notes = renamed_metrics(old)
    assert new == {"val/miou_official": 0.5, "val/miou_published": 0.25, "val/accuracy_seed": 0.75}
    assert len(notes) == 1
    assert renamed_metrics(new) == (new, [])


def test_a_run_of_before_goes_on(tmp_path: Path) -> None:
    write_sample_cache(tmp_path / "cache", n_scans=2, sequences=("00", "08"), n_points=300)
    same = ("validation.protocol=published", "schedule.kind=constant")
    expected = tmp_path / "whole"
    run(tmp_path / "cache", tiny_recipe(*same), run_root=expected, progress=Silent())
    first = tmp_path / "old"
    run(tmp_path / "cache", tiny_recipe("epochs=1", *same), run_root=first, progress=Silent())
    settings = (first / "settings.toml").read_text()
    settings = settings.replace("\nepochs = 1\n", "\nepochs = 2\n")
    settings = settings.replace('dropout = "copy"\ndropout_ratio = 0.2', "dropout = 0.2")
    settings = settings.replace('protocol = "published"', 'protocol = "seed"')
    assert "dropout = 0.2" in settings
    assert '"seed"' in settings
    (first / "settings.toml").write_text(settings)
    log = (first / "metrics.jsonl").read_text()
    assert "miou_published" in log
    (first / "metrics.jsonl").write_text(log.replace("_published", "_seed"))
    second = tmp_path / "again"
    shutil.copytree(first, second)

    heard = Heard()
    result = run(
        tmp_path / "cache", tiny_recipe(*same), run_root=first, resume=True, progress=heard
    )
    assert result.is_complete
    assert sum("augment.dropout_ratio" in line for line in heard.lines) == 1
    assert sum('"seed" is called "published"' in line for line in heard.lines) == 1
    assert sum("miou_seed is called miou_published" in line for line in heard.lines) == 1
    records = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    scores = [record for record in records if record["kind"] == "val"]
    assert [record["epoch"] for record in scores] == [1, 2]
    assert all("miou_published" in record and "miou_seed" not in record for record in scores)
    assert "accuracy_seed" in scores[0]
    assert "accuracy_published" in scores[1]
    for name, tensor in final_weights(expected).items():
        assert torch.equal(tensor, final_weights(first)[name])

    # The old file itself is a recipe, too, and so is what a person typed then.
    run(
        tmp_path / "cache", load_recipe(str(second / "settings.toml")), run_root=second, resume=True
    )
    typed = tiny_recipe("augment.dropout=0.2", "validation.protocol=seed", same[1])
    assert typed == tiny_recipe(*same)


def test_a_card_of_before_is_read_and_shown_under_the_new_name(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    metrics = {"epoch": 3.0, "val/miou_seed": 0.25, "val/accuracy_seed": 0.5}
    card = Card(architecture="2dpass", settings={}, info=sample_info(), metrics=metrics)
    save_checkpoint(path, {"network.a": torch.ones(2)}, card)
    expected = {"epoch": 3.0, "val/miou_published": 0.25, "val/accuracy_seed": 0.5}
    assert read_card(path).metrics == load_checkpoint(path).card.metrics == expected
    assert card_json(path)["card"]["metrics"] == expected
    *_, note = card_tables(path)
    assert "val/miou_seed is called val/miou_published now" in str(note)
