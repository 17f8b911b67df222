"""Names of VaViT's tensors in published checkpoints, and back."""

from __future__ import annotations

import re

_RULES: tuple[tuple[str, str], ...] = (
    (r"embed\.(\d+)\.point_mlp\.0\.", r"embed.\1.point."),
    (r"embed\.(\d+)\.point_mlp\.1\.", r"embed.\1.point_norm."),
    (r"embed\.(\d+)\.neigh_mlp\.0\.", r"embed.\1.neighbour."),
    (r"embed\.(\d+)\.neigh_mlp\.1\.", r"embed.\1.neighbour_norm."),
    (r"embed\.(\d+)\.neigh_gate\.0\.", r"embed.\1.gate."),
    (r"embed\.(\d+)\.final\.", r"embed.\1.out."),
    (r"vit\.spatial_mix\.(\d+)\.gamma", r"blocks.\1.gamma1"),
    (r"vit\.spatial_mix\.(\d+)\.norm\.", r"blocks.\1.norm1."),
    (r"vit\.spatial_mix\.(\d+)\.(qkv|proj)\.", r"blocks.\1.attention.\2."),
    (r"vit\.channel_mix\.(\d+)\.gamma", r"blocks.\1.gamma2"),
    (r"vit\.channel_mix\.(\d+)\.norm\.", r"blocks.\1.norm2."),
    (r"vit\.channel_mix\.(\d+)\.(l1|l2)\.", r"blocks.\1.perceptron.\2."),
    (r"merge\.point_proj\.0\.", r"head.point."),
    (r"merge\.point_proj\.1\.", r"head.point_norm."),
    (r"merge\.bev_proj\.0\.", r"head.pillar."),
    (r"merge\.bev_proj\.1\.", r"head.pillar_norm."),
    (r"merge\.gate\.0\.", r"head.gate."),
    (r"merge\.merge\.0\.", r"head.merge."),
    (r"merge\.merge\.1\.", r"head.merge_norm."),
    (r"classif\.", r"head.classifier."),
)
FREQUENCIES = re.compile(r"vit\.spatial_mix\.\d+\.inv_freq")
"""Entries that hold no trained value: they follow from the head's width."""


def our_name(published: str) -> str:
    """The name here of a published tensor."""
    for pattern, ours in _RULES:
        match = re.match(pattern, published)
        if match:
            return match.expand(ours) + published[match.end() :]
    return published
