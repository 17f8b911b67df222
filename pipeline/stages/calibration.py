"""calib.txt of a KITTI odometry sequence to one matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.problem import Problem, ProblemError

_REMEDY = "calib.txt comes with the KITTI odometry calibration: copy or download it again."


def image_from_lidar_matrix(text: str, *, file: Path) -> NDArray[np.float64]:
    """Compose the projection of the left colour camera from the text of a calib.txt.

    Args:
        text: lines of "name: 12 numbers"; other lines than P2 and Tr are not looked at.
        file: where the text comes from, for the message.

    Returns:
        (3, 4) float64, ``P2 @ [Tr; 0 0 0 1]``: homogeneous pixels from lidar metres.

    Raises:
        ProblemError: P2 or Tr is missing, twice there with different numbers, or malformed.

    Source: KITTI odometry devkit, readme; SPEC, section 2, step 2.
    """
    image_from_cam0 = _matrix(text, "P2", file)
    cam0_from_lidar = np.vstack([_matrix(text, "Tr", file), [0.0, 0.0, 0.0, 1.0]])
    return image_from_cam0 @ cam0_from_lidar


def _matrix(text: str, name: str, file: Path) -> NDArray[np.float64]:
    rows = [line.partition(":") for line in text.splitlines()]
    found = [numbers.split() for key, colon, numbers in rows if colon and key.strip() == name]
    if not found:
        keys = [key.strip() for key, colon, _ in rows if colon]
        names = [key for key in keys if key.isascii() and key.isidentifier()]
        raise ProblemError(
            Problem(
                file=file,
                found=f"no {name} among {', '.join(names[:8]) or 'no named lines'}",
                expected="lines 'P2:' and 'Tr:' with 12 numbers each",
                remedy=_REMEDY,
            )
        )
    if any(other != found[0] for other in found[1:]):
        raise _malformed(file, name, "several lines that differ")
    try:
        matrix = np.array([float(number) for number in found[0]])
    except ValueError as error:
        raise _malformed(file, name, f"a word that is no number ({error})") from error
    if matrix.size != 12:
        raise _malformed(file, name, f"{matrix.size} numbers")
    if not np.isfinite(matrix).all():
        raise _malformed(file, name, "a number that is not finite")
    return matrix.reshape(3, 4)


def _malformed(file: Path, name: str, found: str) -> ProblemError:
    return ProblemError(
        Problem(
            file=file, found=f"{found} for {name}", expected="12 finite numbers", remedy=_REMEDY
        )
    )
