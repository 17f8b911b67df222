"""The synthetic world's solids: where rays enter them, and which way their surfaces face."""

from __future__ import annotations

import numpy as np
import pytest

from pass2d.synth.noise import hash_cells
from pass2d.synth.shapes import Form, Shape, Vectors, entry_distance, outward_normal

SOLID = [Shape.BOX, Shape.TAPERED, Shape.CYLINDER, Shape.WHEEL, Shape.ELLIPSOID]


def vectors(rows) -> Vectors:
    return Vectors(*np.asarray(rows, np.float32).reshape(-1, 3).T)


def form(half=(1.0, 1.0, 1.0), p=1.0, q=1.0) -> Form:
    return Form(Vectors(*np.float32(half)), np.float32(p), np.float32(q))


def distance(shape: Shape, start, toward, solid: Form) -> float:
    toward = np.asarray(toward, np.float64)
    ray = vectors(toward / np.linalg.norm(toward))
    return float(entry_distance(shape, vectors(start), ray, solid)[0])


def is_inside(shape: Shape, point: np.ndarray, half, p: float, q: float) -> np.ndarray:
    """The plain definition of each solid."""
    x, y, z = np.moveaxis(point, -1, 0)
    a, b, c = half
    if shape is Shape.ELLIPSOID:
        return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1
    if shape is Shape.CYLINDER:
        return ((x / a) ** 2 + (y / b) ** 2 < 1) & (abs(z) < c)
    if shape is Shape.WHEEL:
        return ((x / a) ** 2 + (z / c) ** 2 < 1) & (abs(y) < b)
    up = (z + c) / (2 * c)
    if shape is Shape.BOX:
        p = q = 1.0
    return (abs(x) < a * (1 + (p - 1) * up)) & (abs(y) < b * (1 + (q - 1) * up)) & (abs(z) < c)


@pytest.mark.parametrize(
    ("shape", "start", "toward", "expected"),
    [
        (Shape.BOX, (-10, 0, 0), (1, 0, 0), 9.0),
        (Shape.BOX, (-10, 0.5, 0.5), (1, 0, 0), 9.0),
        (Shape.BOX, (-10, 2, 0), (1, 0, 0), np.inf),
        (Shape.BOX, (10, 0, 0), (1, 0, 0), np.inf),  # behind the start
        (Shape.BOX, (0, 0, 0), (1, 0, 0), np.inf),  # from inside
        (Shape.BOX, (-4, -3, 0), (4, 3, 0), 3.75),  # enters x = -1 at y = -0.75
        (Shape.CYLINDER, (-5, 0, 0), (1, 0, 0), 4.0),
        (Shape.CYLINDER, (-5, 0.6, 0), (1, 0, 0), 4.2),  # 0.6, 0.8, 1
        (Shape.CYLINDER, (0.5, 0, 7), (0, 0, -1), 6.0),  # the lid
        (Shape.WHEEL, (0, -5, 0.9), (0, 1, 0), 4.0),  # its flat side
        (Shape.WHEEL, (-5, 0, 0.6), (1, 0, 0), 4.2),
        (Shape.ELLIPSOID, (-5, 0, 0), (1, 0, 0), 4.0),
        (Shape.ELLIPSOID, (-5, 0.8, 0), (1, 0, 0), 4.4),
        (Shape.ELLIPSOID, (-5, 1.1, 0), (1, 0, 0), np.inf),
    ],
)
def test_ray_enters_a_solid_of_half_size_one(shape, start, toward, expected) -> None:
    assert distance(shape, start, toward, form()) == pytest.approx(expected, abs=1e-5)


def test_tapered_box_leans_inwards() -> None:
    # Half as long at the top: at mid-height its front stands at 0.75.
    roof = form(p=0.5, q=1.0)
    assert distance(Shape.TAPERED, (-10, 0, 0), (1, 0, 0), roof) == pytest.approx(9.25)
    assert distance(Shape.TAPERED, (0, -10, 0), (0, 1, 0), roof) == pytest.approx(9.0)


@pytest.mark.parametrize("shape", SOLID)
def test_entry_equals_small_steps_along_the_ray(shape: Shape) -> None:
    rng = np.random.default_rng(int(shape))
    half, p, q = rng.uniform(0.3, 2.0, 3), 0.4, 0.8
    start = rng.normal(0, 1, (400, 3))
    start *= rng.uniform(4, 8, (400, 1)) / np.linalg.norm(start, axis=1, keepdims=True)
    toward = rng.normal(0, 0.8, (400, 3)) - start
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    found = entry_distance(shape, vectors(start), vectors(toward), form(half, p, q))
    steps = np.arange(0, 12, 0.004)
    inside = is_inside(shape, start[:, None] + steps[:, None] * toward[:, None], half, p, q)
    stepped = np.where(inside.any(axis=1), steps[inside.argmax(axis=1)], np.inf)
    both = np.isfinite(stepped)
    assert 50 < both.sum() < 400
    assert np.isfinite(found[both]).all()
    np.testing.assert_allclose(found[both], stepped[both], atol=0.006)
    # Steps may jump over a corner that the formula sees; never the other way round.
    assert (np.isfinite(found) & ~both).sum() < 8


@pytest.mark.parametrize("shape", SOLID)
def test_normals_are_unit_and_face_the_ray(shape: Shape) -> None:
    rng = np.random.default_rng(7)
    start = rng.normal(0, 1, (300, 3)) + np.array([8, 0, 0])
    toward = rng.normal(0, 0.4, (300, 3)) - start
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    solid = form((0.8, 1.1, 0.6), 0.5, 0.7)
    found = entry_distance(shape, vectors(start), vectors(toward), solid)
    met = np.isfinite(found)
    normal = np.column_stack(
        outward_normal(shape, vectors((start + found[:, None] * toward)[met]), solid)
    )
    assert met.sum() > 100
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    assert ((normal * toward[met]).sum(axis=1) < 1e-3).all()


def test_normal_of_a_box_is_its_face() -> None:
    point = vectors([[1, 0.2, 0.3], [0.1, -1, 0.3], [0.1, 0.2, 1]])
    normal = np.column_stack(outward_normal(Shape.BOX, point, form()))
    assert normal.tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, 1]]


def test_lattice_stops_rays_at_bars_and_rails_only() -> None:
    # Bars begin every metre and are 0.4 m wide; the rails are at 85 % of the half height.
    fence = form((5, 0.05, 1), p=1.0, q=0.4)
    assert distance(Shape.LATTICE, (0.2, -5, 0), (0, 1, 0), fence) == pytest.approx(4.95)
    assert distance(Shape.LATTICE, (0.7, -5, 0), (0, 1, 0), fence) == np.inf
    assert distance(Shape.LATTICE, (0.7, -5, 0.8), (0, 1, 0), fence) == pytest.approx(4.95)


def test_foliage_is_solid_when_full_and_nothing_when_empty() -> None:
    rng = np.random.default_rng(3)
    start, toward = vectors(rng.normal(0, 0.3, (200, 3)) - [6, 0, 0]), vectors([[1, 0, 0]] * 200)
    solid = entry_distance(Shape.ELLIPSOID, start, toward, form())
    full = entry_distance(Shape.FOLIAGE, start, toward, form(p=1.0, q=0.1))
    empty = entry_distance(Shape.FOLIAGE, start, toward, form(p=0.0, q=0.1))
    half = entry_distance(Shape.FOLIAGE, start, toward, form(p=0.3, q=0.1))
    np.testing.assert_array_equal(full, solid)
    assert np.isinf(empty).all()
    assert 0.5 < np.isfinite(half).mean() < 0.95
    assert (half >= solid).all()


def test_one_solid_and_pairs_give_the_same_distances() -> None:
    rng = np.random.default_rng(5)
    start = np.array([6.0, 0, 0]) + rng.normal(0, 1, 3)
    toward = rng.normal(0, 0.3, (50, 3)) - [6, 0, 0]
    rays = vectors(toward / np.linalg.norm(toward, axis=1, keepdims=True))
    many = Form(vectors([[1, 2, 0.5]] * 50), np.full(50, 0.5, np.float32), np.full(50, 0.3, "f4"))
    for shape in Shape:
        together = entry_distance(shape, vectors([start] * 50), rays, many)
        one = Vectors(*np.float32(start))
        np.testing.assert_array_equal(
            entry_distance(shape, one, rays, form((1, 2, 0.5), 0.5, 0.3)), together
        )


def test_hash_is_even_and_depends_on_every_axis() -> None:
    x, y, z = (a.ravel().astype(np.float32) for a in np.mgrid[-20:20, -20:20, -20:20])
    value = hash_cells(x, y, z)
    assert value.min() >= 0
    assert value.max() < 1
    shares = np.histogram(value, 10, (0, 1))[0] / len(value)
    assert np.abs(shares - 0.1).max() < 0.01
    for moved in ((x + 1, y, z), (x, y + 1, z), (x, y, z + 1)):
        assert abs(np.corrcoef(value, hash_cells(*moved))[0, 1]) < 0.02
