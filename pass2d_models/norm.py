"""BatchNorm that accepts a single row, and whose batches are counted by the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Norm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm that leaves counting to `count_batches`, which saves a GPU kernel per layer."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (R, H) or (I, H, ...)."""
        if self.momentum is None or not self.training:  # a plain mean needs the count
            return super().forward(features)
        return self._by_statistics(features, of_batch=True)

    def _by_statistics(self, features: Tensor, *, of_batch: bool) -> Tensor:
        return functional.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=of_batch,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )


class MapNorm(_Norm, nn.BatchNorm2d):
    """BatchNorm over the pixels of maps."""


class RowNorm(_Norm, nn.BatchNorm1d):
    """BatchNorm over rows; in training a single row is normalised by the running statistics."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (R, H); a single row is normalised by the running statistics."""
        if self.training and len(features) < 2:
            return self._by_statistics(features, of_batch=False)
        return super().forward(features)


def count_batches(network: nn.Module) -> None:
    """Count one more batch in all norms of a network that is about to be trained on it."""
    counters = [
        norm.num_batches_tracked
        for norm in network.modules()
        if isinstance(norm, _Norm)
        and norm.momentum is not None
        and norm.num_batches_tracked is not None
    ]
    if network.training and counters:
        torch._foreach_add_(counters, 1)
