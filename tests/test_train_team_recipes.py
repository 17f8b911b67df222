"""Every recipe, image branch included: several processes train what one does that accumulates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from cache_samples import write_sample_cache
from pipeline_files import write_sequence
from team_samples import in_processes
from thin_pictures import thin_pictures
from torch import Tensor

from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup, share_buffers
from pass2d.train.optim.optimizer import optimizer_tensors
from pass2d.train.recipes.files import recipe_names
from pass2d.train.recipes.recipe import Recipe, load_recipe, network_settings
from pass2d.train.run import step
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.state import RunState, fresh_state

LIMIT = 1e-5
"""Of a tensor's move. The sums come in the same order, so on most machines it is 0."""
NARROW = {
    "2dpass": {"hidden": 4},
    "minkowskinet": {"width_factor": 0.125, "voxel_m": 1.0},
    "minkunet34": {"width_factor": 0.125, "voxel_m": 1.0, "blocks": [1, 1, 1, 1]},
    "spvcnn": {"width_factor": 0.125, "voxel_m": 1.0},
    "vavit": {"point_width": 4, "width": 8, "depth": 2, "heads": 1, "head_width": 4, "cell_m": 1.0},
}
"""Small settings of each kind of network; a new kind needs a line."""
SMALL = (
    "seed=3",
    "device=cpu",
    "torch_threads=1",
    "batch_size=1",
    "data.limit=5",
    "augment.crop_hw=[32, 64]",
    "schedule.warmup_steps=0",  # else several processes warm up and one does not
)
VARIANTS = (
    ("2dpass-small", "optimizer.kind=adam", "batch_size=2"),
    ("2dpass-small", "average.kind=ema", "augment.mode=none"),
    ("baseline", "precision=fp16", "data.limit=1"),  # a first step without a scan for all but one
    ("baseline", "average.kind=swa", "average.start_share=0"),
    ("spvcnn", "precision=bf16"),
)


def all_recipes() -> dict[str, Recipe]:
    """By what they test."""
    # Recipes for 8 GPUs differ in nothing but the accumulation, which these tests choose.
    names = [name for name in recipe_names() if not name.endswith("-8gpus")]
    overrides = [(name,) for name in names] + list(VARIANTS)
    return {" ".join(words): narrow(*words) for words in overrides}


def narrow(name: str, *overrides: str) -> Recipe:
    """A recipe as users train it, with few channels and small pictures."""
    recipe = load_recipe(name, [*SMALL, *overrides])
    kind, _ = network_settings(recipe)
    settings = {**recipe.network.settings, **NARROW[kind]}
    return replace(recipe, network=replace(recipe.network, settings=settings))


def assembled(reader: CacheReader, recipe: Recipe, group: ProcessGroup) -> Job:
    """The job; also with a loss scaler, which a CPU does without."""
    is_scaled = recipe.precision == "fp16"
    on_cpu = replace(recipe, precision="float32") if is_scaled else recipe
    with thin_pictures():
        return replace(assemble(reader, on_cpu, group, Silent()), recipe=recipe)


def tensors_of(job: Job, state: RunState) -> dict[str, Tensor]:
    """Weights, running statistics, the optimizer's state and the mean of the weights."""
    own = {**job.network.state_dict(), **optimizer_tensors(state.optimizer, job.network)}
    if state.average is not None:
        own |= {f"mean of {n}": state.average.tensors[n] for n, _ in job.network.named_parameters()}
    return {name: tensor.detach().clone() for name, tensor in own.items()}


@contextmanager
def tracking_every(world: int, job: Job) -> Iterator[None]:
    """Of ``world`` batches only the first tells BatchNorm: as the first of several sees it."""
    batches, backward = 0, step.backward

    def watched(*given: Any, **named: Any) -> None:
        nonlocal batches
        before = [buffer.clone() for buffer in job.network.buffers()]
        backward(*given, **named)
        if batches % world:
            for buffer, kept in zip(job.network.buffers(), before, strict=True):
                buffer.copy_(kept)
        batches += 1

    with mock.patch.object(step, "backward", watched):
        yield


def trained(
    reader: CacheReader, recipe: Recipe, group: ProcessGroup, *, as_one_of: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors before and after an epoch."""
    job = assembled(reader, recipe, group)
    state = fresh_state(job)
    before = tensors_of(job, state)
    stream = BatchStream(reader, job.plan, recipe.stream)
    with tracking_every(as_one_of, job):
        while state.cursor < job.n_scans:
            step.optimizer_step(job, state, stream)
    stream.close()
    assert int(state.skips.total) == 0
    share_buffers(job.network, group)
    return before, tensors_of(job, state)


def compare(group: ProcessGroup, given: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By recipe and tensor: how far the processes end from the one, over the tensor's move."""
    found: dict[str, dict[str, float]] = {}
    alone = ProcessGroup(device=group.device)
    with (
        CacheReader.open(given["data"]) as plain,
        CacheReader.open(given["stacks"]) as with_poses,
    ):
        for place, (name, recipe) in enumerate(given["recipes"].items()):
            reader = with_poses if recipe.stack.past else plain
            before, together = trained(reader, recipe, group)
            if place % group.world != group.rank:
                continue
            accumulating = replace(recipe, accumulate=recipe.accumulate * group.world)
            again, one = trained(reader, accumulating, alone, as_one_of=group.world)
            assert before.keys() == again.keys() == together.keys() == one.keys()
            assert all(torch.equal(before[key], again[key]) for key in before)
            found[name] = {key: distance(together[key], one[key], start=before[key]) for key in one}
    return found


def distance(ours: Tensor, theirs: Tensor, *, start: Tensor) -> float:
    """Norm of the difference over that of the move."""
    ours, theirs, start = ours.double(), theirs.double(), start.double()
    difference, move = float((ours - theirs).norm()), float((theirs - start).norm())
    return difference / move if move else difference


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scans, three of them without a picture."""
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=3, sequences=("00", "01"), n_points=200, without_image=("01",))
    return root


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans of a vehicle that drives on, the first without a past."""
    root = tmp_path_factory.mktemp("stacks")
    folder = write_sequence(root / "raw", "00", tuple(range(5)), n=200)
    poses = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {2 * place}\n" for place in range(5))
    (folder / "poses.txt").write_text(poses)
    prepare(list_semkitti(root / "raw"), root / "semkitti", PrepareConfig(workers=0), Silent())
    return root


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_processes_train_what_one_does_that_accumulates(
    data: Path, stacks: Path, tmp_path: Path, world: int
) -> None:
    """Every tensor, an uneven last step and processes without a picture or a scan included.

    Two train every recipe, three what differs in how it is trained.
    """
    recipes = all_recipes()
    if world == 3:
        recipes = {name: recipe for name, recipe in recipes.items() if " " in name}
    found: dict[str, dict[str, float]] = {}
    given = {"data": data, "stacks": stacks, "recipes": recipes}
    for member in in_processes(world, compare, given, tmp_path):
        found |= member
    assert found.keys() == recipes.keys()
    far = {
        f"{name}: {tensor}": value
        for name, tensors in found.items()
        for tensor, value in tensors.items()
        if not value <= LIMIT
    }
    assert not far
