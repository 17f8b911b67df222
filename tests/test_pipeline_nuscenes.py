"""nuScenes: the table, the way from lidar to camera, and the pixels of a resized picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pass2d.common.errors import ShapeError
from pass2d.pipeline.datasets.table import load_table
from pass2d.pipeline.stages.ego_motion import Pose, image_from_lidar_through_world
from pass2d.pipeline.stages.projection import pixels_after_resize, project_points_by_depth

TABLE = load_table(Path(__file__).parents[1] / "pipeline" / "datasets" / "nuscenes.toml")
CAMERAS = ("FRONT", "FRONT_RIGHT", "FRONT_LEFT", "BACK", "BACK_LEFT", "BACK_RIGHT")
STILL = Pose(rotation_wxyz=(1, 0, 0, 0), translation_m=(0, 0, 0))


# the table


def test_table_equals_the_published_one(shared: Path) -> None:
    spec = json.loads((shared / "spec" / "datasets.json").read_text())["nuscenes_lidarseg"]
    labels = TABLE.info.labels
    assert labels.raw_to_training == {int(k): v for k, v in spec["learning_map"].items()}
    assert TABLE.raw_names == {int(k): v for k, v in spec["raw_labels"].items()}
    assert list(labels.names) == [spec["labels_16"][str(i)] for i in range(17)]
    colors = [tuple(spec["coarse_color_rgb"][name]) for name in labels.names[1:]]
    assert list(labels.colors_rgb) == [(0, 0, 0), *colors]
    assert {k: list(v) for k, v in TABLE.splits.items()} == spec["scene_splits"]
    assert TABLE.info.grid.shape == (1000, 1000, 70)
    assert (TABLE.info.grid.low, TABLE.info.grid.high) == ((-50, -50, -4), (50, 50, 3))
    assert (TABLE.info.n_cameras, TABLE.info.raw_columns) == (6, 5)
    assert not TABLE.info.has_class_weights


# the way from lidar to camera


def test_a_quaternion_of_a_quarter_turn_about_z() -> None:
    half = np.sqrt(0.5)
    pose = Pose(rotation_wxyz=(half, 0, 0, half), translation_m=(1, 2, 3))
    np.testing.assert_allclose(pose.matrix() @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-15)
    longer = Pose(rotation_wxyz=(3, 0, 0, 3), translation_m=(1, 2, 3))
    np.testing.assert_allclose(longer.matrix(), pose.matrix(), atol=1e-15)


def test_a_vehicle_that_drove_on_sees_points_nearer() -> None:
    # The camera looks along x: its z is the vehicle's x, its x the vehicle's -y, its y -z.
    camera = Pose(rotation_wxyz=(0.5, -0.5, 0.5, -0.5), translation_m=(0, 0, 0))
    ahead = Pose(rotation_wxyz=(1, 0, 0, 0), translation_m=(5, 0, 0))
    intrinsics = np.array([[100, 0, 50], [0, 100, 40], [0, 0, 1.0]])
    matrices = [
        image_from_lidar_through_world(
            ego_from_lidar=STILL,
            world_from_ego_at_scan=STILL,
            world_from_ego_at_image=pose,
            ego_from_camera=camera,
            intrinsics=intrinsics,
        )
        for pose in (STILL, ahead)
    ]
    xyz = np.array([[10], [1], [-2]], np.float32)  # one metre left, two below
    pixels = [
        project_points_by_depth(xyz, image_from_lidar=matrix, image_hw=(100, 100)).pixel_rc
        for matrix in matrices
    ]
    assert pixels[0].T.tolist() == [[60, 40]]  # 40 + 100 * 2 / 10, 50 - 100 * 1 / 10
    assert pixels[1].T.tolist() == [[80, 30]]  # five metres on: 40 + 100 * 2 / 5, ...


def pose_of(row: dict[str, list[float]]) -> Pose:
    return Pose(rotation_wxyz=tuple(row["rotation"]), translation_m=tuple(row["translation"]))


@pytest.mark.parametrize(("camera", "median_px"), [("FRONT_LEFT", 38), ("FRONT", 14), ("BACK", 3)])
def test_ego_motion_moves_real_points_as_far_as_measured(
    shared: Path, camera: str, median_px: int
) -> None:
    root = shared / "real" / "nuscenes"
    tables = {
        name: {row["token"]: row for row in json.loads((root / "v1.0-mini" / name).read_text())}
        for name in ("sample_data.json", "ego_pose.json", "calibrated_sensor.json")
    }
    rows = list(tables["sample_data.json"].values())
    lidar = next(row for row in rows if "LIDAR_TOP" in row["filename"])
    picture = next(row for row in rows if f"/CAM_{camera}/" in row["filename"])
    calibration, ego = tables["calibrated_sensor.json"], tables["ego_pose.json"]
    sensor = calibration[picture["calibrated_sensor_token"]]
    xyz = np.fromfile(root / lidar["filename"], np.float32).reshape(-1, 5)[:, :3].T

    def pixels(ego_token: str) -> NDArray[np.float64]:
        matrix = image_from_lidar_through_world(
            ego_from_lidar=pose_of(calibration[lidar["calibrated_sensor_token"]]),
            world_from_ego_at_scan=pose_of(ego[lidar["ego_pose_token"]]),
            world_from_ego_at_image=pose_of(ego[ego_token]),
            ego_from_camera=pose_of(sensor),
            intrinsics=np.array(sensor["camera_intrinsic"]),
        )
        seen = project_points_by_depth(xyz, image_from_lidar=matrix, image_hw=(900, 1600))
        full = np.full((2, xyz.shape[1]), np.nan)
        full[:, seen.point_index] = seen.pixel_rc
        return full

    shift = pixels(picture["ego_pose_token"]) - pixels(lidar["ego_pose_token"])
    distance = np.hypot(*shift)
    assert abs(np.nanmedian(distance) - median_px) < 2.5


# pixels


def test_only_points_before_the_camera_are_seen() -> None:
    matrix = np.array([[100, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0.0]])
    xyz = np.array([[0, 0, 5], [0, 0, -5], [0, 0, 0], [0, 0.5, 5]], np.float32).T
    seen = project_points_by_depth(xyz, image_from_lidar=matrix, image_hw=(80, 100))
    assert seen.point_index.tolist() == [0, 3]
    assert seen.pixel_rc.T.tolist() == [[40, 50], [50, 50]]
    none = project_points_by_depth(xyz[:, :0], image_from_lidar=matrix, image_hw=(80, 100))
    assert none.pixel_rc.shape == (2, 0)
    with pytest.raises(ShapeError, match=r"\(3, N\)"):
        project_points_by_depth(xyz.T, image_from_lidar=matrix, image_hw=(80, 100))


def test_pixels_of_a_resized_picture_are_whole_numbers_below_its_size() -> None:
    columns = np.arange(1600)
    pixel_rc = np.stack([columns % 900, columns]).astype(np.uint16)
    stored = pixels_after_resize(pixel_rc, image_hw=(900, 1600), stored_hw=(240, 400))
    for (row, col), (stored_row, stored_col) in zip(pixel_rc.T, stored.T, strict=True):
        assert (stored_row, stored_col) == (int(row) * 240 // 900, int(col) // 4)
    assert stored.max(axis=1).tolist() == [239, 399]
