"""The points of a scan that a camera sees, and their pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError


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

    Source: KITTI odometry devkit, readme; docs/maths.md, section 2, step 2.
    """
    _check(xyz, image_hw)
    # x > 0, not depth > 0: the published mIoU was measured on the points that x > 0 keeps.
    ahead = np.flatnonzero(xyz[0] > 0)
    u, v, depth = image_from_lidar[:, :3] @ xyz[:, ahead] + image_from_lidar[:, 3:]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # In the camera's own plane depth is 0: infinite or NaN, which no comparison keeps.
        return _strictly_inside(u / depth, v / depth, point_index=ahead, image_hw=image_hw)


def recorded_points(
    point_rows: NDArray[np.integer],
    pixel_rc: NDArray[np.integer],
    *,
    rows: NDArray[np.integer],
    image_hw: tuple[int, int],
) -> VisiblePoints:
    """Find the points of a scan whose pixels the data set states.

    Args:
        point_rows: (P,) rows of the raw file of the points that have a pixel, increasing.
        pixel_rc: (2, P) row and column of their pixels.
        rows: (N,) row of each of the scan's points in the raw file, increasing.
        image_hw: height and width in pixels.

    Returns:
        Those inside the picture.
    """
    height, width = image_hw
    row, column = pixel_rc
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    _, of_pixels, of_points = np.intersect1d(
        point_rows[inside], rows, assume_unique=True, return_indices=True
    )
    return VisiblePoints(
        point_index=of_points.astype(np.int32),
        pixel_rc=pixel_rc[:, inside][:, of_pixels].astype(np.uint16),
    )


def project_points_by_depth(
    xyz: NDArray[np.float32],
    *,
    image_from_lidar: NDArray[np.float64],
    image_hw: tuple[int, int],
) -> VisiblePoints:
    """Find the points of a scan that a nuScenes camera sees.

    Args:
        xyz: (3, N) metres, lidar frame, before any augmentation.
        image_from_lidar: (3, 4), with the motion between scan and picture; its third row gives
            metres along the camera's axis.
        image_hw: height and width in pixels of the picture as taken.

    Returns:
        The points before the camera that fall strictly inside the picture.

    Raises:
        ShapeError: ``xyz`` is not (3, N), or the picture is too large for 16 bit pixels.

    Source: docs/maths.md, section 2, step 2.
    """
    _check(xyz, image_hw)
    u, v, depth = image_from_lidar[:, :3] @ xyz + image_from_lidar[:, 3:]
    ahead = np.flatnonzero(depth > 0)
    # Rounded to float32 before anything is compared or floored, as published: that moves pixels.
    col, row = (axis[ahead] / depth[ahead] for axis in (u, v))
    return _strictly_inside(
        col.astype(np.float32), row.astype(np.float32), point_index=ahead, image_hw=image_hw
    )


def pixels_after_resize(
    pixel_rc: NDArray[np.uint16], *, image_hw: tuple[int, int], stored_hw: tuple[int, int]
) -> NDArray[np.uint16]:
    """Move pixels to a picture that was resized: trunc(floor(u) * 400 / 1600), likewise v.

    Args:
        pixel_rc: (2, M) row and column in the picture as taken.
        image_hw: its height and width.
        stored_hw: height and width after the resize.
    """
    sizes = np.array([image_hw, stored_hw], np.int64)
    return (pixel_rc * sizes[1][:, None] // sizes[0][:, None]).astype(np.uint16)


def _check(xyz: NDArray[np.float32], image_hw: tuple[int, int]) -> None:
    if xyz.ndim != 2 or len(xyz) != 3:
        raise ShapeError("xyz", expected="(3, N)", got=xyz.shape)
    if max(image_hw) > 1 << 16:
        raise ShapeError("image", expected="at most 65536 pixels a side", got=image_hw)


def _strictly_inside(
    col: NDArray[np.floating],
    row: NDArray[np.floating],
    *,
    point_index: NDArray[np.intp],
    image_hw: tuple[int, int],
) -> VisiblePoints:
    height, width = image_hw
    inside = np.flatnonzero((row > 0) & (row < height) & (col > 0) & (col < width))
    return VisiblePoints(
        point_index=point_index[inside].astype(np.int32),
        pixel_rc=np.stack([row[inside], col[inside]]).astype(np.uint16),
    )
