"""Confusion matrices, and scores by two protocols (docs/maths.md, section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor

Logits = TypeVar("Logits", "Tensor", NDArray[np.float32])

ProtocolName = Literal["official", "published"]
BAND_EDGES_M = (10.0, 20.0, 30.0, 50.0)
"""Between the range bands of the report."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a confusion matrix by one protocol."""

    protocol: ProtocolName
    iou: NDArray[np.float64]
    """(C,) 0..1; NaN for the ignored class and for an absent class that the mean leaves out."""
    miou: float
    """Mean over the classes except the ignored one (and those left out); 0 if none remains."""
    accuracy: float
    """`official`: share of correct points among the labelled points with a prediction other than 0,
    as the SemanticKITTI tools print it. `published`: among all raw points, including those labelled
    0 and those outside the volume, which are correct if label and prediction are both 0. 0 if there
    are no such points."""
    accuracy_with_misses: float
    """Share of correct points among all labelled points; a point without a prediction is wrong."""
    points: int
    """Labelled points that the protocol counts."""
    missed: int
    """Labelled points whose prediction is 0: misses for `official`, out of `published` mIoU."""
    absent: tuple[int, ...]
    """Classes without a label and without a prediction."""


def count_pairs(
    labels: Tensor,
    predictions: Tensor,
    *,
    n_classes: int,
    group: Tensor | None = None,
    n_groups: int = 1,
) -> Tensor:
    """Count points by group, label and prediction.

    Args:
        labels: (N,) training ids, integer.
        predictions: (N,) training ids, integer.
        n_classes: C.
        group: (N,) integer, below n_groups; e.g. the scan of each point. By default all
            are in group 0.
        n_groups: G.

    Returns:
        (G, C, C) int64 on the labels' device: rows are labels, columns predictions.

    Raises:
        ShapeError: the shapes differ, or an id is not below C.
    """
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ShapeError(
            "labels and predictions",
            expected="both (N,)",
            got=(tuple(labels.shape), tuple(predictions.shape)),
        )
    for ids in (labels, predictions):
        if len(ids) and int(ids.max()) >= n_classes:
            raise ShapeError("ids", expected=f"below {n_classes}", got=int(ids.max()))
    row = labels.int()  # in int64 counting takes several times as long
    if group is not None:
        row = group.int() * n_classes + row
    key = row * n_classes + predictions.int()
    counts = key.bincount(minlength=n_groups * n_classes**2)
    return counts.view(n_groups, n_classes, n_classes)


def mask_forbidden_classes(
    logits: Logits, info: DatasetInfo, *, allow_ignored: bool = True
) -> Logits:
    """Exclude the classes that the data set's benchmark forbids (nuScenes: 0).

    Args:
        logits: (N, C), tensor or array.
        info: Of the data set: its facts name the forbidden classes.
        allow_ignored: Whether class 0 is kept, if the benchmark does not forbid it.

    Returns:
        (N, C); a forbidden class has -inf, so that neither argmax nor softmax takes it.
    """
    forbidden = {*info.facts.forbidden_answers, *(() if allow_ignored else (0,))}
    if not forbidden:
        return logits
    allowed = logits * 1
    allowed[:, sorted(forbidden)] = -np.inf
    return allowed


def official_scores(counts: NDArray[np.int64], *, absent_counts_zero: bool) -> Scores:
    """Score as the benchmarks' servers do: every labelled point counts, prediction 0 is a miss.

    Args:
        counts: (C, C) rows are labels, columns predictions. Points that got no prediction (those
            outside the volume) belong in column 0.
        absent_counts_zero: An absent class (neither labelled nor predicted) has IoU 0
            (SemanticKITTI) or is left out (nuScenes). One that is predicted but never labelled has
            IoU 0 in any case.

    Source: docs/maths.md, section 8.
    """
    labelled = counts[1:].astype(np.float64)
    right = np.diagonal(counts)[1:].astype(np.float64)
    false_negative = labelled.sum(axis=1) - right
    false_positive = labelled[:, 1:].sum(axis=0) - right
    iou = _iou(right, false_positive, false_negative)
    absent = np.isnan(iou)
    if absent_counts_zero:
        iou[absent] = 0.0
    answered = max(1, int(counts[1:, 1:].sum()))
    accuracy = int(right.sum()) / answered
    points = int(counts[1:].sum())
    return _scores("official", counts, iou, accuracy=accuracy, points=points, absent=absent)


def published_scores(counts: NDArray[np.int64]) -> Scores:
    """Score as the published code does: for mIoU only points with a prediction other than 0 count.

    Args:
        counts: (C, C) rows are labels, columns predictions, of all raw points. Those that the
            network does not see (outside the volume) belong in column 0.

    Source: docs/maths.md, sections 8 and 10 (a network that answers 0 on half of the points
    can reach 1.0).
    """
    cropped = counts[1:, 1:].astype(np.float64)
    right = np.diagonal(cropped)
    iou = _iou(right, cropped.sum(axis=0) - right, cropped.sum(axis=1) - right)
    absent = counts[1:].sum(axis=1) + counts[1:, 1:].sum(axis=0) == 0
    accuracy = int(np.diagonal(counts).sum()) / max(1, int(counts.sum()))
    points = int(cropped.sum())
    return _scores("published", counts, iou, accuracy=accuracy, points=points, absent=absent)


def both_scores(
    inside: NDArray[np.int64],
    outside: NDArray[np.int64],
    info: DatasetInfo,
    *,
    sees_outside: bool,
) -> tuple[Scores, Scores]:
    """Score by both protocols, `official` first.

    Args:
        inside: (C, C) of the points inside the volume.
        outside: (C, C) of the others.
        info: Of the data set: its facts say how an absent class counts.
        sees_outside: Whether the network itself predicts the others. If not, they have no
            prediction for `published`, whatever ``OutsidePolicy`` gave them.
    """
    official = official_scores(inside + outside, absent_counts_zero=info.facts.absent_counts_zero)
    predicted = outside if sees_outside else without_predictions(outside)
    return official, published_scores(inside + predicted)


def without_predictions(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C, C) counts as if no point had a prediction; they move to column 0."""
    empty = np.zeros_like(counts)
    empty[:, 0] = counts.sum(axis=1)
    return empty


def _iou(
    right: NDArray[np.float64],
    false_positive: NDArray[np.float64],
    false_negative: NDArray[np.float64],
) -> NDArray[np.float64]:
    union = right + false_positive + false_negative
    return np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)


def _scores(
    protocol: ProtocolName,
    counts: NDArray[np.int64],
    iou: NDArray[np.float64],
    *,
    accuracy: float,
    points: int,
    absent: NDArray[np.bool_],
) -> Scores:
    right = int(np.diagonal(counts)[1:].sum())
    labelled, answered = int(counts[1:].sum()), int(counts[1:, 1:].sum())
    return Scores(
        protocol=protocol,
        iou=np.concatenate([[np.nan], iou]),
        miou=float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0,
        accuracy=accuracy,
        accuracy_with_misses=right / max(1, labelled),
        points=points,
        missed=labelled - answered,
        absent=tuple(int(c) + 1 for c in np.flatnonzero(absent)),
    )
