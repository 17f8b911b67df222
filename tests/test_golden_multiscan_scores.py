"""Scores of 26, 20 and 3 classes equal the official tools, from one count that is folded."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from golden_multiscan import arrays, recorded, require
from numpy.typing import NDArray

from pass2d.cache.motion import motion_lookup, with_moving_classes
from pass2d.cache.schema import UNKNOWN_LABEL
from pass2d.pipeline.datasets.semkitti import semkitti_table
from pass2d.train.inference.metric import Scores, count_pairs, official_scores
from pass2d.train.inference.tasks import Task, counted_labels, n_counted, tasks_of

require("evaluation.npz")
STATIC_INFO = semkitti_table().info
INFO = with_moving_classes(STATIC_INFO)
TASKS = {task.name: task for task in tasks_of(INFO)}
FILES = sorted(
    int(found[1])
    for name in arrays("evaluation.npz")
    if (found := re.fullmatch(r"labels(\d+)", name))
)
TOLERANCE = 1e-12
"""As the recording says."""


def raw_ids(kind: str, number: int, limit: int | None = None) -> NDArray[np.int64]:
    return (arrays("evaluation.npz")[f"{kind}{number}"] & 0xFFFF).astype(np.int64)[:limit]


def counted(raw: NDArray[np.int64]) -> torch.Tensor:
    """As a cache has them: class and motion."""
    label = STATIC_INFO.labels.training_lookup()[raw]
    label[label == UNKNOWN_LABEL] = 0
    motion = motion_lookup(STATIC_INFO.labels, STATIC_INFO.facts)[raw]
    return torch.from_numpy(counted_labels(label, motion, INFO))


def as_task(raw: NDArray[np.int64], task: Task) -> torch.Tensor:
    """As the tools do it: every file by the task's own table."""
    ids = task.labels.training_lookup()[raw]
    return torch.from_numpy(np.where(ids == UNKNOWN_LABEL, np.uint8(0), ids))


def folded(task: Task, limit: int | None = None) -> Scores:
    counts = sum(
        count_pairs(
            counted(raw_ids("labels", number, limit)),
            counted(raw_ids("predictions", number, limit)),
            n_classes=n_counted(INFO),
        )[0]
        for number in FILES
    )
    assert isinstance(counts, torch.Tensor)
    return official_scores(task.folded(counts.numpy()), absent_counts_zero=True)


def by_table(task: Task, kind: str) -> Scores:
    counts = sum(
        count_pairs(
            as_task(raw_ids("labels", number), task),
            as_task(raw_ids(kind, number), task),
            n_classes=task.n_classes,
        )[0]
        for number in FILES
    )
    assert isinstance(counts, torch.Tensor)
    return official_scores(counts.numpy(), absent_counts_zero=True)


def check(scores: Scores, task: Task, name: str) -> None:
    expected = recorded("scores.json")["scores"].get(name)
    if expected is None:
        pytest.skip(f"no recording {name}")
    found = {f"iou_{c}": scores.iou[i] for i, c in enumerate(task.labels.names) if i}
    found |= {"iou_mean": scores.miou, "accuracy_mean": scores.accuracy}
    assert set(expected) <= set(found)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("multi", "all_26_classes"),
        ("single", "single_20_classes"),
        ("mos", "mos_with_evaluate_semantics"),
    ],
)
def test_one_count_folds_to_the_scores_of_every_task(task: str, name: str) -> None:
    check(folded(TASKS[task]), TASKS[task], name)
    check(by_table(TASKS[task], "predictions"), TASKS[task], name)


LIMIT = "all_26_classes_limit_"


@pytest.mark.parametrize("name", [n for n in recorded("scores.json")["scores"] if LIMIT in n])
def test_only_the_first_points_count_where_others_were_joined(name: str) -> None:
    check(folded(TASKS["multi"], int(name.removeprefix(LIMIT))), TASKS["multi"], name)


@pytest.mark.parametrize("name", ["mos_binary_evaluate_semantics", "mos_binary_evaluate_mos"])
def test_files_of_moving_and_static_are_scored_as_the_tools_do(name: str) -> None:
    check(by_table(TASKS["mos"], "mos_predictions"), TASKS["mos"], name)


@pytest.mark.parametrize(("task", "name"), [("multi", "all"), ("mos", "mos")])
def test_tables_are_those_of_the_tools(task: str, name: str) -> None:
    maps = recorded("scores.json")["maps"][name]
    labels = TASKS[task].labels
    ours, theirs = labels.raw_to_training, {int(k): v for k, v in maps["learning_map"].items()}
    assert {raw: ours.get(raw, 0) for raw in theirs} == theirs
    assert {raw for raw, c in ours.items() if c} <= set(theirs)
    assert dict(enumerate(labels.training_to_raw)) == {
        int(k): v for k, v in maps["learning_map_inv"].items()
    }
