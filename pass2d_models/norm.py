"""BatchNorm that a single row passes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class RowNorm(nn.BatchNorm1d):
    """BatchNorm over rows, which in training lets a single row pass by the running statistics."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (R, H); one row has no variance, and none at all nothing to normalise."""
        if self.training and len(features) < 2:
            return functional.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(features)
