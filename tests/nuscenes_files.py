"""Writes small nuScenes folders for the tests: tables as the devkit has them, and their files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pass2d.pipeline.datasets.nuscenes import nuscenes_table

CHANNELS = ("LIDAR_TOP", *nuscenes_table().cameras)
TAKEN_HW = (90, 160)
HALF = 0.5**0.5
YAW_DEG = {
    "CAM_FRONT": 0,
    "CAM_FRONT_RIGHT": -55,
    "CAM_BACK_RIGHT": -110,
    "CAM_BACK": 180,
    "CAM_BACK_LEFT": 110,
    "CAM_FRONT_LEFT": 55,
}


def token(name: str) -> str:
    """32 hex digits that follow from a name."""
    return "".join(f"{zlib.crc32(f'{name}{i}'.encode()):08x}" for i in range(4))


def jpeg(seed: int, hw: tuple[int, int] = TAKEN_HW) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (hw[0] // 10, hw[1] // 10, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).resize((hw[1], hw[0])).save(buffer, "jpeg")
    return buffer.getvalue()


@dataclass
class NuscenesFolder:
    """A folder being written; ``tables`` may be changed before ``write``."""

    root: Path
    version: str = "v1.0-mini"
    scenes: tuple[str, ...] = ("scene-0061", "scene-0103")
    samples: int = 2
    sweeps: int = 0
    """Lidar files between two key frames."""
    n: int = 40
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    _last: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")
        self.tables = {name: [] for name in (*names, "category", "lidarseg")}
        ids = nuscenes_table().raw_names
        self.tables["category"] = [
            {"token": token(name), "name": name, "description": "", "index": raw}
            for raw, name in ids.items()
        ]
        for channel in CHANNELS:
            self._add_sensor(channel)
        for number, scene in enumerate(self.scenes):
            row = {"token": token(scene), "name": scene, "nbr_samples": self.samples}
            self.tables["scene"].append(row)
            for place in range(self.samples):
                self._add_sample(scene, place, start_us=1_000_000_000 * (number + 1))

    def write(self) -> Path:
        folder = self.root / self.version
        folder.mkdir(parents=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
        for name, data in self.files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(data)
        return self.root

    def drop(self, test: Callable[[str], bool]) -> None:
        """Leave out files."""
        self.files = {name: data for name, data in self.files.items() if not test(name)}

    def add_panoptic(self, scenes: tuple[str, ...] | None = None) -> None:
        """A panoptic file beside the labels: things of raw id 1 to 23 in three instances each."""
        wanted = {token(scene) for scene in scenes or self.scenes}
        samples = {r["token"] for r in self.tables["sample"] if r["scene_token"] in wanted}
        sample_of = {r["token"]: r["sample_token"] for r in self.tables["sample_data"]}
        rows = self.tables.setdefault("panoptic", [])
        for row in self.tables["lidarseg"]:
            if sample_of[row["token"]] in samples:
                raw = np.frombuffer(self.files[row["filename"]], np.uint8).astype(np.uint16)
                number = np.arange(len(raw), dtype=np.uint16) % 3 + 1
                buffer = BytesIO()
                np.savez_compressed(buffer, data=1000 * raw + number * ((raw > 0) & (raw < 24)))
                file = f"panoptic/{self.version}/{row['token']}_panoptic.npz"
                self.files[file] = buffer.getvalue()
                rows.append({**row, "filename": file})

    def _add_sensor(self, channel: str) -> None:
        kind = "lidar" if channel == "LIDAR_TOP" else "camera"
        self.tables["sensor"].append(
            {"token": token(channel), "channel": channel, "modality": kind}
        )
        half_rad = np.deg2rad(YAW_DEG.get(channel, 0)) / 2
        about_z = np.array([np.cos(half_rad), 0, 0, np.sin(half_rad)])
        ahead = np.array([0.5, -0.5, 0.5, -0.5])  # x to the right, y down, z ahead
        row = {
            "token": token(f"calib {channel}"),
            "sensor_token": token(channel),
            "translation": [0.9, 0.0, 1.8],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "camera_intrinsic": [],
        }
        if kind == "camera":
            row["rotation"] = quaternion_product(about_z, ahead).tolist()
            row["camera_intrinsic"] = [[80.0, 0, 80], [0, 80.0, 45], [0, 0, 1]]
        self.tables["calibrated_sensor"].append(row)

    def _add_sample(self, scene: str, place: int, *, start_us: int) -> None:
        name, time_us = f"{scene} {place}", start_us + 500_000 * place
        around = (place - 1, place + 1)
        links = [token(f"{scene} {p}") if 0 <= p < self.samples else "" for p in around]
        self.tables["sample"].append(
            {
                "token": token(name),
                "timestamp": time_us,
                "prev": links[0],
                "next": links[1],
                "scene_token": token(scene),
            }
        )
        for sweep in range(self.sweeps if place else 0):
            step = 500_000 * (sweep + 1) // (self.sweeps + 1)
            self._add_data(name, "LIDAR_TOP", time_us - 500_000 + step, is_key=False)
        for channel in CHANNELS:
            lag = 0 if channel == "LIDAR_TOP" else -7_000
            self._add_data(name, channel, time_us + lag, is_key=True)

    def _add_data(self, sample: str, channel: str, time_us: int, *, is_key: bool) -> None:
        name = f"{sample} {channel} {time_us}"
        is_lidar = channel == "LIDAR_TOP"
        folder = f"{'samples' if is_key else 'sweeps'}/{channel}"
        suffix = ".pcd.bin" if is_lidar else ".jpg"
        file = f"{folder}/n__{channel}__{time_us}{suffix}"
        scene = sample.split(maxsplit=1)[0]
        before = self._last.get((scene, channel), "")
        self._last[scene, channel] = token(name)
        row = {
            "token": token(name),
            "sample_token": token(sample),
            "ego_pose_token": token(name),
            "calibrated_sensor_token": token(f"calib {channel}"),
            "timestamp": time_us,
            "is_key_frame": is_key,
            "height": 0 if is_lidar else TAKEN_HW[0],
            "width": 0 if is_lidar else TAKEN_HW[1],
            "filename": file,
            "prev": before,
            "next": "",
        }
        self.tables["sample_data"].append(row)
        self.tables["ego_pose"].append(
            {
                "token": token(name),
                "timestamp": time_us,
                "rotation": [HALF, 0.0, 0.0, HALF],
                "translation": [400.0, 1100.0 + (time_us + 5 * 10**8) % 10**9 / 1e5, 0.0],
            }
        )
        seed = zlib.crc32(name.encode())
        self.files[file] = scan_bytes(self.n, seed) if is_lidar else jpeg(seed)
        if is_lidar and is_key:
            labels = f"lidarseg/{self.version}/{row['token']}_lidarseg.bin"
            rng = np.random.default_rng(seed)
            self.files[labels] = rng.integers(0, 32, self.n).astype(np.uint8).tobytes()
            self.tables["lidarseg"].append(
                {"token": row["token"], "sample_data_token": row["token"], "filename": labels}
            )


def quaternion_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product, real part first: turn by ``b``, then by ``a``."""
    (w, *u), (s, *v) = a, b
    return np.array([w * s - np.dot(u, v), *(w * np.array(v) + s * np.array(u) + np.cross(u, v))])


def scan_bytes(n: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    points = rng.uniform([-55, -55, -5], [55, 55, 4], (n, 3))
    signal, ring = rng.integers(0, 256, n), rng.integers(0, 32, n)
    return np.column_stack([points, signal, ring]).astype("<f4").tobytes()
