"""The synthetic street in nuScenes layout: geometry, labels, tables, repeatability."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import check_nuscenes

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.compose import camera_views, lidar_record
from pass2d.pipeline.datasets.nuscenes import list_nuscenes, nuscenes_table
from pass2d.pipeline.stages.ego_motion import Pose
from pass2d.synth.config import preset
from pass2d.synth.culling import picture_windows
from pass2d.synth.generate import generate
from pass2d.synth.nuscenes_config import NuscenesSynthConfig, nuscenes_preset
from pass2d.synth.nuscenes_frame import (
    CAMERAS,
    LABEL_NAMES,
    camera_mount,
    intrinsics,
    lidar_model,
    render_revolution,
    scene_world,
    world_from_ego,
)
from pass2d.synth.nuscenes_generate import generate_nuscenes
from pass2d.synth.nuscenes_tables import label_ids, quaternion_wxyz, sample_shots
from pass2d.synth.sensors import CameraModel, camera_grid
from pass2d.synth.trace import trace
from pass2d.synth.world import solids_at

TINY = nuscenes_preset("tiny")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "nuscenes"
    generate_nuscenes(out, TINY, Silent())
    return out


# sensors


def test_cameras_look_where_their_yaw_says() -> None:
    for name, mount in CAMERAS.items():
        ego_from_camera = camera_mount(name).matrix()
        yaw_rad = np.deg2rad(mount.yaw_deg)
        ahead = [np.cos(yaw_rad), np.sin(yaw_rad), 0]
        np.testing.assert_allclose(ego_from_camera[:3, 2], ahead, atol=1e-12)
        np.testing.assert_allclose(ego_from_camera[:3, 1], [0, 0, -1], atol=1e-12)


def test_quaternions_are_those_of_their_rotation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = rng.normal(size=4)
        rotation = Pose(rotation_wxyz=tuple(q), translation_m=(0, 0, 0)).matrix()[:3, :3]
        found = quaternion_wxyz(rotation)
        np.testing.assert_allclose(found, np.copysign(1, q[0]) * q / np.linalg.norm(q), atol=1e-12)


def test_points_lie_on_their_ring_column_by_column_clockwise() -> None:
    config = nuscenes_preset("tiny", beams=32)
    turn = render_revolution(config, "scene-0061", 0.5, stream=4, label_ids=label_ids())
    x, y, z, intensity, ring = turn.points.T.astype(np.float64)
    elevation = np.arctan2(z, np.hypot(x, y))
    beams = np.sort(lidar_model(config).elevation_rad)
    np.testing.assert_allclose(elevation, beams[ring.astype(int)], atol=1e-4)
    assert np.rad2deg(beams[[0, -1]]).round(2).tolist() == [-30.67, 10.67]
    assert (intensity == intensity.round()).all()
    assert 0 <= intensity.min() < intensity.max() <= 255
    column = np.round(np.arctan2(x, y) / (2 * np.pi / config.columns) - 0.5)
    assert (np.diff(column) >= 0).mean() > 0.99
    assert set(turn.labels.tolist()) <= set(label_ids().values())
    # The road is what a ray straight down the vehicle's path meets: ahead is y.
    near = (np.abs(x) < 1) & (y > 4) & (y < 8) & (z < -1.5)
    road = label_ids()["flat.driveable_surface"]
    assert near.sum() > 0
    assert (turn.labels[near] == road).mean() > 0.9


def test_every_label_of_the_world_has_a_name_that_nuscenes_has() -> None:
    assert set(LABEL_NAMES.values()) <= set(nuscenes_table().raw_names.values())


# the whole way through the reader


def test_points_fall_on_what_they_hit(tmp_path: Path) -> None:
    """Rays through the pixels meet the same label as the points that the reader puts there."""
    config = nuscenes_preset(
        "tiny", scenes=("scene-0061",), scans=1, beams=32, columns=360, image_hw=(90, 160)
    )
    generate_nuscenes(tmp_path / "w", config, Silent())
    (scan,) = (listing := list_nuscenes(tmp_path / "w", stored_hw=None)).scans
    record = lidar_record(scan, listing.info)
    assert record.label is not None
    shots = {shot.channel: shot for shot in sample_shots(config, "scene-0061", 0)}
    street = scene_world(config, "scene-0061")
    raw_of = label_ids()
    for name, view in zip(
        nuscenes_table().cameras, camera_views(scan, record, listing.info), strict=True
    ):
        assert view is not None
        time_s = shots[name].time_s
        axes = np.eye(4)
        axes[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
        pose = world_from_ego(config, "scene-0061", time_s) @ camera_mount(name).matrix() @ axes
        model = CameraModel(
            image_from_cam0=np.column_stack([intrinsics(config, name), np.zeros(3)]),
            cam0_from_lidar=axes,
            image_hw=config.image_hw,
        )
        center = (float(pose[0, 3]), float(pose[1, 3]))
        solids = solids_at(street, time_s=time_s, center_xy=center, reach_m=150)
        grid = camera_grid(model, pose)
        windows = picture_windows(grid, solids, model=model, world_from_lidar=pose)
        hits = trace(grid, solids, windows, street.street)
        traced = np.zeros(90 * 160, np.uint8)
        lut = {
            int(raw): listing.info.labels.raw_to_training[raw_of[n]]
            for raw, n in LABEL_NAMES.items()
        }
        traced[hits.ray] = [lut.get(int(v), 0) for v in hits.label]
        row, column = view.pixel_rc.astype(int)
        own = record.label[view.point_index]
        known = (own > 0) & (traced[row * 160 + column] > 0)
        assert known.sum() > 100, name
        # Not all: camera and lidar look past things from different places; 3 degrees a pixel.
        agree = (own == traced[row * 160 + column])[known].mean()
        assert agree > 0.75, (name, agree)


def test_the_set_is_whole_and_has_every_kind_of_row(world: Path) -> None:
    problems = check_nuscenes(world, sweeps=2, progress=Silent())
    assert [(p.severity, p.file) for p in problems] == [("note", world / "v1.0-mini")]
    listing = list_nuscenes(world, sweeps=2)
    assert (listing.failed, listing.warned) == ((), ())
    assert [(s.sequence, s.split) for s in listing.scans] == [
        ("scene-0061", "train"),
        ("scene-0061", "train"),
        ("scene-0103", "val"),
        ("scene-0103", "val"),
    ]
    assert [len(scan.sweeps) for scan in listing.scans] == [0, 2, 0, 2]
    rows = json.loads((world / "v1.0-mini" / "sample_data.json").read_text())
    by_token = {row["token"]: row for row in rows}
    assert len(by_token) == len(rows) == 2 * (2 * 7 + 1)
    for row in rows:
        assert (world / row["filename"]).is_file()
        if row["next"]:
            assert by_token[row["next"]]["prev"] == row["token"]
            assert by_token[row["next"]]["timestamp"] > row["timestamp"]
    lidar = lidar_record(listing.scans[1], listing.info)
    assert lidar.time is not None
    assert (lidar.time > 0).mean() > 0.5


def test_the_same_settings_give_the_same_bytes_and_go_on(world: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    generate_nuscenes(again, TINY, Silent())
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert all((again / name).read_bytes() == (world / name).read_bytes() for name in files)
    lost = next(again.glob("samples/CAM_BACK/*"))
    kept = lost.read_bytes()
    lost.unlink()
    summary = generate_nuscenes(again, TINY, Silent())
    assert (summary.scans_written, summary.scans_kept) == (1, 3)
    assert lost.read_bytes() == kept


def test_other_settings_and_layouts_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="with seed = 0, asked for 1"):
        generate_nuscenes(world, nuscenes_preset("tiny", seed=1), Silent())
    with pytest.raises(DataError, match="holds a synthetic world"):
        generate(world, preset("tiny"), Silent())
    generate(tmp_path / "kitti", preset("tiny", scans=1, sequences=("00",)), Silent())
    with pytest.raises(DataError, match="layout = the default, asked for nuscenes"):
        generate_nuscenes(tmp_path / "kitti", TINY, Silent())


@pytest.mark.parametrize(
    "change",
    [{"scenes": ()}, {"scenes": ("scene-0001",)}, {"scans": 0}, {"sweeps": 10}, {"beams": 0}],
)
def test_wrong_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        NuscenesSynthConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="choose one of full, small, tiny"):
        nuscenes_preset("huge")
