"""Labels of a batch's voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pass2d.models.segment import bag_sum, segment_sum
from pass2d.models.twodpass.hierarchy import Level


def piece_label_counts(
    levels: tuple[Level, ...], labels: Tensor, *, n_classes: int, votes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Count labels.

    Args:
        levels: Of the points.
        labels: (N,) int64.
        n_classes: C.
        votes: (N,) float32 whole numbers, how often each point counts; None: once.

    Returns:
        (P, C) float32 per level: points of each label in each piece.
    """
    first = levels[0]
    n_pieces = len(first.voxel)
    # float32 counts whole numbers exactly up to 16 million points
    flat = torch.zeros(n_pieces * n_classes, device=labels.device)
    votes = flat.new_ones(len(labels)) if votes is None else votes
    flat.scatter_add_(0, first.piece * n_classes + labels, votes)
    counts = [flat.view(n_pieces, n_classes)]
    for level in levels[1:]:
        counts.append(bag_sum(counts[-1], index=level.order, offsets=level.offsets, weight=None))
    return tuple(counts)


def voxel_labels(levels: Sequence[Level], piece_counts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Most frequent label of each voxel, including the ignored one; the smallest in a tie.

    Args:
        levels: The voxels.
        piece_counts: Per level (P, C), see `piece_label_counts`.

    Returns:
        Per level (V,) int64.
    """
    n_classes = piece_counts[0].shape[1]
    # argmax does not define which of several equal maxima it returns
    rank = torch.arange(n_classes - 1, -1, -1, device=piece_counts[0].device)
    most = []
    for level, known in zip(levels, piece_counts, strict=True):
        counts = segment_sum(known, level.voxel_offsets).to(torch.int64)
        most.append(torch.add(rank, counts, alpha=n_classes).amax(1))
    labels = n_classes - 1 - torch.cat(most) % n_classes
    return labels.split([len(voxels) for voxels in most])
