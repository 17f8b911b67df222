"""A LiDAR and six cameras on a vehicle, as nuScenes mounts them, in the synthetic street."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.stages.ego_motion import Pose
from pass2d.synth.camera import render_picture
from pass2d.synth.labels import MOVING, Raw
from pass2d.synth.lidar import render_scan
from pass2d.synth.motion import world_from_lidar
from pass2d.synth.nuscenes_config import NuscenesSynthConfig
from pass2d.synth.parts import Solids
from pass2d.synth.sensors import CameraModel, LidarModel
from pass2d.synth.world import World, build_world, solids_at

AROUND_M = 150.0
HALF_TURN = 0.5**0.5
LIDAR_MOUNT = Pose(rotation_wxyz=(HALF_TURN, 0, 0, -HALF_TURN), translation_m=(0.944, 0.0, 1.84))
"""ego_from_lidar: the lidar's x looks to the right, its y ahead."""
BEAMS_DEG = (10.67, -30.67)
"""Highest and lowest beam of an HDL-32E."""


class CameraMount(NamedTuple):
    """Where a camera sits and when it fires."""

    yaw_deg: float
    """From ahead to the left."""
    translation_m: tuple[float, float, float]
    """In the vehicle's frame: rear axle on the ground, x ahead, y left, z up."""
    focal_px: float
    """Of a picture 1600 pixels wide."""
    lag_s: float
    """After the lidar's time stamp."""


# About where a real vehicle has them; the lags are those of one real key frame.
CAMERAS: dict[str, CameraMount] = {
    "CAM_FRONT": CameraMount(0, (1.70, 0.02, 1.51), 1266, -0.0355),
    "CAM_FRONT_RIGHT": CameraMount(-55, (1.55, -0.49, 1.50), 1260, -0.0276),
    "CAM_BACK_RIGHT": CameraMount(-110, (1.01, -0.48, 1.56), 1260, -0.0201),
    "CAM_BACK": CameraMount(180, (0.03, 0.0, 1.57), 809, -0.0104),
    "CAM_BACK_LEFT": CameraMount(110, (1.03, 0.48, 1.59), 1257, -0.0005),
    "CAM_FRONT_LEFT": CameraMount(55, (1.52, 0.49, 1.51), 1273, -0.0431),
}
LABEL_NAMES: dict[Raw, str] = {
    Raw.UNLABELED: "noise",
    Raw.OUTLIER: "noise",
    Raw.CAR: "vehicle.car",
    Raw.BICYCLE: "vehicle.bicycle",
    Raw.BUS: "vehicle.bus.rigid",
    Raw.MOTORCYCLE: "vehicle.motorcycle",
    Raw.TRUCK: "vehicle.truck",
    Raw.OTHER_VEHICLE: "vehicle.construction",
    Raw.PERSON: "human.pedestrian.adult",
    Raw.BICYCLIST: "vehicle.bicycle",
    Raw.MOTORCYCLIST: "vehicle.motorcycle",
    Raw.ROAD: "flat.driveable_surface",
    Raw.PARKING: "flat.driveable_surface",
    Raw.SIDEWALK: "flat.sidewalk",
    Raw.OTHER_GROUND: "flat.other",
    Raw.BUILDING: "static.manmade",
    Raw.FENCE: "static.manmade",
    Raw.OTHER_STRUCTURE: "static.manmade",
    Raw.LANE_MARKING: "flat.driveable_surface",
    Raw.VEGETATION: "static.vegetation",
    Raw.TRUNK: "static.vegetation",
    Raw.TERRAIN: "flat.terrain",
    Raw.POLE: "static.manmade",
    Raw.TRAFFIC_SIGN: "static.manmade",
    Raw.OTHER_OBJECT: "movable_object.debris",
}
"""The name that nuScenes has for what the world is made of; a rider counts as the cycle."""


@dataclass(frozen=True, kw_only=True)
class Revolution:
    """One turn of the lidar."""

    points: NDArray[np.float32]
    """(N, 5) x, y, z in metres (lidar frame), intensity 0..255, ring (0 is the lowest beam);
    column by column, clockwise."""
    labels: NDArray[np.uint8]
    """(N,) raw ids."""


def lidar_model(config: NuscenesSynthConfig) -> LidarModel:
    """The LiDAR of a configuration."""
    elevation_rad = np.deg2rad(np.linspace(*BEAMS_DEG, config.beams))
    return LidarModel(
        elevation_rad=elevation_rad, columns=config.columns, mount_m=LIDAR_MOUNT.translation_m[2]
    )


def intrinsics(config: NuscenesSynthConfig, camera: str) -> NDArray[np.float64]:
    """(3, 3) of a camera; the principal point is the picture's middle."""
    height, width = config.image_hw
    focal = CAMERAS[camera].focal_px * width / 1600
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def camera_mount(camera: str) -> Pose:
    """ego_from_camera: x of the camera looks right, y down, z along its axis."""
    mount = CAMERAS[camera]
    half_rad = np.deg2rad(mount.yaw_deg) / 2
    c, s = float(np.cos(half_rad)) / 2, float(np.sin(half_rad)) / 2
    # The turn (1, -1, 1, -1) / 2 from camera axes to vehicle axes, then one about z.
    return Pose(rotation_wxyz=(c + s, -c - s, c - s, s - c), translation_m=mount.translation_m)


@lru_cache(maxsize=2)
def _world(seed: int, scene: int, length_m: float, speed_mps: float) -> World:
    return build_world(seed, scene, length_m=length_m, speed_mps=speed_mps)


def scene_world(config: NuscenesSynthConfig, scene: str) -> World:
    """The world of a scene; the last two are kept."""
    return _world(config.seed, int(scene[-4:]), config.length_m, config.speed_mps)


def world_from_ego(config: NuscenesSynthConfig, scene: str, time_s: float) -> NDArray[np.float64]:
    """(4, 4) where the vehicle is."""
    world = scene_world(config, scene)
    world_from_upright = world_from_lidar(  # of a lidar that looks ahead
        world.street,
        lidar_model(config),
        time_s=time_s,
        speed_mps=config.speed_mps,
        sway=world.sway,
    )
    ego_from_upright = np.eye(4)
    ego_from_upright[:3, 3] = LIDAR_MOUNT.translation_m
    pose: NDArray[np.float64] = world_from_upright @ np.linalg.inv(ego_from_upright)
    return pose


def render_revolution(
    config: NuscenesSynthConfig,
    scene: str,
    time_s: float,
    *,
    stream: int,
    label_ids: dict[str, int],
) -> Revolution:
    """Make one turn of the lidar.

    Args:
        config: the world and the sensors.
        scene: its name.
        time_s: since the first key frame.
        stream: number of the turn in the scene, for its noise.
        label_ids: raw id of each name.
    """
    world = scene_world(config, scene)
    upright = np.eye(4)
    upright[:3, 3] = LIDAR_MOUNT.translation_m
    pose = world_from_ego(config, scene, time_s) @ upright
    scan = render_scan(
        lidar_model(config),
        pose,
        _solids(world, pose, time_s),
        world.street,
        rng=np.random.default_rng([config.seed, int(scene[-4:]), 1 + stream, 0]),
    )
    x, y, z, remission = scan.points.T
    elevation = np.arctan2(z, np.hypot(x, y))
    beams = lidar_model(config).elevation_rad
    step = max(abs(beams[0] - beams[-1]) / max(1, len(beams) - 1), 1e-9)
    ring = np.rint((elevation - beams[-1]) / step)
    order = np.lexsort((ring, -np.arctan2(y, x)))
    # The lidar's x looks to the right, its y ahead.
    points = np.column_stack([-y, x, z, np.rint(remission * 255), ring])[order]
    return Revolution(
        points=points.astype(np.float32), labels=_label_lut(label_ids)[scan.labels & 0xFFFF][order]
    )


def render_camera(
    config: NuscenesSynthConfig, scene: str, camera: str, time_s: float, *, stream: int
) -> NDArray[np.uint8]:
    """Make the picture of one camera, (H, W, 3); ``time_s`` is its own time."""
    world = scene_world(config, scene)
    # The renderer wants a pose that looks ahead: that of the camera, turned to vehicle axes.
    axes = np.eye(4)
    axes[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    pose = world_from_ego(config, scene, time_s) @ camera_mount(camera).matrix() @ axes
    projection = np.column_stack([intrinsics(config, camera), np.zeros(3)])
    number = list(CAMERAS).index(camera)
    return render_picture(
        CameraModel(image_from_cam0=projection, cam0_from_lidar=axes, image_hw=config.image_hw),
        pose,
        _solids(world, pose, time_s),
        world.street,
        light=world.light,
        rng=np.random.default_rng([config.seed, int(scene[-4:]), 1 + stream, 1 + number]),
    )


def _solids(world: World, pose: NDArray[np.float64], time_s: float) -> Solids:
    center = (float(pose[0, 3]), float(pose[1, 3]))
    return solids_at(world, time_s=time_s, center_xy=center, reach_m=AROUND_M)


def _label_lut(label_ids: dict[str, int]) -> NDArray[np.uint8]:
    """(65536,) raw id of nuScenes for each of the world's."""
    lut = np.zeros(1 << 16, np.uint8)
    for raw, name in LABEL_NAMES.items():
        lut[raw] = label_ids[name]
        lut[MOVING.get(raw, raw)] = label_ids[name]
    return lut
