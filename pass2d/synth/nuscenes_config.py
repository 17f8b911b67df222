"""Settings of the synthetic world in the layout of nuScenes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pass2d.common.errors import ConfigError
from pass2d.pipeline.datasets.nuscenes import nuscenes_table
from pass2d.synth.config import check_above_zero, check_whole
from pass2d.synth.write import WORLD_VERSION

VERSION = "v1.0-mini"
"""Scenes borrow their names from this version's lists, so that they have a split."""
LAYOUT_VERSION = 1
"""Raise when the same settings give other files of this layout."""


@dataclass(frozen=True, kw_only=True)
class NuscenesSynthConfig:
    """What `generate_nuscenes` makes; two equal ones give the same bytes, whatever ``workers``."""

    seed: int = 0
    """Every street, object and noise value follows from it."""
    scenes: tuple[str, ...] = ("scene-0061", "scene-0553", "scene-0655", "scene-0103")
    """Names of the mini splits; scene-0103 and scene-0916 are for validation."""
    scans: int = 40
    """Key frames per scene."""
    sweeps: int = 3
    """Lidar files between two key frames; the real ones have 9."""
    beams: int = 32
    """Rows of the LiDAR, spread over the elevations of an HDL-32E."""
    columns: int = 1084
    """Shots of one beam per revolution."""
    image_hw: tuple[int, int] = (900, 1600)
    """Height and width of each of the six pictures in pixels."""
    interval_s: float = 0.5
    """Time between two key frames in seconds."""
    speed_mps: float = 8.0
    """Speed of the car that carries the sensors, in metres per second."""
    workers: int = 0
    """Processes; 0 works inside the calling process."""

    def __post_init__(self) -> None:
        splits = nuscenes_table().splits
        known = (*splits["mini_train"], *splits["mini_val"])
        if not self.scenes or len(set(self.scenes)) != len(self.scenes):
            raise ConfigError("scenes must name at least one scene, each of them once")
        if unknown := [scene for scene in self.scenes if scene not in known]:
            raise ConfigError(f"scene {unknown[0]!r} is not in {VERSION}: {', '.join(known)}")
        check_whole("seed", self.seed, 0, 2**63 - 1)
        check_whole("scans", self.scans, 1, 1000)
        check_whole("sweeps", self.sweeps, 0, 9)
        check_whole("beams", self.beams, 1, 512)
        check_whole("columns", self.columns, 8, 16384)
        check_whole("image height", self.image_hw[0], 8, 8192)
        check_whole("image width", self.image_hw[1], 8, 8192)
        check_whole("workers", self.workers, 0, 1024)
        check_above_zero("interval_s", self.interval_s, 60.0)
        check_above_zero("speed_mps", self.speed_mps, 60.0)

    @property
    def length_m(self) -> float:
        """Way that the sensors travel in one scene, in metres."""
        return self.scans * self.interval_s * self.speed_mps

    def settings(self) -> dict[str, object]:
        """All that decides the bytes, for the folder's marker file."""
        settings = json.loads(json.dumps(asdict(self)))
        del settings["workers"]
        versions = {"world_version": WORLD_VERSION, "layout_version": LAYOUT_VERSION}
        return {"layout": "nuscenes", **versions, **settings}


NUSCENES_PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {"columns": 360, "image_hw": (225, 400), "scans": 10},
    "tiny": {
        "beams": 16,
        "columns": 96,
        "image_hw": (45, 80),
        "scans": 2,
        "sweeps": 1,
        "scenes": ("scene-0061", "scene-0103"),
    },
}
"""Named sizes: "full" is like nuScenes, "small" trains a small network, "tiny" tests."""


def nuscenes_preset(name: str, **changes: Any) -> NuscenesSynthConfig:
    """Make the configuration of a named size.

    Raises:
        ConfigError: an unknown name, or a value that cannot work.
    """
    if name not in NUSCENES_PRESETS:
        names = ", ".join(NUSCENES_PRESETS)
        raise ConfigError(f"nuScenes layout: no preset {name!r}; choose one of {names}")
    return NuscenesSynthConfig(**{**NUSCENES_PRESETS[name], **changes})
