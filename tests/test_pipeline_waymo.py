"""The Waymo Open Dataset v2 from Parquet: points against a plain conversion, then all the way."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train_samples import TINY
from typed import answer, printed
from typer.testing import CliRunner
from waymo_files import BEAMS, CAMERAS, HEIGHT, WIDTH, Segment, plain_points, write_segment

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cli import app
from pass2d.common.errors import DataError
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.parquet_rows import Holds, Rows
from pass2d.pipeline.stages.waymo_files import frame_labels, frame_pixels, frame_points

SPLITS = {"training": "seg-a", "validation": "seg-b", "testing": "seg-c"}


def write_world(root: Path) -> dict[str, Segment]:
    """One segment per split; that of testing has no labels."""
    return {
        folder: write_segment(
            root / folder, name, seed=seed, labelled=() if folder == "testing" else (0, 2)
        )
        for seed, (folder, name) in enumerate(SPLITS.items())
    }


@pytest.mark.parametrize("with_beams", [True, False])
def test_points_are_those_of_a_plain_conversion(tmp_path: Path, with_beams: bool) -> None:
    made = write_segment(tmp_path, "seg", with_beams=with_beams)
    beams = BEAMS if with_beams else -0.3 + 0.32 * (np.arange(HEIGHT) + 0.5) / HEIGHT
    file = tmp_path / "lidar" / "seg.parquet"
    for time in made.times:
        expected, places = plain_points(made, time, beams)
        found = frame_points(file, f"seg/{time}")
        # float32 poses of a map 1,000 m away leave 6e-5 m; the intensity is as it was.
        np.testing.assert_allclose(found[:, :3], expected[:, :3], atol=1e-3)
        np.testing.assert_array_equal(found[:, 3], expected[:, 3].astype(np.float32))
        if time not in made.labelled:
            continue
        labels = frame_labels(tmp_path / "lidar_segmentation" / "seg.parquet", f"seg/{time}")
        truth = [made.labels[time][back][row, column] for back, row, column in places]
        assert [(value >> 16, value & 0xFFFF) for value in labels.tolist()] == [
            tuple(value) for value in np.array(truth).tolist()
        ]


def test_pixels_are_those_that_the_data_set_says(tmp_path: Path) -> None:
    made = write_segment(tmp_path, "seg")
    time = made.times[1]
    _, places = plain_points(made, time, BEAMS)
    for camera in CAMERAS:
        expected = []
        for n, (back, row, column) in enumerate(places):
            seen = made.pixels[time][back][row, column].tolist()
            for name, x, y in (seen[:3], seen[3:]):
                if name == camera:
                    expected.append((n, y, x))
        file = tmp_path / "camera_image" / "seg.parquet"
        rows, pixel_rc = frame_pixels(file, f"seg/{time}", camera - 1)
        assert list(zip(rows.tolist(), *pixel_rc.tolist(), strict=True)) == expected
        assert len(expected) > 20


def test_a_data_set_goes_all_the_way(tmp_path: Path) -> None:
    root, cache = tmp_path / "waymo", tmp_path / "cache"
    made = write_world(root)
    place = ("prepare", "waymo", "--root", root)
    checked = answer(*place, "--check", "--png", tmp_path / "png")
    assert checked["errors"] == 0
    assert len(list((tmp_path / "png").iterdir())) == 3 * len(CAMERAS)
    found = answer(*place, "--cache", cache, "--workers", "0")
    assert (found["scans"], found["failed"]) == (2 + 2 + 3, [])
    time = made["training"].labelled[1]
    expected, places = plain_points(made["training"], time, BEAMS)
    with CacheReader.open(cache) as reader:
        assert reader.info.facts.title == "Waymo"
        ids = reader.scans.scan_id.tolist()
        fields = Fields(instance=True, outside=True, image=True, pixels=True)
        scan = reader.read(ids.index(f"seg-a/{time}"), fields)
        np.testing.assert_allclose(scan.raw().points[:, :4], expected, atol=1e-3)
        truth = np.array([made["training"].labels[time][b][r, c] for b, r, c in places])
        np.testing.assert_array_equal(scan.label, truth[scan.raw_index, 1])
        np.testing.assert_array_equal(scan.instance, truth[scan.raw_index, 0])
        assert len(scan.cameras) == len(CAMERAS)
        for camera, view in zip(CAMERAS, scan.cameras, strict=True):
            height, width = CAMERAS[camera]
            # Pictures are stored at 320 x 480; a flat one keeps its color through the JPEG.
            assert view.image is not None
            assert view.image.shape == (320, 480, 3)
            shade = int(made["training"].pictures[time, camera][0, 0, 0])
            assert np.abs(view.image.astype(int) - shade).max() <= 2
            pixels = {
                n: (y, x)
                for n, (b, r, c) in enumerate(places)
                for seen in [made["training"].pixels[time][b][r, c].tolist()]
                for name, x, y in (seen[:3], seen[3:])
                if name == camera
            }
            rows = scan.raw_index[view.point_index].tolist()
            assert rows == [n for n in scan.raw_index.tolist() if n in pixels]
            row, column = np.array([pixels[n] for n in rows]).T
            np.testing.assert_allclose(view.pixel_rc[0], row * 320 / height, atol=320 / height)
            np.testing.assert_allclose(view.pixel_rc[1], column * 480 / width, atol=480 / width)
        test = reader.select(split="test").tolist()
        assert len(test) == 3
        assert not reader.scans.has_label[test].any()
    statistics = answer("stats", "--cache", cache)
    assert len(statistics["splits"]["train"]["classes"]) == 23
    settings = [word for text in (*TINY, "epochs=1") for word in ("--set", text)]
    printed("train", "--cache", cache, "--run", tmp_path / "run", *settings)
    network = tmp_path / "run" / "checkpoints" / "last.safetensors"
    report = answer("eval", "--cache", cache, "--checkpoint", network, "--device", "cpu")
    assert report["scans"] == 2
    words = ("--cache", cache, "--checkpoint", network, "--device", "cpu", "--json")
    written = json.loads(printed("submit", *words, "--out", tmp_path / "labels.zip"))
    assert (written["scans"], written["is_complete"]) == (3, True)
    with zipfile.ZipFile(tmp_path / "labels.zip") as archive:
        frames = made["testing"]
        assert archive.namelist() == [f"seg-c/{time}.label" for time in frames.times]
        time = frames.times[0]
        ids = np.frombuffer(archive.read(f"seg-c/{time}.label"), "<u4")
        assert len(ids) == sum(int((image[..., 0] > 0).sum()) for image in frames.ranges[time])
        assert ids.max() <= 22
    printed("submit", "--verify", tmp_path / "labels.zip", "--cache", cache)
    printed("view", "--cache", cache, "--no-checkpoint", "--png", tmp_path / "seen")
    assert list((tmp_path / "seen").glob("*.png"))
    again = answer("cache", "plan", "--cache", cache, "--root", root)
    assert again["tasks"] == []


def test_damaged_shards_are_made_again_from_the_same_files(tmp_path: Path) -> None:
    write_world(tmp_path / "waymo")
    cache = tmp_path / "cache"
    place = ("--root", tmp_path / "waymo", "--cache", cache, "--workers", "0")
    printed("prepare", "waymo", *place, "--splits", "train")
    for stage in ("lidar", "camera"):
        files = sorted((cache / "waymo" / stage).rglob("c/**/*"))
        file = next(file for file in files if file.is_file())
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        printed("cache", "repair", "--cache", cache)
        assert file.read_bytes() == data


def test_corrupted_twins_are_projected_from_where_the_points_went(tmp_path: Path) -> None:
    write_world(tmp_path / "waymo")
    place = ("--root", tmp_path / "waymo", "--cache", tmp_path / "cache", "--workers", "0")
    printed("prepare", "waymo", *place, "--splits", "val", "--corrupt", "beam_missing:heavy")
    with CacheReader.open(tmp_path / "cache", dataset="waymo-beam_missing-heavy") as reader:
        scan = reader.read(0, Fields(pixels=True))
        assert 0 < scan.n < 480 + 96
        assert len(scan.cameras) == len(CAMERAS)


def test_rows_come_one_at_a_time_in_any_order(tmp_path: Path) -> None:
    made = write_segment(tmp_path, "seg", frames=5, row_group=2)
    file = tmp_path / "lidar" / "seg.parquet"
    keys = ("key.frame_timestamp_micros", "key.laser_name")
    column = "[LiDARComponent].range_image_return1.values"
    rows = Rows(file, keys=keys, columns={column: Holds.NUMBERS})
    for n in (0, 1, 4, 2, 2, 3):
        time = made.times[n]
        found = rows.row((time, 1))[column].values.to_numpy()
        np.testing.assert_array_equal(found, made.ranges[time][0].ravel())
    with pytest.raises(ProblemError, match="no row of 7, 1"):
        rows.row((7, 1))


def test_one_row_is_in_memory_not_the_segment(tmp_path: Path) -> None:
    n, row_bytes = 48, 1 << 20
    values = pa.array(np.random.default_rng(0).random(n * row_bytes // 4, np.float32))
    offsets = np.arange(n + 1, dtype=np.int32) * (row_bytes // 4)
    table = pa.table({"key": np.arange(n), "values": pa.ListArray.from_arrays(offsets, values)})
    file = tmp_path / "one_group.parquet"
    pq.write_table(table, file, row_group_size=n)
    last = table["values"][n - 1].values.to_numpy()
    del table, values
    before = pa.total_allocated_bytes()
    rows = Rows(file, keys=("key",), columns={"values": Holds.NUMBERS})
    for key in range(n):
        found = rows.row((key,))
        assert pa.total_allocated_bytes() - before < 12 * row_bytes
    np.testing.assert_array_equal(found["values"].values.to_numpy(), last)


@pytest.mark.parametrize(
    ("component", "damage", "message"),
    [
        ("lidar_pose", "remove", "no such file"),
        ("vehicle_pose", "remove", "no such file"),
        ("lidar_calibration", "cut", "expected a Parquet file"),
        ("lidar", "cut", "expected a Parquet file"),
        ("lidar_segmentation", "columns", "no column"),
    ],
)
def test_files_that_are_missing_or_damaged(
    tmp_path: Path, component: str, damage: str, message: str
) -> None:
    root = tmp_path / "waymo"
    write_world(root)
    file = root / "training" / component / "seg-a.parquet"
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    else:
        table = pq.read_table(file)
        pq.write_table(table.drop_columns(table.column_names[-1:]), file)
    place = ["prepare", "waymo", "--root", str(root), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(app, [*place, "--workers", "0", "--json"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["scans"] == 5  # of the two other segments
    assert all(
        message in one["reason"] and str(file) in one["reason"] for one in document["failed"]
    )
    assert document["failed"]
    checked = CliRunner().invoke(app, ["prepare", "waymo", "--root", str(root), "--check"])
    assert checked.exit_code == 1
    assert message in checked.stdout


_POSE = "[LiDARPoseComponent].range_image_return1"
_WRONG = {
    "list in place of a time": ("vehicle_pose", "key.frame_timestamp_micros", [[1]]),
    "no time": ("vehicle_pose", "key.frame_timestamp_micros", [None, 3]),
    "word in place of a camera": ("camera_image", "key.camera_name", ["FRONT"]),
    "bool in place of a matrix": (
        "vehicle_pose",
        "[VehiclePoseComponent].world_from_vehicle.transform",
        [True],
    ),
    "a matrix that is no pose": (
        "vehicle_pose",
        "[VehiclePoseComponent].world_from_vehicle.transform",
        [[0.0] * 16],
    ),
    "struct in place of an image": ("lidar_pose", f"{_POSE}.values", [{"values": 1}]),
    "missing numbers": ("lidar_pose", f"{_POSE}.values", [[None, 1.0]]),
    "not a number": ("lidar_pose", f"{_POSE}.values", [[float("nan")] * HEIGHT * WIDTH * 6]),
    "a negative shape": ("lidar_pose", f"{_POSE}.shape", [[-HEIGHT, -WIDTH, 6]]),
    "a shape beyond 64 bits": ("lidar_pose", f"{_POSE}.shape", [[2**32, 2**32, 6]]),
    "fractions in place of classes": (
        "lidar_segmentation",
        "[LiDARSegmentationLabelComponent].range_image_return1.values",
        [[0.5] * HEIGHT * WIDTH * 2],
    ),
    "no focal length": (
        "camera_calibration",
        "[CameraCalibrationComponent].intrinsic.f_u",
        [0.0],
    ),
    "a matrix without an inverse": (
        "camera_calibration",
        "[CameraCalibrationComponent].extrinsic.transform",
        [[1.0] * 16],
    ),
    "a word in place of a picture": ("camera_image", "[CameraImageComponent].image", ["jpeg"]),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_columns_of_another_kind_are_named(tmp_path: Path, wrong: str) -> None:
    """Files that can be read and hold what the component never holds: the segment is left out."""
    component, column, values = _WRONG[wrong]
    for folder in ("training", "validation"):
        write_segment(tmp_path / folder, f"seg-{folder}", labelled=(0, 1, 2))
    file = tmp_path / "training" / component / "seg-training.parquet"
    table = pq.read_table(file)
    rows = [values[n % len(values)] for n in range(table.num_rows)]
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(rows)), file)
    result = CliRunner().invoke(app, ["prepare", "waymo", "--root", str(tmp_path), "--check"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert str(file) in result.output.replace("\n", "")


def test_a_column_whose_name_is_no_utf8_is_a_fault_of_the_file(tmp_path: Path) -> None:
    write_segment(tmp_path / "training", "seg")
    file = tmp_path / "training" / "vehicle_pose" / "seg.parquet"
    name = pq.read_table(file).column_names[0].encode()
    file.write_bytes(file.read_bytes().replace(name, b"\xff" * len(name)))
    result = CliRunner().invoke(app, ["prepare", "waymo", "--root", str(tmp_path), "--check"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert str(file) in result.output.replace("\n", "")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_segment(tmp_path / "training", "seg")
    file = tmp_path / "training" / "vehicle_pose" / "seg.parquet"
    file.unlink()
    os.mkfifo(file)
    result = CliRunner().invoke(app, ["prepare", "waymo", "--root", str(tmp_path), "--check"])
    assert result.exit_code == 1
    assert str(file) in result.output.replace("\n", "")


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    waymo = DATASETS["waymo"]
    with pytest.raises(DataError, match="no segments in lidar/ of training"):
        waymo.list_scans(tmp_path)
    write_world(tmp_path)
    assert DATASETS.at(tmp_path) is waymo
    with pytest.raises(DataError, match="no segment other; there are 3"):
        waymo.list_scans(tmp_path, Wanted(sequences=("other",)))
    for name in ("training/lidar_segmentation", "validation/camera_image"):
        (tmp_path / name).rename(tmp_path / f"{name}_no")
    bare = "segments of train and val without lidar_segmentation/SEGMENT.parquet, left out: "
    with pytest.raises(DataError, match=rf"no frames with labels\. {bare}"):
        waymo.list_scans(tmp_path, Wanted(splits=("train",)))
    listing = waymo.list_scans(tmp_path)
    assert [scan.split for scan in listing.scans] == ["val"] * 2 + ["test"] * 3
    train, val = SPLITS["training"], SPLITS["validation"]
    assert f"{bare}{train} (1 in all)" in listing.notes
    blind = "segments without pictures (camera_image, lidar_camera_projection, camera_calibration)"
    assert f"{blind}: {val} (1 in all)" in listing.notes
