"""Each point's motion, and the label table with moving classes.

A prepared scan keeps two numbers per point: its training id, in which motion does not count, and
its motion. Together they give the class with motion, the class without it, and whether the point
moves: three tasks read one cache. Meaning: docs/maths.md, section 13.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetFacts, DatasetInfo, LabelTable


class Motion(IntEnum):
    """Values of the field `motion`."""

    UNKNOWN = 0
    """The label file does not tell the point's motion."""
    STATIC = 1
    """Also points whose class is ignored, as long as they have one."""
    MOVING = 2


def motion_lookup(labels: LabelTable, facts: DatasetFacts) -> NDArray[np.uint8]:
    """(65536,) `Motion` of each raw id; unknown for those that the label table lacks."""
    lookup = np.full(1 << 16, Motion.UNKNOWN, np.uint8)
    lookup[list(labels.raw_to_training)] = Motion.STATIC
    lookup[list(facts.unlabeled_raw)] = Motion.UNKNOWN
    lookup[[raw_id for moving in facts.moving for raw_id in moving.raw_ids]] = Motion.MOVING
    return lookup


def tells_motion(info: DatasetInfo) -> bool:
    """Whether the label table has moving classes (`with_moving_classes`)."""
    names = tuple(moving.name for moving in info.facts.moving)
    return bool(names) and info.labels.names[-len(names) :] == names


def with_moving_classes(info: DatasetInfo) -> DatasetInfo:
    """The same data set with the moving classes after the others.

    Args:
        info: of a cache or a table, with or without them.

    Returns:
        A copy with a longer label table and these classes among the movable ones; ``info`` itself
        if it has them already, or if labels do not tell motion.
    """
    moving = info.facts.moving
    if not moving or tells_motion(info):
        return info
    labels, first = info.labels, info.labels.n_classes
    ids = tuple(range(first, first + len(moving)))
    raw_to_training = {
        **labels.raw_to_training,
        **{i: new for new, one in zip(ids, moving, strict=True) for i in one.raw_ids},
    }
    return replace(
        info,
        labels=LabelTable(
            raw_to_training=dict(sorted(raw_to_training.items())),
            training_to_raw=(*labels.training_to_raw, *(one.raw for one in moving)),
            names=(*labels.names, *(one.name for one in moving)),
            colors_rgb=(*labels.colors_rgb, *(one.color_rgb for one in moving)),
        ),
        own_facts=replace(info.facts, movable=(*info.facts.movable, *ids)),
    )


def static_ids(info: DatasetInfo) -> NDArray[np.uint8]:
    """(C,) the static class of each class: moving ones become their static counterparts."""
    ids = np.arange(info.labels.n_classes, dtype=np.uint8)
    if tells_motion(info):
        ids[-len(info.facts.moving) :] = [moving.static for moving in info.facts.moving]
    return ids


def class_motion(info: DatasetInfo) -> NDArray[np.uint8]:
    """(C,) the `Motion` that each class means; the ignored one is unknown."""
    motion = np.full(info.labels.n_classes, Motion.STATIC, np.uint8)
    motion[0] = Motion.UNKNOWN
    if tells_motion(info):
        motion[-len(info.facts.moving) :] = Motion.MOVING
    return motion


def moving_labels(
    label: NDArray[np.uint8], motion: NDArray[np.uint8], info: DatasetInfo
) -> NDArray[np.uint8]:
    """Classes with motion from classes without it and from each point's motion.

    Args:
        label: (N,) training ids without motion.
        motion: (N,) `Motion`.
        info: of the data set, with or without the moving classes.

    Returns:
        (N,) training ids of `with_moving_classes`. A point that moves and whose class has no moving
        counterpart keeps its class.
    """
    moving = info.facts.moving
    n_static = info.labels.n_classes - (len(moving) if tells_motion(info) else 0)
    table = np.tile(np.arange(256, dtype=np.uint8), (len(Motion), 1))
    for offset, one in enumerate(moving):
        table[Motion.MOVING, one.static] = n_static + offset
    return table[motion, label]
