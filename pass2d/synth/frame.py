"""One scan and picture of a sequence, as arrays: a pure function of configuration and place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.camera import render_picture
from pass2d.synth.config import SynthConfig, Traffic
from pass2d.synth.lidar import LidarScan, render_scan
from pass2d.synth.motion import world_from_lidar
from pass2d.synth.sensors import CameraModel, LidarModel, hdl64_elevations, kitti_camera
from pass2d.synth.world import World, build_world, solids_at

AROUND_M = 150.0
"""How far the world is looked at: the camera's reach."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the sensors see at one instant."""

    scan: LidarScan
    image: NDArray[np.uint8]
    """(H, W, 3) red, green, blue."""


def lidar_model(config: SynthConfig) -> LidarModel:
    """The LiDAR of a configuration."""
    return LidarModel(elevation_rad=hdl64_elevations(config.beams), columns=config.columns)


def camera_model(config: SynthConfig) -> CameraModel:
    """The camera of a configuration."""
    return kitti_camera(config.image_hw)


@lru_cache(maxsize=2)
def _world(seed: int, sequence: int, length_m: float, speed_mps: float, traffic: Traffic) -> World:
    return build_world(seed, sequence, length_m=length_m, speed_mps=speed_mps, traffic=traffic)


def sequence_world(config: SynthConfig, sequence: str) -> World:
    """The world of a sequence; the last two are kept, because frames come sequence by sequence."""
    return _world(config.seed, int(sequence), config.length_m, config.speed_mps, config.traffic)


def lidar_pose(config: SynthConfig, sequence: str, frame_index: int) -> NDArray[np.float64]:
    """Pose of the LiDAR: (4, 4) world_from_lidar, metres."""
    return world_from_lidar(
        sequence_world(config, sequence).street,
        lidar_model(config),
        time_s=frame_index * config.interval_s,
        speed_mps=config.speed_mps,
        sway=sequence_world(config, sequence).sway,
    )


def render_frame(config: SynthConfig, sequence: str, frame_index: int) -> Frame:
    """Look at the world of a sequence from one place of the drive.

    Args:
        config: the world and the sensors.
        sequence: two digits.
        frame_index: place in the sequence, 0..

    Returns:
        Scan and picture; they depend on the arguments only.
    """
    world = sequence_world(config, sequence)
    pose = lidar_pose(config, sequence, frame_index)
    solids = solids_at(
        world,
        time_s=frame_index * config.interval_s,
        center_xy=(float(pose[0, 3]), float(pose[1, 3])),
        reach_m=AROUND_M,
    )
    # One stream per sensor: the picture's size must not change the scan.
    rng_scan, rng_image = (
        np.random.default_rng([config.seed, int(sequence), 1 + frame_index, sensor])
        for sensor in (0, 1)
    )
    scan = render_scan(lidar_model(config), pose, solids, world.street, rng=rng_scan)
    image = render_picture(
        camera_model(config), pose, solids, world.street, light=world.light, rng=rng_image
    )
    return Frame(scan=scan, image=image)
