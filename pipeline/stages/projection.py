"""Which points of a scan a camera sees, and where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import ShapeError


class VisiblePoints(NamedTuple):
    """The points of a scan inside a picture."""

    point_index: NDArray[np.int32]
    """(M,) rows of the points, increasing."""
    pixel_rc: NDArray[np.uint16]
    """(2, M) row and column of the pixel, floor of v and u."""


def project_points(
    xyz: NDArray[np.float32],
    *,
    image_from_lidar: NDArray[np.float64],
    image_hw: tuple[int, int],
) -> VisiblePoints:
    """Find the points of a scan that a KITTI camera sees.

    Args:
        xyz: (3, N) metres, lidar frame (x ahead, y left, z up), before any augmentation.
        image_from_lidar: (3, 4), ``P2 @ Tr`` of the sequence's calib.txt.
        image_hw: height and width in pixels.

    Returns:
        The points ahead of the lidar that fall strictly inside the picture.

    Raises:
        ShapeError: ``xyz`` is not (3, N), or the picture is too large for 16 bit pixels.

    Source: KITTI odometry devkit, readme; SPEC, section 2, step 2.
    """
    if xyz.ndim != 2 or len(xyz) != 3:
        raise ShapeError("xyz", expected="(3, N)", got=xyz.shape)
    height, width = image_hw
    if max(image_hw) > 1 << 16:
        raise ShapeError("image", expected="at most 65536 pixels a side", got=image_hw)
    # x > 0, not depth > 0: the published mIoU was measured on the points that x > 0 keeps.
    ahead = np.flatnonzero(xyz[0] > 0)
    u, v, depth = image_from_lidar[:, :3] @ xyz[:, ahead] + image_from_lidar[:, 3:]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # In the camera's own plane depth is 0: infinite or NaN, which no comparison keeps.
        col, row = u / depth, v / depth
    inside = np.flatnonzero((row > 0) & (row < height) & (col > 0) & (col < width))
    return VisiblePoints(
        point_index=ahead[inside].astype(np.int32),
        pixel_rc=np.stack([row[inside], col[inside]]).astype(np.uint16),
    )
