"""Training on a logical CUDA device: a CPU's numbers, no wait but known ones, nothing unordered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_samples import sample_info, write_sample_cache
from logical_cuda import Device
from logical_runs import (
    a_gpu,
    assert_same_numbers,
    require_waits,
    small_recipe,
    take_steps,
    thin_pictures,
)

from pass2d.train.data.augmentations import AUGMENTATIONS
from pass2d.train.data.mixes import MIXES
from pass2d.train.recipes.files import recipe_names

LONG = pytest.mark.skipif("PASS2D_LONG_TESTS" not in os.environ, reason="PASS2D_LONG_TESTS unset")

MODES = ("none", "lattice", "full", "noise")
FREE = ("augment.mode=full",)
VARIATIONS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "points removed": (*FREE, "augment.dropout=remove", "augment.dropout_ratio=0.5"),
    "all pictures, resized": ("augment.cameras=all", "augment.resize_hw=[32, 48]"),
    **{f"mix {name}": (*FREE, f"augment.mixes=[{{{name} = 1.0}}]") for name in MIXES},
    **{f"extra {name}": (*FREE, f"augment.extra={{{name} = 1.0}}") for name in AUGMENTATIONS},
    **{f"mode {mode}": (f"augment.mode={mode}", "augment.mixes=[]") for mode in MODES},
}
RECIPES = recipe_names()
CASES = [(name, list(VARIATIONS)[i % len(VARIATIONS)]) for i, name in enumerate(RECIPES)]
NETWORKS = ("2dpass-small", "2dpass-large", "baseline", "minkowskinet", "spvcnn", "vavit-small")

PREPARE_WAITS = {
    "2dpass-small": 21,
    "2dpass-large": 23,
    "baseline": 21,
    "minkowskinet": 21,
    "spvcnn": 28,
    "vavit-small": 12,
}
"""For the numbers of voxels, which the host must know; and for spconv's tables."""
MOST_CALLS = {
    "2dpass-small": 2560,
    "2dpass-large": 3270,
    "baseline": 1150,
    "minkowskinet": 510,
    "spvcnn": 1530,
    "vavit-small": 480,
}
"""ATen operations of a step of two scans, mode full."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    info = sample_info(n_cameras=2)
    write_sample_cache(root, n_scans=6, sequences=("00", "08"), info=info, n_points=200)
    return root


@pytest.fixture
def gpu() -> Iterator[Device]:
    with a_gpu() as here:
        yield here


@pytest.mark.parametrize(("name", "variation"), CASES)
def test_every_recipe_trains_as_on_a_cpu(data: Path, name: str, variation: str) -> None:
    compare(data, name, variation)


@LONG
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_recipe_with_every_augmentation(data: Path, name: str, variation: str) -> None:
    compare(data, name, variation)


def compare(data: Path, name: str, variation: str) -> None:
    recipe = small_recipe(
        name, "precision=float32", "optimizer.learning_rate=0.0001", *VARIATIONS[variation]
    )
    with thin_pictures():
        on_cpu = take_steps(data, recipe, None)
        with a_gpu() as here:
            on_gpu = take_steps(data, recipe, here)
    assert_same_numbers(on_cpu, on_gpu)
    require_waits(on_gpu.records[-1], prepare=None)
    assert here.in_flight.verified > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_waits_and_calls_no_more_than_known(data: Path, gpu: Device, name: str) -> None:
    with thin_pictures(blocks=(3, 4, 6, 3)):
        steps = take_steps(data, small_recipe(name, "augment.mode=full"), gpu, n=2)
    record = steps.records[-1]
    require_waits(record, prepare=PREPARE_WAITS[name])
    assert record.calls.total() <= MOST_CALLS[name], record.calls
