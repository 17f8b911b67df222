"""PandaSet's files: a scan's table of both lidars, its labels, and poses of its sensors.

Sources: scaleapi/pandaset-devkit (columns, numbers of sensors, poses as position and quaternion of
the sensor in the world, camera matrices).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.common.files import is_there
from pass2d.common.json import parse
from pass2d.common.text import shown
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.raw_file import read_file
from pass2d.pipeline.stages.read_described import table_columns

SENSOR_OF_LAYOUT: Mapping[str, int] = {"pandaset": 0, "pandaset_gt": 1}
"""Number in column d: the spinning Pandar64, the forward-facing PandarGT."""
SUFFIXES = (".pkl.gz", ".pkl")
POSES, INTRINSICS, TIMES = "poses.json", "intrinsics.json", "timestamps.json"
LIDAR = "lidar"
LABELS = "annotations/semseg"
_UNIT_ERROR = 0.01
"""Of a quaternion's length."""
_AGAIN = "Is it damaged? Download the sequence again."


def frame_of(file: Path) -> int | None:
    """The number that a file is named by; None for another name."""
    stem = file.name.partition(".")[0]
    return int(stem) if stem.isascii() and stem.isdecimal() else None


def sensor_points(file: Path, sensor: int) -> NDArray[np.float32]:
    """The points of one lidar, moved from the world into its frame.

    Args:
        file: ``lidar/NN.pkl.gz``, beside ``poses.json``.
        sensor: number in column d.

    Returns:
        (R, 4) x, y, z in metres, intensity 0..255, in the order of the table.

    Raises:
        ProblemError: a file cannot be read, lacks a column or the frame's pose.
        OSError: reading failed in a way that may pass.
    """
    columns = _columns(file, ("x", "y", "z", "i", "d"))
    rows = np.flatnonzero(columns["d"] == sensor)
    frame = frame_of(file)
    poses = read_poses(file.with_name(POSES))
    if frame is None or frame >= len(poses):
        raise ProblemError.of(
            file.with_name(POSES), f"{len(poses)} poses", f"one for {file.name}, too", _AGAIN
        )
    world = np.stack([columns[axis][rows].astype(np.float64) for axis in "xyz"])
    xyz = poses[frame, :, :3].T @ (world - poses[frame, :, 3:])
    signal = columns["i"][rows].astype(np.float64)
    return np.ascontiguousarray(np.vstack([xyz, signal]).T.astype(np.float32))


def sensor_labels(file: Path, sensor: int) -> NDArray[np.uint32]:
    """(R,) raw ids of one lidar's points.

    Args:
        file: ``annotations/semseg/NN.pkl.gz``; the lidars' table says which lidar each row is from.
        sensor: number in column d.

    Raises:
        ProblemError: a file cannot be read, the two differ in length, or an id is impossible.
        OSError: reading failed in a way that may pass.
    """
    ids = _columns(file, ("class",))["class"]
    points = lidar_file(file.parents[2], file.name.partition(".")[0])
    sensors = _columns(points or file.parents[2] / LIDAR / file.name, ("d",))["d"]
    if len(ids) != len(sensors):
        raise ProblemError.of(
            file,
            f"{len(ids):,} labels",
            f"{len(sensors):,}, one per row of {points}",
            "One of the two is damaged or of another scan: download both again.",
        )
    is_odd = (ids < 0) | (ids > 0xFFFF) | (ids != np.floor(ids))
    if is_odd.any():
        raise ProblemError.of(file, f"raw id {ids[is_odd][0]}", "whole numbers from 0 on", _AGAIN)
    return ids[sensors == sensor].astype(np.uint32)


def lidar_file(sequence: Path, frame: str) -> Path | None:
    """The table of a frame, packed or not; None where there is none."""
    files = (sequence / LIDAR / f"{frame}{suffix}" for suffix in SUFFIXES)
    return next(filter(is_there, files), None)


def read_poses(file: Path) -> NDArray[np.float64]:
    """Read poses.json.

    Returns:
        (F, 3, 4) world_from_sensor of each frame.

    Raises:
        ProblemError: missing, damaged, or a pose that is none.
    """
    found = _json(file)
    if not isinstance(found, list):
        raise ProblemError.of(file, type(found).__name__, "a list of poses", _AGAIN)
    return np.array([_pose(file, place, one) for place, one in enumerate(found)]).reshape(-1, 3, 4)


def read_intrinsics(file: Path) -> NDArray[np.float64]:
    """Read intrinsics.json.

    Returns:
        (3, 3).

    Raises:
        ProblemError: missing or damaged.
    """
    found = _json(file)
    fx, fy, cx, cy = _numbers(file, "intrinsics", found, ("fx", "fy", "cx", "cy"))
    if min(fx, fy) <= 0:
        raise ProblemError.of(file, f"focal lengths {fx:g} and {fy:g}", "numbers above 0", _AGAIN)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def read_times(file: Path) -> list[float]:
    """Read timestamps.json, in seconds.

    Raises:
        ProblemError: missing or damaged.
    """
    found = _json(file)
    if not isinstance(found, list) or not all(_is_number(one) for one in found):
        raise ProblemError.of(file, shown(found), "a list of times in seconds", _AGAIN)
    return [float(one) for one in found]


def _columns(file: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    found = table_columns(file)
    known = dict(zip(found.names, found.values, strict=True))
    for name in names:
        if name not in known:
            raise ProblemError.of(
                file, f"columns {shown(', '.join(found.names))}", f"a column {name!r}", _AGAIN
            )
    return {name: known[name] for name in names}


def _pose(file: Path, place: int, found: Any) -> NDArray[np.float64]:
    """(3, 4) world_from_sensor."""
    parts = found if isinstance(found, dict) else {}
    what = f"pose {place}"
    position = _numbers(file, what, parts.get("position"), ("x", "y", "z"))
    w, x, y, z = _numbers(file, what, parts.get("heading"), ("w", "x", "y", "z"))
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if abs(length - 1) > _UNIT_ERROR:
        raise ProblemError.of(
            file, f"{what}: a quaternion of length {length:.3g}", "a rotation, length 1", _AGAIN
        )
    w, x, y, z = (number / length for number in (w, x, y, z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), position[0]],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), position[1]],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), position[2]],
        ]
    )


def _numbers(file: Path, what: str, found: Any, names: tuple[str, ...]) -> list[float]:
    values: list[Any] = [found.get(name) for name in names] if isinstance(found, dict) else []
    if not values or not all(_is_number(value) for value in values):
        raise ProblemError.of(
            file, f"{what}: {shown(found)}", f"the finite numbers {', '.join(names)}", _AGAIN
        )
    return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e15


def _json(file: Path) -> Any:
    data = read_file(file)
    try:
        return parse(data)
    except ValueError as error:
        reason = " ".join(str(error).split())[:100]
        raise ProblemError.of(file, f"invalid JSON ({reason})", "a JSON file", _AGAIN) from error
