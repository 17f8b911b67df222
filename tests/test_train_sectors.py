"""Bands, half circles and squares equal the plain versions, with an angle for each point."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pass2d.train.data.sectors import in_half_circle, pitch_bands, square_owners


def cloud(n: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, (20, 20, 3), (n, 3)).astype(np.float32).T
    # On axes and planes, at the sensor, straight above and below it.
    odd = [[0, 0, 0], [0, 0, 2], [0, 0, -2], [5, 0, 0], [-5, 0, 1], [-5, -0.0, 1], [0, 5, 0]]
    return np.concatenate([xyz, np.array(odd, np.float32).T], axis=1)


@pytest.mark.parametrize("n_bands", [1, 2, 3, 6, 13])
@pytest.mark.parametrize("view_deg", [(-25, 3), (-30, 10), (-89, 89), (2, 60)])
def test_bands_are_those_of_the_angles(n_bands: int, view_deg: tuple[float, float]) -> None:
    low, high = np.deg2rad(view_deg)
    edges = np.linspace(high, low, n_bands + 1)
    # Rings on the borders and hardly beside them.
    yaw = np.linspace(-np.pi, np.pi, 200)
    near = np.concatenate([edges + off for off in (0, 1e-7, -1e-7, 3e-6, -3e-6, 1e-4, -1e-4)])
    pitch = np.repeat(near, len(yaw))
    yaw = np.tile(yaw, len(near))
    ring = [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)]
    xyz = np.concatenate([cloud(20_000, 1), 30 * np.array(ring, np.float32)], axis=1)
    x, y, z = xyz
    angle = np.clip(np.arctan2(z, np.sqrt(x * x + y * y)), low + 1e-5, high - 1e-5)
    want = np.searchsorted(-edges[1:-1], -angle, side="right")
    found = pitch_bands(xyz, n_bands, low_rad=float(low), high_rad=float(high))
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("start", [-np.pi, -3.0, -np.pi / 2, -1e-6, -1e-3, 0.0])
def test_half_circles_are_those_of_the_angles(start: float) -> None:
    yaw = -np.concatenate([start + off for off in np.array([[0, 1e-7, -1e-7, np.pi, 3e-6, 1e-4]])])
    border = np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw]).astype(np.float32)
    xyz = np.concatenate([cloud(20_000, 2), 7 * border], axis=1)
    angle = -np.arctan2(xyz[1], xyz[0])
    want = (angle > start) & (angle < start + np.pi)
    np.testing.assert_array_equal(in_half_circle(xyz, start), want)


@pytest.mark.parametrize("most", [1 << 16, 0])
def test_squares_are_shared_out_alike_by_table_and_by_sorting(most: int) -> None:
    clouds = [cloud(3000, seed)[:, :n] for seed, n in ((3, 3000), (4, 2000), (5, 0))]
    kept = square_owners(clouds, side_m=7.5, rng=np.random.default_rng(6), most_squares=most)
    squares = [np.floor(xyz[:2] / np.float32(7.5)).T.tolist() for xyz in clouds]
    # Slowly: the squares in the order of x and y, a draw for each that is shared.
    rng, owner = np.random.default_rng(6), {}
    there = [{tuple(square) for square in of_cloud} for of_cloud in squares]
    shared = [s for s in sorted(there[0]) if sum(s in other for other in there) > 1]
    counts = [sum(s in other for other in there) for s in shared]
    for square, draw in zip(shared, rng.integers(0, counts), strict=True):
        owner[square] = [k for k, other in enumerate(there) if square in other][draw]
    for number, of_cloud in enumerate(squares):
        want = [tuple(s) in there[0] and owner.get(tuple(s), 0) == number for s in of_cloud]
        assert kept[number].tolist() == want
