"""The layers before and after attention: points with their neighbours, and the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pass2d.models.folding import Affine, Foldable, norm_after
from pass2d.models.linear import NarrowLinear
from pass2d.models.norm import RowNorm


class PointLayer(Foldable[tuple[Affine, Affine]]):
    """A point's own features, combined with the maximum over its neighbours."""

    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.point = NarrowLinear(n_in, hidden, bias=False)
        self.point_norm = RowNorm(hidden)
        self.neighbour = NarrowLinear(n_in, hidden, bias=False)
        self.neighbour_norm = RowNorm(hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.out = nn.Linear(2 * hidden, n_out, bias=False)

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """Embed points.

        Args:
            features: (K, n_in).
            neighbours: (K, k) int64 rows.

        Returns:
            (K, n_out).
        """
        # A linear layer of a difference is the difference of its outputs: k times fewer products.
        n, k = neighbours.shape
        if folded := self.folded():
            point, (weight, bias) = folded
            own = functional.linear(features, *point).relu_()
            mapped = functional.linear(features, weight)
            apart = mapped[neighbours.flatten()].view(n, k, -1) - (mapped - bias)[:, None]
            hidden = apart.flatten(0, 1).relu_()
        else:
            own = torch.relu(self.point_norm(self.point(features)))
            mapped = self.neighbour(features)
            apart = mapped[neighbours.flatten()].view(n, k, -1) - mapped[:, None]
            hidden = torch.relu(self.neighbour_norm(apart.flatten(0, 1)))
        gated = hidden * torch.sigmoid(self.gate(hidden))
        return self.out(torch.cat([own, gated.view(n, k, -1).amax(1)], 1))

    def fold(self) -> tuple[Affine, Affine]:
        """See `Foldable.fold`."""
        return (
            norm_after(self.point, self.point_norm),
            norm_after(self.neighbour, self.neighbour_norm),
        )


class Head(Foldable[tuple[Affine, Affine, Affine]]):
    """Points and their pillars' tokens together, to logits."""

    def __init__(self, width: int, hidden: int, n_out: int, n_logits: int) -> None:
        super().__init__()
        self.point = nn.Linear(width, hidden, bias=False)
        self.point_norm = RowNorm(hidden)
        self.pillar = nn.Linear(width, hidden, bias=False)
        self.pillar_norm = RowNorm(hidden)
        self.gate = nn.Linear(2 * hidden, 2 * hidden)
        self.merge = nn.Linear(2 * hidden, n_out, bias=False)
        self.merge_norm = RowNorm(n_out)
        self.classifier = nn.Linear(n_out, n_logits)

    def forward(self, points: Tensor, tokens: Tensor, pillar_of_point: Tensor) -> Tensor:
        """(K, width) points and (P, width) tokens to (K, n_logits)."""
        folded = self.folded()
        if folded:
            near = functional.linear(points, *folded[0]).relu_()
            wide = functional.linear(tokens, *folded[1]).relu_()[pillar_of_point]
        else:
            near = torch.relu(self.point_norm(self.point(points)))
            # Normalised per point, not per pillar: a pillar counts as often as it has points.
            wide = torch.relu(self.pillar_norm(self.pillar(tokens)[pillar_of_point]))
        both = torch.cat([near, wide], 1)
        both = both * torch.sigmoid(self.gate(both))
        if folded:
            return self.classifier(functional.linear(both, *folded[2]).relu_())
        return self.classifier(torch.relu(self.merge_norm(self.merge(both))))

    def fold(self) -> tuple[Affine, Affine, Affine]:
        """See `Foldable.fold`."""
        return (
            norm_after(self.point, self.point_norm),
            norm_after(self.pillar, self.pillar_norm),
            norm_after(self.merge, self.merge_norm),
        )
