"""The plane of the ground, and how steeply beams meet it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud

_TRIES, _SAMPLE = 64, 2000
_TOLERANCE_M = 0.15
_STEEPEST_COS = 0.966  # 15 degrees


def ground_points(cloud: Cloud, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Points of sealed ground: as labelled; without labels those near the ground's plane.

    Returns:
        (N,) bool.
    """
    if cloud.label is not None and cloud.sensor.sealed_ground:
        return np.isin(cloud.label, cloud.sensor.sealed_ground)
    plane = fit_ground(cloud.xyz, rng)
    if plane is None:
        return np.zeros(cloud.n, bool)
    return np.abs(plane[:3] @ cloud.xyz + plane[3]) < _TOLERANCE_M


def fit_ground(xyz: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32] | None:
    """Find the plane that most of the lower points lie in, by random samples of three.

    Args:
        xyz: (3, N) metres, z up.
        rng: chooses the samples.

    Returns:
        (4,) unit normal (upwards) and offset, ``normal @ p + offset = 0`` on the plane; None when
        no plane within 15 degrees of level holds a tenth of the lower half of the points.
    """
    low = np.flatnonzero(xyz[2] <= np.median(xyz[2])) if xyz.shape[1] else np.empty(0, np.int64)
    if len(low) < 3:
        return None
    points = xyz[:, rng.choice(low, min(_SAMPLE, len(low)), replace=False)].astype(np.float64)
    a, b, c = points[:, rng.integers(points.shape[1], size=(3, _TRIES))].transpose(1, 2, 0)
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    normal /= np.maximum(length, 1e-12)[:, None]
    normal *= np.where(normal[:, 2:] < 0, -1, 1)
    offset = -np.einsum("ta,ta->t", normal, a)
    near = np.abs(normal @ points + offset[:, None]) < _TOLERANCE_M
    votes = near.sum(1) * (normal[:, 2] > _STEEPEST_COS)
    best = int(votes.argmax())
    if votes[best] < max(3, 0.1 * points.shape[1]):
        return None
    return plane_through(points[:, near[best]])


def plane_through(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Least squares plane of (3, K) points, as `fit_ground` gives it; level for one or two."""
    centre = points.mean(1) if points.shape[1] else np.zeros(3)
    normal = np.array([0.0, 0.0, 1.0])
    if points.shape[1] >= 3:
        offsets = points - centre[:, None]
        normal = np.linalg.eigh(offsets @ offsets.T)[1][:, 0]
        normal = normal if normal[2] >= 0 else -normal
    return np.array([*normal, -normal @ centre], np.float32)


def incidence_cos(
    xyz: NDArray[np.float32], range_m: NDArray[np.float32], plane: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N,) cosine between beams and the plane's normal, 0..1."""
    cosine = np.abs(plane[:3] @ xyz) / np.maximum(range_m, np.float32(1e-6))
    return np.minimum(cosine, np.float32(1))
