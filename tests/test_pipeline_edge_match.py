"""A calibration is compared with turned copies of itself, by the edges of scans and pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from numpy.typing import NDArray
from pipeline_files import check_semkitti

from pass2d.cache.clouds.nowhere import is_measured
from pass2d.common.progress import Silent
from pass2d.pipeline.compose import pictures_at_hand
from pass2d.pipeline.datasets.raw_scans import list_raw
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.doubts import EDGE_PICTURES, edge_doubts, edge_sample, edge_scores
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.camera_sense import Pinhole
from pass2d.pipeline.stages.edge_match import (
    Turn,
    clear_turn,
    match_edges,
    range_jumps,
    shows_edges,
)
from pass2d.pipeline.stages.read import read_point_file
from pass2d.synth.config import preset
from pass2d.synth.generate import generate

AHEAD = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
"""Right, down and ahead of a camera that looks along x."""
CAMERA = Pinhole(np.array([[400.0, 0, 320], [0, 400, 120], [0, 0, 1]]), AHEAD, np.zeros(3))


def turn(*, right: float = 0, down: float = 0, clockwise: float = 0) -> NDArray[np.float64]:
    """(3, 3) in the camera's frame: moves what is seen by so many degrees."""
    first, second, degrees = next(
        (first, second, degrees)
        for first, second, degrees in ((2, 0, right), (2, 1, down), (0, 1, clockwise))
        if degrees
    )
    matrix, angle = np.eye(3), np.deg2rad(degrees)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first], matrix[first, second] = np.sin(angle), -np.sin(angle)
    return matrix


def test_a_point_before_another_to_its_side_is_a_jump_and_one_above_it_is_not() -> None:
    azimuth, elevation = np.radians([0.0, 0.5, 3.0, 3.0]), np.radians([0.1, 0.1, 0.1, 1.1])
    distance = np.array([10, 12, 10, 12])
    xyz = distance * np.stack(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    assert range_jumps(xyz.astype(np.float32)).tolist() == [True, False, False, False]
    assert range_jumps(np.zeros((3, 0), np.float32)).shape == (0,)


def boards() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A scan of boards that float before a wall, and the picture of ``CAMERA``."""
    rng = np.random.default_rng(0)
    middle = rng.uniform((-36, -12), (36, 12), (70, 2))
    right, up = (
        part.ravel() for part in np.meshgrid(np.arange(-40, 40, 0.2), np.arange(-14, 14, 0.5))
    )

    def at_board(right: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.bool_]:
        away = np.abs(np.stack([right, up], axis=-1)[..., None, :] - middle)
        return (away < (0.5, 1.5)).all(axis=-1).any(axis=-1)

    distance = np.where(at_board(right, up), 5.0, 10.0)
    x, y = np.cos(np.radians(right)), -np.sin(np.radians(right))
    xyz = distance * np.stack([x, y, np.tan(np.radians(up))]) * np.cos(np.radians(up))
    row, column = np.mgrid[:240, :640] + 0.5
    of_right = np.degrees(np.arctan((column - 320) / 400))
    of_up = np.degrees(np.arctan((120 - row) / np.hypot(column - 320, 400)))
    image = np.where(at_board(of_right, of_up), 40, 200) + rng.integers(-20, 20, row.shape)
    return xyz.astype(np.float32), np.repeat(image[..., None], 3, axis=2).astype(np.uint8)


def turn_of(camera: Pinhole, image: NDArray[np.uint8], xyz: NDArray[np.float32]) -> Turn | None:
    scores = match_edges(xyz, range_jumps(xyz), camera=camera, image=image)
    assert scores is not None
    return clear_turn([scores])


def test_boards_before_a_wall_show_by_how_much_the_camera_is_turned() -> None:
    xyz, image = boards()
    assert turn_of(CAMERA, image, xyz) is None
    for name, degrees in (("right", 3.0), ("right", -5.0), ("down", 3.0), ("clockwise", -4.0)):
        camera = CAMERA._replace(rotation=turn(**{name: degrees}) @ AHEAD)
        found = turn_of(camera, image, xyz)
        assert found is not None, name
        expected = [degrees if name == one else 0 for one in ("right", "down", "clockwise")]
        assert np.abs(np.subtract(found[:3], expected)).max() <= 0.5, found
    assert str(Turn(3.0, -2.0, 0.25)) == "3.0 degrees to the right and 2.0 degrees too high"
    assert str(Turn(0.5, 0.0, -4.0)) == "4.0 degrees turned counterclockwise"


def test_nothing_is_said_without_edges() -> None:
    xyz, image = boards()
    assert turn_of(CAMERA, np.full_like(image, 90), xyz) is None
    coarse = np.diag([0.1, 0.1, 1]) @ CAMERA.intrinsics
    assert shows_edges(CAMERA)
    assert not shows_edges(CAMERA._replace(intrinsics=coarse))
    few = xyz[:, ::50]
    assert match_edges(few, range_jumps(few), camera=CAMERA, image=image) is None
    assert clear_turn([]) is None
    noise = np.random.default_rng(1).integers(0, 255, image.shape).astype(np.uint8)
    assert turn_of(CAMERA, noise, xyz) is None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "raw"
    changes = {"sequences": ("00", "08"), "scans": 3, "interval_s": 2.0}
    generate(root, preset("small", **changes), Silent())
    return root


def turn_calibrations(root: Path, matrix_of_turn: NDArray[np.float64]) -> None:
    """Write a `Tr` that turns a lidar's points about the axes of the camera."""
    for file in root.glob("sequences/*/calib.txt"):
        text = file.read_text()
        line = re.search(r"^Tr: (.*)$", text, re.MULTILINE)
        assert line is not None
        matrix = np.array(line[1].split(), float).reshape(3, 4)
        matrix[:, :3] = matrix_of_turn @ matrix[:, :3]
        numbers = " ".join(f"{number:.9e}" for number in matrix.ravel())
        file.write_text(text.replace(line[0], f"Tr: {numbers}"))


def test_check_and_prepare_say_of_each_sequence_how_its_calibration_is_turned(
    world: Path, tmp_path: Path
) -> None:
    def said() -> list[str]:
        return [p.found for p in check_semkitti(world) if p.kind.startswith("edges")]

    assert said() == []
    right = {file: file.read_text() for file in world.glob("sequences/*/calib.txt")}
    for turned_by, words in (
        (turn(right=3), r"points (2\.8|3\.0|3\.2) degrees to the right"),
        (turn(down=-3), r"points (2\.8|3\.0|3\.2) degrees too high"),
        (turn(right=-5), r"points (4\.8|5\.0|5\.2) degrees to the left"),
    ):
        turn_calibrations(world, turned_by)
        found = said()
        assert len(found) == 2
        for one in found:
            assert re.search(words + ".*, judged by the edges in 3 pictures", one), one
        for file, text in right.items():
            file.write_text(text)
    turn_calibrations(world, turn(right=3))
    heard = Heard()
    prepare(list_semkitti(world), tmp_path / "cache", PrepareConfig(workers=0), progress=heard)
    lines = [line for line in heard.lines if "judged by the edges" in line]
    assert len(lines) == 1
    assert "(2 times)" in lines[0]
    assert str(world / "sequences" / "00" / "image_2" / "000000.png") in lines[0]
    for file, text in right.items():
        file.write_text(text)


ROOTS = (
    "semantickitti",
    "kitti_object_as_odometry",
    "pandaset_as_semantickitti",
    "nuscenes",
    "nuscenes_labelled",
    "pandaset_as_nuscenes",
)


@pytest.mark.parametrize("name", ROOTS)
def test_a_real_calibration_is_right_and_a_turned_one_never_thought_to_be_turned_elsewhere(
    shared: Path, name: str
) -> None:
    raw = list_raw(shared / "real" / name)
    assert raw is not None
    # Two scans of each: 20 pictures. All 26, with other turns: bench/bench_calibration_edges.py.
    for scan in raw.scans[:2]:
        points = read_point_file(scan.points, raw.info, scan_id=scan.scan_id)[:, :3].T
        xyz = np.ascontiguousarray(points[:, is_measured(points)])
        images = pictures_at_hand(scan, raw.info)
        assert list(edge_doubts(edge_scores(scan, xyz, images))) == []
        wrong = edge_scores(turned(scan, degrees=4), xyz, images)
        for problem in edge_doubts(wrong):
            lies = re.search(r"(\d\.\d) degrees to the left", problem.found)
            assert lies is not None, problem.found
            assert abs(float(lies[1]) - 4) <= 1


def turned(scan: ScanSource, *, degrees: float) -> ScanSource:
    """With a lidar turned to the left about its vertical axis."""
    if scan.image_from_lidar is None:
        return scan
    about_z, angle = np.eye(4), np.deg2rad(degrees)
    about_z[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrices = (np.array(matrix).reshape(3, 4) @ about_z for matrix in scan.image_from_lidar)
    return replace(scan, image_from_lidar=tuple(tuple(m.ravel().tolist()) for m in matrices))


def test_turned_real_calibrations_of_kitti_are_found(real_semkitti: Path) -> None:
    raw = list_raw(real_semkitti)
    assert raw is not None
    scores = []
    for scan in raw.scans:
        xyz = read_point_file(scan.points, raw.info, scan_id=scan.scan_id)[:, :3].T
        images = pictures_at_hand(scan, raw.info)
        scores += edge_scores(turned(scan, degrees=3), np.ascontiguousarray(xyz), images)
    found = [problem.found for problem in edge_doubts(scores)]
    assert found == [
        "points 3.2 degrees to the left, judged by the edges in 2 pictures",
        "points 3.0 degrees to the left, judged by the edges in the picture",
    ]


def test_scans_are_compared_evenly_over_each_sequence(world: Path) -> None:
    first = list_semkitti(world).scans[0]
    many = [
        replace(first, scan_id=f"{sequence}/{frame}", sequence=sequence)
        for sequence, count in (("00", 12), ("01", 2))
        for frame in range(count)
    ]
    assert EDGE_PICTURES == 6
    expected = {*(f"00/{frame}" for frame in (0, 2, 4, 6, 8, 10)), "01/0", "01/1"}
    assert edge_sample(many) == expected
    assert edge_sample(many, 2) == {"00/0", "00/6", "01/0", "01/1"}
    assert edge_sample([replace(first, images=(None,))]) == set()
