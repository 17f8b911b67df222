"""The ray caster: which solid, or the ground, each ray of a grid meets first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.ground import GROUND_LABELS, GroundHits, meet_ground
from pass2d.synth.parts import Solids
from pass2d.synth.sensors import RayGrid, Windows
from pass2d.synth.shapes import Floats, Shape, Vectors, entry_distance, outward_normal
from pass2d.synth.street import Street

LARGE_WINDOW = 600
"""Rays from which a solid is worth its own pass; smaller ones are done together, in pairs."""
PAIRS_AT_ONCE = 400_000
NOTHING, GROUND = -2, -1


@dataclass(frozen=True, kw_only=True)
class Hits:
    """What K rays of a grid meet, in the grid's order."""

    ray: NDArray[np.intp]
    """(K,) row * columns + column, ascending."""
    distance: Floats
    """(K,) metres."""
    solid: NDArray[np.int32]
    """(K,) row of the solid; -1 for the ground."""
    normal: Vectors
    """(K,) unit vectors, world frame."""
    place: Vectors
    """(K,) on the surface: in the solid's frame, or along and across the street and 0."""
    surface: NDArray[np.uint8]
    """(K,) `Surface`."""
    label: NDArray[np.uint16]
    """(K,) raw semantic id."""
    instance: NDArray[np.uint16]
    """(K,) 0 for stuff."""


class FirstSolids(NamedTuple):
    """The nearest meeting so far of every ray; narrowed in place."""

    depth: Floats
    """(H, W) metres."""
    owner: NDArray[np.int32]
    """(H, W) row of the solid, GROUND or NOTHING."""


class _Meeting(NamedTuple):
    """K pairs of a ray and the solid that it meets."""

    ray: NDArray[np.intp]
    solid: NDArray[np.intp]


def trace(grid: RayGrid, solids: Solids, windows: Windows, street: Street) -> Hits:
    """Cast all rays of a grid.

    Args:
        grid: the rays.
        solids: the things in reach.
        windows: where each of them can be met.
        street: the ground.

    Returns:
        The first meeting of every ray that meets something within the grid's reach.
    """
    first = first_solids(grid, solids, windows)
    ground_ray, ground = _trace_ground(grid, street, first)
    return _gather(grid, solids, first, ground_ray, ground)


def first_solids(grid: RayGrid, solids: Solids, windows: Windows) -> FirstSolids:
    """Cast all rays of a grid at solids, without the ground.

    Args:
        grid: the rays.
        solids: the things in reach.
        windows: where each of them can be met.

    Returns:
        For every ray the nearest solid within the grid's reach.
    """
    first = FirstSolids(
        np.full(grid.shape, np.float32(grid.reach_m)), np.full(grid.shape, NOTHING, np.int32)
    )
    size = np.maximum(windows.row_stop - windows.row_start, 0) * np.maximum(
        windows.column_stop - windows.column_start, 0
    )
    in_reach = (size > 0) & (windows.nearest_m < grid.reach_m)
    large = np.flatnonzero(in_reach & (size > LARGE_WINDOW))
    for row in large[np.argsort(windows.nearest_m[large], kind="stable")]:
        _trace_window(grid, solids, windows, int(row), first)
    small = in_reach & (size <= LARGE_WINDOW)
    for shape in Shape:
        rows = np.flatnonzero(small & (solids.shape == shape))
        passes = (np.cumsum(size[rows]) - 1) // PAIRS_AT_ONCE
        for number in np.unique(passes):
            _trace_pairs(grid, solids, windows, rows[passes == number], first)
    return first


def _trace_window(
    grid: RayGrid, solids: Solids, windows: Windows, row: int, first: FirstSolids
) -> None:
    """Test one solid against the rectangle of rays that may meet it."""
    rows = slice(windows.row_start[row], windows.row_stop[row])
    start, stop, width = windows.column_start[row], windows.column_stop[row], grid.shape[1]
    for columns in (slice(start, min(stop, width)), slice(0, max(stop - width, 0))):
        nearest = first.depth[rows, columns]
        if not nearest.size or nearest.max() <= windows.nearest_m[row]:
            continue
        origin, cos, sin = _local_origin(grid, solids, row)
        x, y, z = (v[rows, columns] for v in grid.direction)
        direction = Vectors(cos * x + sin * y, cos * y - sin * x, z)
        shape = Shape(int(solids.shape[row]))
        distance = entry_distance(shape, origin, direction, solids.form(row))
        closer = distance < nearest
        nearest[closer] = distance[closer]
        first.owner[rows, columns][closer] = row


def _local_origin(
    grid: RayGrid, solids: Solids, rows: NDArray[np.intp] | int
) -> tuple[Vectors, Floats, Floats]:
    """Start of the rays in the frames of solids; cosine and sine of their turns."""
    away = np.array(grid.origin) - solids.center[rows]
    cos, sin = np.cos(solids.yaw[rows]), np.sin(solids.yaw[rows])
    local = (
        cos * away[..., 0] + sin * away[..., 1],
        cos * away[..., 1] - sin * away[..., 0],
        away[..., 2],
    )
    return (
        Vectors(*(np.asarray(v, np.float32) for v in local)),
        np.asarray(cos, np.float32),
        np.asarray(sin, np.float32),
    )


def _trace_pairs(
    grid: RayGrid, solids: Solids, windows: Windows, rows: NDArray[np.intp], first: FirstSolids
) -> None:
    """Test many small solids of one shape, each against its window, in one long pass."""
    depth, owner = first.depth.reshape(-1), first.owner.reshape(-1)
    pairs = _pairs(grid, windows, rows)
    visible = depth[pairs.ray] > windows.nearest_m[pairs.solid]
    pairs = _Meeting(pairs.ray[visible], pairs.solid[visible])
    if not len(pairs.ray):
        return
    origin, direction = _local_rays(grid, solids, pairs)
    shape = Shape(int(solids.shape[rows[0]]))
    distance = entry_distance(shape, origin, direction, solids.form(pairs.solid))
    before = depth[pairs.ray]
    np.minimum.at(depth, pairs.ray, distance)
    # Of equal distances the last pair stays, always the same one.
    wins = (distance == depth[pairs.ray]) & (distance < before)
    owner[pairs.ray[wins]] = pairs.solid[wins]


def _pairs(grid: RayGrid, windows: Windows, rows: NDArray[np.intp]) -> _Meeting:
    """Every ray of the windows of some solids."""
    width = (windows.column_stop - windows.column_start)[rows]
    count = width * (windows.row_stop - windows.row_start)[rows]
    which = np.repeat(np.arange(len(rows)), count)
    within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    column = (windows.column_start[rows][which] + within % width[which]) % grid.shape[1]
    row = windows.row_start[rows][which] + within // width[which]
    return _Meeting(row * grid.shape[1] + column, rows[which])


def _local_rays(grid: RayGrid, solids: Solids, pairs: _Meeting) -> tuple[Vectors, Vectors]:
    """Rays in the frames of the solids they are paired with."""
    used, place = np.unique(pairs.solid, return_inverse=True)
    origin, cos, sin = _local_origin(grid, solids, used)
    cos, sin = cos[place], sin[place]
    x, y, z = (v.reshape(-1)[pairs.ray] for v in grid.direction)
    return (
        Vectors(*(v[place] for v in origin)),
        Vectors(cos * x + sin * y, cos * y - sin * x, z),
    )


def _trace_ground(
    grid: RayGrid, street: Street, first: FirstSolids
) -> tuple[NDArray[np.intp], GroundHits]:
    depth, z = first.depth.reshape(-1), grid.direction.z.reshape(-1)
    down = np.minimum(z, np.float32(-1e-4))
    # Rays that do not go down, or meet something above the kerb's level, are left out.
    may = np.flatnonzero((z < -1e-4) & ((street.kerb_m - grid.origin[2]) / down < depth))
    rays = Vectors(*(v.reshape(-1)[may] for v in grid.direction))
    hits = meet_ground(street, grid.origin, rays)
    closer = np.flatnonzero(hits.distance < depth[may])
    ray = may[closer]
    depth[ray] = hits.distance[closer]
    first.owner.reshape(-1)[ray] = GROUND
    return ray, hits.take(closer)


def _gather(
    grid: RayGrid,
    solids: Solids,
    first: FirstSolids,
    ground_ray: NDArray[np.intp],
    ground: GroundHits,
) -> Hits:
    """Look up what was met, for the rays that meet something."""
    owner = first.owner.reshape(-1)
    ray = np.flatnonzero(owner != NOTHING)
    solid, distance = owner[ray], first.depth.reshape(-1)[ray]
    at_ground, at_solid = np.searchsorted(ray, ground_ray), np.flatnonzero(solid >= 0)
    normal, place = (Vectors(*np.zeros((3, len(ray)), np.float32)) for _ in range(2))
    for shape in Shape:
        rows = at_solid[solids.shape[solid[at_solid]] == shape]
        if len(rows):
            pairs = _Meeting(ray[rows], solid[rows].astype(np.intp))
            point, facing = _surface_of(grid, solids, pairs, distance[rows])
            for target, value in zip((*place, *normal), (*point, *facing), strict=True):
                target[rows] = value
    for target, value in zip(normal, _ground_normal(grid, ground_ray, ground), strict=True):
        target[at_ground] = value
    place.x[at_ground], place.y[at_ground] = ground.s, ground.t
    surface, label = np.empty(len(ray), np.uint8), np.empty(len(ray), np.uint16)
    instance = np.zeros(len(ray), np.uint16)
    surface[at_ground], label[at_ground] = ground.surface, GROUND_LABELS[ground.surface]
    rows = solid[at_solid]
    surface[at_solid], label[at_solid] = solids.surface[rows], solids.label[rows]
    instance[at_solid] = solids.instance[rows]
    return Hits(
        ray=ray,
        distance=distance,
        solid=solid,
        normal=normal,
        place=place,
        surface=surface,
        label=label,
        instance=instance,
    )


def _surface_of(
    grid: RayGrid, solids: Solids, pairs: _Meeting, distance: Floats
) -> tuple[Vectors, Vectors]:
    """Places (solids' frames) and normals (world frame) of hits on solids of one shape."""
    origin, direction = _local_rays(grid, solids, pairs)
    point = Vectors(*(o + distance * d for o, d in zip(origin, direction, strict=True)))
    shape = Shape(int(solids.shape[pairs.solid[0]]))
    local = outward_normal(shape, point, solids.form(pairs.solid))
    cos = np.cos(solids.yaw).astype(np.float32)[pairs.solid]
    sin = np.sin(solids.yaw).astype(np.float32)[pairs.solid]
    return point, Vectors(cos * local.x - sin * local.y, sin * local.x + cos * local.y, local.z)


def _ground_normal(grid: RayGrid, ground_ray: NDArray[np.intp], ground: GroundHits) -> Vectors:
    x, y = (v.reshape(-1)[ground_ray] for v in (grid.direction.x, grid.direction.y))
    level = np.maximum(np.hypot(x, y), np.float32(1e-6))
    # A kerb stone faces the road; a face turned to the ray is near enough for light and echo.
    return Vectors(
        np.where(ground.is_kerb, -x / level, 0),
        np.where(ground.is_kerb, -y / level, 0),
        np.where(ground.is_kerb, np.float32(0), np.float32(1)),
    )
