"""Settings of the 2DPASS network."""

from __future__ import annotations

from dataclasses import dataclass

from pass2d.models.network import NetworkConfig

IMAGE_SCALES = (2, 4, 8, 16)
"""The scales that correspond to the four maps of the 2D network."""


@dataclass(frozen=True, kw_only=True)
class TwoDPassConfig(NetworkConfig):
    """Sizes of 2DPASS (docs/maths.md, section 4). Defaults: the small published model."""

    block_scales: tuple[int, ...] = (2, 4, 8, 16)
    """The scale at which each block ends; a repeated scale uses the same voxels."""
    hidden: int = 64
    """H, channels of every feature before the head; even."""
    image_branch: bool = True
    """2D encoder and distillation, used in training only. False: the "baseline"."""
    image_residual: bool = False
    """Add the image feature to the fused one, as the paper says and the published code does not."""
    time_channel: bool = False
    """Points carry the seconds since they were measured, as a fifth channel (added sweeps)."""
    image_weights: str = ""
    """File with ImageNet weights of ResNet-34 (torchvision's names). "": torchvision's cache if it
    has them, else random values; nothing is ever downloaded."""

    def __post_init__(self) -> None:
        if not self.block_scales:
            raise ValueError("block_scales must name at least one scale")
        if any(scale < 1 for scale in self.block_scales):
            raise ValueError(f"block_scales must be at least 1, got {self.block_scales}")
        if list(self.block_scales) != sorted(self.block_scales):
            raise ValueError(f"block_scales must not decrease, got {self.block_scales}")
        if self.image_branch and not set(self.block_scales) <= set(IMAGE_SCALES):
            raise ValueError(
                f"block_scales must be among {IMAGE_SCALES} with image_branch (the 2D network has "
                f"one map for each), got {self.block_scales}"
            )
        if self.hidden < 2 or self.hidden % 2:
            raise ValueError(f"hidden must be even and at least 2, got {self.hidden}")
