"""Whether a projection matrix is plausible for a camera on a vehicle, and for these pictures.

Any invertible 3x3 is a pinhole's intrinsics times a rotation: what those are tells a zero, turned
or half-written calibration from a real one, however the file splits it into matrices.
Real KITTI, PandaSet and nuScenes cameras: equal focal lengths, no skew, 0.48 to 1.03 widths; the
middle within 0.04 of the width and 0.08 of the height; at most 1.4 m from the lidar; 0.7 to 1.1
points seen for each in the field ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

AHEAD = (1.0, 0.0, 0.0)
"""The forward direction of a KITTI camera, lidar frame."""
_UP = np.array([0.0, 0.0, 1.0])
_SHORTEST_PX = 20.0
"""A shorter focal length is none in pixels."""
_ALIKE = 0.25
"""Focal lengths along both axes, and skew against them."""
_MOST_OFF_DEG = 60.0
"""A camera looks so far off its direction at most, and is rolled so far."""
_SOMEWHAT_OFF_DEG = 30.0
_FARTHEST_M = 20.0
"""A camera from the lidar: the length of the longest vehicles."""
_FOCAL_WIDTHS = (0.2, 4.0)
"""136 to 14 degrees of view."""
_MIDDLE_OFF = (0.1, 0.15)
"""The principal point from the middle, in widths and heights."""
_MIDDLE_ELSEWHERE = 0.2
"""So far off it is the middle of pictures of another size: of half the size it is 0.25."""
_FEW_SEEN, _MANY_AHEAD = 0.2, 300
_CONE = 0.3
"""Half the width of the field ahead, per metre: 17 degrees, less than half of any camera's view."""


class Pinhole(NamedTuple):
    """A projection matrix in its parts."""

    intrinsics: NDArray[np.float64]
    """(3, 3) upper triangular, the last number 1."""
    rotation: NDArray[np.float64]
    """(3, 3) camera_from_lidar; its rows: right, down and ahead of the camera, lidar frame."""
    centre_m: NDArray[np.float64]
    """(3,) lidar frame."""


class Doubt(NamedTuple):
    """What is suspicious about a calibration."""

    kind: str
    found: str
    expected: str
    remedy: str


def pinhole(image_from_lidar: NDArray[np.float64]) -> Pinhole | None:
    """Take a (3, 4) matrix apart; None if no camera has it (zeros, singular)."""
    square = image_from_lidar[:, :3]
    if not np.isfinite(image_from_lidar).all() or np.linalg.cond(square) > 1e9:
        return None
    orthogonal, triangular = np.linalg.qr(np.flipud(square).T)
    upper, rotation = np.flip(triangular.T), np.flipud(orthogonal.T)
    signs = np.sign(np.diag(upper))
    signs[signs == 0] = 1
    upper, rotation = upper * signs, signs[:, None] * rotation
    return Pinhole(
        intrinsics=upper / upper[2, 2],
        rotation=rotation,
        centre_m=np.asarray(-np.linalg.solve(square, image_from_lidar[:, 3]), np.float64),
    )


def intrinsics_fault(intrinsics: NDArray[np.float64]) -> str | None:
    """Why a (3, 3) matrix cannot be a camera's intrinsics; None if it can."""
    if not intrinsics.any():
        return "all zeros"
    if np.allclose(intrinsics, np.eye(3)):
        return "the identity"
    if abs(intrinsics[2] - (0, 0, 1)).max() > 1e-3 or abs(intrinsics[1, 0]) > 1e-3:
        return "no intrinsics (its last row must be 0 0 1)"
    (fx, skew), fy = intrinsics[0, :2], intrinsics[1, 1]
    if min(fx, fy) < _SHORTEST_PX:
        return f"focal lengths of {fx:.4g} and {fy:.4g} pixels"
    if abs(fx - fy) > _ALIKE * fy or abs(skew) > _ALIKE * fx:
        return f"focal lengths of {fx:.4g} and {fy:.4g} pixels and a skew of {skew:.3g}"
    return None


def size_fault(intrinsics: NDArray[np.float64], *, image_hw: tuple[int, int]) -> Doubt | None:
    """Why (3, 3) intrinsics do not fit pictures of a size; None if they do."""
    height, width = image_hw
    middle = intrinsics[0, 2] / width, intrinsics[1, 2] / height
    if max(abs(m - 0.5) for m in middle) > _MIDDLE_ELSEWHERE:
        return _other_middle(intrinsics, image_hw)
    low, high = _FOCAL_WIDTHS
    return None if low <= intrinsics[0, 0] / width <= high else _other_focal(intrinsics, width)


def camera_fault(
    image_from_lidar: NDArray[np.float64], *, ahead: tuple[float, float, float] = AHEAD
) -> str | None:
    """Why a matrix cannot project a lidar's points into a camera; None if it can.

    Args:
        image_from_lidar: (3, 4).
        ahead: where the camera looks, lidar frame.
    """
    camera = pinhole(image_from_lidar)
    if camera is None:
        return "a matrix that projects nothing (zeros, or rows that depend on each other)"
    if np.linalg.det(camera.rotation) < 0:
        return "a matrix that mirrors"
    if fault := intrinsics_fault(camera.intrinsics):
        return fault
    return _pose_fault(camera, np.array(ahead))


def _pose_fault(camera: Pinhole, ahead: NDArray[np.float64]) -> str | None:
    off = _angle_deg(camera.rotation[2], ahead)
    if off > _MOST_OFF_DEG:
        return f"a camera that looks {off:.0f} degrees away from the forward direction"
    roll = _angle_deg(camera.rotation[1], -_UP)
    if roll > _MOST_OFF_DEG:
        return f"a camera whose pictures are turned by {roll:.0f} degrees"
    away = float(np.linalg.norm(camera.centre_m))
    if away > _FARTHEST_M:
        return f"a camera {away:.4g} m from the lidar"
    return None


def camera_doubts(
    image_from_lidar: NDArray[np.float64],
    *,
    image_hw: tuple[int, int],
    xyz: NDArray[np.float32],
    n_visible: int,
    ahead: tuple[float, float, float] | None = AHEAD,
) -> list[Doubt]:
    """What is suspicious about a calibration, given a picture and a scan.

    Args:
        image_from_lidar: (3, 4), one that ``camera_fault`` lets pass.
        image_hw: height and width of the picture as taken.
        xyz: (3, N) metres, lidar frame, the scan's points.
        n_visible: those of them that fall into the picture.
        ahead: where the camera should look, lidar frame; None: wherever it does.
    """
    camera = pinhole(image_from_lidar)
    if camera is None:
        return []
    doubts = []
    (height, width), matrix = image_hw, camera.intrinsics
    middle = matrix[0, 2] / width, matrix[1, 2] / height
    if any(abs(m - 0.5) > most for m, most in zip(middle, _MIDDLE_OFF, strict=True)):
        doubts.append(_other_middle(matrix, image_hw))
    low, high = _FOCAL_WIDTHS
    if not low <= matrix[0, 0] / width <= high:
        doubts.append(_other_focal(matrix, width))
    if ahead is not None and (off := _angle_deg(camera.rotation[2], np.array(ahead))) > (
        _SOMEWHAT_OFF_DEG
    ):
        doubts.append(
            Doubt(
                "direction",
                f"a camera that looks {off:.0f} degrees away from the expected direction",
                f"at most {_SOMEWHAT_OFF_DEG:.0f}",
                "Is the calibration of another camera, or its rotation wrong?",
            )
        )
    n_ahead = _count_ahead(xyz, camera.rotation[2] if ahead is None else np.array(ahead))
    if n_ahead >= _MANY_AHEAD and n_visible < _FEW_SEEN * n_ahead:
        doubts.append(
            Doubt(
                "few points",
                f"{n_visible:,} points in the picture, although {n_ahead:,} lie ahead",
                f"{_FEW_SEEN:.0%} of them or more",
                "Do picture, calibration and scan belong together?",
            )
        )
    return doubts


def _other_middle(matrix: NDArray[np.float64], image_hw: tuple[int, int]) -> Doubt:
    height, width = image_hw
    return Doubt(
        "picture size",
        f"pictures of {width}x{height} pixels",
        f"about {2 * matrix[0, 2]:.0f}x{2 * matrix[1, 2]:.0f}, as the calibration's middle "
        f"({matrix[0, 2]:.0f}, {matrix[1, 2]:.0f}) says",
        "Were the pictures resized or cropped, or is the calibration of another camera?",
    )


def _other_focal(matrix: NDArray[np.float64], width: int) -> Doubt:
    low, high = _FOCAL_WIDTHS
    view = 2 * np.degrees(np.arctan(width / 2 / matrix[0, 0]))
    return Doubt(
        "focal length",
        f"a focal length of {matrix[0, 0]:.0f} pixels, which is {view:.0f} degrees of view "
        f"in pictures of {width} pixels",
        f"{low * width:.0f} to {high * width:.0f} pixels",
        "Is the calibration for pictures of another size?",
    )


def _count_ahead(xyz: NDArray[np.float32], ahead: NDArray[np.float64]) -> int:
    """Points 3 m and more along a direction, in its field of 17 degrees to either side."""
    level = ahead[:2] / max(1e-9, float(np.hypot(*ahead[:2])))
    along = level @ xyz[:2]
    across = level[0] * xyz[1] - level[1] * xyz[0]
    return int(((along > 3) & (np.abs(across) < _CONE * along)).sum())


def _angle_deg(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
