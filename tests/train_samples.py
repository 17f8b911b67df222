"""Tiny training runs for tests: a recipe that takes seconds, a listening progress."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pass2d.train.checkpoints.checkpoint import NETWORK, load_checkpoint
from pass2d.train.recipes.recipe import Recipe, load_recipe

TINY = (
    "epochs=2",
    "batch_size=2",
    "seed=3",
    "device=cpu",
    "torch_threads=1",
    "network.settings.hidden=4",
    "network.settings.block_scales=[2, 4]",
    "network.settings.image_branch=false",
    "optimizer.learning_rate=0.05",
    "augment.crop_hw=[32, 96]",
    "log.every_steps=1",
    "log.save_steps=1",
    "log.tensorboard=false",
    "stream.prefetch=2",
)

TASEG_STEPS = (0, 0, 2, 2, 2, 2, 2, 2, 2, 0, 4, 4, 4, 0, 4, 0, 2, 4, 2, 2)
"""Of SemanticKITTI's 20 classes. Source: TASeg."""
INSTANCE_COPY = ({"instance-copy": 1.0},)
"""`AugmentConfig.mixes` of the published mix."""


def tiny_recipe(*overrides: str) -> Recipe:
    """2DPASS without pictures, with 4 channels."""
    return load_recipe("2dpass-small", [*TINY, *overrides])


def final_state(run_root: Path) -> dict[str, Tensor]:
    """All tensors of a run's newest state."""
    return load_checkpoint(run_root / "checkpoints" / "last.safetensors").tensors


def final_weights(run_root: Path) -> dict[str, Tensor]:
    return load_checkpoint(run_root / "checkpoints" / "last.safetensors").part(NETWORK)


def assert_same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    differing = [name for name in a if not torch.equal(a[name], b[name])]
    assert not differing, differing
