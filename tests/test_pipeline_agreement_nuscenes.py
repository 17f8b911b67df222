"""nuScenes: what `--check` calls a fault `prepare` does not take in silence, and the reverse."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes_files import NuscenesFolder, jpeg
from pipeline_files import check_nuscenes, how_prepare_ends

from pass2d.common.errors import DataError, Pass2DError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.problem import Problem

INLINE = PrepareConfig(workers=0)
N = 1500
SCENES = "v1.0-mini: 2 of 10 scenes are in the tables"
CAMERA = 1
"""Place of CAM_FRONT among the sensors; that of the lidar is 0."""


def street(seed: int) -> bytes:
    """(N, 5) a flat road with walls around a sensor 1.8 m above it."""
    rng = np.random.default_rng(seed)
    away, angle = rng.uniform(3, 40, N), rng.uniform(-np.pi, np.pi, N)
    z = np.where(rng.random(N) < 0.7, -1.8, rng.uniform(-1.8, 1, N))
    xyz = away * np.cos(angle), away * np.sin(angle), z
    return np.column_stack([*xyz, rng.integers(0, 100, N), np.zeros(N)]).astype("<f4").tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> NuscenesFolder:
    made = NuscenesFolder(tmp_path / "nus", n=N, samples=2, sweeps=1)
    for seed, name in enumerate(sorted(made.files)):
        if name.endswith(".pcd.bin"):
            made.files[name] = street(seed)
    return made


def first(folder: NuscenesFolder, part: str) -> str:
    return min(name for name in folder.files if part in name)


def write(folder: NuscenesFolder, part: str, data: bytes) -> None:
    folder.files[first(folder, part)] = data


def without(folder: NuscenesFolder, part: str) -> None:
    del folder.files[first(folder, part)]


def sensor(folder: NuscenesFolder, place: int, **changed: Any) -> None:
    folder.tables["calibrated_sensor"][place].update(changed)


def pose(folder: NuscenesFolder, place: int, **changed: Any) -> None:
    folder.tables["ego_pose"][place].update(changed)


def no_row(folder: NuscenesFolder, table: str, place: int) -> None:
    del folder.tables[table][place]


def twice(folder: NuscenesFolder, table: str) -> None:
    folder.tables[table].append(folder.tables[table][-1])


def scaled(folder: NuscenesFolder, *factors: float) -> None:
    for name, data in folder.files.items():
        if name.endswith(".pcd.bin"):
            values = np.frombuffer(data, "<f4").reshape(-1, 5) * np.array(factors, "<f4")
            folder.files[name] = values.tobytes()


def labelled(folder: NuscenesFolder, below: int) -> None:
    """Labels 0..below - 1."""
    for name in folder.files:
        if name.startswith("lidarseg/"):
            folder.files[name] = bytes(place % below for place in range(N))


def empty_scan(folder: NuscenesFolder) -> None:
    write(folder, "samples/LIDAR_TOP/", b"")
    row = next(r for r in folder.tables["sample_data"] if first(folder, "LIDAR") == r["filename"])
    write(folder, row["token"], b"")


def timed(folder: NuscenesFolder, parts: float) -> None:
    """Time stamps in units of so many microseconds."""
    for row in (*folder.tables["sample"], *folder.tables["sample_data"]):
        row["timestamp"] = round(row["timestamp"] / parts)


def calibrated_as(folder: NuscenesFolder, row: int, sensor_place: int) -> None:
    token = folder.tables["calibrated_sensor"][sensor_place]["token"]
    folder.tables["sample_data"][row]["calibrated_sensor_token"] = token


def matrix(focal: float, right: float, down: float) -> list[list[float]]:
    return [[focal, 0, right], [0, focal, down], [0, 0, 1]]


INTRINSICS = "as camera_intrinsic of row"
ROTATION, TRANSLATION = "as rotation of row", "as translation of row"
ERRORS: dict[str, tuple[Callable[[NuscenesFolder], object], str]] = {
    "no points": (empty_scan, ""),
    "truncated points": (lambda f: write(f, "samples/LIDAR_TOP/", bytes(19)), "19 bytes"),
    "millimetres": (lambda f: scaled(f, 1000, 1000, 1000, 1, 1), "none of them in the volume"),
    "NaN": (lambda f: scaled(f, np.nan, 1, 1, 1, 1), ""),
    "too few labels": (lambda f: write(f, "lidarseg/", bytes(N - 1)), ""),
    "int32 labels": (lambda f: write(f, "lidarseg/", bytes(4 * N)), ""),
    "text labels": (lambda f: write(f, "lidarseg/", b"24\n" * N), ""),
    "unknown label": (lambda f: write(f, "lidarseg/", bytes([77] * N)), "77"),
    "no picture in the file": (lambda f: write(f, "samples/CAM_BACK/", b"x"), ""),
    "picture of another size": (lambda f: write(f, "CAM_BACK/", jpeg(1, (80, 160))), "160x80"),
    "no points at all": (lambda f: f.drop(lambda n: "samples/LIDAR" in n), "none of the 4"),
    "no pose row of a scan": (lambda f: no_row(f, "ego_pose", 0), "no row"),
    "no pose row of a picture": (lambda f: no_row(f, "ego_pose", 1), "no row"),
    "no calibration of the lidar": (lambda f: no_row(f, "calibrated_sensor", 0), "no row"),
    "no calibration of a camera": (lambda f: no_row(f, "calibrated_sensor", CAMERA), "no row"),
    "no sensor": (lambda f: no_row(f, "sensor", CAMERA), "no row"),
    "a token twice": (lambda f: twice(f, "sample_data"), "twice"),
    "a pose twice": (lambda f: twice(f, "ego_pose"), "twice"),
    "a column is missing": (lambda f: f.tables["sample"][0].pop("timestamp"), "timestamp"),
    "identity intrinsics": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=np.eye(3).tolist()),
        f"the identity {INTRINSICS}",
    ),
    "zero intrinsics": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=[[0] * 3] * 3),
        f"all zeros {INTRINSICS}",
    ),
    "NaN intrinsics": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=[[np.nan] * 3] * 3),
        "camera_intrinsic is",
    ),
    "intrinsics of 3x4": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=[[1, 0, 0, 0]] * 3),
        "camera_intrinsic is",
    ),
    "transposed intrinsics": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=np.array(matrix(80, 80, 45)).T.tolist()),
        INTRINSICS,
    ),
    "intrinsics of half the size": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=matrix(40, 40, 22)),
        "pictures of 160x90 pixels as camera_intrinsic",
    ),
    "focal length of another size": (
        lambda f: sensor(f, CAMERA, camera_intrinsic=matrix(800, 80, 45)),
        "a focal length of 800 pixels",
    ),
    "quaternion of length 2": (
        lambda f: sensor(f, CAMERA, rotation=[1, -1, 1, -1]),
        f"a quaternion of length 2 {ROTATION}",
    ),
    "the lidar's quaternion": (
        lambda f: sensor(f, 0, rotation=[0.5, 0, 0, 0]),
        f"a quaternion of length 0.5 {ROTATION}",
    ),
    "a pose's quaternion": (
        lambda f: pose(f, 0, rotation=[0.5, 0, 0, 0.5]),
        f"a quaternion of length 0.7071 {ROTATION}",
    ),
    "a pose's quaternion with w last": (
        lambda f: pose(f, 0, rotation=[0, 0, 0.5**0.5, 0.5**0.5]),
        f"a vehicle tilted by 90 degrees {ROTATION}",
    ),
    "the lidar's quaternion with w last": (
        lambda f: sensor(f, 0, rotation=[0, 0, -(0.5**0.5), 0.5**0.5]),
        f"a lidar tilted by 90 degrees {ROTATION}",
    ),
    "time stamps in milliseconds": (
        lambda f: timed(f, 1000),
        "timestamps of a scene's key frames 0.0005 s apart",
    ),
    "time stamps in nanoseconds": (
        lambda f: timed(f, 0.001),
        "timestamps of a scene's key frames 500 s apart",
    ),
    "the calibration of another camera": (
        lambda f: calibrated_as(f, -1, CAMERA),
        "with a calibration of CAM_FRONT",
    ),
    "a camera that is not turned": (
        lambda f: sensor(f, CAMERA, rotation=[1, 0, 0, 0]),
        f"a camera whose pictures are turned by 90 degrees {ROTATION}",
    ),
    "camera from vehicle": (
        lambda f: sensor(f, CAMERA, rotation=[0.5, 0.5, -0.5, 0.5]),
        f"a camera whose pictures are turned by 90 degrees {ROTATION}",
    ),
    "a camera nowhere": (
        lambda f: sensor(f, CAMERA, translation=[0, 0, 0]),
        f"zeros {TRANSLATION}",
    ),
    "a lidar nowhere": (
        lambda f: sensor(f, 0, translation=[0, 0, 0]),
        "zeros, with a camera 1.80 m above as translation",
    ),
    "a camera in millimetres": (
        lambda f: sensor(f, CAMERA, translation=[900.0, 0, 1800.0]),
        "a sensor 2,012 m from the vehicle's origin as translation",
    ),
    "a lidar kilometres away": (
        lambda f: sensor(f, 0, translation=[3000.0, 4000.0, 0]),
        "a sensor 5,000 m from the vehicle's origin as translation",
    ),
    "a pose elsewhere": (
        lambda f: pose(f, 1, translation=[400.0, 9100.0, 0.0]),
        f"s away {TRANSLATION}",
    ),
}
NOTES: dict[str, tuple[Callable[[NuscenesFolder], object], str]] = {
    "no point file": (lambda f: without(f, "samples/LIDAR_TOP/"), "scene-0061"),
    "no label file": (lambda f: without(f, "lidarseg/"), "scans without labels"),
    "no picture": (lambda f: without(f, "samples/CAM_BACK/"), "CAM_BACK"),
    "labels by other numbers": (
        lambda f: [row.update(index=31 - row["index"]) for row in f.tables["category"]],
        "labels have other numbers than usual",
    ),
    "fewer label names": (lambda f: f.tables["category"].pop(), "labels without a number"),
    "bad intrinsics that nobody needs": (
        lambda f: (
            f.drop(lambda name: "samples/CAM_FRONT/" in name),
            sensor(f, CAMERA, camera_intrinsic=[[0] * 3] * 3),
        ),
        f"all zeros {INTRINSICS}",
    ),
}
WARNINGS: dict[str, tuple[Callable[[NuscenesFolder], object], str]] = {
    "two cameras swapped": (
        lambda f: sensor(f, CAMERA, rotation=[0.5, -0.5, -0.5, 0.5]),
        "a camera that looks 180 degrees away from where CAM_FRONT does",
    ),
    "training ids as labels": (
        lambda f: labelled(f, 17),
        "in split val no point of car, construction_vehicle, motorcycle, trailer, truck",
    ),
    "signal 0..1": (lambda f: scaled(f, 1, 1, 1, 0.005, 1), "signal"),
}


def checked(root: Path) -> list[Problem]:
    """A refusal, too, is one problem."""
    try:
        return check_nuscenes(root, progress=Silent())
    except Pass2DError as error:
        return [Problem(file=root, found=str(error), expected="", remedy="")]


prepared = partial(how_prepare_ends, list_nuscenes)


def test_whole_data_raise_no_alarm(folder: NuscenesFolder) -> None:
    root = folder.write()
    (note,) = checked(root)
    assert (note.severity, note.found) == ("note", SCENES)
    code, said = prepared(root)
    assert code == 0
    assert SCENES in said
    assert not [line for line in said if "warning" in line]


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_an_error_of_one_fails_the_other(folder: NuscenesFolder, name: str) -> None:
    damage, words = ERRORS[name]
    damage(folder)
    root = folder.write()
    found = [problem for problem in checked(root) if problem.severity == "error"]
    assert any(words in problem.found for problem in found), found
    code, said = prepared(root)
    assert code == 1
    for problem in found:
        assert any(problem.found in line for line in said), (problem, said)


@pytest.mark.parametrize("name", NOTES)
def test_what_one_notes_the_other_says(folder: NuscenesFolder, name: str) -> None:
    damage, words = NOTES[name]
    damage(folder)
    if "other numbers" in name:
        labels = [file for file in folder.files if file.startswith("lidarseg/")]
        folder.files |= {file: bytes(31 - v for v in folder.files[file]) for file in labels}
    if "fewer" in name:
        labels = [file for file in folder.files if file.startswith("lidarseg/")]
        folder.files |= {file: bytes([24] * N) for file in labels}
    root = folder.write()
    problems = checked(root)
    assert {problem.severity for problem in problems} <= {"note", "warning"}
    assert len([problem for problem in problems if problem.severity == "note"]) >= 2
    code, said = prepared(root)
    assert code == 0
    assert any(words in line for line in said), said


@pytest.mark.parametrize("name", WARNINGS)
def test_what_one_warns_of_the_other_says_once(folder: NuscenesFolder, name: str) -> None:
    damage, words = WARNINGS[name]
    damage(folder)
    root = folder.write()
    problems = checked(root)
    assert not [problem for problem in problems if problem.severity == "error"]
    warnings = [problem for problem in problems if problem.severity == "warning"]
    assert any(words in str(problem) for problem in warnings), problems
    code, said = prepared(root)
    assert code == 0
    assert sum(words in line for line in said if line.startswith("warning: ")) == 1


def test_every_missing_pose_is_named_and_the_other_scans_are_prepared(
    folder: NuscenesFolder,
) -> None:
    lidar = [d for d in folder.tables["sample_data"] if d["filename"].startswith("samples/LIDAR")]
    gone = [row["ego_pose_token"] for row in lidar[:2]]
    poses = folder.tables["ego_pose"]
    folder.tables["ego_pose"] = [row for row in poses if row["token"] not in gone]
    root = folder.write()
    found = [problem.found for problem in checked(root) if problem.severity == "error"]
    assert found == [f"no row {token}" for token in gone]
    summary = prepare(list_nuscenes(root), root.parent / "out", INLINE, Silent())
    assert {failed.scan_id for failed in summary.failed} == {row["token"] for row in lidar[:2]}
    assert summary.scans == 4
    assert summary.scans_without_image == 2


def test_a_scan_whose_sweeps_cannot_be_placed_is_left_out(folder: NuscenesFolder) -> None:
    sweeps = [d for d in folder.tables["sample_data"] if d["filename"].startswith("sweeps/")]
    gone = sweeps[0]["ego_pose_token"]
    poses = folder.tables["ego_pose"]
    folder.tables["ego_pose"] = [row for row in poses if row["token"] != gone]
    listing = list_nuscenes(folder.write(), sweeps=1)
    assert len(listing.scans) == 3
    (failed,) = listing.failed
    assert failed.container == "lidar"
    assert gone in failed.reason


@pytest.mark.parametrize("link", ["itself", "the next"])
def test_past_sweeps_that_are_not_earlier_are_not_joined(folder: NuscenesFolder, link: str) -> None:
    lidar = [d for d in folder.tables["sample_data"] if "LIDAR_TOP" in d["filename"]]
    scene = [row for row in lidar if row["timestamp"] < 2_000_000_000]
    second, third = scene[1], scene[-1]
    second["prev"] = (second if link == "itself" else third)["token"]
    if link == "the next":
        third["prev"] = second["token"]
    root = folder.write()
    listing = list_nuscenes(root, sweeps=3)
    assert listing.failed
    assert {failed.container for failed in listing.failed} == {"lidar"}
    assert all("as timestamp of row" in failed.reason for failed in listing.failed)
    found = [p for p in check_nuscenes(root, progress=Silent(), sweeps=3) if p.severity == "error"]
    assert "an earlier one, as prev says" in found[0].expected
    assert not list_nuscenes(root).failed


def test_tables_written_on_windows_and_labels_at_another_place(folder: NuscenesFolder) -> None:
    for row in (*folder.tables["sample_data"], *folder.tables["lidarseg"]):
        row["filename"] = row["filename"].replace("/", "\\")
    listing = list_nuscenes(folder.write())
    assert len(listing.scans) == 4
    assert all(scan.labels is not None and all(scan.images) for scan in listing.scans)


def test_labels_that_the_table_places_elsewhere_are_missed_there(folder: NuscenesFolder) -> None:
    for row in folder.tables["lidarseg"]:
        row["filename"] = row["filename"].replace("v1.0-mini", "v1.0-trainval")
    root = folder.write()
    assert f"no labels ({root}/lidarseg/v1.0-trainval)" in list_nuscenes(root).notes
    assert root / "lidarseg/v1.0-trainval" in {problem.file for problem in checked(root)}


def test_one_bad_camera_leaves_the_other_five(folder: NuscenesFolder) -> None:
    sensor(folder, CAMERA, camera_intrinsic=[[0] * 3] * 3)
    listing = list_nuscenes(folder.write())
    assert {tuple(image is None for image in scan.images) for scan in listing.scans} == {
        (True, False, False, False, False, False)
    }


@pytest.mark.parametrize(
    ("name", "n_scans"), [("nuscenes", 1), ("nuscenes_labelled", 2), ("pandaset_as_nuscenes", 2)]
)
def test_real_data_have_no_faults(shared: Path, name: str, n_scans: int) -> None:
    root = shared / "real" / name
    assert {problem.severity for problem in checked(root)} == {"note"}
    listing = list_nuscenes(root)
    assert len(listing.scans) == n_scans
    assert not listing.failed
    assert not listing.warned


def test_every_row_that_cannot_be_read_is_named(folder: NuscenesFolder) -> None:
    folder.tables["sample"][0]["timestamp"] = "late"
    folder.tables["sample"].append(folder.tables["sample"][1])
    folder.tables["sample_data"][-1]["width"] = -1
    folder.tables["ego_pose"][-2]["rotation"] = [0, 0]
    folder.tables["calibrated_sensor"][2]["translation"] = None
    del folder.tables["lidarseg"][0]["filename"]
    root = folder.write()
    found = [problem for problem in checked(root) if problem.severity == "error"]
    assert [(problem.file.stem, problem.expected) for problem in found] == [
        ("sample", "a whole number 0..4611686018427387904"),
        ("sample", "one row for each"),
        ("calibrated_sensor", "3 finite numbers"),
        ("sample_data", "a whole number 0..65536"),
        ("lidarseg", "a table as nuScenes has it"),
        ("ego_pose", "4 finite numbers"),
    ]
    code, (said,) = prepared(root)
    assert code == 1
    assert found[0].found in said
    assert said.endswith(" And 5 more: `check` lists them.")


def test_a_key_frame_without_its_sample_is_an_error(folder: NuscenesFolder) -> None:
    gone = folder.tables["sample"].pop(1)["token"]
    root = folder.write()
    (problem,) = (problem for problem in checked(root) if problem.severity == "error")
    assert (problem.file.name, problem.found) == ("sample.json", f"no row {gone}")
    listing = list_nuscenes(root)
    assert len(listing.scans) == 3
    (failed,) = listing.failed
    assert (failed.container, failed.reason) == ("lidar", str(problem))


def test_a_key_frame_without_its_scene_is_an_error(folder: NuscenesFolder) -> None:
    folder.tables["sample"][1]["scene_token"] = "gone"
    root = folder.write()
    (problem,) = (problem for problem in checked(root) if problem.severity == "error")
    assert (problem.file.name, problem.found) == ("scene.json", "no row gone")
    listing = list_nuscenes(root)
    (failed,) = listing.failed
    assert (failed.container, failed.reason) == ("lidar", str(problem))
    assert len(listing.scans) == 3


@pytest.mark.parametrize("place", ["samples/CAM_BACK", "lidarseg/v1.0-mini", "samples/LIDAR_TOP"])
def test_a_folder_that_cannot_be_read_is_one_problem(
    folder: NuscenesFolder, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder.write()
    closed, real = root / place, os.listdir

    def listdir(path: object) -> list[str]:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    (problem,) = (problem for problem in checked(root) if problem.severity == "error")
    assert (problem.file, problem.found) == (closed, "permission denied")
    if place != "samples/CAM_BACK":  # not one scan can be prepared whole
        with pytest.raises(DataError, match=f"{place}: found permission denied") as caught:
            list_nuscenes(root)
        assert "more: `check`" not in str(caught.value)
        return
    summary = prepare(list_nuscenes(root), root.parent / "out", INLINE, Silent())
    assert [failed.container for failed in summary.failed] == ["camera"] * 4
    assert (summary.scans, summary.scans_without_image) == (4, 0)
