"""Poses and times of a SemanticKITTI sequence's lidar, for stacks of scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pass2d.pipeline.datasets.semkitti_files import SequenceFiles
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.stages.calibration import rigid_matrix
from pass2d.pipeline.stages.poses import course_doubts, lidar_poses, scan_times
from pass2d.pipeline.stages.raw_file import read_calibration, read_file

T = TypeVar("T")
_EXPECTED_POSES = "mostly ahead: poses of camera 0 in the frame of the first one"


@dataclass(frozen=True, kw_only=True)
class Course:
    """Poses and times of a sequence's scans, by frame number."""

    poses: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """world_from_lidar, (3, 4) row by row; empty where it is not known."""
    times_s: dict[int, float] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    """Why a file that is there cannot be used: warnings, as single scans do not need it."""


def read_course(files: SequenceFiles) -> Course:
    """Read poses.txt (with Tr of calib.txt) and times.txt as far as they are there and sound."""
    problems: list[Problem] = []
    frames = list(files.points)

    def poses() -> dict[int, tuple[float, ...]]:
        tr = rigid_matrix(read_calibration(files.calib), file=files.calib)
        found = lidar_poses(_text(files.poses), cam0_from_lidar=tr, frames=frames, file=files.poses)
        problems.extend(course_doubts(found, ahead="x", expected=_EXPECTED_POSES, file=files.poses))
        rows = found.reshape(-1, 12).tolist()
        return {frame: tuple(row) for frame, row in zip(frames, rows, strict=True)}

    def times() -> dict[int, float]:
        found = scan_times(_text(files.times), frames=frames, file=files.times)
        return dict(zip(frames, found.tolist(), strict=True))

    has_poses = bool(frames) and "poses.txt" in files.texts
    has_times = bool(frames) and "times.txt" in files.texts
    return Course(
        poses=_attempt(poses, files.poses, "poses", problems) if has_poses else {},
        times_s=_attempt(times, files.times, "times", problems) if has_times else {},
        problems=tuple(problems),
    )


def _attempt(
    read: Callable[[], dict[int, T]], file: Path, kind: str, problems: list[Problem]
) -> dict[int, T]:
    try:
        return read()
    except ProblemError as error:
        problem = error.problem
    except OSError as error:  # the disk fails on this file
        problem = Problem(
            file=file,
            found=(error.strerror or type(error).__name__).lower(),
            expected="a readable file",
            remedy="Check the disk, or copy the file again.",
        )
    lost = {
        "poses": "Until then its scans have no poses and cannot be joined with others.",
        "times": "Until then its scans have no times.",
    }[kind]
    remedy = f"{problem.remedy} {lost}"
    problems.append(replace(problem, remedy=remedy, severity="warning", kind=f"{kind} {file}"))
    return {}


def _text(file: Path) -> str:
    return read_file(file).decode("utf-8-sig", errors="replace")
