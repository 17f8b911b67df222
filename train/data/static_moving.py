"""Makes static objects move and moving ones static: an augmentation of stacks.

A single scan does not show whether a car is parked or driving; several do, by its earlier points.
So each kind is made from the other: docs/maths.md, section 13. After: TASeg (static-moving switch
augmentation), in our own form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.motion import static_ids, tells_motion
from pass2d.train.data.scan import LoadedScan, Part, whole_record

STEP_M = (0.3, 1.5)
"""Distance that an object moves from one scan to the next, uniform: 3 to 15 m/s at 10 Hz."""


def static_moving_switch(
    scan: LoadedScan, rng: np.random.Generator, *, probability: float = 0.5
) -> LoadedScan:
    """Make some static objects move, and some moving ones static.

    An object is the points of one class (without motion) and one instance id in the current scan.
    If it is static, its points of d scans ago are shifted d steps back in one horizontal direction,
    and it gets the moving class. If it moves, its points of each past scan are shifted horizontally
    until their mean has the x and y of that of its current points, and it gets the static class.

    Args:
        scan: a stack, with instance ids; labels must tell motion.
        rng: draws for each object whether, in which direction and how far.
        probability: that an object is switched.

    Returns:
        The scan itself if there is nothing to switch.
    """
    if not tells_motion(scan.info) or not any(part.lag for part in scan.parts):
        return scan
    parts = [replace(part, record=whole_record(part.record)) for part in scan.parts]
    first_moving = scan.info.labels.n_classes - len(scan.info.facts.moving)
    moving_of = {m.static: first_moving + i for i, m in enumerate(scan.info.facts.moving)}
    static = static_ids(scan.info)
    xyz = [part.record.xyz.copy() for part in parts]
    label = [_labels(part).copy() for part in parts]
    is_switched = False
    for kind, thing in _things(parts[0], static, moving_of):
        share, angle, step_m = rng.uniform(0, 1), rng.uniform(0, 2 * math.pi), rng.uniform(*STEP_M)
        if share >= probability:
            continue
        is_switched = True
        rows = [_rows(part, static, kind=kind, thing=thing) for part in parts]
        moves = bool((label[0][rows[0]] >= first_moving).any())
        direction = np.array([math.cos(angle), math.sin(angle)])
        middle = xyz[0][:2, rows[0]].mean(axis=1)
        for part, points, labels, own in zip(parts, xyz, label, rows, strict=True):
            if part.lag and len(own):
                shift: NDArray[np.floating] = -part.lag * step_m * direction
                if moves:
                    shift = middle - points[:2, own].mean(axis=1)
                points[:2, own] += shift[:, None].astype(np.float32)
            # Labels that do not count in the losses stay ignored.
            counted = own[labels[own] != 0]
            labels[counted] = kind if moves else moving_of[kind]
    if not is_switched:
        return scan
    own_part, *added = (
        replace(
            part,
            record=replace(part.record, xyz=points, label=labels, voxels=(), thinned=None),
        )
        for part, points, labels in zip(parts, xyz, label, strict=True)
    )
    return replace(scan, record=own_part.record, added=tuple(added))


def _things(
    part: Part, static: NDArray[np.uint8], moving_of: dict[int, int]
) -> Iterator[tuple[int, int]]:
    """Static class and instance id of each movable object of the current scan."""
    assert part.record.instance is not None, "read for augmentations that need it"
    kinds, instance = static[_labels(part)], part.record.instance
    is_thing = np.isin(kinds, list(moving_of)) & (instance > 0)
    pairs = np.unique(np.column_stack([kinds[is_thing], instance[is_thing]]), axis=0)
    yield from ((int(kind), int(thing)) for kind, thing in pairs)


def _rows(part: Part, static: NDArray[np.uint8], *, kind: int, thing: int) -> NDArray[np.int64]:
    """Points of an object; past ones without a label are identified by their id."""
    if part.record.instance is None:  # of a mix
        return np.empty(0, np.int64)
    label = _labels(part)
    is_kind = (static[label] == kind) | ((label == 0) & (part.lag > 0))
    return np.flatnonzero((part.record.instance == thing) & is_kind)


def _labels(part: Part) -> NDArray[np.uint8]:
    assert part.record.label is not None, "stacks for training have labels"
    return part.record.label
