"""Earlier revolutions of the lidar, moved into the frame of a scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError

CLOSE_M = 1.0
"""Returns nearer than this along both x and y are the vehicle itself; it moves with the sensor."""


def add_sweep(
    points: NDArray[np.float32], *, lidar_from_sweep: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The points that an earlier revolution adds to a scan.

    Args:
        points: (R, 4 or more) x, y, z in metres in the sweep's own lidar frame, signal.
        lidar_from_sweep: (3, 4) the scan's lidar frame from the sweep's.

    Returns:
        (4, S) x, y, z in the scan's lidar frame, signal; without close returns.

    Raises:
        ShapeError: ``points`` is not (R, 4 or more).

    Source: nuscenes-devkit, LidarPointCloud.from_file_multisweep: min_distance 1.0, a square about
    the sensor, taken out before the sweep is moved.
    """
    if points.ndim != 2 or points.shape[1] < 4:
        raise ShapeError("points", expected="(R, 4 or more)", got=points.shape)
    far = points[(np.abs(points[:, :2]) >= CLOSE_M).any(axis=1)]
    moved = lidar_from_sweep[:, :3] @ far[:, :3].T.astype(np.float64) + lidar_from_sweep[:, 3:]
    return np.concatenate([moved.astype(np.float32), far[:, 3][None]])
