"""Where points land in the pictures, and in which colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pass2d.cache.schema import LabelTable
from pass2d.common.errors import DataError, ShapeError
from pass2d.train.drawing.legend import BACKGROUND_RGB, IGNORED_RGB, label_colors
from pass2d.train.drawing.render import birds_eye, facing_ahead, on_picture, range_image, save_png
from pass2d.train.drawing.render_confusion import (
    CELL_PX,
    LEFT_PX,
    RIGHT_RGB,
    TOP_PX,
    confusion_picture,
)

CAR, SIGN = (100, 150, 245), (255, 0, 0)
TABLE = LabelTable(
    raw_to_training={0: 0, 10: 1, 81: 2},
    training_to_raw=(0, 10, 81),
    names=("unlabeled", "car", "traffic-sign"),
    colors_rgb=((0, 0, 0), CAR, SIGN),
)


def column_vectors(*points: tuple[float, float, float]) -> np.ndarray:
    return np.array(points, np.float32).reshape(-1, 3).T


def labels(*ids: int) -> np.ndarray:
    return np.array(ids, np.uint8)


def test_ahead_of_a_nuscenes_lidar_is_up() -> None:
    xyz = column_vectors((0, 40, 0), (-25, 0, 0))  # 40 m ahead, 25 m to the left
    picture = birds_eye(facing_ahead(xyz, "y"), labels(1, 2), TABLE, size_px=1000)
    plain = birds_eye(column_vectors((40, 0, 0), (0, 25, 0)), labels(1, 2), TABLE, size_px=1000)
    np.testing.assert_array_equal(picture, plain)
    assert facing_ahead(xyz, "x") is xyz


def test_ignored_points_are_grey_not_the_tables_black() -> None:
    assert label_colors(labels(0, 1), TABLE).tolist() == [list(IGNORED_RGB), list(CAR)]


def test_from_above_ahead_is_up_and_left_is_left() -> None:
    picture = birds_eye(column_vectors((40, 0, 0), (0, 25, 0)), labels(1, 2), TABLE, size_px=1000)
    assert picture.getpixel((500, 100)) == CAR  # 50 - 40 = 10 m below the top edge, 10 px per metre
    assert picture.getpixel((250, 500)) == SIGN


def test_from_above_the_higher_point_covers_the_lower() -> None:
    xyz = column_vectors((15, 5, 1.5), (15, 5, -1))
    assert birds_eye(xyz, labels(2, 1), TABLE).getpixel((450, 350)) == SIGN


def test_from_above_points_beyond_the_picture_and_nan_are_left_out() -> None:
    xyz = column_vectors((60, 0, 0), (np.nan, 0, 0), (5, 5, np.nan))
    shown = np.array(birds_eye(xyz, labels(1, 1, 1), TABLE))[:, :1000]
    assert not (shown == CAR).all(axis=2).any()


def test_range_image_shows_ahead_in_the_middle_and_left_on_the_left() -> None:
    xyz = column_vectors((10, 0, 0), (0, 10, -1), (10, -0.01, -2))
    picture = np.array(range_image(xyz, labels(1, 2, 1), TABLE))
    sign_columns = np.flatnonzero((picture[:320] == SIGN).all(axis=2).any(axis=0))
    assert sign_columns.min() == 512  # 90 degrees left: a quarter of 2048 columns from the middle
    car_columns = np.flatnonzero((picture[:320] == CAR).all(axis=2).any(axis=0))
    assert 1020 <= car_columns.min() <= car_columns.max() <= 1028


def test_range_image_shows_the_nearer_of_two_points_in_line() -> None:
    far, near = (40, 0, 4), (10, 0, 1)
    for points, ids in ((far, near), labels(1, 2)), ((near, far), labels(2, 1)):
        picture = np.array(range_image(column_vectors(*points), ids, TABLE))[:320]
        assert (picture == SIGN).all(axis=2).any()
        assert not (picture == CAR).all(axis=2).any()


def test_range_image_closes_small_gaps_between_beams_and_no_large_ones() -> None:
    elevation = np.deg2rad(np.linspace(0, -20, 32))  # every second row of 64
    xyz = np.stack([np.cos(elevation), np.zeros(32), np.sin(elevation)]).astype(np.float32) * 10
    closed = np.array(range_image(xyz, np.ones(32, np.uint8), TABLE))[:320, 1024]
    assert (closed == CAR).all()
    two = np.array(range_image(xyz[:, [0, 31]], np.ones(2, np.uint8), TABLE))[:320, 1024]
    assert (two == BACKGROUND_RGB).all(axis=1).mean() > 0.9


def test_points_are_drawn_at_their_pixels_near_over_far() -> None:
    image = np.full((32, 640, 3), 200, np.uint8)
    pixel_rc = np.array([[10, 10, 20], [300, 300, 5]], np.uint16)
    distance = np.array([3, 9, 5], np.float32)
    picture = on_picture(image, pixel_rc, labels(2, 1, 1), TABLE, distance_m=distance)
    assert picture.getpixel((300, 10)) == SIGN
    assert picture.getpixel((5, 20)) == CAR
    assert picture.getpixel((100, 25)) == (110, 110, 110)  # 200 dimmed to 55 %


def test_legend_names_only_classes_that_occur() -> None:
    one = birds_eye(column_vectors((1, 1, 0)), labels(1), TABLE)
    both = birds_eye(column_vectors((1, 1, 0), (2, 2, 0)), labels(1, 2), TABLE)
    assert not (np.array(one)[:, 1000:] == SIGN).all(axis=2).any()
    assert (np.array(both)[:, 1000:] == SIGN).all(axis=2).any()


def test_empty_scan_gives_empty_pictures() -> None:
    none, empty = labels(), np.zeros((3, 0), np.float32)
    assert birds_eye(empty, none, TABLE).size[0] > 1000
    assert range_image(empty, none, TABLE).size[0] == 2048
    pixels = np.zeros((2, 0), np.uint16)
    assert on_picture(np.zeros((16, 320, 3), np.uint8), pixels, none, TABLE).size[0] == 320


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"xyz must be \(3, N\)"):
        birds_eye(np.zeros((5, 3), np.float32), labels(1), TABLE)
    with pytest.raises(ShapeError, match="labels must be"):
        range_image(column_vectors((1, 1, 1)), labels(1, 1), TABLE)
    with pytest.raises(ShapeError, match="inside"):
        on_picture(np.zeros((8, 8, 3), np.uint8), np.array([[8], [0]]), labels(1), TABLE)


def test_real_scan_seen_from_above_shows_its_classes(real_semkitti: Path) -> None:
    points = np.fromfile(real_semkitti / "sequences/00/velodyne/000000.bin", "<f4").reshape(-1, 4)
    raw = np.fromfile(real_semkitti / "sequences/00/labels/000000.label", "<u4") & 0xFFFF
    car = (raw == 10).astype(np.uint8)
    picture = np.array(birds_eye(points[:, :3].T, car, TABLE))[:, :1000]
    row, column = np.nonzero((picture == CAR).all(axis=2))
    x, y = points[raw == 10, :2].T
    assert abs((50 - np.median(row) / 10) - np.median(x)) < 5
    assert abs((50 - np.median(column) / 10) - np.median(y)) < 5


def test_confusion_cell_is_green_when_all_points_are_right() -> None:
    counts = np.array([[5, 5, 5], [0, 9, 0], [0, 3, 1]])
    picture = confusion_picture(counts, TABLE.names, title="val")
    assert picture.getpixel((LEFT_PX + 2, TOP_PX + 2)) == RIGHT_RGB  # car as car, 100 %
    wrong = picture.getpixel((LEFT_PX + 2, TOP_PX + CELL_PX + 2))  # sign as car, 75 %
    assert isinstance(wrong, tuple)
    assert wrong[0] > wrong[1]


def test_confusion_of_another_size_than_the_names_is_refused() -> None:
    with pytest.raises(ShapeError, match="counts must be"):
        confusion_picture(np.zeros((2, 2), np.int64), TABLE.names)


def test_png_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "scan.png"
    save_png(birds_eye(column_vectors((1, 1, 0)), labels(1), TABLE), target)
    with Image.open(target) as picture:
        picture.load()
    assert [path.name for path in tmp_path.iterdir()] == ["scan.png"]
    with pytest.raises(DataError, match=r"gone/scan\.png: the picture could not be written"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "gone" / "scan.png")
