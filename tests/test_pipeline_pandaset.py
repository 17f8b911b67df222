"""PandaSet as downloaded: pickled tables moved into the sensor's frame, pictures, splits."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pandas_samples import LAYOUTS, write_table
from pandaset_files import CAMERAS, HW, INTRINSICS, about_z, write_json, write_sequence
from typed import answer, pass2d

from pass2d.cache.reader import CacheReader, Fields
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.table import load_table
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.pandaset_files import read_poses, sensor_labels, sensor_points

SPINNING, AHEAD = 0, 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sensor", [SPINNING, AHEAD])
def test_points_lie_in_the_frame_of_the_sensor(tmp_path: Path, layout: str, sensor: int) -> None:
    made = write_sequence(tmp_path / "001", layout=layout, has_cameras=False)
    for frame, truth in made.items():
        own = truth["d"] == sensor
        points = sensor_points(tmp_path / f"001/lidar/{frame:02d}.pkl.gz", sensor)
        np.testing.assert_allclose(points[:, :3], truth["xyz"][own], atol=1e-4)
        assert points[:, 3].tolist() == truth["signal"][own].tolist()
        labels = sensor_labels(tmp_path / f"001/annotations/semseg/{frame:02d}.pkl.gz", sensor)
        assert labels.tolist() == truth["raw"][own].tolist()


def test_a_quaternion_is_turned_as_by_hand(tmp_path: Path) -> None:
    """A quarter turn about z, from (w, z) = (1, 1) / sqrt 2: the sensor's x is the world's y."""
    half = 0.5**0.5
    heading = {"w": half, "x": 0, "y": 0, "z": half}
    write_json(
        tmp_path / "poses.json", [{"position": {"x": 10, "y": 20, "z": 1}, "heading": heading}]
    )
    (found,) = read_poses(tmp_path / "poses.json")
    assert found.round(9).tolist() == [[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 1]]
    world = {"x": np.array([10.0]), "y": np.array([23.0]), "z": np.array([1.5])}
    write_table(tmp_path / "00.pkl.gz", {**world, "i": np.array([7.0]), "d": np.array([0])})
    (point,) = sensor_points(tmp_path / "00.pkl.gz", 0).tolist()
    assert point == pytest.approx([3, 0, 0.5, 7], abs=1e-6)


def test_a_data_set_goes_all_the_way(tmp_path: Path) -> None:
    root, cache = tmp_path / "pandaset", tmp_path / "cache"
    made = write_sequence(root / "001")
    write_sequence(root / "005", seed=1, suffix=".pkl", layout="2.2")
    write_sequence(root / "006", seed=2, has_labels=False, has_cameras=False)
    (root / "LICENSE.txt").write_text("CC BY 4.0")
    place = ("prepare", "pandaset", "--root", root)
    checked = answer(*place, "--check")
    assert checked["errors"] == 0, checked
    found = answer(*place, "--cache", cache, "--workers", "0")
    assert (found["scans"], found["failed"]) == (6, [])
    with CacheReader.open(cache) as reader:
        ids = reader.scans.scan_id.tolist()
        splits = dict(zip(ids, reader.scans.split.tolist(), strict=True))
        assert splits == {
            **{"001/00": "train", "001/01": "train", "005/00": "val", "005/01": "val"},
            **{"006/00": "test", "006/01": "test"},
        }
        scan = reader.read(ids.index("001/01"), Fields(outside=True, image=True, pixels=True))
        truth = made[1]
        own = truth["d"] == SPINNING
        raw = scan.raw()
        np.testing.assert_allclose(raw.points[:, :3], truth["xyz"][own], atol=1e-4)
        table = reader.info.labels
        expected = [table.raw_to_training[r] for r in truth["raw"][own].tolist()]
        assert raw.label.tolist() == expected
        assert [view.image.shape for view in scan.cameras] == [(360, 640, 3)] * 6
        for yaw, view in zip(CAMERAS.values(), scan.cameras, strict=True):
            pixels = _plain_pixels(scan.xyz.T.astype(np.float64), yaw)
            assert view.point_index.tolist() == sorted(pixels)
            assert len(pixels) > 5
            for index, row, column in zip(
                view.point_index.tolist(), *view.pixel_rc.tolist(), strict=True
            ):
                assert abs(row - pixels[index][0] * 360 / HW[0]) <= 4
                assert abs(column - pixels[index][1] * 640 / HW[1]) <= 4
    assert answer("cache", "plan", "--cache", cache, "--root", root)["tasks"] == []
    statistics = answer("stats", "--cache", cache)
    assert len(statistics["splits"]["train"]["classes"]) == 17
    other = answer("prepare", "pandaset_gt", "--root", root, "--cache", cache, "--workers", "0")
    assert other["scans"] == 6
    with CacheReader.open(cache, dataset="pandaset_gt") as reader:
        n_raw = dict(zip(reader.scans.scan_id.tolist(), reader.scans.n_raw.tolist(), strict=True))
        assert n_raw["001/01"] == int((made[1]["d"] == AHEAD).sum())
    pass2d("view", root, "--scan", "001/00", "--no-checkpoint", "--png", tmp_path / "seen")
    assert list((tmp_path / "seen").glob("*.png"))


def test_its_recipe_trains_and_predictions_are_written_by_scan(tmp_path: Path) -> None:
    root, cache, run = (tmp_path / name for name in ("pandaset", "cache", "run"))
    made = write_sequence(root / "001", frames=2)
    write_sequence(root / "005", frames=1, seed=1, has_cameras=False)
    place = ("--root", root, "--cache", cache, "--workers", "0")
    answer("prepare", "pandaset", *place)
    short = ("epochs=1", "batch_size=1", "device=cpu", "log.tensorboard=false", "torch_threads=1")
    small = ("network.settings.width_factor=0.125", "network.settings.voxel_m=1.0")
    words = [word for text in (*short, *small) for word in ("--set", text)]
    trained = answer("train", "--cache", cache, "--run", run, "--recipe", "spvcnn-pandaset", *words)
    assert trained["steps"] == 2
    network = run / "checkpoints" / "last.safetensors"
    place = ("--cache", cache, "--checkpoint", network, "--device", "cpu")
    assert answer("eval", *place)["scans"] == 1
    out = tmp_path / "labels.zip"
    written = answer("submit", *place, "--split", "train", "--out", out)
    assert (written["scans"], written["is_complete"]) == (2, True)
    answer("submit", "--verify", out, "--cache", cache, "--split", "train")
    with zipfile.ZipFile(out) as archive, CacheReader.open(cache) as reader:
        assert archive.namelist() == ["001/00.label", "001/01.label"]
        ids = np.frombuffer(archive.read("001/01.label"), "<u4")
        assert len(ids) == int((made[1]["d"] == SPINNING).sum())
        assert set(ids.tolist()) <= set(reader.info.labels.training_to_raw)


def test_what_a_sequence_lacks_is_said(tmp_path: Path) -> None:
    root = tmp_path / "pandaset"
    for name in ("001", "005", "006", "008"):
        write_sequence(root / name)
    shutil.rmtree(root / "005" / "lidar")
    (root / "006" / "lidar" / "poses.json").unlink()
    (root / "008" / "lidar" / "00.pkl.gz").unlink()
    poses = root / "001" / "camera" / "left_camera" / "poses.json"
    write_json(poses, json.loads(poses.read_text())[:1])
    listing = DATASETS["pandaset"].list_scans(root)
    assert [scan.scan_id for scan in listing.scans] == ["001/00", "001/01", "008/01"]
    assert "no points (lidar/FRAME.pkl.gz), left out: 005, 008/00 (2 in all)" in listing.notes
    lost = "pictures that poses.json beside them has no pose of, left out"
    assert f"{lost}: 001/camera/left_camera/01.jpg (1 in all)" in listing.notes
    (failed,) = listing.failed
    assert (failed.scan_id, "lidar/poses.json" in failed.reason) == ("006", True)


def test_resized_pictures_are_compared_in_their_own_size(tmp_path: Path) -> None:
    """`prepare` stores 640x360; the calibration is of the pictures as taken."""
    write_sequence(tmp_path / "raw" / "001")
    place = ("prepare", "pandaset", "--root", tmp_path / "raw")
    found = answer(*place, "--cache", tmp_path / "cache", "--workers", "0")
    assert found["warnings"] == []
    assert not [p for p in answer(*place, "--check")["problems"] if p["severity"] == "warning"]


def _plain_pixels(xyz: np.ndarray, yaw: float) -> dict[int, tuple[float, float]]:
    """Row and column of the points that a camera sees, point by point."""
    looking = about_z(yaw) @ np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    found = {}
    for index, point in enumerate(xyz):
        x, y, z = looking.T @ (point - [0.1, 0.2, -0.3])
        if z <= 0:
            continue
        column = INTRINSICS["fx"] * x / z + INTRINSICS["cx"]
        row = INTRINSICS["fy"] * y / z + INTRINSICS["cy"]
        if 0 < row < HW[0] and 0 < column < HW[1]:
            found[index] = (row, column)
    return found


def test_changed_poses_are_noticed(tmp_path: Path) -> None:
    root, cache = tmp_path / "pandaset", tmp_path / "cache"
    write_sequence(root / "001", has_cameras=False)
    pass2d("prepare", "pandaset", "--root", root, "--cache", cache, "--workers", "0")
    poses = json.loads((root / "001/lidar/poses.json").read_text())
    poses[0]["position"]["x"] += 1
    write_json(root / "001/lidar/poses.json", poses)
    assert answer("cache", "plan", "--cache", cache, "--root", root)["tasks"]


def listed(root: Path, **wanted: object):
    return DATASETS["pandaset"].list_scans(root, Wanted(**wanted), progress=Silent())


def test_what_is_missing_is_said_once(tmp_path: Path) -> None:
    write_sequence(tmp_path / "001", frames=3, has_cameras=False)
    write_sequence(tmp_path / "002", has_labels=False, has_cameras=False)
    (tmp_path / "001/annotations/semseg/01.pkl.gz").unlink()
    (tmp_path / "001/lidar/timestamps.json").unlink()
    found = listed(tmp_path)
    assert [scan.scan_id for scan in found.scans] == ["001/00", "001/02", "002/00", "002/01"]
    assert found.notes[:2] == (
        "sequences without labels (split test): 002",
        "scans without labels, left out: 001/01 (1 in all)",
    )
    assert "front_camera: no pictures in 2 sequences" in found.notes
    assert [scan.time_s for scan in found.scans] == [None, None, 0.0, pytest.approx(0.1)]
    assert [len(listed(tmp_path, splits=(s,)).scans) for s in ("train", "test")] == [2, 2]
    with pytest.raises(DataError, match="no sequence 003; there are 001, 002"):
        listed(tmp_path, sequences=("003",))
    with pytest.raises(DataError, match="no sequences"):
        listed(tmp_path / "001")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("lidar/poses.json", "{", "invalid JSON"),
        ("lidar/poses.json", "{}", "a list of poses"),
        ("lidar/poses.json", "[{}]", "pose 0"),
        ("lidar/poses.json", '[{"position": {"x": 1, "y": 1, "z": 1e999}}]', "finite numbers"),
        (
            "lidar/poses.json",
            '[{"position": {"x": 1, "y": 1, "z": 1}, "heading": {"w": 1, "x": 1, "y": 0, "z": 0}}]',
            "length 1.41",
        ),
        ("camera/front_camera/intrinsics.json", '{"fx": 0, "fy": 1, "cx": 1, "cy": 1}', "focal"),
        ("camera/back_camera/poses.json", "[3]", "pose 0"),
        ("lidar/timestamps.json", '["a"]', "a list of times"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, file: str, content: str, words: str) -> None:
    write_sequence(tmp_path / "001")
    write_sequence(tmp_path / "002", has_cameras=False)
    (tmp_path / "001" / file).write_text(content)
    found = listed(tmp_path)
    (failed,) = found.failed
    assert str(tmp_path / "001" / file) in failed.reason
    assert words in failed.reason
    n_first = sum(scan.sequence == "001" for scan in found.scans)
    assert n_first == (0 if file == "lidar/poses.json" else 2)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_hostile_and_damaged_tables_are_one_line_each(tmp_path: Path) -> None:
    root = tmp_path / "pandaset"
    write_sequence(root / "001", frames=4, has_cameras=False)
    places = root / "001/lidar"
    (places / "00.pkl.gz").unlink()
    (places / "00.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    (places / "01.pkl.gz").write_bytes((places / "01.pkl.gz").read_bytes()[:-30])
    poses = json.loads((places / "poses.json").read_text())
    write_json(places / "poses.json", poses[:3])
    write_table(root / "001/annotations/semseg/02.pkl.gz", {"class": np.arange(5)})
    result = pass2d(
        *("prepare", "pandaset", "--root", root, "--cache", tmp_path / "cache"),
        *("--workers", "0", "--json"),
    )
    assert result.exit_code == 1
    reasons = {one["scan_id"]: one["reason"] for one in json.loads(result.stdout)["failed"]}
    assert not (tmp_path / "made").exists()
    assert "refused: it names" in reasons["001/00"]
    assert "gzip" in reasons["001/01"]
    assert "5 labels, expected 600" in reasons["001/02"]
    assert "3 poses" in reasons["001/03"]
    with pytest.raises(ProblemError, match="a column 'class'"):
        sensor_labels(places.parent / "lidar" / "02.pkl.gz", 0)


def test_a_table_may_start_from_another(tmp_path: Path) -> None:
    table = DATASETS["pandaset_gt"].table
    assert table.info.labels == DATASETS["pandaset"].table.info.labels
    assert table.info.facts.forward_axis == "y"
    (tmp_path / "a.toml").write_text('like = "gone"')
    with pytest.raises(ConfigError, match=r"a\.toml: cannot be read"):
        load_table(tmp_path / "a.toml")
