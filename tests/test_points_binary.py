"""`.bin` files: what is read of them, what is refused and which options settle it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cache_columns import street

from pass2d.cache.clouds.columns import DTYPES, PointLayout, other_content
from pass2d.common.errors import ConfigError, DataError
from pass2d.points.binary import BinaryOptions, read_binary


def write(path: Path, points: np.ndarray, dtype: str = "float32") -> Path:
    path.write_bytes(points.astype(DTYPES[dtype]).tobytes())
    return path


def table(n: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    more = [np.arange(n) % 32, np.linspace(0, 0.1, n), rng.integers(0, 256, n), np.zeros(n)]
    return np.column_stack([street(n, 0), *more])[:, :columns]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", range(3, 9))
@pytest.mark.parametrize("usual", [4, 5])
def test_every_layout_is_read_as_it_is(
    tmp_path: Path, columns: int, dtype: str, usual: int
) -> None:
    points = table(2000, columns)  # 2,000: every other number of columns fits the size, too
    read = read_binary(write(tmp_path / "a.bin", points, dtype), BinaryOptions(usual=usual))
    assert read.layout == PointLayout(columns=columns, dtype=dtype)
    assert np.array_equal(read.points, points.astype(DTYPES[dtype]))
    assert bool(read.note) == ((columns, dtype) != (usual, "float32"))


def test_a_file_that_was_cut_is_not_read_in_another_way(tmp_path: Path) -> None:
    data = table(2001, 4).astype("<f4").tobytes()[:32_000]
    (tmp_path / "a.bin").write_bytes(data[:-12])  # 31,988: no multiple of 16
    (tmp_path / "b.bin").write_bytes(data[:-20])  # 31,980: of 20, not of 16
    for name in ("a", "b"):
        with pytest.raises(
            DataError, match=r"bytes: not a multiple of 16 .4 float32 per point..*trunc"
        ):
            read_binary(tmp_path / f"{name}.bin", BinaryOptions(usual=5))


def test_few_points_are_confirmed_or_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).choice(20_000, 48, replace=False)
    path = write(tmp_path / "a.bin", table(20_000, 4)[rows])
    assert read_binary(path, BinaryOptions(usual=4)).points.shape == (48, 4)
    five = write(tmp_path / "b.bin", table(20_000, 5)[rows[:16]])  # 320 bytes: also 20 points of 4
    with pytest.raises(
        DataError, match=r"fewer than 64 points are too few to tell.*`columns=4`.*`dtype=float32`"
    ):
        read_binary(five, BinaryOptions(usual=4))
    assert read_binary(five, BinaryOptions(usual=4, columns=5)).points.shape == (16, 5)


def test_few_points_are_read_as_the_files_beside_them_which_is_said(tmp_path: Path) -> None:
    for place in range(4):
        write(tmp_path / f"{place}.bin", table(500 + place, 5))
    few = write(tmp_path / "few.bin", table(20_000, 5)[::1251])
    read = read_binary(few, BinaryOptions(usual=4))
    assert read.points.shape == (16, 5)
    assert "read as 5 float32 per point" in read.note
    write(tmp_path / "3.bin", table(500, 6))  # now they do not agree
    with pytest.raises(DataError, match="are too few to tell"):
        read_binary(few, BinaryOptions(usual=4))


def test_an_empty_file_has_no_points(tmp_path: Path) -> None:
    read = read_binary(write(tmp_path / "a.bin", np.zeros((0, 4))), BinaryOptions(usual=5))
    assert (read.points.shape, read.note) == ((0, 5), "")


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(600, 4))
    path = write(tmp_path / "a.bin", noise)
    with pytest.raises(DataError, match="columns do not differ"):
        read_binary(path, BinaryOptions(usual=4))
    for columns in (3, 4, 10):
        options = BinaryOptions(usual=4, columns=columns, dtype="float32")
        assert read_binary(path, options).points.shape == (2400 // columns, columns)
    with pytest.raises(DataError, match=r"not a multiple of 36 \(9 float32 per point\)"):
        read_binary(path, BinaryOptions(usual=4, columns=9, dtype="float32"))
    doubles = write(tmp_path / "b.bin", table(500, 4), "float64")
    assert read_binary(doubles, BinaryOptions(usual=4, columns=4)).layout.dtype == "float64"
    with pytest.raises(DataError, match="only as 4 float64 per point, not as float32be"):
        read_binary(doubles, BinaryOptions(usual=4, dtype="float32be"))
    with pytest.raises(ConfigError, match="`dtype` 'int': one of float32, float64, float32be"):
        BinaryOptions(usual=4, dtype="int")


@pytest.mark.parametrize("n", [3, 240, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64be"])
def test_what_a_description_states_is_taken_in_any_order(
    tmp_path: Path, n: int, dtype: str
) -> None:
    """Ring, signal and time before the coordinates; points by chance, which say little."""
    rng = np.random.default_rng(0)
    x, y, z = rng.uniform((-18, -18, -2), (18, 18, 0.5), (n, 3)).T
    rows = np.column_stack([np.arange(n) % 16, rng.random(n), z, np.linspace(0, 0.1, n), y, x])
    file = tmp_path / "a.bin"
    rows.astype(DTYPES[dtype]).tofile(file)
    options = BinaryOptions(usual=6, dtype=dtype, stated_xyz=(5, 4, 2))
    found = read_binary(file, options)
    assert (found.layout.columns, found.layout.dtype, found.note) == (6, dtype, "")


def test_a_file_of_another_sensor_is_not_read_as_a_description_states(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    write(file, table(1000, 4))  # its size is one of 5 columns, too
    options = BinaryOptions(usual=5, stated_xyz=(0, 1, 2))
    found = read_binary(file, options)
    assert found.layout.columns == 4
    assert "read as 4 float32 per point" in found.note


@pytest.mark.parametrize(("asked", "is_fitting"), [(5, False), (7, True), (14, True), (4, False)])
def test_what_was_asked_for_is_compared_with_the_numbers(
    tmp_path: Path, asked: int, is_fitting: bool
) -> None:
    """2,002 points of 7: also 3,503.5 of 4, 1,001 of 14."""
    file = write(tmp_path / "a.bin", table(2002, 7))
    options = BinaryOptions(usual=4, columns=asked, is_asked=True)
    if not is_fitting:
        with pytest.raises(DataError, match=r"it looks like 7 float32 per point: `columns=7`$"):
            read_binary(file, options)
        return
    read = read_binary(file, options)
    said = "" if asked == 7 else "as asked for, but its points make sense only as 7 float32"
    assert said in read.note
    assert (read.options, bool(read.note)) == (("", False) if asked == 7 else ("`columns=7`", True))


def test_no_other_number_of_columns_is_advised_for_a_file_that_was_cut(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", table(2000, 4))
    file.write_bytes(file.read_bytes()[:-20])  # 31,980: of 20, not of 16
    with pytest.raises(DataError, match=r"truncated, or not a point file$"):
        read_binary(file, BinaryOptions(usual=4))


@pytest.mark.parametrize("header", [np.array([2000, 4], "<i8"), np.array([4, 0, 0, 0], ">i4")])
def test_a_header_is_no_point(tmp_path: Path, header: np.ndarray) -> None:
    file = write(tmp_path / "a.bin", table(2000, 4))
    file.write_bytes(header.tobytes() + file.read_bytes())
    with pytest.raises(DataError, match="whole numbers in place of the first point: a header"):
        read_binary(file, BinaryOptions(usual=4))
    assert "a header" in other_content(file.read_bytes(), PointLayout(columns=4))


def test_a_counter_before_the_coordinates_is_no_header(tmp_path: Path) -> None:
    points = table(2000, 4).astype("<f4")
    counter = np.arange(1, 2001, dtype="<u4").view("<f4")
    file = tmp_path / "a.bin"
    np.column_stack([counter, points]).tofile(file)
    options = BinaryOptions(usual=4, columns=5, dtype="float32", is_asked=True)
    read = read_binary(file, options)
    assert np.array_equal(read.points[:, 1:], points)


@pytest.mark.parametrize("ring", ["u1", "<u2"])
def test_packed_rows_of_floats_and_a_small_ring_are_no_points_of_four_floats(
    tmp_path: Path, ring: str
) -> None:
    """16,000 points of 17 or 18 bytes: also 17,000 or 18,000 of 16."""
    points = table(16_000, 5)
    kinds = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("signal", "<f4"), ("ring", ring)]
    packed = np.zeros(len(points), kinds)
    for name, column in zip(packed.dtype.names or (), points.T, strict=True):
        packed[name] = column
    (tmp_path / "a.bin").write_bytes(packed.tobytes())
    assert packed.nbytes % 16 == 0
    said = other_content(packed.tobytes(), PointLayout(columns=4))
    assert said.endswith("bytes, or of half or a quarter of it")
    with pytest.raises(DataError, match=r"of several types .* write them as float32 or as \.npy"):
        read_binary(tmp_path / "a.bin", BinaryOptions(usual=4))
