"""Cards that claim a far larger network than their file holds: refused before memory is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_samples import sample_info
from torch.utils._python_dispatch import TorchDispatchMode

from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.models.registry import MODELS, NAMED_CONFIGS
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import (
    build_from_card,
    network_from_checkpoint,
    network_tensors,
    save_checkpoint,
)

CPU = torch.device("cpu")
NARROW = {"base_widths": [4] * 9}
TINY: dict[str, dict[str, Any]] = {
    "2dpass": {"hidden": 4, "block_scales": [2, 4], "image_branch": False},
    "minkowskinet": NARROW,
    "minkunet34": NARROW,
    "spvcnn": NARROW,
    "vavit": dict(NAMED_CONFIGS["vavit-small"].settings),
}
NO_SIZES = {"block_scales", "neighbours"}
"""Numbers that no tensor of the network has as a side."""
REFUSED = (CheckpointError, ConfigError)
MESSAGE = (
    r"huge\.safetensors: its card describes (a network that is far larger|no network: network\.s)"
)
LARGEST_VALUES = 12_000_000


def sizes() -> Iterator[tuple[str, str]]:
    for kind, network in MODELS.items():
        config = network.config_type.from_settings(TINY[kind])
        for field in fields(config):
            value = getattr(config, field.name)
            first = value[0] if isinstance(value, tuple) and value else value
            if type(first) in (int, float) and field.name not in NO_SIZES:
                yield kind, field.name


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made on the CPU."""

    n_values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type == "cpu":
            self.n_values = max(self.n_values, made.untyped_storage().nbytes() // 4)
        return made


@pytest.fixture(scope="module")
def tiny() -> dict[str, tuple[Card, dict[str, torch.Tensor]]]:
    made = {}
    for kind, settings in TINY.items():
        card = Card(architecture=kind, settings=settings, info=sample_info())
        made[kind] = card, network_tensors(build_from_card(card, CPU).inference_state())
    return made


def test_every_network_is_tried() -> None:
    assert set(TINY) == set(MODELS)
    assert {("2dpass", "hidden"), ("vavit", "depth"), ("spvcnn", "base_widths")} <= set(sizes())


@pytest.mark.parametrize("huge", [10**9, 10**18, 1e300])
@pytest.mark.parametrize(("kind", "name"), list(sizes()))
def test_a_huge_setting_is_refused_before_memory_is_taken(
    kind: str, name: str, huge: float, tiny, tmp_path: Path
) -> None:
    card, tensors = tiny[kind]
    config = MODELS[kind].config_type.from_settings(card.settings)
    value = getattr(config, name)
    new = [huge] * len(value) if isinstance(value, tuple) else huge
    path = tmp_path / "huge.safetensors"
    save_checkpoint(path, tensors, replace(card, settings={**card.settings, name: new}))
    is_size = not isinstance(value, float)  # of others, some may be of any size
    how = pytest.raises(REFUSED, match=MESSAGE) if is_size else contextlib.suppress(*REFUSED)
    with Largest() as largest, how:
        network_from_checkpoint(path, CPU)
    assert largest.n_values < LARGEST_VALUES


def test_the_network_that_the_file_holds_is_built(tiny, tmp_path: Path) -> None:
    for kind, (card, tensors) in tiny.items():
        path = tmp_path / f"{kind}.safetensors"
        save_checkpoint(path, tensors, card)
        network, _ = network_from_checkpoint(path, CPU)
        loaded = network_tensors(network.inference_state())
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
