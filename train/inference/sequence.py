"""A stream of scans: each is labelled together with the ones before it."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pass2d.cache.motion import static_ids
from pass2d.common.errors import ShapeError
from pass2d.train.inference.segmenter import PastPoints, PreparedPoints, ScanLabels, Segmenter
from pass2d.train.stacks.choose import current_from_past


class SequenceSegmenter:
    """Labels the scans of one sequence as they come, each with as many before it as in training.

    Example::

        sequence = SequenceSegmenter(Segmenter.load("best.safetensors"))
        for points, pose in drive:  # (N, 4) points, (4, 4) world_from_lidar
            labels, scores = sequence(points, pose)
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        stack = segmenter.card.stack
        self._kept: deque[_Seen] = deque(maxlen=max(1, stack.past * stack.stride))

    def __call__(
        self, points: ArrayLike, pose: ArrayLike, *, time_s: float = float("nan")
    ) -> ScanLabels:
        """Label the next scan.

        Args:
            points: (N, 4 or more), as `Segmenter` takes them.
            pose: (4, 4) or (3, 4) world_from_lidar, the world being the same for all scans.
            time_s: When it was taken; needed if the network was trained with seconds.

        Raises:
            ShapeError: not such arrays, or a pose that is no rigid motion.
            ConfigError: the time is needed.
        """
        matrix = rigid_pose(pose)
        prepared = self._segmenter.prepare(points, past=self._past(matrix, time_s))
        (found,) = self._segmenter.label([prepared], _as_it_is, threads=0)
        labels = found.passes[0].labels.cpu().numpy()
        scores = found.passes[0].scores.cpu().numpy()
        classes = static_ids(self._segmenter.card.info)[labels]
        self._kept.appendleft(_Seen(np.asarray(points, np.float32), matrix, time_s, classes))
        return ScanLabels(labels=labels, scores=scores)

    def restart(self) -> None:
        """Forget all scans so far: the next one starts a new sequence."""
        self._kept.clear()

    def _past(self, pose: NDArray[np.float64], time_s: float) -> tuple[PastPoints, ...]:
        stack = self._segmenter.card.stack
        if not stack.past:
            return ()
        return tuple(
            PastPoints(
                points=seen.points,
                current_from_past=current_from_past(pose, seen.pose),
                lag=lag,
                seconds=time_s - seen.time_s,
                classes=seen.classes,
            )
            for lag, seen in enumerate(self._kept, start=1)
            if lag % stack.stride == 0
        )


class _Seen(NamedTuple):
    points: NDArray[np.float32]
    pose: NDArray[np.float64]
    time_s: float
    classes: NDArray[np.uint8]


def rigid_pose(pose: ArrayLike) -> NDArray[np.float64]:
    """(3, 4) of a pose.

    Raises:
        ShapeError: of another shape, or no rigid motion.
    """
    matrix = np.asarray(pose, np.float64)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ShapeError("pose", expected="(4, 4) or (3, 4)", got=matrix.shape)
    rotation = matrix[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not np.isfinite(matrix).all() or error > 0.01 or np.linalg.det(rotation) < 0:
        raise ShapeError("pose", expected="a rotation and a translation", got=f"R = {rotation}")
    return matrix[:3]


def _as_it_is(scan: PreparedPoints) -> PreparedPoints:
    return scan
