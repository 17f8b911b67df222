"""From poses.txt and times.txt of a KITTI odometry sequence to a pose and a time per scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.stages.calibration import rotation_error

_ROTATION_ERROR = 0.005
"""Largest number of R R^T - I; files of six digits are within 1e-5, of three within 0.003."""
_PERIOD_S = 0.1
_FASTEST_M_S, _JUMP_M = 100.0, 100.0
"""More than a train drives, and than a pose is corrected by."""
_LEAST_STEP_M, _FEWEST_STEPS = 0.2, 4
_SLOWEST_S = 60.0
"""Between scans of one drive: milliseconds read as seconds are 100."""
_POSES_REMEDY = "poses.txt comes with the labels or the KITTI odometry poses: copy it again."
_TIMES_REMEDY = "times.txt comes with the KITTI odometry calibration: copy it again."


def lidar_poses(
    text: str, *, cam0_from_lidar: NDArray[np.float64], frames: Sequence[int], file: Path
) -> NDArray[np.float64]:
    """The pose of each scan in the frame of the sequence's first one.

    Args:
        text: of poses.txt: 12 numbers a line, camera 0 in the frame of the first one.
        cam0_from_lidar: (3, 4) Tr of calib.txt.
        frames: numbers of the scans that are there, ascending.
        file: where the text comes from, for the message.

    Returns:
        (F, 3, 4) world_from_lidar of each of ``frames``: Tr^-1 P Tr.

    Raises:
        ProblemError: poses that cannot be (`require_drive`), or another number of lines
            (`lines_of`).

    Source: PRBonn/semantic-kitti-api, generate_sequential.py; docs/maths.md, section 13.
    """
    rows = _numbers(text, per_line=12, file=file, remedy=_POSES_REMEDY)
    chosen = lines_of(frames, n_lines=len(rows), file=file, remedy=_POSES_REMEDY)
    matrices = rows.reshape(-1, 3, 4)
    require_drive(
        matrices[chosen],
        lines=chosen + 1,
        times_s=np.asarray(frames) * _PERIOD_S,
        file=file,
        remedy=_POSES_REMEDY,
    )
    last = np.array([0.0, 0.0, 0.0, 1.0])
    tr = np.vstack([cam0_from_lidar, last])
    whole = np.concatenate([matrices[chosen], np.tile(last, (len(chosen), 1, 1))], axis=1)
    return np.asarray((np.linalg.inv(tr) @ whole @ tr)[:, :3])


def require_drive(
    poses: NDArray[np.float64],
    *,
    lines: NDArray[np.int64],
    times_s: NDArray[np.float64],
    file: Path,
    remedy: str,
) -> None:
    """Refuse poses that no vehicle can have had one after the other.

    Args:
        poses: (F, 3, 4) of scans in the order of time.
        lines: (F,) where they stand in the file, from 1 on.
        times_s: (F,) of the scans.
        file: where the poses come from, for the message.
        remedy: what to do.

    Raises:
        ProblemError: one that is no rigid motion, or too far from the one before it: names its
            line.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        errors = [rotation_error(rotation) for rotation in poses[:, :, :3]]
        moved_m = np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=1)
    for line, error in zip(lines.tolist(), errors, strict=True):
        if not error <= _ROTATION_ERROR:
            raise ProblemError.of(
                file,
                f"line {line} that is not a rigid motion (R R^T - I up to {error:.3g})",
                "a rotation and a translation in metres",
                remedy,
            )
    far = np.flatnonzero(~(moved_m <= _JUMP_M + _FASTEST_M_S * np.abs(np.diff(times_s))))
    if far.size:
        first = int(far[0])
        raise ProblemError.of(
            file,
            f"line {lines[first + 1]}: a vehicle {moved_m[first]:,.4g} m from where it was a scan "
            "before",
            "metres, of one drive",
            remedy,
        )


def course_doubts(
    poses: NDArray[np.float64], *, ahead: str, expected: str, file: Path
) -> Iterator[Problem]:
    """A warning where the vehicle mostly moves sideways, backwards or upwards.

    Args:
        poses: (F, 3, 4) world_from_lidar of scans in the order of time.
        ahead: the axis of the lidar that points forward, "x" or "y".
        expected: what the file should contain.
        file: where the poses come from.
    """
    own = np.einsum("fji,fj->fi", poses[:-1, :, :3], np.diff(poses[:, :, 3], axis=0))
    length = np.linalg.norm(own, axis=1)
    is_step = length >= _LEAST_STEP_M
    steps = int(is_step.sum())
    aside = int(np.count_nonzero(own[is_step, "xy".index(ahead)] < length[is_step] / 2))
    if steps >= _FEWEST_STEPS and 2 * aside > steps:
        yield Problem(
            file=file,
            found=f"a lidar that moves sideways, backwards or up in {aside} of {steps} steps",
            expected=expected,
            remedy="Are they inverted, or poses of another sensor? Scans that are joined by them "
            "do not fit together then.",
            severity="warning",
            kind=f"course {file}",
        )


def scan_times(text: str, *, frames: Sequence[int], file: Path) -> NDArray[np.float64]:
    """(F,) the time of each scan in seconds.

    Args:
        text: of times.txt: a number a line.
        frames: as for `lidar_poses`.
        file: where the text comes from, for the message.

    Raises:
        ProblemError: a line that is no number, another number of lines, times that go back or are
            no seconds.
    """
    rows = _numbers(text, per_line=1, file=file, remedy=_TIMES_REMEDY)[:, 0]
    times = rows[lines_of(frames, n_lines=len(rows), file=file, remedy=_TIMES_REMEDY)]
    if (back := np.flatnonzero(np.diff(times) < 0)).size:
        found = f"a scan {frames[back[0] + 1]:06d} that is earlier than the one before it"
        raise ProblemError.of(file, found, "times that ascend", _TIMES_REMEDY)
    if len(times) > 1:
        apart = float(np.median(np.diff(times) / np.diff(frames)))
        if apart > _SLOWEST_S:
            found = f"scans {apart:.4g} s apart"
            raise ProblemError.of(file, found, "seconds, of one drive", _TIMES_REMEDY)
    return times


def lines_of(frames: Sequence[int], *, n_lines: int, file: Path, remedy: str) -> NDArray[np.int64]:
    """(F,) the line of each scan: by its number, or by its rank where each file has a line.

    Raises:
        ProblemError: there is neither a line for each number nor one for each file.
    """
    numbers = np.asarray(frames, np.int64)
    if n_lines > numbers.max(initial=-1):
        return numbers
    if n_lines == len(numbers):
        return np.arange(n_lines)
    raise ProblemError.of(
        file,
        f"{n_lines} lines",
        f"one for each frame number (at least {numbers.max() + 1}) or one for each of the "
        f"{len(numbers)} scans",
        remedy,
    )


def _numbers(text: str, *, per_line: int, file: Path, remedy: str) -> NDArray[np.float64]:
    """(lines, per_line); blank lines at the end do not count."""
    lines = text.rstrip().splitlines()
    rows = np.empty((len(lines), per_line))
    for index, line in enumerate(lines):
        words = line.split()
        try:
            if len(words) != per_line:
                raise ValueError(f"{len(words)} numbers")
            rows[index] = [float(word) for word in words]
            if not np.isfinite(rows[index]).all():
                raise ValueError("a number that is not finite")
        except ValueError as error:
            noun = "12 finite numbers" if per_line == 12 else "one finite number"
            raise ProblemError.of(file, f"line {index + 1}: {error!s:.80}", noun, remedy) from error
    return rows
