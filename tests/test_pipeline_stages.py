"""The smaller stages: read, volume, labels, images, counts."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline_files import png

from pass2d.cache.schema import GridConfig
from pass2d.cache.statistics import RANGE_EDGES_M
from pass2d.common.errors import DataError, ShapeError, UnknownLabelError
from pass2d.pipeline.datasets.semkitti import semkitti_table
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.counts import count_labels, count_ranges
from pass2d.pipeline.stages.images import decode_rgb
from pass2d.pipeline.stages.labels import instance_ids, map_labels
from pass2d.pipeline.stages.read import (
    decode_points,
    decode_raw_labels,
    require_finite,
    require_layout,
    require_same_length,
)
from pass2d.pipeline.stages.volume import split_volume

FILE = Path("sequences/08/velodyne/000123.bin")
TABLE = semkitti_table().info.labels
GRID = GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))


# read


def sensor_points(n: int, columns: int) -> np.ndarray:
    """(n, columns) with ranges, heights, signals and rings as a sensor gives them."""
    rng = np.random.default_rng(n)
    reach, yaw = rng.exponential(12, n) + 2, rng.uniform(-np.pi, np.pi, n)
    signal, ring = np.round(rng.random(n), 2), rng.integers(0, 32, n)
    xyz = [reach * np.cos(yaw), reach * np.sin(yaw), rng.normal(-1, 0.8, n)]
    return np.stack([*xyz, signal, ring], axis=1)[:, :columns].astype("<f4")


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("is_", [3, 4, 5])
@pytest.mark.parametrize("expected", [4, 5])
def test_points_of_another_layout_are_refused(is_: int, expected: int, dtype: str) -> None:
    data = sensor_points(4000, is_).astype(dtype).tobytes()
    if (is_, dtype) == (expected, "<f4"):
        require_layout(data, columns=expected, file=FILE)
        return
    word = {"f4": "float32", "f8": "float64"}[dtype[1:]] + "be" * (dtype[0] == ">")
    with pytest.raises(ProblemError, match=f"make sense only as {is_} {word} per point"):
        require_layout(data, columns=expected, file=FILE)


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("n", [0, 20, 4000])
def test_points_that_fit_or_say_nothing_pass(columns: int, n: int) -> None:
    points = sensor_points(n, columns)
    require_layout(points.tobytes(), columns=columns, file=FILE)
    points[::3, 3] = -1  # odd, but no sign of another number of columns
    require_layout(points.tobytes(), columns=columns, file=FILE)


def test_numbers_that_are_no_coordinates_are_refused() -> None:
    for data in (bytes(64_000), b"40.5 1.25 -3.0 0.5\n" * 3000, bytes(range(256)) * 250):
        with pytest.raises(ProblemError, match="numbers that are not coordinates of points"):
            require_layout(data, columns=4, file=FILE)


def test_real_scans_have_their_columns(shared: Path) -> None:
    kitti = sorted((shared / "real").glob("*/sequences/*/velodyne/*.bin"))
    nuscenes = sorted((shared / "real").glob("*/samples/LIDAR_TOP/*.bin"))
    assert (len(kitti), len(nuscenes)) == (8, 5)
    for file in (*kitti, *nuscenes):
        columns = 4 if file in kitti else 5
        data = file.read_bytes()
        require_layout(data, columns=columns, file=file)
        cut = data[: len(data) // 80 * 80]  # fits both
        with pytest.raises(ProblemError, match=f"make sense only as {columns} float32"):
            require_layout(cut, columns=9 - columns, file=file)


def test_points_are_rows_of_little_endian_float32() -> None:
    data = np.array([1.5, -2, 3, 0.25, 4, 5, 6, 0.5], "<f4").tobytes()
    points = decode_points(data, columns=4, file=FILE)
    assert points.tolist() == [[1.5, -2, 3, 0.25], [4, 5, 6, 0.5]]
    assert decode_points(data[:20], columns=5, file=FILE).tolist() == [[1.5, -2, 3, 0.25, 4]]


@pytest.mark.parametrize("n_bytes", [1, 15, 17, 4 * 4 * 100 - 4])
def test_a_truncated_point_file_is_named(n_bytes: int) -> None:
    with pytest.raises(DataError, match=rf"000123.bin: found {n_bytes} bytes.*multiple of 16"):
        decode_points(bytes(n_bytes), columns=4, file=FILE)


def test_an_empty_file_has_no_points() -> None:
    assert decode_points(b"", columns=4, file=FILE).shape == (0, 4)
    assert decode_raw_labels(b"", label_bytes=4, file=FILE).shape == (0,)


def test_labels_of_four_bytes_and_of_one() -> None:
    assert decode_raw_labels(b"\x0a\x00\x03\x00", label_bytes=4, file=FILE).tolist() == [0x3000A]
    assert decode_raw_labels(b"\x0a\x1f", label_bytes=1, file=FILE).tolist() == [10, 31]
    with pytest.raises(DataError, match="found 6 bytes, expected a multiple of 4"):
        decode_raw_labels(bytes(6), label_bytes=4, file=FILE)


def test_labels_of_another_length_name_both_files_and_counts() -> None:
    labels_file = Path("labels/000123.label")
    with pytest.raises(DataError, match=r"000123.label: found 9 labels, expected 10, .*000123.bin"):
        require_same_length(n_points=10, n_labels=9, points_file=FILE, labels_file=labels_file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", range(4))
def test_points_that_are_no_numbers_are_refused(value: float, column: int) -> None:
    points = np.zeros((7, 4), np.float32)
    require_finite(points, file=FILE)
    points[5, column] = value
    points[6] = value
    with pytest.raises(DataError, match="2 of 7 points with NaN or infinity, first 5"):
        require_finite(points, file=FILE)


def test_a_problem_survives_the_way_through_a_worker() -> None:
    with pytest.raises(ProblemError) as caught:
        decode_points(bytes(3), columns=4, file=FILE)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problem == caught.value.problem
    assert str(again) == str(caught.value)
    shape_error = pickle.loads(pickle.dumps(ShapeError("xyz", expected="(3, N)", got=(2, 5))))
    assert str(shape_error) == "xyz must be (3, N), got (2, 5)"


# volume


def test_points_on_the_border_are_outside() -> None:
    below = np.nextafter(np.float32(50), np.float32(0))
    xyz = np.array([[50, -50, below, 0, 0, 0], [0] * 6, [0, 0, 0, 2, -4, 1.5]], np.float32)
    rows = split_volume(xyz, grid=GRID)
    assert rows.inside.tolist() == [2, 5]
    assert rows.outside.tolist() == [0, 1, 3, 4]
    assert rows.inside.dtype == rows.outside.dtype == np.int32


def test_inside_and_outside_together_are_all_rows_in_order() -> None:
    xyz = np.random.default_rng(0).normal(0, 30, (3, 2000)).astype(np.float32)
    rows = split_volume(xyz, grid=GRID)
    expected = [
        all(low < v < high for v, low, high in zip(p, GRID.low, GRID.high, strict=True))
        for p in xyz.T.tolist()
    ]
    assert rows.inside.tolist() == [i for i, kept in enumerate(expected) if kept]
    assert rows.outside.tolist() == [i for i, kept in enumerate(expected) if not kept]


def test_a_scan_can_be_empty_or_wholly_outside() -> None:
    assert split_volume(np.zeros((3, 0), np.float32), grid=GRID).inside.tolist() == []
    assert split_volume(np.full((3, 4), 99, np.float32), grid=GRID).outside.tolist() == [0, 1, 2, 3]
    with pytest.raises(ShapeError, match=r"\(3, N\)"):
        split_volume(np.zeros((4, 3), np.float32), grid=GRID)


# labels


def test_low_half_is_the_class_and_high_half_the_instance() -> None:
    raw = np.array([10, 252 | 5 << 16, 60, 99 | 0xFFFF << 16, 259], np.uint32)
    assert map_labels(raw, table=TABLE, file=FILE).tolist() == [1, 1, 9, 0, 5]
    assert instance_ids(raw).tolist() == [0, 5, 0, 0xFFFF, 0]


def test_every_unknown_raw_id_is_named_with_its_file() -> None:
    raw = np.array([10, 2, 40, 2, 300 | 7 << 16, 65535], np.uint32)
    with pytest.raises(UnknownLabelError) as caught:
        map_labels(raw, table=TABLE, file=Path("08/labels/000007.label"))
    text = str(caught.value)
    assert "08/labels/000007.label" in text
    assert "2 (2 points), 300 (1 points), 65535 (1 points)" in text


def test_lut_holds_the_table_and_nothing_else() -> None:
    lut = TABLE.training_lookup()
    assert len(lut) == 65536
    known = {int(raw): int(lut[raw]) for raw in np.flatnonzero(lut != 255)}
    assert known == TABLE.raw_to_training


def test_no_labels_map_to_no_labels() -> None:
    assert map_labels(np.zeros(0, np.uint32), table=TABLE, file=FILE).shape == (0,)


# images


def encode(image: Image.Image, form: str = "png") -> bytes:
    buffer = BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_a_colour_picture_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    decoded = decode_rgb(encode(Image.fromarray(pixels)), file=FILE)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.c_contiguous


def test_grey_is_copied_to_three_channels() -> None:
    grey = np.arange(35, dtype=np.uint8).reshape(7, 5)
    decoded = decode_rgb(encode(Image.fromarray(grey)), file=FILE)
    np.testing.assert_array_equal(decoded, np.dstack([grey] * 3))


def test_alpha_is_left_out() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
    decoded = decode_rgb(encode(Image.fromarray(pixels)), file=FILE)
    np.testing.assert_array_equal(decoded, pixels[:, :, :3])


def test_sixteen_bit_grey_keeps_the_upper_half() -> None:
    grey = np.array([[0, 255, 256], [4660, 65280, 65535]], np.uint16)
    decoded = decode_rgb(encode(Image.fromarray(grey)), file=FILE)
    np.testing.assert_array_equal(decoded, np.dstack([grey >> 8] * 3))


def test_palette_and_bitmap_pictures_decode() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = [255, 0, 0]
    palette = Image.fromarray(pixels).convert("P")
    np.testing.assert_array_equal(decode_rgb(encode(palette), file=FILE), pixels)
    bitmap = Image.fromarray(pixels[:, :, 0]).convert("1")
    np.testing.assert_array_equal(
        decode_rgb(encode(bitmap), file=FILE), np.dstack([pixels[:, :, 0]] * 3)
    )


def test_a_jpeg_decodes() -> None:
    grey = Image.new("RGB", (16, 8), (200, 100, 50))
    decoded = decode_rgb(encode(grey, "jpeg"), file=FILE)
    assert decoded.shape == (8, 16, 3)
    assert np.abs(decoded.astype(int) - [200, 100, 50]).max() <= 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 9])
def test_a_jpeg_that_is_to_be_turned_is_refused(orientation: int) -> None:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (16, 8)).save(buffer, "jpeg", exif=exif)
    if orientation in (1, 9):  # upright; 9 means nothing
        assert decode_rgb(buffer.getvalue(), file=FILE).shape == (8, 16, 3)
        return
    with pytest.raises(ProblemError, match=f"EXIF orientation {orientation}.*-auto-orient"):
        decode_rgb(buffer.getvalue(), file=FILE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no picture",
        lambda data: data[: len(data) // 2],
        lambda data: data[:30],
        lambda data: data[:60] + bytes(20) + data[80:],
        lambda data: data[:-1],  # Pillow alone decodes these two
        lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    ],
    ids=["empty", "text", "half", "head", "zeros", "end", "flip"],
)
def test_a_damaged_picture_is_named(damage) -> None:
    data = damage(png(60, 90))
    with pytest.raises(DataError, match=rf"000123.png: found {len(data)} bytes"):
        decode_rgb(data, file=Path("image_2/000123.png"))


def test_a_picture_of_another_format_is_told_apart_from_a_damaged_one() -> None:
    bitmap = encode(Image.new("RGB", (4, 4)), "bmp")
    with pytest.raises(DataError, match="neither PNG nor JPEG"):
        decode_rgb(bitmap, file=FILE)


# counts


def test_points_are_counted_per_class() -> None:
    label = np.array([0, 3, 3, 19], np.uint8)
    counts = count_labels(label, n_classes=20)
    assert counts.dtype == np.int64
    assert counts.tolist() == [1, 0, 0, 2] + [0] * 15 + [1]
    assert count_labels(None, n_classes=3).tolist() == [0, 0, 0]
    assert count_labels(np.zeros(0, np.uint8), n_classes=3).tolist() == [0, 0, 0]


def test_ranges_fall_into_the_bins_of_the_statistics() -> None:
    ranges = [0, 1.99, 2, 5, 13, 99.9, 100, 5000]
    # 3-4-5 and 3-4-12-13: distances that are exact.
    xyz = np.array([[r, 0, 0] for r in ranges] + [[3, 4, 0], [3, 4, 12]], np.float32).T
    counts = count_ranges(xyz)
    expected = np.zeros(len(RANGE_EDGES_M), int)
    for r in [*ranges, 5, 13]:
        expected[max(i for i, edge in enumerate(RANGE_EDGES_M) if r >= edge)] += 1
    assert counts.tolist() == expected.tolist()
    assert counts[-1] == 2
    assert count_ranges(np.zeros((3, 0), np.float32)).tolist() == [0] * len(RANGE_EDGES_M)
