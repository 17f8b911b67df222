"""Every recipe as a stranger types it, `pass2d train --recipe NAME`, for two steps."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torchvision
from cache_samples import write_sample_cache
from pipeline_files import write_sequence
from team_samples import shallow_resnet
from test_train_team_recipes import NARROW
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.recipes.files import recipe_names
from pass2d.train.recipes.recipe import load_recipe, network_settings

SHORT = (
    "device=cpu",
    "torch_threads=1",
    "epochs=1",
    "batch_size=1",
    "accumulate=1",
    "data.limit=2",
    "augment.crop_hw=[32, 64]",
    "log.tensorboard=false",
)
"""Sizes alone: mixes, stacks, losses, schedules and the image branch are the recipe's."""


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """One without poses, and one with them for recipes that join scans."""
    plain, posed = (tmp_path_factory.mktemp(name) for name in ("plain", "posed"))
    write_sample_cache(plain, n_scans=3, sequences=("00", "08"), n_points=200)
    poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {2 * place}\n" for place in range(3))
    for sequence in ("00", "08"):
        folder = write_sequence(posed / "raw", sequence, tuple(range(3)), n=200)
        (folder / "poses.txt").write_text(poses)
    prepare(list_semkitti(posed / "raw"), posed / "semkitti", PrepareConfig(workers=0), Silent())
    return {False: plain, True: posed}


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_trains(name: str, caches: dict[bool, Path], tmp_path: Path) -> None:
    recipe = load_recipe(name, [])
    kind, _ = network_settings(recipe)
    settings = [
        f"network.settings.{key}={json.dumps(value)}" for key, value in NARROW[kind].items()
    ]
    if recipe.precision == "fp16":  # which a CPU refuses, and says so
        settings.append("precision=float32")
    words = [word for text in (*SHORT, *settings) for word in ("--set", text)]
    place = ("--cache", str(caches[bool(recipe.stack.past)]), "--run", str(tmp_path / "run"))
    with mock.patch.object(torchvision.models, "resnet34", shallow_resnet):
        result = CliRunner().invoke(app, ["train", *place, "--recipe", name, *words, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 2
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
