"""Writes small segments in the form of the Waymo Open Dataset v2: a Parquet file per component."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH = 8, 60
CAMERAS = {1: (32, 48), 2: (32, 48), 3: (32, 48), 4: (22, 48), 5: (22, 48)}
"""Number of a camera to height and width of its pictures."""
START = 1_550_000_000_000_000
BEAMS = np.array([-0.3, -0.22, -0.15, -0.1, -0.06, -0.03, -0.01, 0.02])
"""Radians, from the lowest."""


@dataclass(kw_only=True)
class Segment:
    """What was written, by timestamp."""

    name: str
    times: list[int] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)
    ranges: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """(H, W, 4) of both returns."""
    labels: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """(H, W, 2) instance, class."""
    pixels: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """(H, W, 6)."""
    pixel_pose: dict[int, np.ndarray] = field(default_factory=dict)
    """(H, W, 6) roll, pitch, yaw, x, y, z."""
    world_from_vehicle: dict[int, np.ndarray] = field(default_factory=dict)
    vehicle_from_lidar: np.ndarray = field(default_factory=lambda: np.eye(4))
    pictures: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)


def rigid(yaw: float, x: float, y: float, z: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])


def write_segment(  # noqa: PLR0912  one branch per component
    folder: Path,
    name: str,
    *,
    frames: int = 3,
    labelled: tuple[int, ...] = (0, 2),
    seed: int = 0,
    with_beams: bool = True,
    with_pictures: bool = True,
    row_group: int = 4,
) -> Segment:
    """Write all components of a segment below the folder of a split."""
    rng = np.random.default_rng(seed)
    made = Segment(name=name, vehicle_from_lidar=rigid(0.4, 1.43, 0.1, 2.18))
    tables: dict[str, list[dict[str, object]]] = {}

    def add(component: str, time: int | None, row: dict[str, object], **keys: int) -> None:
        at = {} if time is None else {"key.frame_timestamp_micros": time}
        named = {f"key.{key}": value for key, value in keys.items()}
        rows = tables.setdefault(component, [])
        rows.append({"key.segment_context_name": name, **at, **named, **row})

    def image(prefix: str, arrays: list[np.ndarray], kind: str) -> dict[str, object]:
        row: dict[str, object] = {}
        for n, array in enumerate(arrays, start=1):
            row[f"{prefix}.range_image_return{n}.values"] = array.astype(kind).ravel().tolist()
            row[f"{prefix}.range_image_return{n}.shape"] = list(array.shape)
        return row

    for n in range(frames):
        time = START + 100_000 * n + seed
        made.times.append(time)
        world = rigid(0.02 * n, 1000 + 2.0 * n, 50 + 0.1 * n, 3.0)
        made.world_from_vehicle[time] = world
        ranges = []
        for back in range(2):
            distance = rng.uniform(4, 40, (HEIGHT, WIDTH))
            nothing = rng.random((HEIGHT, WIDTH)) < (0.1, 0.8)[back]
            distance[nothing] = rng.choice([-1.0, 0.0], nothing.sum())
            rest = rng.uniform(0, 1, (HEIGHT, WIDTH, 3))
            ranges.append(np.concatenate([distance[..., None], rest], axis=2).astype(np.float32))
        made.ranges[time] = ranges
        share = np.linspace(-0.5, 0.5, WIDTH)
        pose = np.zeros((HEIGHT, WIDTH, 6), np.float32)
        pose[..., 0], pose[..., 1] = 0.01, -0.02
        pose[..., 2] = 0.02 * n + 0.01 * share
        pose[..., 3:] = world[:3, 3] + share[:, None] * (0.2, 0.05, 0.0)
        made.pixel_pose[time] = pose
        labels, pixels = [], []
        for _ in range(2):
            semantic = rng.integers(0, 23, (HEIGHT, WIDTH))
            instance = np.where(semantic == 1, rng.integers(1, 6, (HEIGHT, WIDTH)), 0)
            labels.append(np.stack([instance, semantic], axis=2).astype(np.int32))
            seen = np.zeros((HEIGHT, WIDTH, 6), np.int32)
            for first in (0, 3):
                camera = rng.integers(0, 6, (HEIGHT, WIDTH))
                if first:
                    camera = np.where(camera == seen[..., 0], 0, camera)
                heights = np.array([1, *(h for h, _ in CAMERAS.values())])[camera]
                seen[..., first] = camera
                seen[..., first + 1] = np.where(camera > 0, rng.integers(0, 48, camera.shape), 0)
                seen[..., first + 2] = np.where(
                    camera > 0, (rng.random(camera.shape) * heights).astype(int), 0
                )
            pixels.append(seen)
        made.labels[time], made.pixels[time] = labels, pixels
        for laser in (2, 1, 3):  # not in order
            arrays = ranges if laser == 1 else [np.zeros((2, 3, 4), np.float32)] * 2
            add("lidar", time, image("[LiDARComponent]", arrays, "f4"), laser_name=laser)
        add("lidar_pose", time, image("[LiDARPoseComponent]", [pose], "f4"), laser_name=1)
        world_row = {"[VehiclePoseComponent].world_from_vehicle.transform": world.ravel().tolist()}
        add("vehicle_pose", time, world_row)
        if n in labelled:
            made.labelled.append(time)
            row = image("[LiDARSegmentationLabelComponent]", labels, "i4")
            add("lidar_segmentation", time, row, laser_name=1)
        if not with_pictures:
            continue
        row = image("[LiDARCameraProjectionComponent]", pixels, "i4")
        add("lidar_camera_projection", time, row, laser_name=1)
        for camera, (height, width) in CAMERAS.items():
            flat = np.full((height, width, 3), 40 * camera + n, np.uint8)
            made.pictures[time, camera] = flat
            stream = io.BytesIO()
            Image.fromarray(flat).save(stream, "JPEG", quality=95)
            jpeg = {"[CameraImageComponent].image": stream.getvalue()}
            add("camera_image", time, jpeg, camera_name=camera)
    for laser in (1, 2, 3):
        prefix = "[LiDARCalibrationComponent]"
        row = {
            f"{prefix}.extrinsic.transform": made.vehicle_from_lidar.ravel().tolist(),
            f"{prefix}.beam_inclination.min": -0.3,
            f"{prefix}.beam_inclination.max": 0.02,
            f"{prefix}.beam_inclination.values": BEAMS.tolist() if with_beams else None,
        }
        add("lidar_calibration", None, row, laser_name=laser)
    if with_pictures:
        for camera, (height, width) in CAMERAS.items():
            prefix = "[CameraCalibrationComponent]"
            pose = rigid((0, 0.8, -0.8, 1.6, -1.6)[camera - 1], 1.5, 0.0, 2.1)
            row = {
                **{f"{prefix}.intrinsic.{key}": 40.0 for key in ("f_u", "f_v")},
                f"{prefix}.intrinsic.c_u": width / 2,
                f"{prefix}.intrinsic.c_v": height / 2,
                f"{prefix}.extrinsic.transform": pose.ravel().tolist(),
                f"{prefix}.width": width,
                f"{prefix}.height": height,
            }
            add("camera_calibration", None, row, camera_name=camera)
    for component, rows in tables.items():
        file = folder / component / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(_columns(rows)), file, row_group_size=row_group)
    return made


def _columns(rows: list[dict[str, object]]) -> dict[str, pa.Array]:
    kinds = {
        "key.laser_name": pa.int8(),
        "key.camera_name": pa.int8(),
        "key.frame_timestamp_micros": pa.int64(),
    }
    found = {}
    for name in rows[0]:
        kind = kinds.get(name)
        if name.endswith(".values") and "Calibration" not in name:
            whole = "Label" in name or "Projection" in name
            kind = pa.list_(pa.int32() if whole else pa.float32())
        elif name.endswith(".shape"):
            kind = pa.list_(pa.int32())
        elif name.endswith(".transform"):
            kind = pa.list_(pa.float64(), 16)
        elif name.endswith("inclination.values"):
            kind = pa.list_(pa.float64())
        found[name] = pa.array([row[name] for row in rows], kind)
    return found


def plain_points(made: Segment, time: int, beams: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
    """(R, 4) points one pixel at a time, and return, row and column of each."""
    points, places = [], []
    vehicle_from_world = np.linalg.inv(made.world_from_vehicle[time])
    extrinsic = made.vehicle_from_lidar
    yaw = np.arctan2(extrinsic[1, 0], extrinsic[0, 0])
    for back, image in enumerate(made.ranges[time]):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                distance = float(image[row, column, 0])
                if distance <= 0:
                    continue
                # The first row is the highest beam; columns go clockwise from behind.
                elevation = beams[HEIGHT - 1 - row]
                azimuth = np.pi - 2 * np.pi * (column + 0.5) / WIDTH - yaw
                x = distance * np.cos(elevation) * np.cos(azimuth)
                y = distance * np.cos(elevation) * np.sin(azimuth)
                z = distance * np.sin(elevation)
                vehicle = extrinsic @ (x, y, z, 1)
                roll, pitch, yaw_, *shift = made.pixel_pose[time][row, column].astype(float)
                cr, sr, cp, sp = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
                about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
                about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
                about_z = rigid(yaw_, 0, 0, 0)[:3, :3]
                world = about_z @ about_y @ about_x @ vehicle[:3] + shift
                point = vehicle_from_world @ (*world, 1)
                points.append((*point[:3], image[row, column, 1]))
                places.append((back, row, column))
    return np.array(points), places
