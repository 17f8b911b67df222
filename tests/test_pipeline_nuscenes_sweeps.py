"""nuScenes: past sweeps added to a scan, from the tables to the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nuscenes_files import NuscenesFolder
from pipeline_files import check_nuscenes

from pass2d.cache.care.verify import verify
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.pipeline.compose import camera_views, lidar_record, scan_counts, voxel_levels
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.prepare import PrepareConfig, plan, prepare
from pass2d.pipeline.repair.rebuild_shards import rebuild_and_compare
from pass2d.pipeline.stages.ego_motion import Pose, lidar_from_sweep_through_world
from pass2d.pipeline.stages.sweeps import add_sweep
from pass2d.pipeline.stages.voxels import majority_labels

INLINE = PrepareConfig(workers=0)


@pytest.fixture
def folder(tmp_path: Path) -> NuscenesFolder:
    """Scenes of three key frames with two sweeps between each pair."""
    return NuscenesFolder(tmp_path / "nus", samples=3, sweeps=2)


# which sweeps


def test_sweeps_lead_back_through_key_frames_to_the_start_of_the_scene(
    folder: NuscenesFolder,
) -> None:
    root = folder.write()
    listing = list_nuscenes(root, sweeps=5)
    assert listing.info.sweeps == 5
    first, second, third = listing.scans[:3]
    assert first.sweeps == ()
    assert len(second.sweeps) == 3
    assert len(third.sweeps) == 5
    np.testing.assert_allclose(
        [sweep.time_s for sweep in third.sweeps],
        [0.166667, 0.333334, 0.5, 0.666667, 0.833334],
        atol=1e-5,
    )
    kinds = [sweep.points.relative_to(root).parts[0] for sweep in third.sweeps]
    assert kinds == ["sweeps", "sweeps", "samples", "sweeps", "sweeps"]
    assert all(scan.sweeps == () for scan in list_nuscenes(root).scans)


def test_sweeps_that_are_not_there_are_passed_over_and_said(folder: NuscenesFolder) -> None:
    gone = min(name for name in folder.files if name.startswith("sweeps/"))
    del folder.files[gone]
    root = folder.write()
    listing = list_nuscenes(root, sweeps=2)
    assert [len(scan.sweeps) for scan in listing.scans[:3]] == [0, 1, 2]
    assert "past sweeps that are not there: 1 of 8 (scene-0061)" in listing.notes
    problems = check_nuscenes(root, sweeps=2, progress=Silent())
    assert [str(problem.file) for problem in problems] == [
        str(root / "v1.0-mini"),
        str(root / gone),
    ]


def test_a_damaged_sweep_is_found(folder: NuscenesFolder) -> None:
    bad = max(name for name in folder.files if name.startswith("sweeps/"))
    folder.files[bad] = folder.files[bad][:-1]
    root = folder.write()
    problems = check_nuscenes(root, sweeps=1, progress=Silent())
    assert [problem.file for problem in problems] == [root / "v1.0-mini", root / bad]
    assert len(check_nuscenes(root, progress=Silent())) == 1


@pytest.mark.parametrize("count", [-1, 11])
def test_a_wrong_number_is_refused(folder: NuscenesFolder, count: int) -> None:
    with pytest.raises(ConfigError, match="0 to 10 past sweeps"):
        list_nuscenes(folder.write(), sweeps=count)


# one sweep


def test_a_vehicle_that_drove_on_finds_old_points_behind() -> None:
    still = Pose(rotation_wxyz=(1, 0, 0, 0), translation_m=(0, 0, 0))
    matrix = lidar_from_sweep_through_world(
        ego_from_lidar=still,
        world_from_ego_at_scan=replace(still, translation_m=(5, 0, 0)),
        ego_from_lidar_at_sweep=still,
        world_from_ego_at_sweep=still,
    )
    points = np.array([[20, 1, -1, 7, 0]], np.float32)
    assert add_sweep(points, lidar_from_sweep=matrix).T.tolist() == [[15, 1, -1, 7]]


def test_close_returns_lie_in_a_square_about_the_sensor() -> None:
    xyz = [[0.9, 0.9, 5], [-0.9, 0.5, 0], [1, 0, 0], [0, -1, 0], [0.99, 1.01, 0]]
    points = np.column_stack([xyz, np.arange(5)]).astype(np.float32)
    assert add_sweep(points, lidar_from_sweep=np.eye(4)[:3])[3].tolist() == [2, 3, 4]


def test_only_points_with_a_vote_decide_a_voxel() -> None:
    label = np.array([0, 0, 5, 0, 3], np.uint8)
    inverse = np.array([0, 0, 0, 1, 2], np.int32)
    has_vote = np.array([False, False, True, False, True])
    assert majority_labels(label, inverse, n_voxels=3, has_vote=has_vote).tolist() == [5, 0, 3]
    assert majority_labels(label, inverse, n_voxels=3).tolist() == [0, 0, 3]


# one scan


def test_key_frame_points_come_first_and_keep_their_labels(folder: NuscenesFolder) -> None:
    root = folder.write()
    alone, joined = list_nuscenes(root), list_nuscenes(root, sweeps=4)
    own = lidar_record(alone.scans[2], alone.info)
    both = lidar_record(joined.scans[2], joined.info)
    assert own.time is None
    assert both.time is not None
    assert both.label is not None
    n = own.n
    for name in ("xyz", "signal", "label", "raw_index", "instance"):
        np.testing.assert_array_equal(getattr(both, name)[..., :n], getattr(own, name))
    assert not both.time[:n].any()
    assert (both.time[n:] > 0).all()
    assert not both.label[n:].any()
    expected = np.concatenate(
        [
            add_sweep(
                np.fromfile(sweep.points, np.float32).reshape(-1, 5),
                lidar_from_sweep=np.array(sweep.lidar_from_sweep).reshape(3, 4),
            )
            for sweep in joined.scans[2].sweeps
        ],
        axis=1,
    )
    assert both.n_raw == own.n_raw + expected.shape[1]
    rows = both.raw_index[n:] - own.n_raw
    np.testing.assert_array_equal(both.xyz[:, n:], expected[:3, rows])
    np.testing.assert_array_equal(both.signal[n:], expected[3, rows])


def test_pictures_votes_and_counts_know_the_key_frame_only(folder: NuscenesFolder) -> None:
    root = folder.write()
    alone, joined = list_nuscenes(root), list_nuscenes(root, sweeps=4)
    own = lidar_record(alone.scans[2], alone.info)
    both = lidar_record(joined.scans[2], joined.info)
    for one, other in zip(
        camera_views(alone.scans[2], own, alone.info),
        camera_views(joined.scans[2], both, joined.info),
        strict=True,
    ):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.point_index, other.point_index)
        np.testing.assert_array_equal(one.pixel_rc, other.pixel_rc)
    histogram = scan_counts(both, joined.info).label_histogram
    np.testing.assert_array_equal(histogram, scan_counts(own, alone.info).label_histogram)
    for plain, level in zip(
        voxel_levels(own, grid=alone.info.grid),
        voxel_levels(both, grid=joined.info.grid),
        strict=True,
    ):
        assert plain.label is not None
        assert level.label is not None
        of_point = level.label[level.inverse[: own.n]]
        np.testing.assert_array_equal(of_point, plain.label[plain.inverse])


# the cache


def test_sweeps_travel_through_the_cache(folder: NuscenesFolder, tmp_path: Path) -> None:
    root, place = folder.write(), tmp_path / "c" / "nuscenes"
    prepare(list_nuscenes(root), place, INLINE, Silent())
    with CacheReader.open(place) as reader:
        assert reader.read(0, Fields(outside=True)).time is None
    listing = list_nuscenes(root, sweeps=3)
    assert len(plan(listing, place, INLINE).tasks) == 8
    assert prepare(listing, place, INLINE, Silent()).failed == ()
    assert plan(listing, place, INLINE).tasks == ()
    with CacheReader.open(place) as reader:
        assert reader.info.sweeps == 3
        for position, scan in enumerate(listing.scans):
            expected = lidar_record(scan, listing.info)
            record = reader.read(position, Fields(outside=True))
            for name in ("time", "outside_time", "xyz", "label", "outside_label"):
                np.testing.assert_array_equal(getattr(record, name), getattr(expected, name))
    report = verify(place, Silent(), rebuild=rebuild_and_compare(place), rebuild_share=1.0)
    assert report.damages == ()
    assert report.rebuilt == 2 * 8  # those of the first run too
