"""The synthetic sensors: rays, culling, the ground, and how LiDAR and camera agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pass2d.pipeline.stages.projection import project_points
from pass2d.synth.config import SynthConfig, preset
from pass2d.synth.culling import circle_windows, picture_windows
from pass2d.synth.frame import (
    camera_model,
    lidar_model,
    lidar_pose,
    render_frame,
    sequence_world,
)
from pass2d.synth.labels import Raw
from pass2d.synth.lidar import render_scan
from pass2d.synth.parts import Brush, Solids, pack, place
from pass2d.synth.sensors import (
    LidarModel,
    Windows,
    camera_grid,
    hdl64_elevations,
    kitti_camera,
    lidar_grid,
    rotation,
    world_from_camera,
)
from pass2d.synth.shadow import cast_shadow
from pass2d.synth.street import CentreLine, Side, Street
from pass2d.synth.surfaces import Surface
from pass2d.synth.trace import trace
from pass2d.synth.world import solids_at

SMALL = preset("small", scans=8)
PLACES = [("00", 0), ("01", 5), ("08", 7)]


def flat_street(*, kerb_m: float = 0.0) -> Street:
    """A straight street along x: 4 m of road, 2 m of strip, then raised sidewalk and yards."""
    side = Side(
        bounds=np.array([-1000.0, 1000.0]),
        kind=np.zeros(1, np.uint8),
        covers=np.array(
            [[Surface.ASPHALT, Surface.PARKING, Surface.SIDEWALK, Surface.GRASS]], np.uint8
        ),
        raised=np.array([[False, False, True, True]]),
        setback_m=np.zeros(1),
    )
    line = CentreLine(amplitude_m=(0.0, 0.0), wave_per_m=(0.01, 0.01), phase=(0.0, 0.0))
    return Street(
        line=line, lane_m=4.0, strip_m=2.0, sidewalk_m=2.0, kerb_m=kerb_m, left=side, right=side
    )


def quiet(elevations_deg, *, columns: int = 360) -> LidarModel:
    return LidarModel(
        elevation_rad=np.deg2rad(np.asarray(elevations_deg, np.float64)),
        columns=columns,
        range_noise_m=0.0,
    )


def pose_at(x: float, y: float, z: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = (x, y, z)
    return pose


def world_at(config: SynthConfig, sequence: str, frame_index: int):
    world, pose = sequence_world(config, sequence), lidar_pose(config, sequence, frame_index)
    solids = solids_at(
        world,
        time_s=frame_index * config.interval_s,
        center_xy=(pose[0, 3], pose[1, 3]),
        reach_m=150.0,
    )
    return world, pose, solids


NO_SOLIDS = pack([])
WALL = Brush(label=Raw.BUILDING, surface=Surface.WALL, color=(0.5, 0.5, 0.5))


# LiDAR


def test_hdl64_beams_go_down_from_2_to_minus_24_degrees() -> None:
    degrees = np.rad2deg(hdl64_elevations(64))
    assert degrees[0] == pytest.approx(2.0)
    assert degrees[-1] == pytest.approx(-24.33)
    assert (np.diff(degrees) < 0).all()
    assert len(hdl64_elevations(32)) == 32


def test_range_of_a_ground_beam_is_height_over_sine() -> None:
    model = quiet([-5, -10, -20])
    grid = lidar_grid(model, pose_at(0, 0, 1.73))
    windows = circle_windows(grid, NO_SOLIDS, yaw=0.0)
    hits = trace(grid, NO_SOLIDS, windows, flat_street())
    assert len(hits.ray) == 3 * 360
    expected = np.repeat(1.73 / np.sin(np.deg2rad([5, 10, 20])), 360)
    np.testing.assert_allclose(hits.distance, expected, rtol=1e-5)
    assert set(hits.label.tolist()) == {
        Raw.ROAD, Raw.LANE_MARKING, Raw.PARKING, Raw.SIDEWALK, Raw.TERRAIN
    }  # fmt: skip


def test_range_to_a_wall_and_order_of_the_scan() -> None:
    # A wall across the road, its face at x = 10; the sensor at 1.73 m looks level and 3 degrees up.
    wall = pack([WALL.box((10.5, 0, 2), (1, 200, 8))])
    model = quiet([3, 0])
    grid = lidar_grid(model, pose_at(0, 0, 1.73))
    hits = trace(grid, wall, circle_windows(grid, wall, yaw=0.0), flat_street())
    row, column = np.divmod(hits.ray, 360)
    azimuth = (column + 0.5) * 2 * np.pi / 360
    expected = 10 / np.cos(azimuth) / np.where(row == 0, np.cos(np.deg2rad(3)), 1)
    assert (hits.label == Raw.BUILDING).all()
    np.testing.assert_allclose(hits.distance, expected, rtol=1e-4)
    assert (np.diff(hits.ray) > 0).all()
    # Columns start at the front and turn to the left.
    assert column[0] == 0
    assert np.sin(azimuth[1]) > 0


def test_kerb_stops_rays_at_its_level_and_at_its_stone() -> None:
    street, height = flat_street(kerb_m=0.12), 1.73
    model = quiet(np.linspace(-30, -5, 600), columns=4)
    # Column 0 looks 45 degrees to the left: turn it straight left, across the kerb at y = 6.
    pose = pose_at(0, 0, height)
    pose[:3, :3] = rotation(roll=0, pitch=0, yaw=np.pi / 4)
    grid = lidar_grid(model, pose)
    hits = trace(grid, NO_SOLIDS, circle_windows(grid, NO_SOLIDS, yaw=np.pi / 4), street)
    left = hits.ray % 4 == 0
    y = hits.distance[left] * grid.direction.y.reshape(-1)[hits.ray[left]]
    z = height + hits.distance[left] * grid.direction.z.reshape(-1)[hits.ray[left]]
    on_stone = (z > 1e-3) & (z < 0.12 - 1e-3)
    assert (z[y < 5.99] < 1e-3).all()
    np.testing.assert_allclose(z[y > 6.01], 0.12, atol=1e-3)
    assert on_stone.sum() > 3
    assert np.abs(y[on_stone] - 6).max() < 0.01
    assert (hits.label[left][on_stone] == Raw.SIDEWALK).all()


def test_scan_points_lie_on_what_they_met() -> None:
    wall = pack(place([WALL.box((0.5, 0, 2), (1, 200, 8))], x=10, y=0, instance=7))
    scan = render_scan(
        quiet([0, -2]), pose_at(0, 0, 1.73), wall, flat_street(), rng=np.random.default_rng(1)
    )
    label, instance = scan.labels & 0xFFFF, scan.labels >> 16
    on_wall = label == Raw.BUILDING
    # A wall has a roughness of 1 cm: five deviations.
    assert np.abs(scan.points[on_wall, 0] - 10).max() < 0.05 * 10
    assert np.median(np.abs(scan.points[on_wall, 0] - 10)) < 0.02
    assert (instance[on_wall] == 7).all()
    assert 0 < len(scan.points) < 2 * 360


def test_points_beyond_50_m_are_unlabelled() -> None:
    scan = render_frame(SMALL, "00", 3).scan
    reach = np.hypot(scan.points[:, 0], scan.points[:, 1])
    assert (scan.labels[reach > 50.01] == 0).all()
    assert (scan.labels[reach < 50] & 0xFFFF > 0).all()


def test_remission_has_steps_of_a_hundredth_and_overlaps() -> None:
    scan = render_frame(SMALL, "01", 2).scan
    remission = scan.points[:, 3]
    assert remission.min() >= 0
    assert remission.max() <= 0.99
    np.testing.assert_allclose(remission * 100, np.round(remission * 100), atol=1e-4)
    label = scan.labels & 0xFFFF
    road, walk = remission[label == Raw.ROAD], remission[label == Raw.SIDEWALK]
    best = max(((road < cut).mean() + (walk >= cut).mean()) / 2 for cut in np.arange(0, 1, 0.01))
    assert 0.5 < best < 0.85


# culling


def everywhere(solids: Solids, shape: tuple[int, int]) -> Windows:
    zero, one = np.zeros(len(solids), np.intp), np.ones(len(solids), np.intp)
    return Windows(zero, one * shape[0], zero, one * shape[1], zero.astype(np.float64))


@pytest.mark.parametrize(("sequence", "frame_index"), PLACES)
def test_culling_changes_no_lidar_ray(sequence: str, frame_index: int) -> None:
    world, pose, solids = world_at(SMALL, sequence, frame_index)
    grid = lidar_grid(quiet(np.linspace(4, -28, 24), columns=150), pose)
    yaw = float(np.arctan2(pose[1, 0], pose[0, 0]))
    fast = trace(grid, solids, circle_windows(grid, solids, yaw=yaw), world.street)
    slow = trace(grid, solids, everywhere(solids, grid.shape), world.street)
    np.testing.assert_array_equal(fast.ray, slow.ray)
    np.testing.assert_allclose(fast.distance, slow.distance, rtol=1e-5)
    # Solids that touch, such as overlapping walls, may tie.
    assert (fast.label != slow.label).mean() < 0.001


@pytest.mark.parametrize(("sequence", "frame_index"), PLACES)
def test_culling_changes_no_pixel(sequence: str, frame_index: int) -> None:
    world, pose, solids = world_at(SMALL, sequence, frame_index)
    model = kitti_camera((40, 130))
    grid = camera_grid(model, pose)
    windows = picture_windows(grid, solids, model=model, world_from_lidar=pose)
    fast = trace(grid, solids, windows, world.street)
    slow = trace(grid, solids, everywhere(solids, grid.shape), world.street)
    np.testing.assert_array_equal(fast.ray, slow.ray)
    np.testing.assert_allclose(fast.distance, slow.distance, rtol=1e-5)
    assert (fast.label != slow.label).mean() < 0.001


def test_solid_around_the_sensor_is_met_on_all_sides() -> None:
    ring = pack([WALL.box((0, side * 3, 2), (30, 0.5, 8)) for side in (1, -1)])
    grid = lidar_grid(quiet([0]), pose_at(0, 0, 1.73))
    hits = trace(grid, ring, circle_windows(grid, ring, yaw=0.0), flat_street())
    column = (hits.ray % 360 + 0.5) * np.pi / 180
    # Only the gaps at both ends, 2.75 m beside 15 m, stay open.
    assert len(hits.ray) == np.sum(np.abs(np.tan((np.arange(360) + 0.5) * np.pi / 180)) > 2.75 / 15)
    np.testing.assert_allclose(hits.distance, 2.75 / np.abs(np.sin(column)), rtol=1e-4)


# camera


@pytest.mark.parametrize("image_hw", [(376, 1241), (96, 304), (31, 97)])
def test_rays_of_the_camera_project_back_to_their_pixels(image_hw: tuple[int, int]) -> None:
    model, pose = kitti_camera(image_hw), lidar_pose(SMALL, "00", 4)
    grid = camera_grid(model, pose)
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, image_hw[0], 200), rng.integers(0, image_hw[1], 200)
    reach = rng.uniform(3, 60, 200)
    world = np.column_stack(
        [o + reach * d[row, column] for o, d in zip(grid.origin, grid.direction, strict=True)]
    )
    lidar = np.linalg.inv(pose) @ np.column_stack([world, np.ones(200)]).T
    seen = project_points(
        lidar[:3].astype(np.float32),
        image_from_lidar=model.image_from_cam0 @ model.cam0_from_lidar,
        image_hw=image_hw,
    )
    assert seen.point_index.tolist() == list(range(200))
    np.testing.assert_array_equal(seen.pixel_rc, [row, column])


def test_colour_camera_stands_beside_camera_0() -> None:
    model = kitti_camera((376, 1241))
    assert model.image_from_cam0[0, 3] == pytest.approx(45.38225)
    away = np.linalg.inv(model.cam0_from_lidar)[:3, 3] - world_from_camera(model, np.eye(4))[:3, 3]
    # 45.38 / 718.856 = 6.3 cm, less 607.19 / 718.856 of the 3.8 mm in depth.
    assert away[1] == pytest.approx(-0.060, abs=0.002)


@pytest.mark.parametrize(("sequence", "frame_index"), PLACES)
def test_projected_labels_fall_on_the_things_of_the_picture(
    sequence: str, frame_index: int
) -> None:
    world, pose, solids = world_at(SMALL, sequence, frame_index)
    model = camera_model(SMALL)
    grid = camera_grid(model, pose)
    windows = picture_windows(grid, solids, model=model, world_from_lidar=pose)
    hits = trace(grid, solids, windows, world.street)
    shown = np.zeros(grid.shape, np.uint32)
    shown.reshape(-1)[hits.ray] = hits.label
    scan = render_frame(SMALL, sequence, frame_index).scan
    seen = project_points(
        np.ascontiguousarray(scan.points[:, :3].T),
        image_from_lidar=model.image_from_cam0 @ model.cam0_from_lidar,
        image_hw=model.image_hw,
    )
    label = scan.labels[seen.point_index] & 0xFFFF
    row, column = seen.pixel_rc[:, label > Raw.OUTLIER].astype(np.intp)
    label = label[label > Raw.OUTLIER]
    assert len(label) > 2000
    assert (shown[row, column] == label).mean() > 0.9
    # The sensors stand 0.3 m apart: at borders the next pixel may be the right one.
    padded = np.pad(shown, 1)
    around = [padded[row + i, column + k] == label for i in range(3) for k in range(3)]
    assert np.any(around, axis=0).mean() > 0.98


def test_a_near_wall_fills_the_picture_with_its_colour() -> None:
    wall = pack([replace(WALL, color=(0.9, 0.1, 0.1)).box((6, 0, 2), (1, 80, 30))])
    model = kitti_camera((24, 64))
    grid = camera_grid(model, pose_at(0, 0, 1.73))
    windows = picture_windows(grid, wall, model=model, world_from_lidar=pose_at(0, 0, 1.73))
    hits = trace(grid, wall, windows, flat_street())
    assert len(hits.ray) == 24 * 64
    assert np.median(hits.distance) == pytest.approx(5.5, abs=0.5)


# street and light


def test_street_coordinates_are_inverted() -> None:
    street = sequence_world(SMALL, "08").street
    rng = np.random.default_rng(2)
    s, t = rng.uniform(-80, 100, 300), rng.uniform(-30, 30, 300)
    x, y, _ = np.array([street.line.world_from_street(a, b) for a, b in zip(s, t, strict=True)]).T
    back_s, back_t = street.line.street_from_world(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(back_s, s, atol=0.05)
    np.testing.assert_allclose(back_t, t, atol=0.02)


def test_ground_cover_follows_the_plan() -> None:
    street = flat_street(kerb_m=0.1)
    t = np.array([1.0, 5.0, 7.0, 9.0, -1.0, -5.0, -7.0, -9.0], np.float32)
    surface, raised = street.cover(np.full(8, 5.0, np.float32), t)
    plan = [Surface.ASPHALT, Surface.PARKING, Surface.SIDEWALK, Surface.GRASS]
    assert surface.tolist() == plan * 2
    assert raised.tolist() == [False, False, True, True] * 2


def test_pole_throws_its_shadow_away_from_the_sun() -> None:
    # A pole of 4 m, 10 m ahead; the sun to the left at 45 degrees: 4 m of shadow to the right.
    pole = pack([WALL.cylinder((10, 0, 0), radius=0.4, height=4)])
    sun = (0.0, np.sqrt(0.5), np.sqrt(0.5))
    shadow = cast_shadow(pole, pose_at(0, 0, 1.73), sun=sun, cell_m=0.2)
    across = np.array([2, 1, -1, -2, -3, -5, -6], np.float32)
    shade = shadow.at(np.full(7, 10, np.float32), across)
    assert np.round(shade).tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert shadow.at(np.array([500.0], np.float32), np.zeros(1, np.float32)).tolist() == [0]


def test_beams_and_columns_are_free() -> None:
    config = preset("tiny", beams=5, columns=33, image_hw=(9, 14))
    frame = render_frame(config, "00", 0)
    assert 0 < len(frame.scan.points) <= 5 * 33
    assert frame.image.shape == (9, 14, 3)
    assert lidar_model(config).elevation_rad.shape == (5,)
