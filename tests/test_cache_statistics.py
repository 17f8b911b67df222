"""Class weights against the published numbers; counts against scans counted by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetInfo, GridConfig, LabelTable
from pass2d.cache.statistics import (
    RANGE_EDGES_M,
    absent_classes,
    class_weights,
    dataset_statistics,
    rare_classes,
)
from pass2d.common.errors import ShapeError

N_BINS = len(RANGE_EDGES_M)


def test_weights_of_the_published_counts_are_cube_roots_of_their_ratios(shared: Path) -> None:
    published = json.loads((shared / "spec/datasets.json").read_text())["semantickitti"]
    counts = published["seed_point_counts_20"]
    expected = [np.float32((max(counts) / count) ** (1 / 3)) for count in counts[1:]]
    assert class_weights(counts).tolist() == [0, *expected]


def test_eight_times_rarer_weighs_twice() -> None:
    assert class_weights([0, 800, 100]).tolist() == [0, 1, 2]


def test_ignored_points_change_no_weight() -> None:
    assert class_weights([10**9, 800, 100]).tolist() == class_weights([0, 800, 100]).tolist()


def test_class_that_never_occurs_gets_the_largest_finite_weight() -> None:
    counts = [5, 800, 0, 100, 0]
    assert class_weights(counts).tolist() == [0, 1, 2, 2, 2]
    assert absent_classes(counts) == (2, 4)


def test_without_any_labelled_point_all_classes_weigh_the_same() -> None:
    assert class_weights([7, 0, 0]).tolist() == [0, 1, 1]


@pytest.mark.parametrize("counts", [[], [[1, 2]], [0, -1]])
def test_counts_of_a_wrong_form_are_refused(counts: list[int]) -> None:
    with pytest.raises(ShapeError, match="counts must be"):
        class_weights(counts)


INFO = DatasetInfo(
    name="tiny",
    layout="semantickitti",
    labels=LabelTable(
        raw_to_training={0: 0, 10: 1, 40: 2, 99: 3},
        training_to_raw=(0, 10, 40, 99),
        names=("ignored", "car", "road", "sign"),
        colors_rgb=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
    ),
    grid=GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60)),
    n_cameras=1,
    has_class_weights=True,
    signal_name="remission",
    raw_columns=4,
)


@dataclass(frozen=True)
class Scans:
    """Four scans: two of train 00, one of train 01 without picture, one of test 11."""

    split: NDArray[np.str_]
    sequence: NDArray[np.str_]
    n_raw: NDArray[np.int64]
    n: NDArray[np.int64]
    m: NDArray[np.int64]
    has_label: NDArray[np.bool_]
    has_image: NDArray[np.bool_]
    label_histogram: NDArray[np.int64]
    range_histogram: NDArray[np.int64]


@pytest.fixture
def scans() -> Scans:
    ranges = np.zeros((4, N_BINS), np.int64)
    ranges[:, 3] = [8, 10, 20, 5]
    return Scans(
        split=np.array(["train", "train", "train", "test"]),
        sequence=np.array(["00", "00", "01", "11"]),
        n_raw=np.array([10, 12, 26, 7]),
        n=np.array([8, 10, 20, 5]),
        m=np.array([4, 5, 0, 1]),
        has_label=np.array([True, True, True, False]),
        has_image=np.array([True, True, False, True]),
        label_histogram=np.array([[1, 1, 6, 0], [2, 2, 6, 0], [0, 0, 20, 0], [0, 0, 0, 0]]),
        range_histogram=ranges,
    )


def test_statistics_of_four_scans_counted_by_hand(scans: Scans) -> None:
    found = {split.split: split for split in dataset_statistics(scans, INFO).splits}
    assert list(found) == ["train", "test"]
    train = found["train"]
    assert train.scans_per_sequence == (("00", 2), ("01", 1))
    assert train.class_counts.tolist() == [3, 3, 32, 0]
    assert train.class_shares.tolist() == [3 / 38, 3 / 38, 32 / 38, 0]
    rare = np.float32((32 / 3) ** (1 / 3))
    assert train.class_weights.tolist() == [0, rare, 1, rare]
    assert train.absent == ("sign",)
    kept = train.points_kept
    assert (kept.low, kept.median, kept.high, kept.mean) == (8, 10, 20, 38 / 3)
    assert (train.total_raw, train.total_kept) == (48, 38)
    assert train.visible_share == 9 / 18  # of the two scans with a picture
    assert (train.scans_without_image, train.scans_without_label) == (1, 0)
    assert train.sequences_without_image == ("01",)
    assert train.range_histogram[3] == 38


def test_split_without_labels_names_no_class_as_absent(scans: Scans) -> None:
    test = dataset_statistics(scans, INFO).splits[1]
    assert test.split == "test"
    assert test.absent == ()
    assert test.scans_without_label == 1
    assert test.sequences_without_label == ("11",)
    assert test.class_shares.tolist() == [0, 0, 0, 0]


def test_the_weight_of_a_class_with_a_share_of_1e_9_is_limited() -> None:
    # The shares of SemanticKITTI's static bicyclist and motorcyclist, of 1e9 points.
    counts = [0, 500_000_000, 499_999_983, 11, 6, 0]
    weights = class_weights(counts)
    assert weights[1] == 1
    limit = (500_000_000 / 1000) ** (1 / 3)  # 1000 points are a share of 1e-6
    np.testing.assert_allclose(weights[3:], limit, rtol=1e-6)  # one that never occurs, too
    assert rare_classes(counts) == (3, 4)
    # A share of 1e-6 and more is weighed as it is.
    np.testing.assert_allclose(class_weights([0, 999_000, 1000])[2], 999 ** (1 / 3), rtol=1e-6)
    assert rare_classes([7, 999_999, 1]) == ()
