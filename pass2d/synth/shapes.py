"""Solids and where a ray enters them. Everything broadcasts: one solid against many rays, or pairs.

All formulas are in the solid's own frame: centre at the origin, half sizes along x, y, z, upright.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.noise import hash_cells

Floats = NDArray[np.float32]
INFINITY = np.float32(np.inf)
FOLIAGE_SAMPLES = 4


class Shape(IntEnum):
    """Kinds of solids; two parameters (p, q) mean something else for each."""

    BOX = 0
    TAPERED = 1  # a box whose top is p, q times as long, wide
    CYLINDER = 2  # upright
    WHEEL = 3  # a cylinder lying along its y
    ELLIPSOID = 4
    FOLIAGE = 5  # an ellipsoid of which a share p of cells of q metres is filled
    LATTICE = 6  # a box with bars every p metres, each q metres wide, and a rail on top


class Vectors(NamedTuple):
    """Components of vectors; scalars or arrays that broadcast with each other."""

    x: Floats
    y: Floats
    z: Floats


class Form(NamedTuple):
    """Size and parameters of a solid, or of one solid per ray."""

    half: Vectors
    p: Floats
    q: Floats


def entry_distance(shape: Shape, origin: Vectors, direction: Vectors, form: Form) -> Floats:
    """Find where rays enter solids of one shape.

    Args:
        shape: which formula.
        origin: start of the rays in the solid's frame, metres.
        direction: unit vectors in the solid's frame.
        form: the solid; all arguments broadcast to the result's shape.

    Returns:
        float32 distance in metres; infinite where a ray misses or starts inside.
    """
    if shape is Shape.FOLIAGE:
        return _foliage(origin, direction, form)
    if shape is Shape.LATTICE:
        return _lattice(origin, direction, form)
    return _entered(*_CROSSED[shape](origin, direction, form))


def _swap(v: Vectors) -> Vectors:
    return Vectors(v.x, v.z, v.y)


def _entered(near: Floats, far: Floats) -> Floats:
    hit = (near <= far) & (near > 0)
    return np.where(hit, near, INFINITY)


def _away_from_zero(component: Floats) -> Floats:
    return np.where(np.abs(component) < 1e-9, np.float32(1e-9), component)


def _slab(origin: Floats, direction: Floats, half: Floats) -> tuple[Floats, Floats]:
    inverse = np.float32(1) / _away_from_zero(direction)
    middle = -origin * inverse
    reach = np.abs(half * inverse)
    return middle - reach, middle + reach


def _box(o: Vectors, d: Vectors, form: Form) -> tuple[Floats, Floats]:
    half = form.half
    near, far = _slab(o.x, d.x, half.x)
    for origin, direction, size in ((o.y, d.y, half.y), (o.z, d.z, half.z)):
        enter, leave = _slab(origin, direction, size)
        near, far = np.maximum(near, enter), np.minimum(far, leave)
    return near, far


def _tapered(o: Vectors, d: Vectors, form: Form) -> tuple[Floats, Floats]:
    near, far = _slab(o.z, d.z, form.half.z)
    sides = ((o.x, d.x, form.half.x, form.p), (o.y, d.y, form.half.y, form.q))
    for origin, direction, half, top in sides:
        lean = half * (1 - top) / (2 * form.half.z)
        reach = half * (1 + top) / 2
        for sign in (np.float32(1), np.float32(-1)):
            slope = _away_from_zero(sign * direction + lean * d.z)
            t = (reach - (sign * origin + lean * o.z)) / slope
            near = np.where(slope < 0, np.maximum(near, t), near)
            far = np.where(slope > 0, np.minimum(far, t), far)
    return near, far


def _cylinder(o: Vectors, d: Vectors, form: Form) -> tuple[Floats, Floats]:
    half = form.half
    ox, oy, dx, dy = o.x / half.x, o.y / half.y, d.x / half.x, d.y / half.y
    near, far = _quadratic(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - 1)
    low, high = _slab(o.z, d.z, half.z)
    return np.maximum(near, low), np.minimum(far, high)


def _wheel(o: Vectors, d: Vectors, form: Form) -> tuple[Floats, Floats]:
    return _cylinder(_swap(o), _swap(d), Form(_swap(form.half), form.p, form.q))


def _ellipsoid(o: Vectors, d: Vectors, form: Form) -> tuple[Floats, Floats]:
    half = form.half
    ox, oy, oz = o.x / half.x, o.y / half.y, o.z / half.z
    dx, dy, dz = d.x / half.x, d.y / half.y, d.z / half.z
    return _quadratic(
        dx * dx + dy * dy + dz * dz,
        ox * dx + oy * dy + oz * dz,
        ox * ox + oy * oy + oz * oz - 1,
    )


def _quadratic(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Solve a t² + 2 b t + c = 0; without a solution the interval is empty."""
    a = np.maximum(a, np.float32(1e-12))
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    near = np.where(discriminant > 0, (-b - root) / a, INFINITY)
    far = np.where(discriminant > 0, (-b + root) / a, -INFINITY)
    return near, far


_CROSSED: dict[Shape, Callable[[Vectors, Vectors, Form], tuple[Floats, Floats]]] = {
    Shape.BOX: _box,
    Shape.TAPERED: _tapered,
    Shape.CYLINDER: _cylinder,
    Shape.WHEEL: _wheel,
    Shape.ELLIPSOID: _ellipsoid,
}


def _foliage(o: Vectors, d: Vectors, form: Form) -> Floats:
    near, far = _ellipsoid(o, d, form)
    result = np.full(near.shape, INFINITY, np.float32)
    crossed = np.nonzero((near <= far) & (near > 0))
    if not len(crossed[0]):
        return result

    def pick(value: Floats) -> Floats:
        return np.broadcast_to(value, near.shape)[crossed] if np.ndim(value) else value

    start, length = near[crossed], (far - near)[crossed]
    ox, oy, oz, dx, dy, dz = (pick(v) for v in (*o, *d))
    cells_per_m = 1 / pick(form.q)
    filled = pick(form.p)
    distance = np.full(start.shape, INFINITY, np.float32)
    for sample in reversed(range(FOLIAGE_SAMPLES)):
        t = start + length * np.float32(sample / FOLIAGE_SAMPLES)
        cell = [np.floor((a + t * b) * cells_per_m) for a, b in ((ox, dx), (oy, dy), (oz, dz))]
        distance = np.where(hash_cells(cell[0], cell[1], cell[2]) < filled, t, distance)
    result[crossed] = distance
    return result


def _lattice(o: Vectors, d: Vectors, form: Form) -> Floats:
    t = _entered(*_box(o, d, form))
    # Misses are infinite: the pattern is looked up at 0 for them, and they stay misses.
    at = np.where(np.isfinite(t), t, 0)
    along, up = o.x + at * d.x, o.z + at * d.z
    bar = np.mod(along, form.p) < form.q
    rail = np.abs(np.abs(up) - form.half.z * np.float32(0.85)) < form.q
    return np.where(bar | rail, t, INFINITY)


def outward_normal(shape: Shape, point: Vectors, form: Form) -> Vectors:
    """Direction away from solids of one shape at points of their surface.

    Args:
        shape: which formula.
        point: (K,) each, in the solids' frames, metres.
        form: one solid per point.

    Returns:
        Unit vectors in the solids' frames.
    """
    if shape in {Shape.ELLIPSOID, Shape.FOLIAGE}:
        gradient = Vectors(*(v / (h * h) for v, h in zip(point, form.half, strict=True)))
    elif shape is Shape.CYLINDER:
        gradient = _cylinder_gradient(point, form.half)
    elif shape is Shape.WHEEL:
        gradient = _swap(_cylinder_gradient(_swap(point), _swap(form.half)))
    else:
        upright = np.ones(1, np.float32)
        p, q = (form.p, form.q) if shape is Shape.TAPERED else (upright, upright)
        gradient = _box_gradient(point, form.half, p, q)
    norm = np.sqrt(gradient.x**2 + gradient.y**2 + gradient.z**2)
    length = np.asarray(np.maximum(norm, np.float32(1e-9)), np.float32)
    return Vectors(gradient.x / length, gradient.y / length, gradient.z / length)


def _cylinder_gradient(point: Vectors, half: Vectors) -> Vectors:
    x, y = point.x / half.x, point.y / half.y
    on_cap = np.abs(point.z) / half.z > np.hypot(x, y)
    zero = np.float32(0)
    return Vectors(
        np.where(on_cap, zero, x / half.x),
        np.where(on_cap, zero, y / half.y),
        np.where(on_cap, np.sign(point.z), zero),
    )


def _box_gradient(point: Vectors, half: Vectors, p: Floats, q: Floats) -> Vectors:
    lean_x, lean_y = half.x * (1 - p) / (2 * half.z), half.y * (1 - q) / (2 * half.z)
    gap_x = half.x * (1 + p) / 2 - np.abs(point.x) - lean_x * point.z
    gap_y = half.y * (1 + q) / 2 - np.abs(point.y) - lean_y * point.z
    gap_z = half.z - np.abs(point.z)
    on_x = (gap_x <= gap_y) & (gap_x <= gap_z)
    on_y = ~on_x & (gap_y <= gap_z)
    zero = np.float32(0)
    lean = np.where(on_x, lean_x, lean_y)
    return Vectors(
        np.where(on_x, np.sign(point.x), zero),
        np.where(on_y, np.sign(point.y), zero),
        np.where(on_x | on_y, lean, np.sign(point.z)),
    )
