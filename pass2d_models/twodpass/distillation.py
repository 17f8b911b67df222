"""Fusion of 2D and 3D features, from which the 3D network learns (SPEC, section 5).

Used in training only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass2d.models.network import ScaleLogits
from pass2d.models.twodpass.config import TwoDPassConfig


def _head(n_in: int, n_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 128), nn.ReLU(inplace=True), nn.Linear(128, n_classes))


def linear_of_parts(layer: nn.Linear, parts: tuple[Tensor, ...]) -> Tensor:
    """The layer's answer to its parts side by side, without a copy of them side by side."""
    weights = layer.weight.chunk(len(parts), dim=1)
    total = functional.linear(parts[0], weights[0], layer.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = torch.addmm(total, part, weight.T)
    return total


class FusionBlock(nn.Module):
    """Heads of one block: of its 3D features, and of 3D and image features together."""

    def __init__(self, config: TwoDPassConfig, *, n_classes: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.image_residual = config.image_residual
        self.voxel_head = _head(hidden, n_classes)
        self.fused_head = _head(hidden, n_classes)
        self.learner = nn.Linear(hidden, hidden)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.gate = nn.Linear(hidden, hidden)

    def forward(self, voxels: Tensor, seen: Tensor, image: Tensor) -> tuple[ScaleLogits, Tensor]:
        """Logits of the block, and its fused features.

        Args:
            voxels: (V, H) the block's 3D features.
            seen: (M,) int64 voxel of each visible point.
            image: (M, H) image features of each visible point.

        Returns:
            The logits, and (M, H) fused features.
        """
        voxel_logits = self.voxel_head(voxels)
        query = functional.relu(self.learner(voxels.index_select(0, seen)), inplace=True)
        merged = linear_of_parts(self.merge, (image, query))
        fused = merged * torch.sigmoid(self.gate(merged))
        if self.image_residual:
            fused = fused + image
        fused = functional.relu(fused)
        logits = ScaleLogits(
            voxel_logits=voxel_logits,
            fused_logits=self.fused_head(fused),
            voxel_logits_seen=voxel_logits.index_select(0, seen),
        )
        return logits, fused


class Distillation(nn.Module):
    """One `FusionBlock` per block of the 3D network, and a head on all fused features."""

    def __init__(self, config: TwoDPassConfig, *, n_classes: int) -> None:
        super().__init__()
        n_blocks = len(config.block_scales)
        self.blocks = nn.ModuleList(
            FusionBlock(config, n_classes=n_classes) for _ in range(n_blocks)
        )
        self.head = _head(n_blocks * config.hidden, n_classes)

    def forward(
        self, voxels: tuple[Tensor, ...], *, seen: tuple[Tensor, ...], images: tuple[Tensor, ...]
    ) -> tuple[tuple[ScaleLogits, ...], Tensor]:
        """Logits of every block, and (M, C) of all together; arguments per block."""
        pairs = [
            block(*inputs) for block, *inputs in zip(self.blocks, voxels, seen, images, strict=True)
        ]
        inner, *rest = self.head
        assert isinstance(inner, nn.Linear)
        image_logits = linear_of_parts(inner, tuple(features for _, features in pairs))
        for layer in rest:
            image_logits = layer(image_logits)
        return tuple(logits for logits, _ in pairs), image_logits
