"""The thirteen tables of a synthetic nuScenes set, and the names of its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.datasets.nuscenes import nuscenes_table
from pass2d.pipeline.datasets.nuscenes_rows import LIDAR
from pass2d.pipeline.stages.ego_motion import Pose
from pass2d.synth.nuscenes_config import VERSION, NuscenesSynthConfig
from pass2d.synth.nuscenes_frame import (
    CAMERAS,
    LIDAR_MOUNT,
    camera_mount,
    intrinsics,
    world_from_ego,
)

MAP_FILE = "maps/synthetic.png"
_START_US = 1_600_000_000_000_000
_SCENE_US = 10_000_000_000
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One file of one sensor."""

    scene: str
    sample: int
    """Number of the key frame that it belongs to."""
    channel: str
    is_key: bool
    time_s: float
    """Since the first key frame, in whole microseconds."""
    stream: int
    """Number of the lidar's turn in the scene (pictures: of their key frame's)."""
    time_us: int
    """Time stamp."""

    @property
    def name(self) -> str:
        """Unique in the set."""
        return f"{self.scene}__{self.channel}__{self.time_us}"

    @property
    def token(self) -> str:
        """Of its rows in sample_data and ego_pose."""
        return token_of(self.name)

    @property
    def file(self) -> str:
        """Below the root."""
        suffix = ".pcd.bin" if self.channel == LIDAR else ".jpg"
        return f"{'samples' if self.is_key else 'sweeps'}/{self.channel}/{self.name}{suffix}"

    @property
    def label_file(self) -> str | None:
        """Below the root; key frames of the lidar have one."""
        is_labelled = self.is_key and self.channel == LIDAR
        return f"lidarseg/{VERSION}/{self.token}_lidarseg.bin" if is_labelled else None


def token_of(name: str) -> str:
    """32 hex digits that follow from a name."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def label_ids() -> dict[str, int]:
    """Raw id of each label name, as category.json gives it."""
    return {name: raw for raw, name in nuscenes_table().raw_names.items()}


def sample_shots(config: NuscenesSynthConfig, scene: str, sample: int) -> list[Shot]:
    """All files of one key frame, the sweeps before it first."""
    start_us = _START_US + config.scenes.index(scene) * _SCENE_US

    def shot(channel: str, time_s: float, *, is_key: bool, stream: int) -> Shot:
        elapsed_us = round(time_s * 1e6)
        return Shot(
            scene=scene,
            sample=sample,
            channel=channel,
            is_key=is_key,
            time_s=elapsed_us * 1e-6,
            stream=stream,
            time_us=start_us + elapsed_us,
        )

    per_sample = config.sweeps + 1
    turn = sample * per_sample
    time_s = sample * config.interval_s
    before = range(config.sweeps, 0, -1) if sample else ()
    step_s = config.interval_s / per_sample
    return [
        *(shot(LIDAR, time_s - n * step_s, is_key=False, stream=turn - n) for n in before),
        shot(LIDAR, time_s, is_key=True, stream=turn),
        *(
            shot(camera, time_s + mount.lag_s, is_key=True, stream=turn)
            for camera, mount in CAMERAS.items()
        ),
    ]


def all_tables(config: NuscenesSynthConfig) -> dict[str, Rows]:
    """Rows of every table by its name, as the devkit of nuScenes reads them."""
    shots = [
        shot
        for scene in config.scenes
        for sample in range(config.scans)
        for shot in sample_shots(config, scene, sample)
    ]
    labelled = [shot for shot in shots if shot.label_file]
    return {
        "attribute": [],
        "calibrated_sensor": _calibrated_sensors(config),
        "category": [
            {"token": token_of(name), "name": name, "description": "", "index": raw}
            for name, raw in label_ids().items()
        ],
        "ego_pose": [_ego_pose(config, shot) for shot in shots],
        "instance": [],
        "lidarseg": [
            {"token": s.token, "sample_data_token": s.token, "filename": s.label_file}
            for s in labelled
        ],
        "log": [
            {
                "token": token_of("log"),
                "logfile": "synthetic",
                "vehicle": "synthetic",
                "date_captured": "2020-09-13",
                "location": "synthetic",
            }
        ],
        "map": [
            {
                "token": token_of("map"),
                "log_tokens": [token_of("log")],
                "category": "semantic_prior",
                "filename": MAP_FILE,
            }
        ],
        "sample": [row for scene in config.scenes for row in _samples(config, scene)],
        "sample_annotation": [],
        "sample_data": _sample_data(config, shots),
        "scene": [_scene(config, scene) for scene in config.scenes],
        "sensor": [
            {"token": token_of(channel), "channel": channel, "modality": _modality(channel)}
            for channel in (LIDAR, *CAMERAS)
        ],
        "visibility": [
            {"token": str(level), "level": name, "description": ""}
            for level, name in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), 1)
        ],
    }


def _modality(channel: str) -> str:
    return "lidar" if channel == LIDAR else "camera"


def _calibrated_sensors(config: NuscenesSynthConfig) -> Rows:
    mounts: dict[str, Pose] = {LIDAR: LIDAR_MOUNT, **{name: camera_mount(name) for name in CAMERAS}}
    return [
        {
            "token": token_of(f"calibrated {channel}"),
            "sensor_token": token_of(channel),
            "translation": list(mount.translation_m),
            "rotation": list(mount.rotation_wxyz),
            "camera_intrinsic": [] if channel == LIDAR else intrinsics(config, channel).tolist(),
        }
        for channel, mount in mounts.items()
    ]


def _samples(config: NuscenesSynthConfig, scene: str) -> Rows:
    keys = [
        next(s for s in sample_shots(config, scene, sample) if s.is_key)
        for sample in range(config.scans)
    ]
    tokens = ["", *(token_of(f"sample {scene} {sample}") for sample in range(config.scans)), ""]
    return [
        {
            "token": tokens[place + 1],
            "timestamp": key.time_us,
            "prev": tokens[place],
            "next": tokens[place + 2],
            "scene_token": token_of(scene),
        }
        for place, key in enumerate(keys)
    ]


def _scene(config: NuscenesSynthConfig, scene: str) -> dict[str, Any]:
    return {
        "token": token_of(scene),
        "log_token": token_of("log"),
        "nbr_samples": config.scans,
        "first_sample_token": token_of(f"sample {scene} 0"),
        "last_sample_token": token_of(f"sample {scene} {config.scans - 1}"),
        "name": scene,
        "description": "synthetic street; the name is borrowed from the official lists",
    }


def _sample_data(config: NuscenesSynthConfig, shots: list[Shot]) -> Rows:
    """One row per file; files of one sensor in one scene form a chain."""
    chains: dict[tuple[str, str], list[str]] = {}
    for shot in shots:
        chains.setdefault((shot.scene, shot.channel), []).append(shot.token)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for chain in chains.values():
        before.update(zip(chain, ["", *chain], strict=False))
        after.update(zip(chain, [*chain[1:], ""], strict=True))
    height, width = config.image_hw
    return [
        {
            "token": shot.token,
            "sample_token": token_of(f"sample {shot.scene} {shot.sample}"),
            "ego_pose_token": shot.token,
            "calibrated_sensor_token": token_of(f"calibrated {shot.channel}"),
            "timestamp": shot.time_us,
            "fileformat": "pcd" if shot.channel == LIDAR else "jpg",
            "is_key_frame": shot.is_key,
            "height": 0 if shot.channel == LIDAR else height,
            "width": 0 if shot.channel == LIDAR else width,
            "filename": shot.file,
            "prev": before[shot.token],
            "next": after[shot.token],
        }
        for shot in shots
    ]


def _ego_pose(config: NuscenesSynthConfig, shot: Shot) -> dict[str, Any]:
    pose = world_from_ego(config, shot.scene, shot.time_s)
    return {
        "token": shot.token,
        "timestamp": shot.time_us,
        "rotation": quaternion_wxyz(pose[:3, :3]),
        "translation": pose[:3, 3].tolist(),
    }


def quaternion_wxyz(rotation: NDArray[np.float64]) -> list[float]:
    """The unit quaternion of a (3, 3) rotation, real part first and not negative."""
    # The eigenvector of this symmetric matrix for its largest eigenvalue; no case distinctions.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, xz + zx],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, xz + zx, zy + yz, zz - xx - yy],
        ]
    )
    q = np.linalg.eigh(matrix)[1][:, -1]
    numbers: list[float] = (q if q[0] >= 0 else -q).tolist()
    return numbers
