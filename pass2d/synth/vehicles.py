"""Cars, trucks, buses, trailers, tractors: lists of parts, x ahead, standing on z = 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pass2d.synth.labels import Raw
from pass2d.synth.parts import Brush, Color, Part, varied
from pass2d.synth.surfaces import Surface

CAR_COLORS: tuple[Color, ...] = (
    (0.75, 0.76, 0.78),
    (0.45, 0.47, 0.50),
    (0.10, 0.10, 0.12),
    (0.85, 0.85, 0.84),
    (0.12, 0.18, 0.38),
    (0.55, 0.08, 0.08),
    (0.16, 0.26, 0.20),
    (0.60, 0.52, 0.36),
)
TRUCK_COLORS: tuple[Color, ...] = (
    (0.88, 0.88, 0.86),
    (0.80, 0.30, 0.10),
    (0.15, 0.30, 0.60),
    (0.85, 0.72, 0.12),
)
GLASS: Color = (0.10, 0.12, 0.14)
TYRE: Color = (0.06, 0.06, 0.06)


def wheels(
    label: Raw, *, axles: tuple[float, ...], track: float, radius: float, width: float = 0.24
) -> list[Part]:
    """Pairs of wheels at the given places along x."""
    rubber = Brush(label=label, surface=Surface.RUBBER, color=TYRE)
    return [
        rubber.wheel((x, side * track / 2, radius), radius=radius, width=width)
        for x in axles
        for side in (1, -1)
    ]


def car(rng: np.random.Generator) -> list[Part]:
    """A hatchback, saloon, estate or van."""
    style = str(rng.choice(["hatchback", "saloon", "estate", "van"], p=[0.35, 0.3, 0.2, 0.15]))
    length = {"hatchback": 3.9, "saloon": 4.6, "estate": 4.7, "van": 4.9}[style]
    length += rng.normal(0, 0.12)
    width, height = rng.normal(1.76, 0.05), {"van": 1.95}.get(style, 1.47) + rng.normal(0, 0.05)
    paint = Brush(label=Raw.CAR, surface=Surface.PAINT, color=varied(rng, CAR_COLORS, 0.06))
    glass = Brush(label=Raw.CAR, surface=Surface.GLASS, color=GLASS)
    belt = 0.92 if style != "van" else 1.15
    cabin = {"hatchback": 0.66, "saloon": 0.52, "estate": 0.72, "van": 0.80}[style] * length
    back = {"saloon": -0.04}.get(style, -0.13 if style != "van" else -0.08) * length
    roof = height - belt
    body = [
        paint.tapered((0, 0, (belt + 0.2) / 2), (length, width, belt - 0.2), top=(0.97, 0.93)),
        glass.tapered(
            (back, 0, belt + 0.42 * roof), (cabin, 0.92 * width, 0.84 * roof), top=(0.72, 0.86)
        ),
        paint.tapered(
            (back, 0, height - 0.08 * roof),
            (0.74 * cabin, 0.80 * width, 0.16 * roof),
            top=(0.9, 0.9),
        ),
    ]
    axles = (0.31 * length, -0.30 * length)
    return body + wheels(Raw.CAR, axles=axles, track=width - 0.16, radius=0.32)


def truck(rng: np.random.Generator) -> list[Part]:
    """A lorry: box, flatbed or tank behind a cab."""
    length, width = rng.uniform(6.5, 9.5), rng.normal(2.4, 0.05)
    cab_height, cargo_height = rng.normal(2.7, 0.15), rng.uniform(2.2, 2.7)
    cab_paint = Brush(label=Raw.TRUCK, surface=Surface.PAINT, color=varied(rng, TRUCK_COLORS, 0.05))
    cargo = Brush(label=Raw.TRUCK, surface=Surface.PLASTIC, color=varied(rng, TRUCK_COLORS, 0.05))
    glass = Brush(label=Raw.TRUCK, surface=Surface.GLASS, color=GLASS)
    bed = length - 2.2
    center_x = -length / 2 + bed / 2
    front = length / 2
    parts = [
        cab_paint.tapered(
            (front - 0.95, 0, cab_height / 2 + 0.25),
            (1.9, width, cab_height - 0.5),
            top=(0.86, 0.96),
        ),
        glass.tapered(
            (front - 0.93, 0, cab_height - 0.72), (1.86, 0.94 * width, 0.62), top=(0.93, 0.98)
        ),
        cargo.box((0, 0, 0.78), (length - 0.3, 0.85, 0.3)),
    ]
    kind = rng.choice(["box", "flatbed", "tank"], p=[0.6, 0.2, 0.2])
    if kind == "box":
        parts.append(
            cargo.box((center_x, 0, 1.0 + cargo_height / 2), (bed, width + 0.08, cargo_height))
        )
    elif kind == "flatbed":
        parts.append(cargo.box((center_x, 0, 1.2), (bed, width, 0.55)))
    else:
        drum = cargo.wheel((center_x, 0, 1.95), radius=0.95, width=bed)
        parts.append(replace(drum, yaw=np.pi / 2))
    axles = (front - 1.1, -length / 2 + 2.4, -length / 2 + 1.2)
    return parts + wheels(Raw.TRUCK, axles=axles, track=width - 0.3, radius=0.5, width=0.32)


def bus(rng: np.random.Generator) -> list[Part]:
    """A city bus with a band of windows."""
    length, width, height = rng.uniform(10.0, 12.0), 2.5, rng.normal(3.1, 0.08)
    paint = Brush(label=Raw.BUS, surface=Surface.PAINT, color=varied(rng, TRUCK_COLORS, 0.08))
    glass = Brush(label=Raw.BUS, surface=Surface.GLASS, color=GLASS)
    parts = [
        paint.box((0, 0, 0.85), (length, width, 1.1)),
        glass.box((0, 0, 1.85), (length - 0.06, width - 0.06, 0.95)),
        paint.box((0, 0, (2.3 + height) / 2), (length, width, height - 2.3)),
    ]
    axles = (length / 2 - 2.3, -length / 2 + 2.6)
    return parts + wheels(Raw.BUS, axles=axles, track=width - 0.2, radius=0.48, width=0.3)


def trailer(rng: np.random.Generator) -> list[Part]:
    """A caravan or a low goods trailer, parked without its car."""
    label = Raw.OTHER_VEHICLE
    body = Brush(
        label=label, surface=Surface.PLASTIC, color=varied(rng, ((0.86, 0.85, 0.80),), 0.05)
    )
    steel = Brush(label=label, surface=Surface.STEEL, color=(0.35, 0.35, 0.36))
    length = rng.uniform(3.2, 5.2)
    parts = [steel.box((length / 2 + 0.5, 0, 0.5), (1.1, 0.1, 0.1))]
    if rng.random() < 0.6:
        glass = Brush(label=label, surface=Surface.GLASS, color=GLASS)
        parts.append(body.tapered((0, 0, 1.5), (length, 2.1, 2.1), top=(0.86, 0.94)))
        parts.append(glass.box((0, 0, 1.75), (0.4 * length, 2.08, 0.5)))
    else:
        parts.append(steel.box((0, 0, 0.75), (length, 1.7, 0.55)))
    return parts + wheels(label, axles=(0.0,), track=1.7, radius=0.33)


def tractor(rng: np.random.Generator) -> list[Part]:
    """A farm tractor or digger: big rear wheels, a bonnet and a small cab."""
    label = Raw.OTHER_VEHICLE
    colors: tuple[Color, ...] = ((0.15, 0.42, 0.16), (0.78, 0.55, 0.08), (0.70, 0.12, 0.08))
    paint = Brush(label=label, surface=Surface.PAINT, color=varied(rng, colors, 0.06))
    glass = Brush(label=label, surface=Surface.GLASS, color=GLASS)
    parts = [
        paint.box((0.9, 0, 1.2), (1.9, 0.8, 0.8)),
        glass.tapered((-0.7, 0, 2.0), (1.4, 1.4, 1.2), top=(0.85, 0.85)),
        paint.box((-0.7, 0, 2.68), (1.4, 1.45, 0.14)),
        paint.box((-0.6, 0, 1.0), (1.5, 1.1, 0.8)),
    ]
    if rng.random() < 0.5:
        steel = Brush(label=label, surface=Surface.STEEL, color=(0.45, 0.44, 0.42))
        parts.append(steel.tapered((2.7, 0, 0.55), (0.8, 2.1, 0.8), top=(0.6, 1.0)))
    rear = wheels(label, axles=(-0.9,), track=1.8, radius=0.85, width=0.5)
    return parts + rear + wheels(label, axles=(1.4,), track=1.6, radius=0.5, width=0.34)


def other_vehicle(rng: np.random.Generator) -> list[Part]:
    """A trailer, tractor or bus."""
    maker = (trailer, tractor, bus)[rng.choice(3, p=[0.35, 0.3, 0.35])]
    return maker(rng)
