"""Every recipe as a stranger types it, `pass2d train --recipe NAME`, for two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cache_samples import write_sample_cache
from nuscenes_files import NuscenesFolder
from pandaset_files import write_sequence as write_pandaset
from pipeline_files import write_sequence
from test_train_team_recipes import NARROW
from thin_pictures import thin_pictures
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.recipes.files import recipe_names
from pass2d.train.recipes.recipe import Recipe, load_recipe, network_settings

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
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each data set that recipes are for, and one with poses for recipes that join scans."""
    names = ("semkitti", "stacks", "nuscenes", "pandaset")
    plain, posed, nuscenes, pandaset = (tmp_path_factory.mktemp(name) for name in names)
    quiet, workers = Silent(), PrepareConfig(workers=0)
    folder = NuscenesFolder(nuscenes / "raw", n=200)
    folder.add_panoptic()
    listing = list_nuscenes(folder.write(), stored_hw=(48, 80))
    prepare(listing, nuscenes / "nuscenes", workers, quiet)
    for place, sequence in enumerate(("001", "005")):
        write_pandaset(pandaset / "raw" / sequence, n=300, seed=place, has_cameras=False)
    listing = DATASETS["pandaset"].list_scans(pandaset / "raw", Wanted(), progress=quiet)
    prepare(listing, pandaset / "pandaset", workers, quiet)
    write_sample_cache(plain, n_scans=3, sequences=("00", "08"), n_points=200)
    poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {2 * place}\n" for place in range(3))
    for sequence in ("00", "08"):
        drive = write_sequence(posed / "raw", sequence, tuple(range(3)), n=200)
        (drive / "poses.txt").write_text(poses)
    prepare(list_semkitti(posed / "raw"), posed / "semkitti", workers, quiet)
    return dict(zip(names, (plain, posed, nuscenes, pandaset), strict=True))


def layout_of(recipe: Recipe) -> str:
    """Which cache a recipe trains on."""
    own = next((name for name in ("nuscenes", "pandaset") if name in recipe.name), "semkitti")
    return "stacks" if recipe.stack.past else own


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_trains(name: str, caches: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(name, [])
    kind, _ = network_settings(recipe)
    settings = [
        f"network.settings.{key}={json.dumps(value)}" for key, value in NARROW[kind].items()
    ]
    if recipe.precision == "fp16":  # which a CPU refuses, and says so
        settings.append("precision=float32")
    words = [word for text in (*SHORT, *settings) for word in ("--set", text)]
    place = ("--cache", str(caches[layout_of(recipe)]), "--run", str(tmp_path / "run"))
    with thin_pictures():
        result = CliRunner().invoke(app, ["train", *place, "--recipe", name, *words, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 2
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
