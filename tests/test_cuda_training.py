"""Training on a logical CUDA device: a CPU's numbers, no wait but known ones, nothing unordered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from logical_cuda import Device
from logical_runs import (
    a_gpu,
    assert_same_numbers,
    require_waits,
    small_recipe,
    take_steps,
)
from pipeline_files import write_sequence
from thin_pictures import thin_pictures

from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.models.backends.determinism import fixed_order
from pass2d.models.backends.spconv import library
from pass2d.models.backends.tf32 import tf32_products
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare_all
from pass2d.train.data.augmentations import AUGMENTATIONS
from pass2d.train.data.mixes import MIXES
from pass2d.train.recipes.files import recipe_names
from pass2d.train.recipes.recipe import load_recipe, network_settings

IS_LONG = "PASS2D_LONG_TESTS" in os.environ
UNASKED = pytest.param("", "", marks=pytest.mark.skip(reason="PASS2D_LONG_TESTS unset"))

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
EVERY_CASE = [(name, variation) for name in RECIPES for variation in VARIATIONS]
CASES = [(name, list(VARIATIONS)[i % len(VARIATIONS)]) for i, name in enumerate(RECIPES)]
ONE_OF_EACH = (
    "2dpass-small",
    "baseline",
    "minkowskinet",
    "minkunet34-mix",
    "spvcnn",
    "vavit-small",
)
"""A recipe of each network."""
PRECISIONS = ("float32", "bf16", "fp16")
OF_THE_HOST = {f"extra {name}" for name in list(AUGMENTATIONS)[2:]}
"""Made of points before they reach the device, all alike: two of them stand for the others."""
PAIRED = [variation for variation in VARIATIONS if variation not in OF_THE_HOST]
WAYS = [(precision, backend) for precision in PRECISIONS for backend in ("auto", "native")]
PAIRS = [
    (name, variation, *WAYS[(i + j) % len(WAYS)], (j + j // len(WAYS)) % len(ONE_OF_EACH) == i)
    for i, name in enumerate(ONE_OF_EACH)
    for j, variation in enumerate(PAIRED)
]
"""Every pair of two of: network, augmentation, precision, backend, whether batches are prepared
ahead on a stream of their own (once with each augmentation, since it takes twice as long)."""
NETWORKS = ("2dpass-small", "2dpass-large", "baseline", "minkowskinet", "spvcnn", "vavit-small")

PREPARE_WAITS = {
    "2dpass-small": 13,
    "2dpass-large": 14,
    "baseline": 13,
    "minkowskinet": 21,
    "spvcnn": 22,
    "vavit-small": 3,
}
"""For the numbers of voxels, which the host must know; and for spconv's tables."""
MOST_CALLS = {
    "2dpass-small": 1500,
    "2dpass-large": 1780,
    "baseline": 905,
    "minkowskinet": 485,
    "spvcnn": 795,
    "vavit-small": 502,
}
"""ATen operations of a step of eight scans, mode full."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    info = sample_info(n_cameras=2)
    write_sample_cache(root, n_scans=6, sequences=("00", "08"), info=info, n_points=200)
    return root


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans for a step of the published size."""
    root = tmp_path_factory.mktemp("eight")
    info = sample_info(n_cameras=2)
    write_sample_cache(root, n_scans=8, sequences=("00", "08"), info=info, n_points=200)
    return root


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with poses and with the motion of their points, for recipes of several scans."""
    root = tmp_path_factory.mktemp("driven")
    for sequence in ("00", "08"):
        write_sequence(root / "raw", sequence, tuple(range(6)), n=100)
    prepare_all([list_semkitti(root / "raw")], root / "cache", PrepareConfig(workers=0), Silent())
    return root / "cache"


@pytest.fixture
def gpu() -> Iterator[Device]:
    with a_gpu() as here:
        yield here


@pytest.mark.parametrize(("name", "variation"), CASES)
def test_every_recipe_trains_as_on_a_cpu(
    data: Path, driven: Path, name: str, variation: str
) -> None:
    compare(data, driven, name, variation)


@pytest.mark.parametrize(("name", "variation", "precision", "backend", "is_ahead"), PAIRS)
def test_every_pair_of_network_augmentation_precision_backend_and_stream(
    data: Path, name: str, variation: str, *, precision: str, backend: str, is_ahead: bool
) -> None:
    settings = (f"precision={precision}", f"backend={backend}", *VARIATIONS[variation])
    recipe = small_recipe(name, "optimizer.learning_rate=0.00001", *settings)
    with thin_pictures():
        with a_gpu() as here:
            on_gpu = take_steps(data, recipe, here, n=1, is_ahead=is_ahead)
        if precision == "float32":
            on_cpu = take_steps(data, recipe, None, n=1)
            is_sgd = recipe.optimizer.kind == "sgd"
            assert_same_numbers(on_cpu, on_gpu, limit=0.1 if is_sgd else None)
    require_waits(on_gpu.records[-1], prepare=None)
    assert all(torch.isfinite(weights).all() for weights in on_gpu.after.values())


def test_the_pairs_are_all_of_them() -> None:
    factors = (ONE_OF_EACH, tuple(PAIRED), PRECISIONS, ("auto", "native"), (False, True))
    for a, b in combinations(range(len(factors)), 2):
        wanted = set(product(factors[a], factors[b]))
        assert {(case[a], case[b]) for case in PAIRS} == wanted
    kinds = {network_settings(load_recipe(name))[0] for name in RECIPES}
    assert {network_settings(load_recipe(name))[0] for name in ONE_OF_EACH} == kinds


@pytest.mark.parametrize(("name", "variation"), EVERY_CASE if IS_LONG else [UNASKED])
def test_every_recipe_with_every_augmentation(
    data: Path, driven: Path, name: str, variation: str
) -> None:
    compare(data, driven, name, variation)


def compare(data: Path, driven: Path, name: str, variation: str) -> None:
    recipe = small_recipe(
        name, "precision=float32", "optimizer.learning_rate=0.00001", *VARIATIONS[variation]
    )
    scans = driven if recipe.data.classes == "moving" else data
    with thin_pictures():
        on_cpu = take_steps(scans, recipe, None)
        with a_gpu() as here:
            on_gpu = take_steps(
                scans, recipe, here
            )  # from the second on, batches are prepared ahead
    # Adam's first steps are as large for a gradient of rounding errors as for any other.
    assert_same_numbers(on_cpu, on_gpu, limit=0.1 if recipe.optimizer.kind == "sgd" else None)
    require_waits(on_gpu.records[-1], prepare=None)
    assert here.in_flight.verified > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_waits_and_calls_no_more_than_known(eight: Path, gpu: Device, name: str) -> None:
    recipe = small_recipe(name, "augment.mode=full", "batch_size=8")
    with thin_pictures(blocks=(3, 4, 6, 3)):
        record = take_steps(eight, recipe, gpu, n=1, is_ahead=False).records[-1]
    require_waits(record, prepare=PREPARE_WAITS[name])
    assert record.calls.total() <= MOST_CALLS[name], record.calls


@pytest.mark.parametrize("name", ["2dpass-small", "spvcnn", "vavit-small"])
@pytest.mark.parametrize("is_on", [True, False])
def test_tf32_covers_every_layer_and_nothing_that_moves_points_or_colours(
    data: Path, gpu: Device, name: str, is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = library().constants
    monkeypatch.setattr(constants, "SPCONV_ALLOW_TF32", not is_on)
    recipe = small_recipe(name, "augment.mode=full", f"tf32={str(is_on).lower()}")
    with thin_pictures(), tf32_products(recipe.tf32):
        assert torch.backends.cudnn.allow_tf32 is is_on
        (record,) = take_steps(data, recipe, gpu, n=1, is_ahead=False).records
    assert {phase for phase, _ in record.products} <= {"forward", "backward"}
    assert record.products.total() > 10
    if name != "vavit-small":  # it has no sparse convolution
        assert constants.SPCONV_ALLOW_TF32 is is_on


UNORDERED = {
    ("convolution_backward", "encoder2d.py", "maps.append(decoder(x))"),
    ("convolution_backward", "encoder2d.py", "x = net.bn1(net.conv1(x))"),
    ("convolution_backward", "encoder2d.py", "x = stage(x)"),
    (
        "max_pool2d_with_indices_backward",
        "encoder2d.py",
        "x = net.relu(ordered_max_pool(x) if _is_ordered(x) else net.maxpool(x))",
    ),
    (
        "index_add",
        "encoder2d.py",
        "return feature_map.permute(0, 2, 3, 1).reshape(-1, feature_map.shape[1])"
        ".index_select(0, rows)",
    ),
    (
        "index_add",
        "distillation.py",
        "torch.stack([features.index_select(0, rows) for rows, features, _ in pairs]).mT,",
    ),
    ("index_add", "distillation.py", "voxel_logits_seen=logits.index_select(0, rows),"),
    (
        "index_add",
        "losses.py",
        "return logits if row is None else logits.index_select(0, row)",
    ),
    (
        "index_add",
        "devoxelize.py",
        "total = wide.new_zeros((n_voxels + 1, features.shape[1])).index_add(0, self.row, wide)",
    ),
    (
        "index_put",
        "layers.py",
        "apart = mapped[neighbours.flatten()].view(n, k, -1) - mapped[:, None]",
    ),
    (
        "index_put",
        "layers.py",
        "wide = torch.relu(self.pillar_norm(self.pillar(tokens)[pillar_of_point]))",
    ),
    (
        "scatter_add",
        "vavit.py",
        "tokens = points.new_zeros((prepared.pillar_xy.shape[0], points.shape[1])).scatter_reduce(",
    ),
    # One row each, or whole numbers: any order gives the same sum.
    ("scatter_add", "losses.py", "gained = log_probs.gather(-1, labels[:, None])[:, 0] * weight"),
    (
        "scatter_add_",
        "geometry.py",
        "divisor=count.new_zeros(len(coarse.coords)).scatter_add_(0, coarse.voxel, of_coarse),",
    ),
    (
        "scatter_add_",
        "links.py",
        "total = weight.new_zeros(len(total)).scatter_add_(0, segment, weight)",
    ),
    (
        "scatter_add_",
        "voxels.py",
        "flat.scatter_add_(0, first.piece * n_classes + labels, votes)",
    ),
}
"""Operation, file and line of each sum of floats whose order CUDA leaves open."""


@pytest.mark.parametrize("name", ["2dpass-small", "spvcnn", "vavit-small"])
def test_sums_without_an_order_are_those_that_are_known(data: Path, gpu: Device, name: str) -> None:
    with thin_pictures():
        (record,) = take_steps(data, small_recipe(name, "augment.mode=full"), gpu, n=1).records
    found = {(op, Path(line.file).name, line.text) for op, line in record.unordered}
    assert found <= UNORDERED, found - UNORDERED


@pytest.mark.parametrize("name", ["2dpass-small", "spvcnn", "vavit-small"])
def test_deterministic_training_leaves_no_order_open(data: Path, gpu: Device, name: str) -> None:
    recipe = small_recipe(name, "augment.mode=full", "deterministic=true")
    with thin_pictures(), fixed_order(True):
        (record,) = take_steps(data, recipe, gpu, n=1).records
    assert not record.unordered
    assert record.waits_by_phase().keys() == {"prepare"}


def test_deterministic_training_refuses_a_backend_that_is_not(data: Path, gpu: Device) -> None:
    recipe = small_recipe("baseline", "deterministic=true", "backend=spconv")
    with pytest.raises(ConfigError, match=r"deterministic=true .* backend=spconv.*native"):
        take_steps(data, recipe, gpu, n=1)
