"""The tasks on which a network is scored: its own classes, and those that they reduce to.

Labels and predictions are counted once, by the finest ids, and the counts are then reduced, as the
benchmarks' tools do with raw ids. Meaning: docs/maths.md, section 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.motion import (
    Motion,
    class_motion,
    motion_lookup,
    moving_labels,
    static_ids,
    tells_motion,
    with_moving_classes,
)
from pass2d.cache.schema import DatasetInfo, LabelTable
from pass2d.common.errors import ConfigError
from pass2d.common.text import unknown

TaskName = Literal["multi", "single", "mos"]
MOTION_NAMES = ("unlabeled", "static", "moving")
_MOTION_RGB = ((0, 0, 0), (90, 130, 160), (255, 80, 40))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One way to classify points: with motion, without it, or by motion alone."""

    name: TaskName
    """"multi": classes with motion, those of tasks on several scans. "single": without it.
    "mos": whether it moves."""
    title: str
    """For people."""
    labels: LabelTable
    """Its classes, with the ids that its files contain."""
    fold: NDArray[np.uint8]
    """(F,) the task's class for each counted id, see `counted_labels`."""
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Classes whose mean is reported separately, by name."""
    ranked: int = 0
    """The class whose IoU alone is ranked; 0: the mean."""

    @property
    def n_classes(self) -> int:
        """Ignored class included."""
        return self.labels.n_classes

    def folded(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts by this task's classes.

        Args:
            counts: (..., F, F) rows are labels, columns predictions.

        Returns:
            (..., C, C).
        """
        member = self.fold[:, None] == np.arange(self.n_classes)
        weights = member.astype(np.int64)
        folded: NDArray[np.int64] = weights.T @ counts @ weights
        return folded


def n_counted(info: DatasetInfo) -> int:
    """F: the classes and, with motion, one more id for static points without a class."""
    return info.labels.n_classes + tells_motion(info)


def counted_labels(
    label: NDArray[np.uint8], motion: NDArray[np.uint8] | None, info: DatasetInfo
) -> NDArray[np.uint8]:
    """The finest ids of labels, from which the classes of every task are derived.

    Args:
        label: (N,) training ids without motion.
        motion: (N,) `Motion`; may be None if ``info`` has no moving classes.
        info: with the classes that the network predicts.

    Returns:
        (N,) training ids of ``info``; with motion, the number of its classes is the id of static
        points without a class, which moving object segmentation counts.
    """
    if not tells_motion(info):
        return label
    assert motion is not None
    ids = moving_labels(label, motion, info)
    is_nameless = (ids == 0) & (motion == Motion.STATIC)
    return np.where(is_nameless, np.uint8(info.labels.n_classes), ids)


def tasks_of(info: DatasetInfo) -> tuple[Task, ...]:
    """The tasks of a network with these classes, its own first.

    Args:
        info: with the network's classes.
    """
    if not tells_motion(info):
        fold = np.arange(info.labels.n_classes, dtype=np.uint8)
        return (Task(name="single", title="classes", labels=info.labels, fold=fold),)
    n_classes, facts = info.labels.n_classes, info.facts
    n_static = n_classes - len(facts.moving)
    moving = tuple(range(n_static, n_classes))
    resting = tuple(c for c in range(1, n_static) if c not in facts.rare)
    groups = {"moving": moving, "static": resting, "rare at rest": facts.rare}
    multi = Task(
        name="multi",
        title="classes with motion",
        labels=info.labels,
        fold=np.array([*range(n_classes), 0], np.uint8),
        groups={name: classes for name, classes in groups.items() if classes},
    )
    without = static_ids(info)
    single = Task(
        name="single",
        title="classes without motion",
        labels=LabelTable(
            raw_to_training={
                raw_id: int(without[c]) for raw_id, c in info.labels.raw_to_training.items()
            },
            training_to_raw=info.labels.training_to_raw[:n_static],
            names=info.labels.names[:n_static],
            colors_rgb=info.labels.colors_rgb[:n_static],
        ),
        fold=np.append(without, np.uint8(0)),
    )
    if not facts.motion_raw:
        return multi, single
    motion = motion_lookup(info.labels, facts)
    raw_ids = {int(raw_id): int(motion[raw_id]) for raw_id in info.labels.raw_to_training}
    mos = Task(
        name="mos",
        title="moving object segmentation",
        labels=LabelTable(
            raw_to_training={**raw_ids, **{raw: m for m, raw in enumerate(facts.motion_raw)}},
            training_to_raw=facts.motion_raw,
            names=MOTION_NAMES,
            colors_rgb=_MOTION_RGB,
        ),
        fold=np.append(class_motion(info), np.uint8(Motion.STATIC)),
        ranked=int(Motion.MOVING),
    )
    return multi, single, mos


def without_motion(info: DatasetInfo) -> Task:
    """The task "single", which every network has.

    Args:
        info: with the network's classes.
    """
    return next(task for task in tasks_of(info) if task.name == "single")


def chosen_tasks(
    info: DatasetInfo, wanted: Sequence[str] | None, *, source: object
) -> tuple[Task, ...]:
    """The requested tasks of a network, in the order of the request.

    Args:
        info: with the network's classes.
        wanted: names; all tasks of the network if None.
        source: names the network in messages.

    Raises:
        ConfigError: no task, an unknown one, or one that the network does not have.
    """
    known = {task.name: task for task in tasks_of(info)}
    if wanted is None:
        return tuple(known.values())
    if not wanted:
        raise ConfigError(f"`task` names none; choose of {', '.join(known)}")
    for name in wanted:
        require_task(name)
        if name not in known:
            could = with_moving_classes(info)
            reason = (
                f"it tells {info.labels.n_classes - 1} classes and not what moves. Train one on "
                f"the {could.labels.n_classes - 1} classes with motion"
                if could is not info
                else f"the labels of {info.facts.title} do not say what moves"
            )
            raise ConfigError(
                f"{source}: cannot answer `task={name}`: {reason}. It answers {', '.join(known)}."
            )
    return tuple(known[cast(TaskName, name)] for name in dict.fromkeys(wanted))


def require_task(name: str) -> TaskName:
    """Refuse a name that no task has.

    Raises:
        ConfigError: naming the nearest one.
    """
    known = get_args(TaskName)
    if name not in known:
        raise ConfigError(f"`task`: {unknown(name, known, what='task')}")
    return cast(TaskName, name)
