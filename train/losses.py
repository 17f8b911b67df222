"""The training losses (SPEC, section 5), all in float32, each a tensor on the device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pass2d_models.network import Prepared, Segmentation


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Factors of the loss terms. Defaults: 2DPASS small on SemanticKITTI."""

    lambda_lovasz: float = 0.1
    """Of the main Lovasz term: 0.1 (small, SemanticKITTI), 1 (large, nuScenes, the voxel U-Nets)."""
    lambda_xm: float = 0.05
    """Of the KL divergence from the fused to the 3D prediction; divided by the number of blocks."""
    lambda_2d: float = 1.0
    """Of the fused prediction's loss; divided by the number of blocks."""

    def __post_init__(self) -> None:
        for name in ("lambda_lovasz", "lambda_xm", "lambda_2d"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """The total and its parts."""

    total: Tensor
    """() float32, to call backward on."""
    parts: dict[str, Tensor]
    """() float32 each, detached, before their factors; for the log."""


def compute_loss(
    segmentation: Segmentation,
    prepared: Prepared,
    *,
    config: LossConfig,
    class_weights: Tensor | None = None,
) -> LossTerms:
    """All losses of a training step.

    Args:
        segmentation: What the network answered, in training mode for the distillation terms.
        prepared: What it was given; with labels.
        config: Factors.
        class_weights: (C,) weights of the cross entropies, or None for equal ones.
    """
    raise NotImplementedError
