"""What nuscenes-devkit reads from a folder, as JSON: run with a Python that has the devkit.

python nuscenes_devkit_report.py ROOT VERSION SWEEPS
"""

from __future__ import annotations

import json
import sys

import numpy as np
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import transform_matrix, view_points
from pyquaternion import Quaternion


def matrix(row: dict, *, inverse: bool = False) -> np.ndarray:
    return transform_matrix(row["translation"], Quaternion(row["rotation"]), inverse=inverse)


def sample_report(nusc: NuScenes, sample: dict, n_sweeps: int) -> dict:
    lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(lidar["token"]))
    world = matrix(nusc.get("ego_pose", lidar["ego_pose_token"])) @ matrix(
        nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    )
    pixels = {}
    for channel, token in sample["data"].items():
        data = nusc.get("sample_data", token)
        if (
            nusc.get(
                "sensor",
                nusc.get("calibrated_sensor", data["calibrated_sensor_token"])["sensor_token"],
            )["modality"]
            != "camera"
        ):
            continue
        calibration = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
        ego = nusc.get("ego_pose", data["ego_pose_token"])
        camera = matrix(calibration, inverse=True) @ matrix(ego, inverse=True) @ world
        xyz = (camera @ np.vstack([cloud.points[:3], np.ones(cloud.nbr_points())]))[:3]
        uv = view_points(xyz, np.array(calibration["camera_intrinsic"]), normalize=True)
        seen = (
            (xyz[2] > 0)
            & (uv[0] > 0)
            & (uv[0] < data["width"])
            & (uv[1] > 0)
            & (uv[1] < data["height"])
        )
        pixels[channel] = [np.flatnonzero(seen).tolist(), uv[:2, seen].tolist()]
    labels = None
    if "lidarseg" in nusc.table_names:
        row = nusc.get("lidarseg", lidar["token"])
        raw = np.fromfile(f"{nusc.dataroot}/{row['filename']}", np.uint8)
        labels = [nusc.lidarseg_idx2name_mapping[int(value)] for value in raw]
    joined, times = LidarPointCloud.from_file_multisweep(
        nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=n_sweeps + 1
    )
    return {
        "token": lidar["token"],
        "scene": nusc.get("scene", sample["scene_token"])["name"],
        "points": nusc.get_sample_data_path(lidar["token"]),
        "n": cloud.nbr_points(),
        "labels": labels,
        "pixels": pixels,
        "sweep_points": joined.points[:, times[0] > 0].tolist(),
        "sweep_times": times[0][times[0] > 0].tolist(),
    }


if __name__ == "__main__":
    root, version, sweeps = sys.argv[1:]
    nusc = NuScenes(version=version, dataroot=root, verbose=False)
    reports = [sample_report(nusc, sample, int(sweeps)) for sample in nusc.sample]
    sys.stdout.write(json.dumps(reports))
