"""The training losses (docs/maths.md, section 5), all in float32, each a tensor on the device.

Nothing here waits for the GPU, and nothing divides by a number of labelled points that may be 0:
without any labelled point a term is 0 and its gradient is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pass2d.common.errors import DataError
from pass2d.models.inputs import host_values
from pass2d.models.network import Prepared, Segmentation, Targets
from pass2d.models.twodpass.twodpass import TwoDPassBatch

IGNORED = 0
"""The training id that no loss counts."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Factors of the loss terms. Defaults: 2DPASS small on SemanticKITTI."""

    lambda_lovasz: float = 0.1
    """Of the main Lovasz term: 0.1 (small, SemanticKITTI), 1 (large, nuScenes, the U-Nets)."""
    label_smoothing: float = 0.0
    """Label smoothing in the cross entropies, spread evenly over all classes except the ignored
    one."""
    lambda_xm: float = 0.05
    """Of the KL divergence from the fused to the 3D prediction; divided by the number of blocks."""
    lambda_2d: float = 1.0
    """Of the fused prediction's loss; divided by the number of blocks."""

    def __post_init__(self) -> None:
        for name in ("lambda_lovasz", "lambda_xm", "lambda_2d"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in 0..1, got {self.label_smoothing}")


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
        segmentation: The network's output, in training mode for the distillation terms.
        prepared: Its input; with labels.
        config: Factors.
        class_weights: (C,) weights of the cross entropies, or None for equal ones. That of class 0
            has no effect, whatever it is.

    Returns:
        The total, and as parts "main_ce", "main_lovasz", per block i "voxel_ce_i",
        "voxel_lovasz_i", "fused_ce_i", "fused_lovasz_i", "xm_i", and "image_ce", "image_lovasz".

    Raises:
        DataError: The batch has no labels.
    """
    if prepared.targets is None:
        raise DataError("the batch has no labels: a loss needs them. Is it a test split?")
    heads = {"main_{}": HeadLogits(segmentation.row_logits, prepared.targets)}
    factors, blocks = [1.0], segmentation.blocks
    if segmentation.image_logits is not None:
        assert isinstance(prepared, TwoDPassBatch)
        assert prepared.image is not None
        assert prepared.image.targets is not None
        seen, voxels = prepared.image.targets, prepared.image.voxel_targets
        for i, (block, targets) in enumerate(zip(blocks, voxels, strict=True)):
            heads[f"voxel_{{}}_{i}"] = HeadLogits(block.voxel_logits, targets)
        for i, block in enumerate(blocks):
            heads[f"fused_{{}}_{i}"] = HeadLogits(block.fused_logits, seen)
        heads["image_{}"] = HeadLogits(segmentation.image_logits, seen)
        factors += [1.0] * len(blocks) + [config.lambda_2d / len(blocks)] * len(blocks) + [1.0]
    values = list(
        segmentation_losses(list(heads.values()), class_weights, smoothing=config.label_smoothing)
    )
    names = [head.format(kind) for kind in ("ce", "lovasz") for head in heads]
    factors += [config.lambda_lovasz, *factors[1:]]
    if segmentation.image_logits is not None:
        # The divergence needs no label; but a batch without any must not change the weights.
        is_labelled = (prepared.targets.label != IGNORED).any()
        divergence = fused_divergence(
            torch.stack([block.voxel_logits_seen for block in blocks]),
            torch.stack([block.fused_logits for block in blocks]),
            heads["image_{}"].targets.count,
        )
        values.append(divergence * is_labelled)
        names += [f"xm_{i}" for i in range(len(blocks))]
        factors += [config.lambda_xm / len(blocks)] * len(blocks)
    each = torch.cat(values)
    total = (each * host_values(factors, each.device, dtype=each.dtype)).sum()
    return LossTerms(total=total, parts=dict(zip(names, each.detach(), strict=True)))


class HeadLogits(NamedTuple):
    """Predictions and labels of one head."""

    logits: Tensor
    """(R, C)"""
    targets: Targets
    """Labels of its rows; those with label 0 are ignored."""


def segmentation_losses(
    answers: Sequence[HeadLogits],
    class_weights: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross entropies and Lovasz-softmax losses of H heads, (H,) each.

    Args:
        answers: Of each head.
        class_weights: (C,) of the cross entropies.
        smoothing: See `LossConfig.label_smoothing`.
    """
    # On a GPU each small kernel costs time, on a CPU each table that does not fit the cache.
    is_cpu = answers[0].logits.device.type == "cpu"
    tables = [[answer] for answer in answers] if is_cpu else [answers]
    losses = [_losses_of_table(table, class_weights, smoothing) for table in tables]
    ce, lovasz = (_concatenated(kind) for kind in zip(*losses, strict=True))
    return ce, lovasz


def _losses_of_table(
    answers: Sequence[HeadLogits], class_weights: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """`segmentation_losses` with all heads' rows one after the other in one table."""
    lengths = [len(targets.label) for _, targets in answers]
    logits = _concatenated([_labelled_rows(answer) for answer in answers], 0)
    labels = _concatenated([targets.label for _, targets in answers])
    count = (labels != IGNORED).to(logits.dtype)
    counts = [targets.count for _, targets in answers]
    if any(known is not None for known in counts):
        one = count.new_ones(1)
        count = count * _concatenated(
            [
                one.expand(n) if known is None else known.to(count.dtype)
                for n, known in zip(lengths, counts, strict=True)
            ]
        )
    log_probs = functional.log_softmax(logits, dim=-1)
    weight, gained = _cross_entropy(log_probs, labels, count, class_weights, smoothing)
    lovasz = _lovasz_rows(log_probs.exp(), labels, count, lengths)
    rows = torch.stack([weight, gained, lovasz])
    weight, gained, lovasz = _concatenated([part.sum(-1) for part in _alike(rows, lengths)])
    # 0 when nothing counts.
    return -gained / torch.where(weight > 0, weight, torch.ones_like(weight)), lovasz


def _concatenated(parts: Sequence[Tensor], dim: int = -1) -> Tensor:
    return torch.cat(list(parts), dim) if len(parts) > 1 else parts[0]


def _labelled_rows(answer: HeadLogits) -> Tensor:
    """(K, C) logits in full precision, one row per label."""
    logits, row = full_precision(answer.logits), answer.targets.row
    return logits if row is None else logits.index_select(0, row)


def full_precision(values: Tensor) -> Tensor:
    """Half-precision values as float32; others unchanged, of any shape."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _cross_entropy(
    log_probs: Tensor,
    labels: Tensor,
    count: Tensor,
    class_weights: Tensor | None,
    smoothing: float,
) -> tuple[Tensor, Tensor]:
    """(R,) weight of each row in the mean by class and count, and (R,) what it gains."""
    weight, known = count, None
    if class_weights is not None:
        # Of class 0 the published weight is infinite: it must not meet its count of 0.
        known = torch.nan_to_num(class_weights.to(count), posinf=0.0)
        weight = count * known[labels]
    gained = log_probs.gather(-1, labels[:, None])[:, 0] * weight
    if smoothing:
        # As in torch: each class has its own weight, whatever the row's label.
        classes = log_probs[:, IGNORED + 1 :]
        spread = classes.mean(-1) if known is None else (classes * known[IGNORED + 1 :]).mean(-1)
        gained = (1 - smoothing) * gained + smoothing * (spread * count)
    return weight, gained


def lovasz_softmax(probs: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """Lovasz-softmax, mean over the classes present, in one sorted pass for all classes.

    Args:
        probs: (R, C).
        labels: (R,) int64 in 0..C-1.
        count: (R,) points that each row stands for; 0 leaves it out. Exact, since equal points
            are neighbours in the sorted order, where their terms add up to one.

    Returns:
        (); 0 with zero gradient when no row counts.

    Source: Berman, Triki, Blaschko: The Lovasz-Softmax loss, CVPR 2018.
    """
    return _lovasz_rows(probs, labels, count, [len(labels)]).sum()


def _lovasz_rows(probs: Tensor, labels: Tensor, count: Tensor, lengths: Sequence[int]) -> Tensor:
    """(R,) share of each row in the Lovasz-softmax of its head; heads lie one after the other."""
    classes = torch.arange(probs.shape[-1], device=probs.device)
    is_class = labels == classes[:, None]
    with torch.no_grad():
        slope = _lovasz_slope(probs.mT, is_class, count, [n for n in lengths if n])
    # Each error is p, or 1 - p in its class; the slope is constant between reorderings.
    return (probs * slope.mT).sum(-1) - (slope * is_class).sum(0)


def _lovasz_slope(probs: Tensor, is_class: Tensor, count: Tensor, lengths: Sequence[int]) -> Tensor:
    """(C, R) derivative of each head's Lovasz-softmax with respect to each probability.

    Args:
        probs: (C, R).
        is_class: (C, R) bool.
        count: (R,).
        lengths: Rows of each head, none of them 0.
    """
    if not lengths:
        return torch.zeros_like(probs)
    order = _descending_order(torch.where(is_class, 1 - probs, probs), lengths)
    weight = count[order]
    # As whole numbers, whose sums are exact in any order.
    running = torch.stack([weight * is_class.gather(-1, order), weight])
    running = torch.cumsum(running, dim=-1, dtype=torch.int32)
    total = running[..., -1:]
    if len(lengths) > 1:
        total = torch.cat([part[..., -1:] for part in running.split(lengths, -1)], -1)
        before = functional.pad(total[..., :-1], (1, 0))
        running -= _repeated(before, lengths)
        total = total - before
    hits, rows = running.to(probs.dtype)
    n_hits = total[0].to(probs.dtype)
    jaccard = rows / (_repeated(n_hits, lengths) + rows - hits).clamp_(min=1)
    steps = jaccard - _one_row_later(jaccard, lengths)
    present = (n_hits > 0).to(steps)  # a class without rows would take part with its largest error
    steps *= _repeated(present / present.sum(0).clamp(min=1), lengths)
    slope = torch.empty_like(steps).scatter_(-1, order, steps)
    return torch.where(is_class, -slope, slope)


def _repeated(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(..., R) of (..., H) values per head; (..., 1) where there is one head."""
    if len(lengths) == 1:
        return values
    columns = values.split(1, -1)
    return torch.cat(
        [c.expand(*c.shape[:-1], n) for c, n in zip(columns, lengths, strict=True)], -1
    )


def _one_row_later(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(C, R): each head's rows moved on by one, with 0 before the first."""
    if len(lengths) == 1:
        return functional.pad(values[:, :-1], (1, 0))
    zero = values.new_zeros((len(values), 1))
    parts = values.split(lengths, -1)
    return torch.cat([column for part in parts for column in (zero, part[:, :-1])], -1)


def _descending_order(errors: Tensor, lengths: Sequence[int]) -> Tensor:
    """(C, R) int64: for each class and head the rows from its largest error down.

    A CPU sorts single rows of 32-bit integers by radix, four times as fast as all rows of floats at
    once; the bits of floats that are not negative are in the order of the floats.
    """
    is_radix = errors.device.type == "cpu" and errors.dtype == torch.float32
    bits = -errors.contiguous().view(torch.int32) if is_radix else errors
    orders = []
    for part in _alike(bits, lengths):
        if is_radix:
            order = torch.stack([torch.sort(row, stable=True)[1] for row in part.flatten(0, -2)])
            order = order.view(part.shape)
        else:
            order = torch.argsort(part, dim=-1, descending=True)
        orders.append(order)
    if len(lengths) > 1:
        starts = torch.arange(errors.shape[-1], device=errors.device)
        for order, first in zip(orders, _alike(starts, lengths), strict=True):
            order.add_(first[:, :1])
    return _concatenated([order.flatten(-2) for order in orders])


def _alike(rows: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """(..., R) of heads as one (..., H, n) for each run of H heads with n rows each."""
    runs = [(n, len(list(run))) for n, run in groupby(lengths)]
    parts = rows.split([n * heads for n, heads in runs], -1) if len(runs) > 1 else [rows]
    return [part.unflatten(-1, (heads, n)) for part, (n, heads) in zip(parts, runs, strict=True)]


def fused_divergence(
    voxel_logits: Tensor, fused_logits: Tensor, count: Tensor | None = None
) -> Tensor:
    """KL divergence of the 3D prediction from the fused one, which gets no gradient.

    Args:
        voxel_logits: (M, C), or (H, M, C) of several pairs.
        fused_logits: Likewise.
        count: (M,) points that each row stands for; None: one each.

    Returns:
        (), or (H,): mean over all M * C elements (not over the M points), as published; 0 when
        M = 0.
    """
    log_probs = functional.log_softmax(full_precision(voxel_logits), dim=-1)
    aim = functional.log_softmax(full_precision(fused_logits).detach(), dim=-1)
    divergence = functional.kl_div(log_probs, aim, reduction="none", log_target=True).sum(-1)
    n_points, n_classes = log_probs.shape[-2:]
    if count is None:
        return divergence.sum(-1) / max(n_points * n_classes, 1)
    weight = count.to(divergence.dtype)
    return (divergence * weight).sum(-1) / (weight.sum() * n_classes).clamp(min=1)
