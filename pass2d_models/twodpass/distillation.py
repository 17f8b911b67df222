"""Fusion of 2D and 3D features, from which the 3D network learns (docs/maths.md, section 5).

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
    """Apply a linear layer to (R, H_i) parts side by side, without concatenating them; (R, out)."""
    weights = layer.weight.chunk(len(parts), dim=1)
    total = functional.linear(parts[0], weights[0], layer.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = torch.addmm(total, part, weight.T)
    return total


class FusionBlock(nn.Module):
    """Weights of one block: heads of its 3D features, and of 3D and image features together."""

    def __init__(self, config: TwoDPassConfig, *, n_classes: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.voxel_head = _head(hidden, n_classes)
        self.fused_head = _head(hidden, n_classes)
        self.learner = nn.Linear(hidden, hidden)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.gate = nn.Linear(hidden, hidden)


class Distillation(nn.Module):
    """One `FusionBlock` per block of the 3D network, and a head on all fused features."""

    def __init__(self, config: TwoDPassConfig, *, n_classes: int) -> None:
        super().__init__()
        n_blocks = len(config.block_scales)
        self.image_residual = config.image_residual
        self.blocks = nn.ModuleList(
            FusionBlock(config, n_classes=n_classes) for _ in range(n_blocks)
        )
        self.head = _head(n_blocks * config.hidden, n_classes)

    def forward(
        self, voxels: tuple[Tensor, ...], *, seen: tuple[Tensor, ...], images: tuple[Tensor, ...]
    ) -> tuple[tuple[ScaleLogits, ...], Tensor]:
        """Logits of every block, and of all together.

        Args:
            voxels: Per block (V, H) 3D features.
            seen: Per block (M,) int64 voxel of each visible point.
            images: Per block (M, H) image features of each visible point.

        Returns:
            The blocks' logits, and (M, C).
        """
        voxel_logits = [
            block.voxel_head(features)  # type: ignore[operator]
            for block, features in zip(self.blocks, voxels, strict=True)
        ]
        pairs = list(zip(seen, voxels, voxel_logits, strict=True))
        fused = self._fused(
            torch.stack([features.index_select(0, rows) for rows, features, _ in pairs]).mT,
            torch.stack(images).mT,
        )
        fused_logits = self._each(
            functional.relu(self._each(fused, "fused_head.0"), inplace=True), "fused_head.2"
        ).mT
        blocks = tuple(
            ScaleLogits(
                voxel_logits=logits,
                fused_logits=of_fused,
                voxel_logits_seen=logits.index_select(0, rows),
            )
            for of_fused, (rows, _, logits) in zip(fused_logits, pairs, strict=True)
        )
        inner, *rest = self.head
        assert isinstance(inner, nn.Linear)
        image_logits = linear_of_parts(inner, fused.mT.unbind())
        for layer in rest:
            image_logits = layer(image_logits)
        return blocks, image_logits

    def _fused(self, at_seen: Tensor, images: Tensor) -> Tensor:
        """(B, H, M) features fused from (B, H, M) 3D and image features."""
        query = functional.relu(self._each(at_seen, "learner"), inplace=True)
        weight, bias = self._stacked("merge")
        of_image, of_query = weight.chunk(2, dim=2)
        merged = torch.baddbmm(torch.baddbmm(bias, of_image, images), of_query, query)
        fused = merged * torch.sigmoid(self._each(merged, "gate"))
        return functional.relu(fused + images if self.image_residual else fused)

    def _each(self, features: Tensor, layer: str) -> Tensor:
        """Each block's linear layer of this name, of its (H, M) of the features."""
        weight, bias = self._stacked(layer)
        # The weights come first, so that their gradients have the order of the weights.
        return torch.baddbmm(bias, weight, features)

    def _stacked(self, layer: str) -> tuple[Tensor, Tensor]:
        """(B, out, in) weights and (B, out, 1) biases: the blocks' products are one kernel."""
        layers = [block.get_submodule(layer) for block in self.blocks]
        return (
            torch.stack([known.get_parameter("weight") for known in layers]),
            torch.stack([known.get_parameter("bias") for known in layers])[..., None],
        )
