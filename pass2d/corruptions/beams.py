"""Which laser measured each point: from the file, the order of points, or their elevation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud

_FEWEST = 8
"""Number of beams that a scan must show for its order of points to be trusted."""
_ORDERED = 0.9
"""Share of steps that must turn in one direction for the order to be trusted."""


def beams_of(cloud: Cloud) -> NDArray[np.int32]:
    """The beam of each point.

    Args:
        cloud: with the file's beams, or without: files of SemanticKITTI tell them by their order.

    Returns:
        (N,) 0..B-1; B is the number in the scan, which may differ from ``sensor.beams``.
    """
    if cloud.beam is not None and _is_believable(cloud.beam, 4 * cloud.sensor.beams):
        return cloud.beam
    ordered = _beams_by_order(cloud.xyz)
    if ordered is not None and _is_believable(ordered, 2 * cloud.sensor.beams):
        return ordered
    return beams_by_elevation(
        cloud.xyz, beams=cloud.sensor.beams, elevation_deg=cloud.sensor.elevation_deg
    )


def beam_count(beam: NDArray[np.int32]) -> int:
    """B, the number of beams, from the (N,) result of `beams_of`."""
    return int(beam.max()) + 1 if len(beam) else 0


def beams_by_elevation(
    xyz: NDArray[np.float32], *, beams: int, elevation_deg: tuple[float, float]
) -> NDArray[np.int32]:
    """The beam with the nearest elevation, for equally spaced beams.

    Args:
        xyz: (3, N) metres.
        beams: B.
        elevation_deg: of the lowest beam, 0, and of the highest, B-1.
    """
    low, high = np.deg2rad(elevation_deg)
    elevation = np.arctan2(xyz[2], np.hypot(xyz[0], xyz[1]))
    place = np.rint((elevation - low) / (high - low) * (beams - 1))
    return np.clip(place, 0, beams - 1).astype(np.int32)


def _beams_by_order(xyz: NDArray[np.float32]) -> NDArray[np.int32] | None:
    """Beams of a file that lists one revolution after the other, each from the front to the left.

    A new one begins where the bearing passes 0, once the last one has been behind the sensor: so
    noise at the seam makes no beams.

    Returns:
        (N,), or None when the points do not go round like that.
    """
    x, y = xyz[0], xyz[1]
    if len(x) < 2:
        return None
    # The sign of the cross product of neighbours says which way a step turns; no arctan needed.
    turn = x[:-1] * y[1:] - y[:-1] * x[1:]
    if np.count_nonzero(turn >= 0) < _ORDERED * len(turn):
        return None
    seam = np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0) & (x[1:] > 0)) + 1
    behind = np.cumsum(x < 0)[seam]
    is_new = np.diff(behind, prepend=0) > 0
    starts = np.zeros(len(x), np.int32)
    starts[seam[is_new]] = 1
    return np.cumsum(starts, dtype=np.int32)


def _is_believable(beam: NDArray[np.int32], most: int) -> bool:
    """Whether numbers can be those of a lidar's beams."""
    return len(beam) > 0 and int(beam.min()) >= 0 and _FEWEST <= beam_count(beam) <= most
