"""Names of VaViT's tensors in published checkpoints, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_RULES: tuple[tuple[str, str], ...] = (
    ("embed.{}.point_mlp.0.", "embed.{}.point."),
    ("embed.{}.point_mlp.1.", "embed.{}.point_norm."),
    ("embed.{}.neigh_mlp.0.", "embed.{}.neighbour."),
    ("embed.{}.neigh_mlp.1.", "embed.{}.neighbour_norm."),
    ("embed.{}.neigh_gate.0.", "embed.{}.gate."),
    ("embed.{}.final.", "embed.{}.out."),
    ("vit.spatial_mix.{}.gamma", "blocks.{}.gamma1"),
    ("vit.spatial_mix.{}.norm.", "blocks.{}.norm1."),
    ("vit.spatial_mix.{}.", "blocks.{}.attention."),
    ("vit.channel_mix.{}.gamma", "blocks.{}.gamma2"),
    ("vit.channel_mix.{}.norm.", "blocks.{}.norm2."),
    ("vit.channel_mix.{}.", "blocks.{}.perceptron."),
    ("merge.point_proj.0.", "head.point."),
    ("merge.point_proj.1.", "head.point_norm."),
    ("merge.bev_proj.0.", "head.pillar."),
    ("merge.bev_proj.1.", "head.pillar_norm."),
    ("merge.gate.0.", "head.gate."),
    ("merge.merge.0.", "head.merge."),
    ("merge.merge.1.", "head.merge_norm."),
    ("classif.", "head.classifier."),
)
"""How names begin, published and here; {} is a number."""
FREQUENCIES = re.compile(r"vit\.spatial_mix\.\d+\.inv_freq")
"""Entries that hold no trained value: they follow from the head's width."""


def our_name(published: str) -> str:
    """The name here of a published tensor."""
    return _renamed(published, _RULES)


def published_name(ours: str) -> str:
    """The published name of a tensor here."""
    return _renamed(ours, [(here, theirs) for theirs, here in _RULES])


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for old, new in rules:
        match = re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name)
        if match:
            return new.format(*match.groups()) + name[match.end() :]
    return name


def published_shapes(state: Mapping[str, Tensor], *, heads: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry that the published form of a network's state has."""
    shapes = {published_name(name): tuple(tensor.shape) for name, tensor in state.items()}
    quarter = len(state["pad_token"]) // heads // 4
    depth = sum(name.endswith(".gamma1") for name in state)
    return shapes | {f"vit.spatial_mix.{i}.inv_freq": (quarter,) for i in range(depth)}


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under our names, without the frequencies, which follow from the sizes."""
    return {
        our_name(name): tensor
        for name, tensor in tensors.items()
        if not FREQUENCIES.fullmatch(name)
    }
