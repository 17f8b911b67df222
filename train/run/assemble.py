"""From a recipe and a cache to everything that stays fixed during a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.clouds.instance_bank import InstanceBank, instance_bank
from pass2d.cache.clouds.likeness import of_dataset
from pass2d.cache.motion import static_ids
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import SCALES
from pass2d.cache.statistics import LEAST_SHARE, SPLITS, class_weights, rare_classes
from pass2d.common.errors import ConfigError
from pass2d.common.plain import require_known
from pass2d.common.progress import Progress
from pass2d.models.inputs import Grid
from pass2d.models.network import Network
from pass2d.models.registry import build_network
from pass2d.train.data.check import require_usable, say_differences
from pass2d.train.data.collate import common_crop
from pass2d.train.data.mixes import MIXES
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.positions import evenly_spaced
from pass2d.train.data.thinned import ThinningPlan, why_not_stored
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.distributed.sync_norm import Sharers, share_norms
from pass2d.train.optim.schedule import RunLength, idle_settings
from pass2d.train.recipes.recipe import Recipe, network_settings
from pass2d.train.stacks.choose import past_scans, require_poses

_ORDERED = ("auto", "native")
"""Backends that can be deterministic on a GPU; "auto" then uses native."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run works with."""

    recipe: Recipe
    group: ProcessGroup
    reader: CacheReader
    plan: StreamPlan
    length: RunLength
    network: Network
    class_weights: Tensor | None
    """(C,) float32 on the device."""
    val_positions: NDArray[np.int64]
    """Labelled scans of the validation split; empty without."""
    sharers: Sharers | None = None
    """Who shares BatchNorm statistics; None: nobody."""

    @property
    def n_scans(self) -> int:
        """Scans of an epoch."""
        return len(self.plan.positions)

    @property
    def step_scans(self) -> int:
        """Scans of an optimizer step on all devices."""
        return self.plan.step_scans

    def step_at(self, cursor: int) -> int:
        """Optimizer steps done when so many scans have been seen."""
        epoch, place = divmod(cursor, self.n_scans)
        return epoch * self.length.steps_per_epoch + place // self.step_scans


def assemble(
    reader: CacheReader,
    recipe: Recipe,
    group: ProcessGroup,
    progress: Progress,
    *,
    is_resumed: bool = False,
) -> Job:
    """Choose the scans, build the network, compute class weights.

    Args:
        reader: of the cache.
        recipe: all settings.
        group: of this process.
        progress: receives what is missing in the data.
        is_resumed: the network's weights come from a state: no other file is read for them.

    Raises:
        ConfigError: the cache lacks what the recipe needs; says what to change.
    """
    reader.expect_all()
    if recipe.data.classes == "moving":
        reader.tell_motion()
    positions = training_positions(reader, recipe, progress)
    require_usable(reader, positions, split=", ".join(recipe.data.train_splits))
    network = fresh_network(reader, recipe, group, is_resumed=is_resumed)
    size_hw = None
    if network.needs_images:
        size_hw = picture_size(reader, recipe, positions, progress)
    val_positions = validation_positions(reader, recipe, progress)
    if len(val_positions):
        require_usable(reader, val_positions, split=recipe.validation.split)
    if group.is_main:
        say_differences(reader, positions, of_dataset(reader.info), progress.say)
    recipe.stack.require_classes(int(static_ids(reader.info).max()) + 1)
    require_stackable(reader, recipe, np.union1d(positions, val_positions))
    for note in short_stacks(reader, recipe, positions):
        progress.say(note)
    if "static-moving-switch" in recipe.augment.extra and (
        not recipe.stack.past or recipe.data.classes == "static"
    ):
        progress.say(
            "warning: augment.extra: static-moving-switch changes nothing without stack.past and "
            'data.classes = "moving"'
        )
    if n_both := len(np.intersect1d(positions, val_positions)):
        progress.say(
            f"{n_both} of {len(val_positions)} validation scans are trained on too: their mIoU "
            "does not show how the network performs on unseen scans"
        )
    for note in idle_mixes(reader, recipe, positions):
        progress.say(note)
    hashes_exist = bool((reader.scans.voxels[positions] > 0).all())
    # The hashes are of single scans, and their labels do not tell motion.
    hashes_fit = not recipe.stack.past and recipe.data.classes == "static"
    hashes_fit &= set(network.scales) <= set(SCALES)
    plan = StreamPlan(
        positions=positions,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augment,
        size_hw=size_hw,
        scales=(
            network.scales if recipe.augment.keeps_hashes and hashes_exist and hashes_fit else ()
        ),
        thinning=thinning_plan(reader, recipe, network, group, progress),
        stack=recipe.stack,
        with_outside=not network.uses_volume,
        rank=group.rank,
        world=group.world,
        accumulate=recipe.accumulate,
        bank=_bank(reader, recipe, positions, progress),
        shards=reader.scans.shard[positions] if reader.is_remote else None,
    )
    length = RunLength(
        epochs=recipe.epochs,
        steps_per_epoch=-(-len(positions) // plan.step_scans),
        world=group.world,
    )
    for note in idle_settings(recipe.schedule, length=length):
        progress.say(f"warning: {note}")
    return Job(
        recipe=recipe,
        group=group,
        reader=reader,
        plan=plan,
        length=length,
        network=network,
        class_weights=training_weights(reader, recipe, positions, group, progress),
        val_positions=val_positions,
        sharers=shared_norms(recipe, network, group),
    )


def thinning_plan(
    reader: CacheReader, recipe: Recipe, network: Network, group: ProcessGroup, progress: Progress
) -> ThinningPlan | None:
    """How the stream thins for the network; on request says why stored neighbours are not used.

    On a GPU, torch's CPU threads are idle and search the trees.
    """
    config = network.thinning
    if config is None:
        return None
    reason = why_not_stored(reader, config)
    if not recipe.augment.keeps_neighbours:
        reason = "augment drops points, mixes scans or stretches them"
    elif recipe.stack.past:
        reason = "several scans are stacked"
    if reason and not network.thins_at_random:
        progress.say(f"neighbours are looked for in every scan of every epoch: {reason}")
    return ThinningPlan(
        config=config,
        is_random=network.thins_at_random,
        is_stored=not reason and not network.thins_at_random,
        workers=torch.get_num_threads() if group.device.type == "cuda" else 1,
    )


def _bank(
    reader: CacheReader, recipe: Recipe, positions: NDArray[np.int64], progress: Progress
) -> InstanceBank | None:
    """The instance bank for the recipe's mixes; None if none needs it."""
    names = {name for group in recipe.augment.mixes for name in group}
    if all(MIXES[name].partner != "bank" for name in names):
        return None
    return instance_bank(reader, np.sort(positions), progress)


def idle_mixes(reader: CacheReader, recipe: Recipe, positions: NDArray[np.int64]) -> Iterator[str]:
    """A warning for each mix of the recipe that has no effect on the scans at (P,) positions."""
    names = {name: None for group in recipe.augment.mixes for name in group}
    for name in names:
        where = f"warning: augment.mixes: {name} changes nothing"
        if MIXES[name].needs_instances and not reader.info.facts.has_instances:
            yield f"{where}: the labels of {reader.info.facts.title} hold no instance ids"
        elif MIXES[name].partner == "bank":
            if not (reader.info.facts.pasted and reader.info.facts.grounds):
                yield f"{where}: {reader.info.facts.title} names no classes to paste or to stand on"
        elif MIXES[name].partner == "batch" and recipe.batch_size == 1:
            yield f"{where}: it pairs the scans of a batch, and batch_size is 1"
        elif len(positions) == 1:
            yield f"{where}: there is no second training scan"


def require_stackable(reader: CacheReader, recipe: Recipe, positions: NDArray[np.int64]) -> None:
    """Refuse settings under which the scans at (P,) positions cannot be stacked.

    Raises:
        ConfigError: poses or times are missing, or the settings contradict the data.
    """
    stack, where = recipe.stack, str(reader.root)
    require_poses(reader.scans, positions, stack, where=where)
    if not stack.past:
        return
    if reader.info.sweeps and stack.time != "seconds":
        raise ConfigError(
            f"{where}: prepared with added sweeps, whose points have their seconds: set "
            'stack.time = "seconds"'
        )
    if stack.predictions and recipe.augment.mode == "noise":
        raise ConfigError(
            "stack.predictions: of scans as they are, but augment.mode = 'noise' corrupts them. "
            "Leave one of the two out."
        )


def short_stacks(
    reader: CacheReader, recipe: Recipe, positions: NDArray[np.int64]
) -> Iterator[str]:
    """A warning if scans at (P,) positions have fewer past scans than the recipe asks for."""
    stack = recipe.stack
    counts = np.array([len(past_scans(reader.scans, int(p), stack)) for p in positions])
    if stack.points == "steps" and not stack.predictions:
        yield (
            "warning: stack.steps chooses past points by their labels, in validation too: such "
            "scores cannot be compared with others. stack.predictions names an earlier run's"
        )
    if stack.past and (n_short := int(np.count_nonzero(counts < stack.past))):
        yield (
            f"{n_short} of {len(positions)} training scans have fewer than {stack.past} scans "
            "before them in the cache: they are stacked with what there is"
        )


def training_positions(
    reader: CacheReader, recipe: Recipe, progress: Progress
) -> NDArray[np.int64]:
    """(P,) positions of the labelled training scans that have a point in the volume.

    Raises:
        ConfigError: there is none.
    """
    parts = [
        reader.select(split=split, sequences=recipe.data.sequences)
        for split in recipe.data.train_splits
    ]
    selected = np.unique(np.concatenate(parts))  # a split named twice still comes once
    labelled = selected[reader.scans.has_label[selected]]
    usable = labelled[reader.scans.n[labelled] > 0]
    if len(labelled) and not len(usable):
        require_usable(reader, labelled, split=", ".join(recipe.data.train_splits))
    if not len(usable):
        found = sorted(set(reader.scans.split[reader.scans.has_label].tolist()))
        only = recipe.data.sequences
        of = "" if only is None else f" of the sequences {', '.join(only)}"
        raise ConfigError(
            f"{reader.root}: no labelled scan{of} in split {', '.join(recipe.data.train_splits)}; "
            f"splits with labels: {', '.join(found) or 'none'}. Choose with data.train_splits."
        )
    if len(usable) < len(selected):
        progress.say(
            f"{len(selected) - len(usable)} training scans are left out: no labels, or no point in "
            "the volume"
        )
    return usable[evenly_spaced(len(usable), recipe.data.limit or None)]


def validation_positions(
    reader: CacheReader, recipe: Recipe, progress: Progress
) -> NDArray[np.int64]:
    """(P,) positions of the labelled validation scans; a message if there are none.

    Raises:
        ConfigError: there is no such split.
    """
    if recipe.validation.every_epochs == 0:
        return np.empty(0, np.int64)
    known = [*SPLITS, *sorted(set(reader.scans.split.tolist()) - set(SPLITS))]
    require_known(recipe.validation.split, known, where="validation.split", what="split")
    selected = reader.select(split=recipe.validation.split)
    usable = selected[reader.scans.has_label[selected]]
    if not len(usable):
        progress.say(
            f"split {recipe.validation.split!r} has no labelled scan: the run is not validated"
        )
    return usable[evenly_spaced(len(usable), recipe.validation.limit or None)]


def picture_size(
    reader: CacheReader, recipe: Recipe, positions: NDArray[np.int64], progress: Progress
) -> tuple[int, int]:
    """Height and width of the pictures for the network; reports sequences without pictures.

    Raises:
        ConfigError: no training scan has a picture, or one is too small.
    """
    scans = reader.scans
    seen = positions[scans.has_image[positions]]
    if not len(seen):
        raise ConfigError(
            f"{reader.root}: no training scan has a picture, but {recipe.network.config} learns "
            "from them. Train the 3D network alone by `baseline_only`, or prepare with image_2."
        )
    if len(seen) < len(positions):
        blind = positions[~scans.has_image[positions]]
        lacking = ", ".join(sorted(set(scans.sequence[blind].tolist())))
        progress.say(
            f"{len(blind)} of {len(positions)} training scans have no picture (sequences "
            f"{lacking}): they train the 3D network only"
        )
    sizes = scans.camera_hw[seen].reshape(-1, 2)
    sizes = sizes[sizes[:, 0] > 0]
    size_hw = common_crop(recipe.augment, sizes)
    if recipe.augment.cameras == "all":
        _require_one_size(reader, seen)
    if min(size_hw) < 16:
        raise ConfigError(
            f"{reader.root}: a picture of {sizes.min(0).tolist()} (height, width) pixels is "
            "smaller than the 16 x 16 that the 2D network needs. Train with `baseline_only`."
        )
    if recipe.augment.crop_hw is not None and size_hw != recipe.augment.crop_hw:
        progress.say(
            f"pictures are cropped to {size_hw[0]} x {size_hw[1]} (height x width): the smallest "
            f"hold no more of {recipe.augment.crop_hw[0]} x {recipe.augment.crop_hw[1]}"
        )
    return size_hw


def _require_one_size(reader: CacheReader, positions: NDArray[np.int64]) -> None:
    """Refuse scans whose pictures differ in size: one crop serves all of them.

    Raises:
        ConfigError: naming the first such scan.
    """
    sizes = reader.scans.camera_hw[positions].astype(np.int64)
    is_seen = sizes[..., 0] > 0
    largest = sizes.max(1, keepdims=True)
    is_uneven = ((sizes != largest).any(-1) & is_seen).any(-1)
    if is_uneven.any():
        scan = reader.scans.scan_id[positions[np.flatnonzero(is_uneven)[0]]]
        raise ConfigError(
            f"{reader.root}: the pictures of scan {scan} differ in size: augment.cameras = 'all' "
            "needs one size. Prepare with `image_size=400x240`, or train with cameras = 'one'."
        )


def fresh_network(
    reader: CacheReader, recipe: Recipe, group: ProcessGroup, *, is_resumed: bool = False
) -> Network:
    """The recipe's network with initial weights by its seed; see `assemble`.

    Raises:
        ConfigError: precision or backend is impossible on the device.
    """
    if recipe.precision == "fp16" and group.device.type == "cpu":
        raise ConfigError("precision=fp16 needs a GPU; on a CPU use float32 or bf16")
    on_gpu = group.device.type == "cuda"
    if on_gpu and recipe.deterministic and recipe.backend not in _ORDERED:
        raise ConfigError(
            f"deterministic=true does not hold with backend={recipe.backend}, which chooses "
            "kernels by timing and numbers coarse voxels as threads find them: use backend=native"
        )
    kind, settings = network_settings(recipe)
    if is_resumed and settings.get("image_weights"):
        settings = {**settings, "image_weights": ""}
    if reader.info.sweeps or recipe.stack.has_time:  # past points are distinguished by their time
        settings = {**settings, "time_channel": True}
    grid = reader.info.grid
    torch.manual_seed(recipe.seed)
    return build_network(
        kind,
        settings,
        grid=Grid(low=grid.low, high=grid.high, shape=grid.shape),
        n_classes=reader.info.labels.n_classes,
        device=group.device,
        backend="native" if recipe.deterministic and on_gpu else recipe.backend,
    )


def shared_norms(recipe: Recipe, network: Network, group: ProcessGroup) -> Sharers | None:
    """Let the network's BatchNorms work over all processes, if the recipe asks for it.

    Returns:
        Who takes part in a batch; None: every process normalises by its own rows.
    """
    if not recipe.sync_batchnorm or group.world == 1:
        return None
    sharers = Sharers(group)
    share_norms(network, sharers)
    return sharers


def training_weights(
    reader: CacheReader,
    recipe: Recipe,
    positions: Sequence[int] | NDArray[np.int64],
    group: ProcessGroup,
    progress: Progress,
) -> Tensor | None:
    """(C,) class weights of the cross entropies, from the training scans; None for equal ones."""
    choice = recipe.data.class_weights
    if choice == "off" or (choice == "auto" and not reader.info.has_class_weights):
        return None
    counts = reader.scans.label_histogram[positions].sum(0)
    names = reader.info.labels.names
    if rare := [names[c] for c in rare_classes(counts)]:
        progress.say(
            f"fewer than {LEAST_SHARE:g} of the training points are {', '.join(rare)}: their "
            "weight is limited to that of a class with this share"
        )
    if absent := [names[c] for c in range(1, len(names)) if counts[c] == 0]:
        progress.say(
            f"warning: no training point is {', '.join(absent)}: their weight is the largest of "
            "the other classes"
        )
    return torch.from_numpy(class_weights(counts)).to(group.device)
