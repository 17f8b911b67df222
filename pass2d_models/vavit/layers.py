"""The layers before and after attention: points with their neighbours, and the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pass2d.models.norm import RowNorm


class PointLayer(nn.Module):
    """A point's own features beside the strongest of its neighbours'."""

    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.point = nn.Linear(n_in, hidden, bias=False)
        self.point_norm = RowNorm(hidden)
        self.neighbour = nn.Linear(n_in, hidden, bias=False)
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
        own = torch.relu(self.point_norm(self.point(features)))
        # The layer of a difference is the difference of the layers: k times fewer products.
        mapped = self.neighbour(features)
        n, k = neighbours.shape
        apart = mapped[neighbours.flatten()].view(n, k, -1) - mapped[:, None]
        hidden = torch.relu(self.neighbour_norm(apart.flatten(0, 1)))
        gated = hidden * torch.sigmoid(self.gate(hidden))
        return self.out(torch.cat([own, gated.view(n, k, -1).amax(1)], 1))


class Head(nn.Module):
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
        near = torch.relu(self.point_norm(self.point(points)))
        # Normalised per point, not per pillar: a pillar counts as often as it has points.
        wide = torch.relu(self.pillar_norm(self.pillar(tokens)[pillar_of_point]))
        both = torch.cat([near, wide], 1)
        both = both * torch.sigmoid(self.gate(both))
        return self.classifier(torch.relu(self.merge_norm(self.merge(both))))
