"""Scores against a plain slow version, and cases counted by hand.

The published scores are in golden_small_checks.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_samples import sample_info
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError
from pass2d.train.inference.metric import (
    Scores,
    both_scores,
    count_pairs,
    official_scores,
    published_scores,
)


def slow_official(
    labels: list[int], predictions: list[int], n_classes: int
) -> tuple[list[float], float, float]:
    """IoU per class, mean and accuracy, point by point, absent classes as 0."""
    true_positive = [0] * n_classes
    false_positive = [0] * n_classes
    false_negative = [0] * n_classes
    for label, prediction in zip(labels, predictions, strict=True):
        if label == 0:
            continue
        if label == prediction:
            true_positive[label] += 1
        else:
            false_negative[label] += 1
            false_positive[prediction] += 1
    iou = []
    for c in range(1, n_classes):
        union = true_positive[c] + false_positive[c] + false_negative[c]
        iou.append(true_positive[c] / union if union else 0.0)
    answered = sum(true_positive[1:]) + sum(false_positive[1:])
    accuracy = sum(true_positive[1:]) / answered if answered else 0.0
    return iou, sum(iou) / len(iou), accuracy


def matrix(labels: list[int], predictions: list[int], n_classes: int) -> NDArray[np.int64]:
    return count_pairs(torch.tensor(labels), torch.tensor(predictions), n_classes=n_classes)[
        0
    ].numpy()


@pytest.mark.parametrize("seed", range(20))
def test_official_protocol_equals_a_plain_loop_over_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 12))
    n_seen = int(rng.integers(1, n_classes + 1))  # the classes above are absent
    labels = rng.integers(0, n_seen, 3000)
    predictions = np.where(rng.random(3000) < 0.5, labels, rng.integers(0, n_seen, 3000))
    iou, miou, accuracy = slow_official(labels.tolist(), predictions.tolist(), n_classes)
    counts = matrix(labels.tolist(), predictions.tolist(), n_classes)
    scores = official_scores(counts, absent_counts_zero=True)
    assert scores.iou[1:].tolist() == pytest.approx(iou, abs=1e-15)
    assert scores.miou == pytest.approx(miou, abs=1e-15)
    assert scores.accuracy == pytest.approx(accuracy, abs=1e-15)
    assert scores.points == int((labels != 0).sum())


def test_half_of_the_points_unanswered_is_perfect_only_in_the_published_protocol() -> None:
    labels = [1, 1, 2, 2]
    counts = matrix(labels, [1, 0, 2, 0], 3)
    official, published = official_scores(counts, absent_counts_zero=True), published_scores(counts)
    assert published.iou[1:].tolist() == [1.0, 1.0]
    assert official.iou[1:].tolist() == [0.5, 0.5]
    assert (published.miou, official.miou) == (1.0, 0.5)
    assert (official.points, published.points) == (4, 2)
    assert official.missed == 2
    assert (official.accuracy, official.accuracy_with_misses) == (1.0, 0.5)


def test_points_with_the_ignored_label_count_in_neither_protocol() -> None:
    counts = matrix([0, 0, 1], [1, 2, 1], 3)
    for scores in (official_scores(counts, absent_counts_zero=True), published_scores(counts)):
        assert scores.iou[1] == 1.0
        assert scores.points == 1


def test_absent_class_is_zero_or_left_out() -> None:
    counts = matrix([1, 1], [1, 1], 3)
    kitti = official_scores(counts, absent_counts_zero=True)
    nuscenes = official_scores(counts, absent_counts_zero=False)
    assert (kitti.iou[2], kitti.miou) == (0.0, 0.5)
    assert math.isnan(nuscenes.iou[2])
    assert nuscenes.miou == 1.0
    assert kitti.absent == nuscenes.absent == (2,)


def test_class_that_is_predicted_but_never_labelled_is_not_absent() -> None:
    counts = matrix([1, 1], [1, 2], 3)
    scores = official_scores(counts, absent_counts_zero=False)
    assert scores.iou[1:].tolist() == [0.5, 0.0]
    assert scores.absent == ()


@pytest.mark.parametrize("layout", ["semantickitti", "nuscenes"])
def test_each_benchmark_counts_classes_without_labels_in_its_own_way(layout: str) -> None:
    # Class 1 is labelled and half right, 2 predicted but never labelled, 3 neither.
    counts = matrix([1, 1], [1, 2], 4)
    info = replace(sample_info(), layout=layout)
    official, _ = both_scores(counts, np.zeros_like(counts), info, sees_outside=False)
    assert official.iou[1:3].tolist() == [0.5, 0.0]
    if layout == "nuscenes":
        assert math.isnan(official.iou[3])
        assert official.miou == 0.25
    else:
        assert official.iou[3] == 0.0
        assert official.miou == pytest.approx(0.5 / 3)
    assert official.absent == (3,)


def test_published_accuracy_by_hand() -> None:
    # Inside: a right one, a wrong one, an ignored one with and one without a prediction. Outside,
    # where `--outside nearest` gave class 1 to both: one labelled 1 and an ignored one.
    inside = matrix([1, 2, 0, 0], [1, 1, 2, 0], 3)
    outside = matrix([1, 0], [1, 1], 3)
    info = sample_info()
    official, unseen = both_scores(inside, outside, info, sees_outside=False)
    assert unseen.accuracy == 3 / 6  # the right one, and both without label and prediction
    assert (unseen.points, unseen.missed) == (2, 1)
    assert unseen.iou[1:].tolist() == [0.5, 0.0]
    assert official.accuracy == official.accuracy_with_misses == 2 / 3
    _, seen = both_scores(inside, outside, info, sees_outside=True)
    assert seen.accuracy == 3 / 6  # now the labelled one is right and the ignored one wrong
    assert (seen.points, seen.missed) == (3, 0)
    assert seen.iou[1] == 2 / 3


def test_nothing_counted_scores_zero_without_a_warning() -> None:
    for scores in (
        published_scores(matrix([1, 2], [0, 0], 3)),
        official_scores(np.zeros((3, 3), np.int64), absent_counts_zero=False),
    ):
        assert (scores.miou, scores.accuracy) == (0.0, 0.0)


def test_groups_are_counted_apart() -> None:
    labels, predictions = torch.tensor([1, 1, 0]), torch.tensor([1, 0, 1])
    counts = count_pairs(
        labels, predictions, n_classes=2, group=torch.tensor([0, 2, 2]), n_groups=3
    )
    assert counts.tolist() == [[[0, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 1], [1, 0]]]


def test_empty_scan_counts_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.uint8)
    assert count_pairs(empty, empty, n_classes=3).sum() == 0


def test_wrong_ids_and_lengths_are_refused() -> None:
    for labels, predictions in ([3], [1]), ([1], [3]):
        with pytest.raises(ShapeError, match="below 3"):
            count_pairs(torch.tensor(labels), torch.tensor(predictions), n_classes=3)
    with pytest.raises(ShapeError, match="both"):
        count_pairs(torch.tensor([1, 2]), torch.tensor([1]), n_classes=3)


def test_score_fields_are_plain_numbers() -> None:
    scores = published_scores(matrix([1, 2], [1, 2], 3))
    assert isinstance(scores, Scores)
    assert [type(scores.miou), type(scores.accuracy), type(scores.points)] == [float, float, int]
