"""Writes small sequences in the form of PandaSet as downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas_samples import write_table
from PIL import Image

CAMERAS = {  # where each looks, degrees to the left of ahead
    "front_camera": 0,
    "front_right_camera": -60,
    "right_camera": -120,
    "back_camera": 180,
    "left_camera": 120,
    "front_left_camera": 60,
}
HW = (90, 160)
INTRINSICS = {"fx": 100.0, "fy": 100.0, "cx": 80.0, "cy": 45.0}


def quaternion(matrix: NDArray[np.float64]) -> dict[str, float]:
    """Of a rotation that turns by less than half a turn or so."""
    w, x, y, z = _quaternion(matrix)
    return {"w": w, "x": x, "y": y, "z": z}


def _quaternion(m: NDArray[np.float64]) -> list[float]:
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], np.trace(m)],
        ]
    )
    values, vectors = np.linalg.eigh(k)  # of the lower triangle: Bar-Itzhack
    x, y, z, w = vectors[:, values.argmax()]
    return [float(w), float(x), float(y), float(z)]


def about_z(degrees: float) -> NDArray[np.float64]:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


def pose(rotation: NDArray[np.float64], position: NDArray[np.float64]) -> dict[str, Any]:
    names = dict(zip("xyz", position.tolist(), strict=True))
    return {"position": names, "heading": quaternion(rotation)}


def write_sequence(
    folder: Path,
    *,
    frames: int = 2,
    seed: int = 0,
    has_labels: bool = True,
    has_cameras: bool = True,
    layout: str = "0.25",
    suffix: str = ".pkl.gz",
    n: int = 600,
) -> dict[int, dict[str, NDArray[Any]]]:
    """Write a sequence.

    Returns:
        Per frame the points in the lidar's frame "xyz" (N, 3), "signal", sensor "d", "raw".
    """
    rng = np.random.default_rng(seed)
    made: dict[int, dict[str, NDArray[Any]]] = {}
    lidar_poses, camera_poses = [], {name: [] for name in CAMERAS}
    for frame in range(frames):
        # y is ahead: the vehicle drives along a heading of 30 degrees, 1,000 m from the origin.
        rotation = about_z(30 + 5 * frame)
        position = np.array([1000.0 + 3 * frame, -500.0, 12.0])
        xyz = np.column_stack([rng.uniform(-60, 60, (n, 2)), rng.uniform(-2, 4, n)])
        world = xyz @ rotation.T + position
        d = rng.integers(0, 2, n)
        raw = rng.integers(0, 43, n)
        signal = rng.integers(0, 256, n).astype(np.float64)
        made[frame] = {"xyz": xyz, "signal": signal, "d": d, "raw": raw}
        name = f"{frame:02d}{suffix}"
        columns = dict(zip("xyz", world.T.copy(), strict=True))
        more = {"i": signal, "t": np.linspace(1.5e9, 1.5e9 + 0.1, n), "d": d}
        write_table(folder / "lidar" / name, {**columns, **more}, layout)
        if has_labels:
            write_table(folder / "annotations" / "semseg" / name, {"class": raw}, layout)
        lidar_poses.append(pose(rotation, position))
        for camera, yaw in CAMERAS.items():
            # Of a camera: x right, y down, z ahead; in the lidar's frame z ahead is y.
            looking = about_z(yaw) @ np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
            at = rotation @ np.array([0.1, 0.2, -0.3]) + position
            camera_poses[camera].append(pose(rotation @ looking, at))
    write_json(folder / "lidar" / "poses.json", lidar_poses)
    write_json(folder / "lidar" / "timestamps.json", [1.5e9 + 0.1 * k for k in range(frames)])
    write_json(folder / "meta" / "timestamps.json", [1.5e9 + 0.1 * k for k in range(frames)])
    if has_labels:
        write_json(folder / "annotations" / "semseg" / "classes.json", {"13": "Car"})
    for camera in CAMERAS if has_cameras else ():
        place = folder / "camera" / camera
        write_json(place / "poses.json", camera_poses[camera])
        write_json(place / "intrinsics.json", INTRINSICS)
        for frame in range(frames):
            shade = rng.integers(0, 256, (*HW, 3)).astype(np.uint8)
            Image.fromarray(shade).save(place / f"{frame:02d}.jpg")
    return made


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
