"""The stages tied together: real scans, the recorded frame, and scans with nothing in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import png, scan_points, write_sequence

from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import DataError, UnknownLabelError
from pass2d.pipeline.compose import camera_views, lidar_record, scan_counts, voxel_levels
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.source import ScanSource, SourceListing

# Of the raw ids in the README of the real scans: mapped by hand to training ids.
REAL_RAW_COUNTS = {
    "00/000000": "0 2184, 1 4, 10 4234, 40 34228, 44 3268, 48 26360, 50 18268, 51 370, 52 1471, "
    "60 1053, 70 27123, 71 1192, 72 2964, 80 532, 81 102, 99 1227, 255 88",
    "00/000001": "0 2170, 1 14, 10 4387, 40 33233, 44 3831, 48 26040, 50 19180, 51 386, 52 1447, "
    "60 868, 70 27116, 71 1242, 72 2765, 80 585, 81 100, 99 1168, 255 73",
    "08/000000": "0 4458, 1 5, 10 544, 11 20, 30 23, 40 20975, 44 84, 48 30092, 50 2126, 51 531, "
    "52 809, 70 24514, 71 3978, 72 30925, 80 413, 81 1112, 99 1652, 252 990, 254 138",
}
TRAINING_OF_RAW = {0: 0, 1: 0, 10: 1, 11: 2, 30: 6, 40: 9, 44: 10, 48: 11, 50: 13, 51: 14, 52: 0}
TRAINING_OF_RAW |= {60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0, 252: 1, 254: 6, 255: 8}
REAL_POINTS = {"00/000000": 124_668, "00/000001": 124_605, "08/000000": 123_389}
REAL_POINTS |= {"11/000000": 115_236}


def records(listing: SourceListing) -> list[tuple[ScanSource, ScanRecord]]:
    return [(scan, lidar_record(scan, listing.info)) for scan in listing.scans]


def test_real_scans_have_the_published_points_and_labels(real_semkitti: Path) -> None:
    listing = list_semkitti(real_semkitti)
    for scan, lidar in records(listing):
        assert lidar.n_raw == REAL_POINTS[scan.scan_id]
        assert lidar.n + lidar.outside_xyz.shape[1] == lidar.n_raw
        if scan.labels is None:
            assert (lidar.label, lidar.instance, lidar.outside_label) == (None, None, None)
            continue
        expected: Counter[int] = Counter()
        for entry in REAL_RAW_COUNTS[scan.scan_id].split(", "):
            raw, count = map(int, entry.split())
            expected[TRAINING_OF_RAW[raw]] += count
        both = np.concatenate([lidar.label, lidar.outside_label])
        assert Counter(both.tolist()) == expected


def test_real_scans_keep_the_published_share_of_points(real_semkitti: Path) -> None:
    shares = {s.scan_id: r.n / r.n_raw for s, r in records(list_semkitti(real_semkitti))}
    assert round(shares["00/000000"], 3) == 0.987
    assert round(shares["08/000000"], 3) == 0.969
    assert round(shares["11/000000"], 3) == 0.979


def test_real_instances_are_those_of_the_readme(real_semkitti: Path) -> None:
    listing = list_semkitti(real_semkitti, sequences=["00", "08"])
    found = [len(np.unique(lidar.instance[lidar.instance > 0])) for _, lidar in records(listing)]
    assert found == [14, 14, 11]


def test_raw_index_points_back_into_the_file(real_semkitti: Path) -> None:
    listing = list_semkitti(real_semkitti, sequences=["08"])
    ((scan, lidar),) = records(listing)
    raw = np.fromfile(scan.points, np.float32).reshape(-1, 4)
    assert (np.diff(lidar.raw_index) > 0).all()
    np.testing.assert_array_equal(lidar.xyz.T, raw[lidar.raw_index, :3])
    np.testing.assert_array_equal(lidar.signal, raw[lidar.raw_index, 3])
    outside = np.delete(raw, lidar.raw_index, axis=0)
    np.testing.assert_array_equal(lidar.outside_xyz.T, outside[:, :3])
    np.testing.assert_array_equal(lidar.outside_signal, outside[:, 3])


@pytest.mark.parametrize("name", ["pandaset_as_semantickitti", "kitti_object_as_odometry"])
def test_other_real_scans_pass_every_stage(shared: Path, name: str) -> None:
    listing = list_semkitti(shared / "real" / name)
    for scan, lidar in records(listing):
        (view,) = camera_views(scan, lidar, listing.info)
        assert 0.05 < len(view.point_index) / lidar.n < 0.3
        assert (view.pixel_rc.max(axis=1) < view.image.shape[:2]).all()
        counts = scan_counts(lidar, listing.info)
        assert counts.label_histogram.sum() == lidar.n
        assert counts.range_histogram.sum() == lidar.n_raw
        for level in voxel_levels(lidar, grid=listing.info.grid):
            assert len(np.unique(level.inverse)) == level.coord.shape[1]


def write_one(root: Path, points: np.ndarray, *, raw_label: int = 40) -> SourceListing:
    folder = write_sequence(root, "08", frames=(0,))
    (folder / "velodyne" / "000000.bin").write_bytes(points.astype("<f4").tobytes())
    labels = np.full(len(points), raw_label, "<u4")
    (folder / "labels" / "000000.label").write_bytes(labels.tobytes())
    return list_semkitti(root)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (np.zeros((0, 4)), "an empty file"),
        (np.full((6, 4), 80.0), "6 points, none of them in the volume"),
    ],
    ids=["no points", "none inside"],
)
def test_scans_of_which_nothing_would_be_left_are_refused(
    tmp_path: Path, points: np.ndarray, said: str
) -> None:
    listing = write_one(tmp_path, points)
    with pytest.raises(ProblemError, match=said):
        lidar_record(listing.scans[0], listing.info)


def test_a_scan_of_which_a_camera_sees_nothing_passes_every_stage(tmp_path: Path) -> None:
    listing = write_one(tmp_path, np.tile([[-10.0, 0, 0, 0.5]], (6, 1)))
    ((scan, lidar),) = records(listing)
    assert (lidar.n_raw, lidar.n) == (6, 6)
    (view,) = camera_views(scan, lidar, listing.info)
    assert view.pixel_rc.shape == (2, 0)
    assert view.image.shape == (80, 100, 3)
    levels = voxel_levels(lidar, grid=listing.info.grid)
    assert [lv.coord.shape for lv in levels] == [(3, 1)] * 5
    counts = scan_counts(lidar, listing.info)
    assert counts.label_histogram[9] == 6
    assert counts.range_histogram.sum() == 6


def test_points_at_the_origin_and_duplicates_pass_every_stage(tmp_path: Path) -> None:
    points = np.zeros((20, 4))
    points[10:] = [9e-6, 0, 0, 1]
    listing = write_one(tmp_path, points)
    ((scan, lidar),) = records(listing)
    (view,) = camera_views(scan, lidar, listing.info)
    assert view.point_index.tolist() == list(range(10, 20))  # x > 0 only
    assert voxel_levels(lidar, grid=listing.info.grid)[0].label.tolist() == [9]
    assert scan_counts(lidar, listing.info).range_histogram[0] == 20


def test_arrays_have_the_shapes_and_types_of_the_cache(tmp_path: Path) -> None:
    listing = write_one(tmp_path, scan_points(200))
    ((scan, lidar),) = records(listing)
    kept = {"xyz": "f4", "signal": "f4", "raw_index": "i4", "label": "u1", "instance": "u4"}
    for name, dtype in kept.items():
        array = getattr(lidar, name)
        assert (array.shape[-1], array.dtype) == (lidar.n, dtype), name
        assert array.flags.c_contiguous, name
    outside = {"outside_xyz": "f4", "outside_signal": "f4", "outside_label": "u1"}
    for name, dtype in outside.items():
        array = getattr(lidar, name)
        assert (array.shape[-1], array.dtype) == (lidar.n_raw - lidar.n, dtype), name
    (view,) = camera_views(scan, lidar, listing.info)
    assert (view.point_index.dtype, view.pixel_rc.dtype, view.image.dtype) == ("i4", "u2", "u1")


def test_no_picture_or_no_calibration_gives_no_view(tmp_path: Path) -> None:
    write_sequence(tmp_path, "00", images=False)
    (write_sequence(tmp_path, "08") / "calib.txt").unlink()
    listing = list_semkitti(tmp_path)
    for scan, lidar in records(listing):
        assert camera_views(scan, lidar, listing.info) == (None,)


def test_pictures_of_another_size_move_no_pixel(tmp_path: Path) -> None:
    small, large = write_sequence(tmp_path, "00"), write_sequence(tmp_path, "08")
    for file in (large / "image_2").iterdir():
        file.write_bytes(png(120, 160))
    listing = list_semkitti(tmp_path)
    views = [camera_views(scan, lidar, listing.info)[0] for scan, lidar in records(listing)]
    assert [view.image.shape[:2] for view in views] == [(80, 100)] * 3 + [(120, 160)] * 3
    assert small != large
    common = np.isin(views[3].point_index, views[0].point_index)
    np.testing.assert_array_equal(views[3].pixel_rc[:, common], views[0].pixel_rc)


def test_damaged_files_stop_their_scan_with_their_name(tmp_path: Path) -> None:
    listing = write_one(tmp_path, scan_points(9), raw_label=77)
    (scan,) = listing.scans
    with pytest.raises(UnknownLabelError, match=r"000000.label: found raw label 77 \(9 points\)"):
        lidar_record(scan, listing.info)
    scan.labels.write_bytes(bytes(8))
    with pytest.raises(DataError, match=r"found 2 labels, expected 9, one per point of .*\.bin"):
        lidar_record(scan, listing.info)
    scan.points.write_bytes(bytes(33))
    with pytest.raises(DataError, match="found 33 bytes"):
        lidar_record(scan, listing.info)
    scan.points.unlink()
    with pytest.raises(DataError, match="found no such file"):
        lidar_record(scan, listing.info)
