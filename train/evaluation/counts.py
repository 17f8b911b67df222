"""Confusion matrices of an evaluation and their scores: protocols, range bands, single scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.schema import DatasetInfo
from pass2d.train.distributed.process_group import ProcessGroup, gather_over_group, sum_over_group
from pass2d.train.inference.metric import Scores, both_scores, official_scores, without_predictions
from pass2d.train.inference.tasks import Task, tasks_of

BAND_NAMES = ("0-10 m", "10-20 m", "20-30 m", "30-50 m", "beyond 50 m")


@dataclass(kw_only=True)
class EvalCounts:
    """Points by place, range band, label and prediction. Grows while scans are added."""

    total: Tensor
    """(2, bands, F, F) int64: [0] inside the volume, [1] outside; rows are labels, columns
    predictions; 0 is ignored, or no prediction. F: `tasks.n_counted`."""
    scans: dict[int, Tensor]
    """(F, F) int64 of each scan, inside and outside together, by its place among those to count;
    before `reduce` those of this process alone."""
    sees_outside: bool
    """Whether the network itself predicts the points outside the volume."""

    @classmethod
    def empty(cls, n_classes: int, device: torch.device, *, sees_outside: bool) -> Self:
        """Nothing counted yet."""
        shape = (2, len(BAND_NAMES), n_classes, n_classes)
        total = torch.zeros(shape, dtype=torch.int64, device=device)
        return cls(total=total, scans={}, sees_outside=sees_outside)

    def add(self, place: int, scan: Tensor) -> None:
        """Add a scan's (2 x bands, C, C) integer counts."""
        self.total += scan.view_as(self.total)
        self.scans[place] = scan.sum(dim=0)

    def reduce(self, group: ProcessGroup) -> None:
        """Sum the counts of all processes exactly; each then has the total."""
        if group.world == 1:
            return
        sum_over_group([self.total], group)
        places = torch.tensor(sorted(self.scans), dtype=torch.int64, device=self.total.device)
        counts = self.total.new_zeros((0, *self.total.shape[2:]))
        if self.scans:
            counts = torch.stack([self.scans[place] for place in sorted(self.scans)])
        all_places = torch.cat(gather_over_group(places, group)).tolist()
        all_counts = torch.cat(gather_over_group(counts, group))
        self.scans = dict(zip(all_places, all_counts, strict=True))

    def inside(self, task: Task | None = None) -> NDArray[np.int64]:
        """(C, C) of the points inside the volume, by a task's classes; without one (F, F)."""
        return self._by_place(0, task)

    def outside(self, task: Task | None = None) -> NDArray[np.int64]:
        """(C, C) of the points outside the volume, by a task's classes; without one (F, F)."""
        return self._by_place(1, task)

    def _by_place(self, place: int, task: Task | None) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = self.total[place].sum(dim=0).cpu().numpy()
        return counts if task is None else task.folded(counts)

    def scores(self, info: DatasetInfo, task: Task | None = None) -> tuple[Scores, Scores]:
        """By the protocols `official` and `published`; by default of the network's own classes."""
        task = task or tasks_of(info)[0]
        inside, outside = self.inside(task), self.outside(task)
        return both_scores(inside, outside, info, sees_outside=self.sees_outside)


@dataclass(frozen=True, kw_only=True)
class ScanScore:
    """The result of one scan, by `official` over the classes labelled or predicted in it."""

    scan_id: str
    miou: float
    accuracy: float
    """Misses counted."""
    points: int
    """Labelled ones."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of one of a network's tasks."""

    task: Task
    official: Scores
    confusion: NDArray[np.int64]
    """(C, C) as `official` counts: rows are labels, columns predictions."""

    @property
    def ranked(self) -> float:
        """The score that its benchmark ranks: the mean IoU, or the IoU of one class."""
        return (
            float(self.official.iou[self.task.ranked]) if self.task.ranked else self.official.miou
        )

    def groups(self) -> dict[str, float]:
        """Mean IoU of each group of classes, without those that are left out of the mean."""
        iou = {name: self.official.iou[list(ids)] for name, ids in self.task.groups.items()}
        return {
            name: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            for name, values in iou.items()
        }


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """The result with one vote plan."""

    votes: str
    """E.g. "no votes", "12 random votes"."""
    official: Scores
    published: Scores
    confusion: NDArray[np.int64]
    """(C, C) as `official` counts: rows are labels, columns predictions."""
    by_range: tuple[Scores, ...]
    """`official`, one per name of ``BAND_NAMES``; classes that are neither labelled nor predicted
    there are left out."""
    miou_outside_ignored: float
    """`official` mIoU if points outside the volume had no prediction."""
    scans: tuple[ScanScore, ...]
    """All scans, the worst first."""
    tasks: tuple[TaskResult, ...]
    """All tasks asked for; all other fields are of the first."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """A checkpoint's result on a split."""

    info: DatasetInfo
    """With the classes of the first task."""
    checkpoint: str
    architecture: str
    split: str
    outside: str
    """"nearest", "ignore", or "predicted" by a network that sees them."""
    scans: int
    scans_without_label: int
    """Left out."""
    seconds: float
    """Reading, all passes and counting; without loading the checkpoint."""
    passes: tuple[PassResult, ...]
    """Without votes first; with votes last, if asked for."""

    @property
    def best(self) -> PassResult:
        """The result to quote: with votes if there were any."""
        return self.passes[-1]


def pass_result(
    votes: str,
    counts: EvalCounts,
    info: DatasetInfo,
    *,
    scan_ids: Sequence[str],
    tasks: Sequence[Task] | None = None,
) -> PassResult:
    """Compute all scores from the counts of one vote plan.

    Args:
        votes: Of the plan.
        counts: Of all scans.
        info: With the classes that the network predicts.
        scan_ids: By place.
        tasks: Tasks to score; the first is the main one. By default all of the network.
    """
    tasks = tasks or tasks_of(info)
    task, zero = tasks[0], info.facts.absent_counts_zero
    inside, outside = counts.inside(task), counts.outside(task)
    official, published = counts.scores(info, task)
    ignored = official_scores(inside + without_predictions(outside), absent_counts_zero=zero)
    bands = task.folded(counts.total.sum(dim=0).cpu().numpy())
    singles = [
        _scan_score(str(scan_ids[place]), part_scores(task.folded(scan.cpu().numpy())))
        for place, scan in counts.scans.items()
    ]
    results = []
    for one in tasks:
        confusion = counts.inside(one) + counts.outside(one)
        scores = official_scores(confusion, absent_counts_zero=zero)
        results.append(TaskResult(task=one, official=scores, confusion=confusion))
    return PassResult(
        votes=votes,
        official=official,
        published=published,
        confusion=inside + outside,
        by_range=tuple(part_scores(band) for band in bands),
        miou_outside_ignored=ignored.miou,
        scans=tuple(sorted(singles, key=lambda score: (score.miou, score.scan_id))),
        tasks=tuple(results),
    )


def part_scores(counts: NDArray[np.int64]) -> Scores:
    """`official` for a part of the points, by one rule for all data sets.

    A class that is neither labelled nor predicted there is left out, also of SemanticKITTI, which
    counts it as 0 over a whole split: few classes occur in one scan. One that is predicted but not
    labelled there is an error and counts as 0.

    Args:
        counts: (C, C) rows are labels, columns predictions.
    """
    return official_scores(counts, absent_counts_zero=False)


def _scan_score(scan_id: str, scores: Scores) -> ScanScore:
    return ScanScore(
        scan_id=scan_id,
        miou=scores.miou,
        accuracy=scores.accuracy_with_misses,
        points=scores.points,
    )
