"""From what the LiDAR's rays meet to the points of a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.culling import circle_windows
from pass2d.synth.labels import Raw
from pass2d.synth.noise import smooth_noise
from pass2d.synth.parts import Solids
from pass2d.synth.sensors import LidarModel, lidar_directions, lidar_grid
from pass2d.synth.shapes import Floats
from pass2d.synth.street import Street
from pass2d.synth.surfaces import LOST, REMISSION, ROUGHNESS_M, SLANT, SPREAD
from pass2d.synth.trace import Hits, trace

LABELLED_M = 50.0
"""SemanticKITTI's people labelled up to here; farther points carry 0."""
OUTLIER_SHARE = 3e-5


@dataclass(frozen=True, kw_only=True)
class LidarScan:
    """One revolution, beam by beam from the top, each from the front to the left and around."""

    points: NDArray[np.float32]
    """(N, 4) x, y, z in metres (lidar frame), remission 0..1 in steps of 0.01."""
    labels: NDArray[np.uint32]
    """(N,) raw semantic id in the low 16 bits, instance in the high ones."""


def render_scan(
    model: LidarModel,
    world_from_lidar: NDArray[np.float64],
    solids: Solids,
    street: Street,
    *,
    rng: np.random.Generator,
) -> LidarScan:
    """Make the scan that a LiDAR measures.

    Args:
        model: the sensor.
        world_from_lidar: (4, 4) its pose.
        solids: the things around.
        street: the ground.
        rng: noise and drop-outs.

    Returns:
        The points with an echo.
    """
    grid = lidar_grid(model, world_from_lidar)
    yaw = float(np.arctan2(world_from_lidar[1, 0], world_from_lidar[0, 0]))
    hits = trace(grid, solids, circle_windows(grid, solids, yaw=yaw), street)
    directions = lidar_directions(model)
    facing = _facing(hits, grid.direction.x, grid.direction.y, grid.direction.z)
    remission = _remission(hits, facing, rng)
    heard = _is_heard(model, hits, facing, rng)
    noise_m = np.hypot(model.range_noise_m, ROUGHNESS_M[hits.surface])
    distance = hits.distance + noise_m * rng.standard_normal(len(facing), np.float32)
    outlier = rng.random(len(facing)) < OUTLIER_SHARE
    distance = np.where(outlier, distance * rng.uniform(0.3, 0.9, len(facing)), distance)
    distance = distance.astype(np.float32)
    points = [distance * v.reshape(-1)[hits.ray] for v in directions]
    far = np.hypot(points[0], points[1]) > LABELLED_M
    label = np.where(outlier, np.uint16(Raw.OUTLIER), np.where(far, Raw.UNLABELED, hits.label))
    instance = np.where(far | outlier, 0, hits.instance)
    return LidarScan(
        points=np.column_stack([*points, remission])[heard].astype(np.float32),
        labels=(label.astype(np.uint32) | instance.astype(np.uint32) << np.uint32(16))[heard],
    )


def _facing(hits: Hits, x: Floats, y: Floats, z: Floats) -> Floats:
    """Cosine between the ray and the surface's normal, 0..1."""
    normal = hits.normal
    dx, dy, dz = (v.reshape(-1)[hits.ray] for v in (x, y, z))
    cosine: Floats = np.abs(normal.x * dx + normal.y * dy + normal.z * dz)
    return np.minimum(cosine, np.float32(1))


def _remission(hits: Hits, facing: Floats, rng: np.random.Generator) -> Floats:
    """Strength of the echo by material, place, thing, angle and range, 0..0.99."""
    surface = hits.surface
    along = hits.place.x + np.float32(0.7) * hits.place.z + 13 * hits.instance.astype(np.float32)
    across = hits.place.y + np.float32(0.7) * hits.place.z + surface.astype(np.float32)
    patches = smooth_noise(along, across, cell_m=0.35)
    # A thing has its own strength all over: paint, cloth and plastic differ from one to the next.
    own = np.sin(np.float32(12.9898) * np.maximum(hits.solid, -1))
    grain = rng.standard_normal(len(facing), np.float32)
    mean = REMISSION[surface] + SPREAD[surface] * (0.55 * patches + 0.55 * own + 0.5 * grain)
    damped = mean * np.power(facing, SLANT[surface]) * np.exp(-hits.distance / np.float32(160))
    return np.clip(np.round(damped, 2), 0, np.float32(0.99)).astype(np.float32)


def _is_heard(
    model: LidarModel, hits: Hits, facing: Floats, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Decide which shots have an echo: materials, grazing angles and distance lose some."""
    grazing = np.float32(0.5) * np.exp(-facing / np.float32(0.012))
    far = np.float32(0.35) * (hits.distance / np.float32(model.reach_m)) ** 2
    lost = np.maximum(np.maximum(LOST[hits.surface], grazing), far)
    kept: NDArray[np.bool_] = rng.random(len(facing), np.float32) >= lost
    return kept & (hits.distance > 1.0)
