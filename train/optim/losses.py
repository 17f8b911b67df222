"""The training losses (SPEC, section 5), all in float32, each a tensor on the device.

Nothing here waits for the GPU, and nothing divides by a number of labelled points that may be 0:
without any labelled point a term is 0 and its gradient is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pass2d.common.errors import DataError
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
    """Share of a label in the cross entropies that goes evenly to all classes but the ignored."""
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
        segmentation: What the network answered, in training mode for the distillation terms.
        prepared: What it was given; with labels.
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
    parts: dict[str, Tensor] = {}
    ce, lovasz = segmentation_losses(
        segmentation.row_logits, prepared.targets, class_weights, smoothing=config.label_smoothing
    )
    parts["main_ce"], parts["main_lovasz"] = ce, lovasz
    total = ce + config.lambda_lovasz * lovasz
    if segmentation.image_logits is not None:
        total = total + _distillation(segmentation, prepared, config, class_weights, parts)
    return LossTerms(total=total, parts={name: part.detach() for name, part in parts.items()})


def _distillation(
    segmentation: Segmentation,
    prepared: Prepared,
    config: LossConfig,
    class_weights: Tensor | None,
    parts: dict[str, Tensor],
) -> Tensor:
    """Sum of the blocks' losses and that of the image head; fills `parts`."""
    assert isinstance(prepared, TwoDPassBatch)
    assert prepared.image is not None
    assert prepared.image.targets is not None
    assert segmentation.image_logits is not None
    assert prepared.targets is not None
    seen, n_blocks = prepared.image.targets, len(segmentation.blocks)
    # The divergence needs no label; but a batch without any shall change nothing.
    is_labelled = (prepared.targets.label != IGNORED).any()
    smoothing = config.label_smoothing
    # All heads on the seen points at once: on a GPU each small kernel has its price.
    heads = torch.stack([*(b.fused_logits for b in segmentation.blocks), segmentation.image_logits])
    ce, lovasz = segmentation_losses(heads, seen, class_weights, smoothing=smoothing)
    answers = torch.stack([block.voxel_logits_seen for block in segmentation.blocks])
    xm = fused_divergence(answers, heads[:-1], seen.count) * is_labelled
    total = ce[-1] + lovasz[-1]
    total = total + (ce[:-1] + lovasz[:-1]).sum() * (config.lambda_2d / n_blocks)
    total = total + xm.sum() * (config.lambda_xm / n_blocks)
    for i, (block, voxels) in enumerate(
        zip(segmentation.blocks, prepared.image.voxel_targets, strict=True)
    ):
        voxel_ce, voxel_lovasz = segmentation_losses(
            block.voxel_logits, voxels, class_weights, smoothing=smoothing
        )
        total = total + (voxel_ce + voxel_lovasz)
        parts[f"voxel_ce_{i}"], parts[f"voxel_lovasz_{i}"] = voxel_ce, voxel_lovasz
        parts[f"fused_ce_{i}"], parts[f"fused_lovasz_{i}"] = ce[i], lovasz[i]
        parts[f"xm_{i}"] = xm[i]
    parts["image_ce"], parts["image_lovasz"] = ce[-1], lovasz[-1]
    return total


def segmentation_losses(
    logits: Tensor,
    targets: Targets,
    class_weights: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross entropy and Lovasz-softmax of the same logits, () each, or (H,) for H heads.

    Args:
        logits: (R, C), or (H, R, C) of heads on the same rows.
        targets: Their labels; rows with label 0 count nothing.
        class_weights: (C,) of the cross entropy.
        smoothing: See `LossConfig.label_smoothing`.
    """
    logits = full_precision(logits)
    if targets.row is not None:
        logits = logits.index_select(-2, targets.row)
    count = (targets.label != IGNORED).to(logits.dtype)
    if targets.count is not None:
        count = count * targets.count.to(logits.dtype)
    log_probs = functional.log_softmax(logits, dim=-1)
    ce = _cross_entropy(log_probs, targets.label, count, class_weights, smoothing)
    return ce, lovasz_softmax(log_probs.exp(), targets.label, count)


def full_precision(values: Tensor) -> Tensor:
    """Half-precision values as float32; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _cross_entropy(
    log_probs: Tensor,
    labels: Tensor,
    count: Tensor,
    class_weights: Tensor | None,
    smoothing: float,
) -> Tensor:
    """Mean weighted by class and count, as the published one; 0 when nothing counts."""
    weight, known = count, None
    if class_weights is not None:
        # Of class 0 the published weight is infinite: it must not meet its count of 0.
        known = torch.nan_to_num(class_weights.to(count), posinf=0.0)
        weight = count * known[labels]
    rows = labels[:, None].expand(*log_probs.shape[:-1], 1)
    picked = log_probs.gather(-1, rows)[..., 0]
    total = weight.sum()
    gained = (picked * weight).sum(-1)
    if smoothing:
        # As torch: each class enters with its weight, however the row is labelled.
        classes = log_probs[..., IGNORED + 1 :]
        spread = classes.mean(-1) if known is None else (classes * known[IGNORED + 1 :]).mean(-1)
        gained = (1 - smoothing) * gained + smoothing * (spread * count).sum(-1)
    return -gained / torch.where(total > 0, total, torch.ones_like(total))


def lovasz_softmax(probs: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """Lovasz-softmax, mean over the classes present, in one sorted pass for all classes.

    Args:
        probs: (K, C), or (H, K, C) of heads on the same rows.
        labels: (K,) int64 in 0..C-1.
        count: (K,) points that each row stands for; 0 leaves it out. Exact, since equal points
            are neighbours in the sorted order, where their terms add up to one.

    Returns:
        (), or (H,); 0 with zero gradient when no row counts.

    Source: Berman, Triki, Blaschko: The Lovasz-Softmax loss, CVPR 2018.
    """
    classes = torch.arange(probs.shape[-1], device=probs.device)
    is_class = labels == classes[:, None]
    with torch.no_grad():
        slope = _lovasz_slope(probs.mT, is_class.expand(probs.mT.shape), count)
    # Each error is p, or 1 - p in its class; the slope is constant between reorderings.
    return (probs * slope.mT).sum((-2, -1)) - (slope * is_class).sum((-2, -1))


def _lovasz_slope(probs: Tensor, is_class: Tensor, count: Tensor) -> Tensor:
    """(..., C, K) derivative of the Lovasz-softmax with respect to each probability.

    Args:
        probs: (..., C, K).
        is_class: (..., C, K) bool.
        count: (K,).
    """
    order = _descending_order(torch.where(is_class, 1 - probs, probs))
    weight = count[order]
    # As whole numbers, whose sums are exact in any order.
    hits = _running_count(weight * is_class.gather(-1, order))
    rows = _running_count(weight)
    n_hits = hits[..., -1:] if hits.shape[-1] else hits.new_zeros((*hits.shape[:-1], 1))
    jaccard = rows / (n_hits + rows - hits).clamp(min=1)
    steps = torch.diff(jaccard, dim=-1, prepend=torch.zeros_like(n_hits))
    present = (n_hits > 0).to(steps)  # a class without rows would take part with its largest error
    steps *= present / present.sum(-2, keepdim=True).clamp(min=1)
    slope = torch.empty_like(steps).scatter_(-1, order, steps)
    return torch.where(is_class, -slope, slope)


def _running_count(counts: Tensor) -> Tensor:
    """Sums of whole numbers along the last axis, of their type."""
    return torch.cumsum(counts, dim=-1, dtype=torch.int32).to(counts)


def _descending_order(errors: Tensor) -> Tensor:
    """(..., C, K) int64: for each class the rows from its largest error down.

    A CPU sorts single rows of 32-bit integers by radix, four times as fast as all rows of floats at
    once; the bits of floats that are not negative are in the order of the floats.
    """
    if errors.device.type != "cpu" or errors.dtype != torch.float32:
        return torch.argsort(errors, dim=-1, descending=True)
    if not errors.numel():
        return errors.to(torch.int64)
    bits = -(errors.contiguous().view(torch.int32))
    rows = [torch.sort(row, stable=True)[1] for row in bits.flatten(0, -2)]
    return torch.stack(rows).view(errors.shape)


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
