"""From a file's columns to a network's input: names of columns, units, offset, rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.ground import find_ground, some_rows
from pass2d.common.errors import ConfigError, DataError
from pass2d.points.columns import PointColumns

UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001, "ft": 0.3048}
ROLES = ("x", "y", "z", "signal")
USUAL_NAMES = {
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "signal": (
        "signal",
        "intensity",
        "remission",
        "reflectance",
        "reflectivity",
        "refl",
        "scalar_intensity",
        "i",
    ),
}
"""Usual names of each role in files, in lower case."""


@dataclass(frozen=True, kw_only=True)
class InputMapping:
    """How a sensor's numbers become x, y, z in metres (lidar frame) and the signal."""

    columns: dict[str, str] = field(default_factory=dict)
    """Role ("x", "y", "z", "signal") to the name of its column in the file, or its index from 0."""
    unit_m: float = 1.0
    """Metres per unit of the file's coordinates."""
    signal_scale: float = 1.0
    """Factor on the signal."""
    z_offset: float = 0.0
    """Metres added to z, after the rotation."""
    rotation: tuple[tuple[float, ...], ...] | None = None
    """(3, 3) lidar_from_file; None: none."""
    recenter: bool = False
    """Move the middle of each scan to x = y = 0 and its ground to z = 0, before ``z_offset``."""

    def __post_init__(self) -> None:
        for name in ("unit_m", "signal_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"`{name}` must be a number above 0, got {value}")
        if not math.isfinite(self.z_offset):
            raise ConfigError(f"`z_offset` must be a finite number of metres, got {self.z_offset}")

    def apply(self, columns: PointColumns, *, where: str) -> NDArray[np.float32]:
        """Map a file's points; their order stays.

        Args:
            columns: Of the file.
            where: The file, for messages.

        Returns:
            (N, 4) float32 x, y, z in metres, signal; 0 where the file has no signal.

        Raises:
            DataError: A column is missing, or two roles have the same.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self.metres(columns, where=where).T.astype(np.float32)

    def metres(self, columns: PointColumns, *, where: str) -> NDArray[np.float64]:
        """Map a file's points in float64, which coordinates of maps need.

        Returns:
            (4, N) float64, else as ``apply``.

        Raises:
            DataError: A column is missing, or two roles have the same.
        """
        points = np.zeros((4, columns.n))
        roles = ROLES if self.has_signal(columns) else ROLES[:3]
        places = {role: self._place(columns, role, where) for role in roles}
        for role, place in places.items():
            first = next(one for one in roles if places[one] == place)
            if first != role:
                raise DataError(
                    f"{where}: {first} and {role} would both be the column {columns.names[place]}. "
                    f"Name both: `map={first}=NAME,{role}=NAME`"
                )
        with np.errstate(over="ignore", invalid="ignore"):
            for row, place in enumerate(places.values()):
                points[row] = columns.values[place]
            points[:3] *= self.unit_m
            if self.rotation is not None:
                points[:3] = np.asarray(self.rotation) @ points[:3]
            if self.recenter:
                _recenter(points[:3])
            points[2] += self.z_offset
            points[3] *= self.signal_scale
        return points

    def has_signal(self, columns: PointColumns) -> bool:
        """Whether a column is, or is given as, the signal."""
        return "signal" in self.columns or _usual(columns.names, "signal") is not None

    def _place(self, columns: PointColumns, role: str, where: str) -> int:
        wanted = self.columns.get(role)
        place = _usual(columns.names, role) if wanted is None else _named(columns.names, wanted)
        if place is None:
            raise DataError(
                f"{where}: no column for {role}"
                + (f" of the name {wanted!r}" if wanted else "")
                + f"; the file has {', '.join(columns.names)}. Name it: `map={role}=NAME`"
            )
        same = [name if wanted else name.lower() for name in columns.names]
        if same.count(same[place]) > 1 and wanted != str(place):
            raise DataError(
                f"{where}: several columns may be {role}: {', '.join(columns.names)}. Name one, or "
                f"give its place: `map={role}={place}`"
            )
        return place


def parse_columns(text: str | None) -> dict[str, str]:
    """Read --map: "x=X,y=Y,signal=reflectance", roles to names or places.

    Raises:
        ConfigError: Not such a list.
    """
    columns: dict[str, str] = {}
    for part in (text or "").split(","):
        role, equals, name = (word.strip() for word in part.partition("="))
        if not role and not equals:
            continue
        if role not in ROLES or not name or role in columns:
            raise ConfigError(
                f"`map` {text!r}: pairs ROLE=NAME are expected, each of {', '.join(ROLES)} once, "
                f"e.g. x=X,y=Y,z=Z,signal=intensity; got {part!r}"
            )
        columns[role] = name
    return columns


def parse_unit(text: str) -> float:
    """Read --unit: m, cm, mm, ft, or metres per unit.

    Raises:
        ConfigError: Neither.
    """
    try:
        unit_m = UNITS_M[text] if text in UNITS_M else float(text)
    except ValueError:
        unit_m = 0.0
    if not (math.isfinite(unit_m) and unit_m > 0):
        raise ConfigError(f"`unit` must be m, cm, mm, ft or metres per unit above 0, got {text!r}")
    return unit_m


def parse_rotation(text: str | None) -> tuple[tuple[float, ...], ...] | None:
    """Read --rotate: "yaw,pitch,roll" in degrees, or a quaternion "w,x,y,z".

    The points are rotated about x by roll, then about y by pitch, then about z by yaw; each
    counter-clockwise as seen from the axis' tip.

    Raises:
        ConfigError: Neither three nor four numbers, or a quaternion of length 0.
    """
    if text is None:
        return None
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not all(map(math.isfinite, numbers)) or len(numbers) not in {3, 4}:
        raise ConfigError(
            "`rotate` must be yaw,pitch,roll in degrees or a quaternion w,x,y,z, "
            f"got {text!r}; e.g. 0,0,90"
        )
    matrix = _from_angles(*numbers) if len(numbers) == 3 else _from_quaternion(numbers, text)
    return tuple(tuple(row) for row in matrix.round(15).tolist())


def rotation_angles(lidar_from_file: NDArray[np.float64]) -> str:
    """Write a (3, 3) rotation as --rotate takes it: "yaw,pitch,roll" in degrees."""
    r = lidar_from_file
    pitch = math.asin(min(1.0, max(-1.0, -float(r[2, 0]))))
    if abs(r[2, 0]) > 1 - 1e-9:  # yaw and roll turn about the same axis: all of it is yaw
        yaw, roll = math.atan2(-r[0, 1], r[1, 1]), 0.0
    else:
        yaw, roll = math.atan2(r[1, 0], r[0, 0]), math.atan2(r[2, 1], r[2, 2])
    return ",".join(f"{round(math.degrees(angle), 4) + 0:g}" for angle in (yaw, pitch, roll))


def _recenter(xyz: NDArray[np.float64]) -> None:
    """In place; the middle is the median of the finite points."""
    sample = xyz[:, some_rows(xyz.shape[1])]
    sample = sample[:, np.isfinite(sample).all(axis=0)]
    if not sample.shape[1]:
        return
    middle = np.median(sample, axis=1)
    xyz -= middle[:, None]
    ground = find_ground(sample - middle[:, None]).z
    low = float(np.percentile(sample[2], 10) - middle[2])
    xyz[2] -= ground if math.isfinite(ground) else low


def _from_angles(yaw_deg: float, pitch_deg: float, roll_deg: float) -> NDArray[np.float64]:
    (a, b, c) = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    return np.asarray(about_z @ about_y @ about_x)


def _from_quaternion(wxyz: list[float], text: str) -> NDArray[np.float64]:
    length = math.hypot(*wxyz)
    if length < 1e-9:
        raise ConfigError(f"`rotate` {text!r}: a quaternion of length 0 is not a rotation")
    w, x, y, z = (number / length for number in wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _usual(names: tuple[str, ...], role: str) -> int | None:
    if all(name.isdecimal() for name in names):  # no names: x, y, z, signal in this order
        place = ROLES.index(role)
        return place if place < len(names) else None
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in USUAL_NAMES[role] if name in lower), None)


def _named(names: tuple[str, ...], wanted: str) -> int | None:
    if wanted in names:
        return names.index(wanted)
    return int(wanted) if wanted.isdecimal() and int(wanted) < len(names) else None
