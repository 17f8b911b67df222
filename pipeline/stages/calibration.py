"""From calib.txt of a KITTI odometry sequence to one matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.camera_sense import camera_fault, intrinsics_fault

_REMEDY = "calib.txt comes with the KITTI odometry calibration: copy or download it again."
_ROTATION_ERROR = 0.02
"""Largest number of R R^T - I; real files are within 1e-5."""


def image_from_lidar_matrix(text: str, *, file: Path) -> NDArray[np.float64]:
    """Compose the projection of the left colour camera from the text of a calib.txt.

    Args:
        text: lines of "name: 12 numbers"; lines other than P2 and Tr are ignored.
        file: where the text comes from, for the message.

    Returns:
        (3, 4) float64, ``P2 @ [Tr; 0 0 0 1]``: homogeneous pixels from lidar metres.

    Raises:
        ProblemError: P2 or Tr is missing, twice there with different numbers, or malformed.

    Source: KITTI odometry devkit, readme; docs/maths.md, section 2, step 2.
    """
    image_from_cam0 = _matrix(text, "P2", file)
    return _composed(image_from_cam0, _matrix(text, "Tr", file))


def require_sensible(text: str, *, file: Path) -> None:
    """Refuse an impossible calib.txt, whose projections would train the 2D branch with noise.

    Args:
        text: of a calib.txt that ``image_from_lidar_matrix`` reads.
        file: where the text comes from, for the message.

    Raises:
        ProblemError: zeros, an identity, a Tr that is no rotation or turned round, a camera that
            does not look ahead or stands far from the lidar; names the matrix where that is known.
    """
    image_from_cam0, cam0_from_lidar = _matrix(text, "P2", file), rigid_matrix(text, file=file)
    rotation = cam0_from_lidar[:, :3]
    if not image_from_cam0.any():
        raise _nonsense(file, "P2 of zeros", "the numbers of P2")
    fault = camera_fault(_composed(image_from_cam0, cam0_from_lidar))
    if fault is None:
        return
    lidar_from_cam0 = np.column_stack([rotation.T, -rotation.T @ cam0_from_lidar[:, 3]])
    if p2_fault := intrinsics_fault(image_from_cam0[:, :3]):
        raise _nonsense(file, f"P2 of {p2_fault}", "focal lengths and the middle in pixels")
    if camera_fault(_composed(image_from_cam0, lidar_from_cam0)) is None:
        found = f"an inverted Tr ({fault}): lidar from camera"
        raise _nonsense(file, found, "camera from lidar, the inverse")
    if np.abs(rotation - np.eye(3)).max() < _ROTATION_ERROR:
        found = f"a Tr without its rotation ({fault})"
        raise _nonsense(file, found, "the lidar's x ahead becomes the camera's z")
    raise _nonsense(file, f"P2 and Tr that make {fault}", "a camera that looks ahead, in pixels")


def rigid_matrix(text: str, *, file: Path) -> NDArray[np.float64]:
    """Read Tr of a calib.txt, (3, 4) ``cam0_from_lidar``.

    Raises:
        ProblemError: it is missing, malformed, zeros or no rotation.
    """
    cam0_from_lidar = _matrix(text, "Tr", file)
    rotation = cam0_from_lidar[:, :3]
    if not cam0_from_lidar.any():
        raise _nonsense(file, "Tr of zeros", "the numbers of Tr")
    if rotation_error(rotation) >= _ROTATION_ERROR:
        determinant = np.linalg.det(rotation)
        raise _nonsense(
            file,
            f"a Tr that is not a rotation (first three columns: determinant {determinant:.4g})",
            "a rotation and a translation in metres",
        )
    return cam0_from_lidar


def rotation_error(matrix: NDArray[np.float64]) -> float:
    """How far (3, 3) is from a rotation: the largest number of R R^T - I; infinite if mirrored."""
    if np.linalg.det(matrix) < 0:
        return float("inf")
    return float(np.abs(matrix @ matrix.T - np.eye(3)).max())


def _composed(
    image_from_cam0: NDArray[np.float64], cam0_from_lidar: NDArray[np.float64]
) -> NDArray[np.float64]:
    return image_from_cam0 @ np.vstack([cam0_from_lidar, [0.0, 0.0, 0.0, 1.0]])


def _nonsense(file: Path, found: str, expected: str) -> ProblemError:
    return ProblemError.of(file=file, found=found, expected=expected, remedy=_REMEDY)


def _matrix(text: str, name: str, file: Path) -> NDArray[np.float64]:
    rows = [line.partition(":") for line in text.splitlines()]
    found = [numbers.split() for key, colon, numbers in rows if colon and key.strip() == name]
    if not found:
        keys = [key.strip() for key, colon, _ in rows if colon]
        names = [key for key in keys if key.isascii() and key.isidentifier()]
        raise ProblemError.of(
            file=file,
            found=f"no {name} among {', '.join(names[:8]) or 'no named lines'}",
            expected="lines 'P2:' and 'Tr:' with 12 numbers each",
            remedy=_REMEDY,
        )
    if any(other != found[0] for other in found[1:]):
        raise _malformed(file, name, "several lines that differ")
    try:
        matrix = np.array([float(number) for number in found[0]])
    except ValueError as error:
        raise _malformed(file, name, f"a word that is not a number ({error})") from error
    if matrix.size != 12:
        raise _malformed(file, name, f"{matrix.size} numbers")
    if not np.isfinite(matrix).all():
        raise _malformed(file, name, "a number that is not finite")
    return matrix.reshape(3, 4)


def _malformed(file: Path, name: str, found: str) -> ProblemError:
    return ProblemError.of(
        file=file, found=f"{found} for {name}", expected="12 finite numbers", remedy=_REMEDY
    )
