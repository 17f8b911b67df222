"""Calibration and projection: recorded numbers, hand-made cases, the plain version."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import CALIB

from pass2d.common.errors import DataError, ShapeError
from pass2d.pipeline.stages.calibration import image_from_lidar_matrix
from pass2d.pipeline.stages.projection import project_points

IMAGE_FROM_LIDAR = image_from_lidar_matrix(CALIB, file=Path("calib.txt"))


def plain_projection(xyz, matrix, height, width):
    seen = []
    for i, (x, y, z) in enumerate(xyz.T.tolist()):
        u, v, w = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix.tolist())
        if x > 0 and w != 0 and 0 < u / w < width and 0 < v / w < height:
            seen.append((i, math.floor(v / w), math.floor(u / w)))
    return seen


def project(points: list[list[float]], hw: tuple[int, int] = (80, 100)):
    xyz = np.array(points, np.float32).reshape(-1, 3).T
    return project_points(xyz, image_from_lidar=IMAGE_FROM_LIDAR, image_hw=hw)


def test_point_one_metre_left_at_ten_metres_is_ten_pixels_left() -> None:
    seen = project([[10, 1, 0]])
    assert seen.pixel_rc.T.tolist() == [[40, 40]]  # col = 50 - 100 * 1 / 10
    assert (seen.pixel_rc.dtype, seen.point_index.dtype) == ("u2", "i4")


def test_rows_and_columns_are_floored() -> None:
    assert project([[10, 0.99, -0.19]]).pixel_rc.T.tolist() == [[41, 40]]  # u 40.1, v 41.9


def test_borders_of_the_picture_are_outside() -> None:
    # u = 50 - 100 y / x: y = 5 gives u = 0, y = -5 gives u = 100; likewise v with z = 4 and -4.
    assert len(project([[10, 5, 0], [10, -5, 0], [10, 0, 4], [10, 0, -4]]).point_index) == 0
    inside = project([[10, 4.9999, 0], [10, -4.9999, 0], [10, 0, 3.9999], [10, 0, -3.9999]])
    assert inside.pixel_rc.T.tolist() == [[40, 0], [40, 99], [0, 50], [79, 50]]


def test_points_behind_or_beside_the_lidar_are_left_out() -> None:
    assert project([[-10, 0, 0], [0, 0, 0], [5, 0, 0]]).point_index.tolist() == [2]


def test_x_decides_and_not_the_depth() -> None:
    # A camera half a metre ahead of the lidar: x = 0.2 is ahead of the lidar, behind the camera.
    matrix = IMAGE_FROM_LIDAR.copy()
    matrix[:, 3] = [-25, -20, -0.5]  # so that (u, v) = (50, 40) on the x axis at every depth
    xyz = np.array([[0.2, 0, 0], [0.5, 0, 0]], np.float32).T
    seen = project_points(xyz, image_from_lidar=matrix, image_hw=(80, 100))
    assert seen.point_index.tolist() == [0]  # and x = 0.5, depth 0, has no pixel


def test_points_at_the_sensor_and_no_points_work() -> None:
    assert project([[9e-6, 0, 0], [0, 0, 0]]).point_index.tolist() == [0]
    assert project([]).pixel_rc.shape == (2, 0)
    assert project([[-1, 0, 0]]).pixel_rc.shape == (2, 0)


@pytest.mark.parametrize("seed", range(10))
def test_fast_version_equals_the_plain_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = IMAGE_FROM_LIDAR + rng.normal(0, 0.05, (3, 4))
    xyz = rng.uniform(-20, 20, (3, 500)).astype(np.float32)
    seen = project_points(xyz, image_from_lidar=matrix, image_hw=(80, 100))
    expected = plain_projection(xyz, matrix, 80, 100)
    found = [
        (int(i), *rc) for i, rc in zip(seen.point_index, seen.pixel_rc.T.tolist(), strict=True)
    ]
    assert found == expected
    assert expected


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="xyz"):
        project_points(np.zeros((5, 3), np.float32), image_from_lidar=np.eye(3, 4), image_hw=(9, 9))
    with pytest.raises(ShapeError, match="65536"):
        project([[1, 0, 0]], hw=(10, 70_000))


def test_fourth_column_of_a_real_p2_counts(shared: Path) -> None:
    calib = shared / "real" / "kitti_object_as_odometry" / "sequences" / "00" / "calib.txt"
    matrix = image_from_lidar_matrix(calib.read_text(), file=calib)
    lines = [line.split(":") for line in calib.read_text().splitlines() if ":" in line]
    rows = {name: numbers.split() for name, numbers in lines}
    p2 = np.array(rows["P2"], float).reshape(3, 4)
    tr = np.array(rows["Tr"], float).reshape(3, 4)
    assert p2[0, 3] > 40
    np.testing.assert_allclose(matrix[:, :3], p2[:, :3] @ tr[:, :3], rtol=1e-12)
    np.testing.assert_allclose(matrix[:, 3], p2[:, :3] @ tr[:, 3] + p2[:, 3], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no P2 among no named lines"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 1 0\n", "no Tr among P2"),
        ("\x1b[31m:\n\ufffd: 1\nP0: 1\n", "found no P2 among P0, expected"),
        (CALIB.replace("Tr:", "Tr_velo_to_cam:"), "no Tr among P0, P2, Tr_velo_to_cam"),
        (CALIB.replace("P2: 100", "P2: "), "11 numbers for P2"),
        (CALIB.replace("P2: 100", "P2: 1oo"), "not a number"),
        (CALIB.replace("P2: 100", "P2: nan"), "not finite"),
        (CALIB + "P2: 1 0 0 0 0 1 0 0 0 0 1 0\n", "several lines"),
    ],
)
def test_a_damaged_calibration_is_named(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        image_from_lidar_matrix(text, file=Path("sequences/07/calib.txt"))
    assert "sequences/07/calib.txt" in str(caught.value)


def test_line_ends_and_spaces_do_not_matter() -> None:
    text = "\n" + CALIB.replace("\n", "\r\n").replace("P2:", " P2 :\t")
    found = image_from_lidar_matrix(text, file=Path("calib.txt"))
    np.testing.assert_array_equal(found, IMAGE_FROM_LIDAR)
