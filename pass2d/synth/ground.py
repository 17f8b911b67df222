"""Where rays meet the ground: two levels, road and kerb, joined by kerb stones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.labels import Raw
from pass2d.synth.shapes import Vectors
from pass2d.synth.street import Floats, Street
from pass2d.synth.surfaces import Surface

GROUND_LABELS = np.zeros(len(Surface), np.uint16)
for _surface, _label in {
    Surface.ASPHALT: Raw.ROAD,
    Surface.MARKING: Raw.LANE_MARKING,
    Surface.PARKING: Raw.PARKING,
    Surface.SIDEWALK: Raw.SIDEWALK,
    Surface.GRAVEL: Raw.OTHER_GROUND,
    Surface.GRASS: Raw.TERRAIN,
}.items():
    GROUND_LABELS[_surface] = _label


class GroundHits(NamedTuple):
    """Where K rays meet the ground; infinite distance for those that do not."""

    distance: Floats
    """(K,) metres."""
    surface: NDArray[np.uint8]
    """(K,) `Surface`."""
    s: Floats
    """(K,) along the street, metres."""
    t: Floats
    """(K,) to the left of its centre line, metres."""
    is_kerb: NDArray[np.bool_]
    """(K,) whether the ray meets the upright face of a kerb stone."""

    def take(self, rows: NDArray[np.intp]) -> GroundHits:
        """Select rays."""
        return GroundHits(
            self.distance[rows], self.surface[rows], self.s[rows], self.t[rows], self.is_kerb[rows]
        )


def meet_ground(street: Street, origin: tuple[float, float, float], rays: Vectors) -> GroundHits:
    """Find where rays that go down meet the ground.

    A ray crosses the kerb's level first. It ends there if that place is raised, and else on the
    road's level; where it would come down inside a raised place, it has met the kerb stone between.

    Args:
        street: the plan.
        origin: start of the rays, metres, world frame, above the kerb's level.
        rays: (K,) unit vectors with negative z.

    Returns:
        The hits, in the rays' order.
    """
    upper = (street.kerb_m - origin[2]) / rays.z
    lower = -origin[2] / rays.z
    upper_s, upper_t = _street_at(street, origin, rays, upper)
    surface, raised = street.cover(upper_s, upper_t)
    rest = np.flatnonzero(~raised)
    distance, s, t = upper.copy(), upper_s.copy(), upper_t.copy()
    is_kerb = np.zeros(len(upper), np.bool_)
    if len(rest):
        below = Vectors(rays.x[rest], rays.y[rest], rays.z[rest])
        low_s, low_t = _street_at(street, origin, below, lower[rest])
        low_surface, inside_kerb = street.cover(low_s, low_t)
        distance[rest], s[rest], t[rest] = lower[rest], low_s, low_t
        surface[rest], is_kerb[rest] = low_surface, inside_kerb
        stone = rest[inside_kerb]
        share = _share_before_kerb(
            street,
            (upper_s[stone], s[stone]),
            (upper_t[stone], t[stone]),
        )
        distance[stone] = upper[stone] + share * (lower[stone] - upper[stone])
    return GroundHits(distance, surface, s, t, is_kerb)


def _share_before_kerb(
    street: Street, s: tuple[Floats, Floats], t: tuple[Floats, Floats]
) -> Floats:
    """Share of the way between two places, from low ground to raised, that is still low."""
    low, high = np.zeros(len(s[0]), np.float32), np.ones(len(s[0]), np.float32)
    for _ in range(8):
        middle = (low + high) / 2
        _, raised = street.cover(s[0] + middle * (s[1] - s[0]), t[0] + middle * (t[1] - t[0]))
        low, high = np.where(raised, low, middle), np.where(raised, middle, high)
    return high


def _street_at(
    street: Street, origin: tuple[float, float, float], rays: Vectors, distance: Floats
) -> tuple[Floats, Floats]:
    x = np.float32(origin[0]) + distance * rays.x
    y = np.float32(origin[1]) + distance * rays.y
    return street.line.street_from_world(x, y)
