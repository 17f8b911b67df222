"""Solids that make up things, placed in the world and packed into arrays for the ray caster."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.labels import Raw
from pass2d.synth.shapes import Form, Shape, Vectors
from pass2d.synth.surfaces import Surface

Color = tuple[float, float, float]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One solid with one material and one label."""

    shape: Shape
    center: Triple
    """x, y, z in metres, in the frame of the thing it belongs to (x ahead, z up, 0 = its foot)."""
    half: Triple
    """Half sizes in metres."""
    surface: Surface
    label: int
    """Raw semantic id."""
    color: Color
    """Red, green, blue in 0..1 under full light."""
    p: float = 1.0
    q: float = 1.0
    """Parameters of the shape, see `Shape`."""
    yaw: float = 0.0
    """Turn about z in radians."""
    instance: int = 0


@dataclass(frozen=True, kw_only=True)
class Solids:
    """P solids as arrays, in the world frame."""

    shape: NDArray[np.uint8]
    """(P,) `Shape`."""
    center: NDArray[np.float64]
    """(P, 3) metres."""
    half: NDArray[np.float32]
    """(P, 3) metres."""
    params: NDArray[np.float32]
    """(P, 2) parameters p and q of the shape."""
    yaw: NDArray[np.float64]
    """(P,) radians."""
    surface: NDArray[np.uint8]
    """(P,) `Surface`."""
    label: NDArray[np.uint16]
    """(P,) raw semantic ids."""
    instance: NDArray[np.uint16]
    """(P,) 0 for stuff."""
    color: NDArray[np.float32]
    """(P, 3) 0..1."""

    def __len__(self) -> int:
        return len(self.shape)

    def take(self, rows: NDArray[np.intp]) -> Solids:
        """Select solids, in the given order."""
        return Solids(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, other: Solids) -> Solids:
        """These solids followed by others."""
        return Solids(
            **{
                f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            }
        )

    def form(self, rows: NDArray[np.intp] | int) -> Form:
        """Sizes and parameters of some solids, one per row."""
        half, params = self.half[rows], self.params[rows]
        return Form(
            half=Vectors(half[..., 0], half[..., 1], half[..., 2]),
            p=params[..., 0],
            q=params[..., 1],
        )


def pack(parts: Sequence[Part]) -> Solids:
    """Turn placed parts into arrays."""
    return Solids(
        shape=np.array([p.shape for p in parts], np.uint8),
        center=np.array([p.center for p in parts], np.float64).reshape(-1, 3),
        half=np.array([p.half for p in parts], np.float32).reshape(-1, 3),
        params=np.array([(p.p, p.q) for p in parts], np.float32).reshape(-1, 2),
        yaw=np.array([p.yaw for p in parts], np.float64),
        surface=np.array([p.surface for p in parts], np.uint8),
        label=np.array([p.label for p in parts], np.uint16),
        instance=np.array([p.instance for p in parts], np.uint16),
        color=np.array([p.color for p in parts], np.float32).reshape(-1, 3),
    )


def place(
    parts: Iterable[Part],
    *,
    x: float,
    y: float,
    z: float = 0.0,
    yaw: float = 0.0,
    instance: int = 0,
) -> list[Part]:
    """Move parts from their thing's frame into another one.

    Args:
        parts: the thing.
        x: where its foot goes, metres.
        y: likewise.
        z: likewise.
        yaw: how it is turned, radians.
        instance: number of the thing; 0 keeps the parts' own.

    Returns:
        The moved parts.
    """
    cos, sin = math.cos(yaw), math.sin(yaw)
    return [
        replace(
            part,
            center=(
                x + cos * part.center[0] - sin * part.center[1],
                y + sin * part.center[0] + cos * part.center[1],
                z + part.center[2],
            ),
            yaw=part.yaw + yaw,
            instance=instance or part.instance,
        )
        for part in parts
    ]


@dataclass(frozen=True, kw_only=True)
class Brush:
    """Makes parts of one label; the common shapes by their outer sizes."""

    label: Raw
    surface: Surface
    color: Color

    def box(self, center: Triple, size: Triple) -> Part:
        """A box by its full sizes in metres."""
        return self._part(Shape.BOX, center, _halved(size))

    def tapered(self, center: Triple, size: Triple, *, top: tuple[float, float]) -> Part:
        """A box whose top is ``top`` times as long and wide."""
        return self._part(Shape.TAPERED, center, _halved(size), p=top[0], q=top[1])

    def cylinder(self, foot: Triple, *, radius: float, height: float) -> Part:
        """An upright cylinder on its foot point."""
        center = (foot[0], foot[1], foot[2] + height / 2)
        return self._part(Shape.CYLINDER, center, (radius, radius, height / 2))

    def wheel(self, center: Triple, *, radius: float, width: float) -> Part:
        """A disc that rolls along x."""
        return self._part(Shape.WHEEL, center, (radius, width / 2, radius))

    def ellipsoid(self, center: Triple, size: Triple) -> Part:
        """An ellipsoid by its full sizes."""
        return self._part(Shape.ELLIPSOID, center, _halved(size))

    def foliage(self, center: Triple, size: Triple, *, filled: float, cell_m: float) -> Part:
        """A cloud of leaves by its full sizes."""
        return self._part(Shape.FOLIAGE, center, _halved(size), p=filled, q=cell_m)

    def lattice(self, center: Triple, size: Triple, *, period_m: float, bar_m: float) -> Part:
        """A fence of upright bars and two rails along x."""
        return self._part(Shape.LATTICE, center, _halved(size), p=period_m, q=bar_m)

    def _part(
        self,
        shape: Shape,
        center: Triple,
        half: Triple,
        *,
        p: float = 1.0,
        q: float = 1.0,
    ) -> Part:
        return Part(
            shape=shape,
            center=center,
            half=half,
            surface=self.surface,
            label=int(self.label),
            color=self.color,
            p=p,
            q=q,
        )


def _halved(size: Triple) -> Triple:
    return (size[0] / 2, size[1] / 2, size[2] / 2)


def varied(rng: np.random.Generator, colors: Sequence[Color], amount: float) -> Color:
    """Pick a colour and change it a little, so that no two things look the same."""
    base = np.array(colors[int(rng.integers(len(colors)))])
    mixed = base * (1 + amount * rng.standard_normal()) + 0.4 * amount * rng.standard_normal(3)
    red, green, blue = np.clip(mixed, 0.02, 0.98).tolist()
    return (red, green, blue)
