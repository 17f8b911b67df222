"""Sizes of VaViT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pass2d.models.network import NetworkConfig

PaddingName = Literal["masked", "published"]
ThinningName = Literal["random", "first"]


@dataclass(frozen=True, kw_only=True)
class VaViTConfig(NetworkConfig):
    """Settings of VaViT. Defaults: the published network."""

    point_width: int = 128
    """Channels of a point in the embedding layers, except the last, whose width is `width`."""
    point_layers: int = 4
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Blocks, each of attention and a perceptron."""
    heads: int = 12
    expansion: float = 4.0
    """Hidden channels of a block's MLP, as a multiple of `width`."""
    head_width: int = 128
    """Channels of points and of pillars in the head, each."""
    head_out: int = 128
    """Channels of the head's last layer before the classifier."""
    drop_path: float = 0.3
    """Stochastic depth: probability that a sample skips half a block in training, the same in all
    blocks."""
    cell_m: float = 0.1
    """Side of the cells in which one point each is kept, in metres."""
    pillar_m: float = 0.5
    """Side of a pillar, in metres."""
    neighbours: int = 16
    """Nearest neighbours of a point in an embedding layer, the point itself excluded."""
    thinning: str = "random"
    """Which point of a cell is kept in training: a `random` one, as published, or the `first`, as
    in evaluation. With `first`, neighbours stored by `prepare --neighbours` can be used, if
    augmentation only rotates, flips, shifts and uniformly scales the points."""
    augment_features: bool = False
    """In training, rotate, flip and scale the features x, y, z and range at random, as published;
    the geometry (neighbours, pillars) does not change."""
    padding: str = "masked"
    """`masked`: a sample's tokens attend only to each other. `published`: shorter samples of a
    batch are padded with a learned token that the others attend to, so that logits depend on the
    batch."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        sizes = (
            self.point_width,
            self.point_layers,
            self.width,
            self.depth,
            self.heads,
            self.head_width,
            self.head_out,
            self.neighbours,
        )
        if min(sizes) < 1:
            raise ValueError(
                f"widths, layers, depth, heads and neighbours must be at least 1: {self}"
            )
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width must be a multiple of 4 * heads (a head is rotated by x and by y, in pairs "
                f"of channels), got {self.width} and {self.heads} heads"
            )
        if int(self.width * self.expansion) < 1:
            raise ValueError(f"expansion leaves no hidden channel, got {self.expansion}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if not (self.cell_m > 0 and self.pillar_m > 0):
            raise ValueError(f"cell_m and pillar_m must be above 0 metres: {self}")
        for name, kind in (("padding", PaddingName), ("thinning", ThinningName)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"{name} must be one of {get_args(kind)}, got {value!r}")
