"""Poses of a folder of point files, as SemanticKITTI's layout has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pass2d.common.errors import ConfigError
from pass2d.pipeline.datasets.semkitti_course import read_course
from pass2d.pipeline.datasets.semkitti_files import POINTS, list_files
from pass2d.train.prediction.past import FilePose


def folder_poses(folder: Path) -> Mapping[Path, FilePose]:
    """The scans of ``SEQUENCE/velodyne`` with poses, in order; none without poses.txt.

    Raises:
        ConfigError: poses.txt, calib.txt or times.txt cannot be used.
    """
    sequence = folder.parent
    if folder.name != POINTS or not (sequence / "poses.txt").is_file():
        return {}
    files = list_files(sequence.name, sequence)
    course = read_course(files)
    if course.problems:
        raise ConfigError(str(course.problems[0]))
    return {
        files.points[frame]: FilePose(
            pose=np.array(pose).reshape(3, 4), time_s=course.times_s.get(frame, float("nan"))
        )
        for frame, pose in course.poses.items()
    }
