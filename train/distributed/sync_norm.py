"""BatchNorm over the rows of all processes (SyncBatchNorm), on GPUs and on CPUs.

torch's SyncBatchNorm refuses CPU tensors ("expected input tensor to be on GPU") and expects every
process to take part: here a process may have any number of rows, even none, and one without a scan
takes no part in that batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from pass2d.train.distributed.process_group import ProcessGroup, collective


class Sharers:
    """The processes that have a scan of the current batch: always the first ones."""

    def __init__(self, group: ProcessGroup) -> None:
        self.count = group.world
        self._groups: dict[int, Any] = {1: None, group.world: None}

    def choose(self, count: int) -> None:
        """Let the first ``count`` processes compute together; all of them must call this."""
        if count not in self._groups:
            with collective():
                self._groups[count] = distributed.new_group(list(range(count)))
        self.count = count

    @property
    def group(self) -> Any:
        """Of torch.distributed; None: all."""
        return self._groups[self.count]


class SharedNorm(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm whose statistics in training are those of the rows of all sharers together."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, sharers: Sharers) -> None:
        """Replace another BatchNorm, sharing its parameters and buffers."""
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self._sharers = sharers

    def _check_input_dim(self, _features: Tensor) -> None:
        """Any: the channels are dimension 1."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (R, H) or (I, H, height, width)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return functional.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        mean, var, count = joint_moments(features, self._sharers)
        # As in `RowNorm`: a single row has no variance, and passes by the running statistics.
        has_var = count > 1
        with torch.no_grad():
            self._track(mean, var, count, has_var)
        mean = torch.where(has_var, mean, self.running_mean.to(mean.dtype))
        var = torch.where(has_var, var, self.running_var.to(var.dtype))
        out = _Normalise.apply(  # type: ignore[no-untyped-call]
            features,
            self.weight,
            self.bias,
            mean,
            torch.rsqrt(var + self.eps),
            count,
            self._sharers,
        )
        assert isinstance(out, Tensor)
        return out

    def _track(self, mean: Tensor, var: Tensor, count: Tensor, has_var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += has_var
        weight: Tensor | float
        if self.momentum is None:
            weight = 1 / self.num_batches_tracked.clamp_min(1).to(mean.dtype)
        else:
            weight = self.momentum
        weight = weight * has_var.to(mean.dtype)
        unbiased = var * count / (count - 1).clamp_min(1)
        self.running_mean += (weight * (mean - self.running_mean)).to(self.running_mean.dtype)
        self.running_var += (weight * (unbiased - self.running_var)).to(self.running_var.dtype)


def share_norms(network: nn.Module, sharers: Sharers) -> None:
    """Replace every BatchNorm by a `SharedNorm`; names in the state do not change."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, SharedNorm(child, sharers).train(child.training))


@torch.no_grad()
def joint_moments(features: Tensor, sharers: Sharers) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and (biased) variance of each channel over all processes, and the number of rows.

    Each process gives its own moments, which are joined without cancellation (Chan et al., 1979).

    Returns:
        (H,), (H,) and () in float32, or in float64 for such features.
    """
    rows = _wide(features)
    count = rows.new_full((), rows.numel() // max(1, rows.shape[1]))
    if rows.numel():
        var, mean = torch.var_mean(rows, dim=_row_dims(rows), correction=0)
    else:
        mean, var = rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1])
    if sharers.count == 1:
        return mean, var, count
    own = torch.cat([mean, var, count[None]])
    parts = [torch.empty_like(own) for _ in range(sharers.count)]
    with collective():
        distributed.all_gather(parts, own, group=sharers.group)
    joint = torch.stack(parts)
    means, variances, counts = joint[:, : len(mean)], joint[:, len(mean) : -1], joint[:, -1:]
    total = counts.sum()
    share = counts / total.clamp_min(1)
    joint_mean = (share * means).sum(0)
    joint_var = (share * (variances + (means - joint_mean).square())).sum(0)
    return joint_mean, joint_var, total


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias, whose gradient knows that all rows made the mean."""

    @staticmethod
    def forward(  # noqa: PLR0917  # torch's interface
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_deviation: Tensor,
        count: Tensor,
        sharers: Sharers,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, mean, inverse_deviation, count)
        ctx.sharers, ctx.group, ctx.n_sharers = sharers, sharers.group, sharers.count
        shape = _channel_shape(features)
        scale = inverse_deviation * weight
        normal = _wide(features) * scale.view(shape) + (bias - mean * scale).view(shape)
        return normal.to(features.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, inverse_deviation, count = ctx.saved_tensors
        shape = _channel_shape(features)
        gradient = _wide(gradients[0])
        centred = (_wide(features) - mean.view(shape)) * inverse_deviation.view(shape)
        dims = _row_dims(features)
        bias_gradient = gradient.sum(dims)
        weight_gradient = (gradient * centred).sum(dims)
        # The losses of all processes add up, so these sums go over all rows.
        sums = torch.stack([bias_gradient, weight_gradient])
        if ctx.n_sharers > 1:
            with collective():
                distributed.all_reduce(sums, group=ctx.group)
        share = torch.where(count > 1, 1 / count.clamp_min(1), torch.zeros_like(count))
        through_mean, through_deviation = (sums * share).unbind()
        own = gradient - through_mean.view(shape) - centred * through_deviation.view(shape)
        features_gradient = own * (inverse_deviation * weight).view(shape)
        return (
            features_gradient.to(features.dtype),
            weight_gradient.to(weight.dtype),
            bias_gradient.to(weight.dtype),
            None,
            None,
            None,
            None,
        )


def _wide(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _row_dims(features: Tensor) -> list[int]:
    return [dim for dim in range(features.ndim) if dim != 1]


def _channel_shape(features: Tensor) -> list[int]:
    return [1, -1, *[1] * (features.ndim - 2)]
