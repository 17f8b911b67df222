"""poses.txt and times.txt to poses of the lidar: by number, by rank, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipeline_files import check_semkitti, write_sequence

from pass2d.cache.fields import Fields
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest
from pass2d.cache.motion import Motion
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import plan, prepare
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.run import plan as plan_module
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.stages.poses import course_doubts, lidar_poses, lines_of, scan_times

INLINE = PrepareConfig(workers=0, shard_scans=2)
FILE = Path("poses.txt")
# The camera looks along the lidar's x: u to the right (-y), v down (-z), depth x.
TR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])


def line(x: float = 0, y: float = 0, z: float = 0) -> str:
    return f"1 0 0 {x} 0 1 0 {y} 0 0 1 {z}\n"


def test_a_camera_that_went_ahead_is_a_lidar_that_went_along_x() -> None:
    text = line() + line(z=2) + line(x=-3, z=2)
    poses = lidar_poses(text, cam0_from_lidar=TR, frames=[0, 1, 2], file=FILE)
    assert poses[:, :, 3].tolist() == [[0, 0, 0], [2, 0, 0], [2, 3, 0]]
    assert (poses[:, :, :3] == np.eye(3)).all()


def test_a_turn_of_the_camera_is_the_same_turn_of_the_lidar() -> None:
    # A quarter turn to the left: the camera's axes, seen from the first one: z -> -x.
    text = line() + "0 0 -1 0 0 1 0 0 1 0 0 5\n"
    tr = np.column_stack([TR[:, :3], [0.1, 0.2, 0.3]])
    poses = lidar_poses(text, cam0_from_lidar=tr, frames=[0, 1], file=FILE)
    assert poses[1, :, :3].round(12).tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    whole = np.eye(4)[None] * np.ones((2, 1, 1))
    whole[:, :3] = poses
    camera = np.vstack([tr, [0, 0, 0, 1]]) @ whole[1] @ np.linalg.inv(np.vstack([tr, [0, 0, 0, 1]]))
    np.testing.assert_allclose(camera[:3], [[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 5]], atol=1e-12)


@pytest.mark.parametrize(
    ("frames", "n_lines", "expected"),
    [
        ([0, 1, 2], 3, [0, 1, 2]),
        ([0, 1, 2], 9, [0, 1, 2]),  # a part of the sequence
        ([0, 1, 4, 5], 6, [0, 1, 4, 5]),  # a gap, and a line for each number
        ([0, 1, 4, 5], 4, [0, 1, 2, 3]),  # a gap, and a line for each file
        ([7], 1, [0]),
    ],
)
def test_lines_belong_to_numbers_or_else_to_files(
    frames: list[int], n_lines: int, expected: list[int]
) -> None:
    assert lines_of(frames, n_lines=n_lines, file=FILE, remedy="").tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line() * 2, "2 lines"),
        (line() * 3, "3 lines"),
        (line() + line()[2:] + line() * 4, "line 2: 11 numbers"),
        (line() * 2 + "\n" + line() * 3, "line 3: 0 numbers"),
        (line() * 5 + "1 0 0 nan 0 1 0 0 0 0 1 0", "line 6: a number that is not finite"),
        (line() * 4 + "2 0 0 0 0 2 0 0 0 0 2 0\n" + line(), "line 5 that is not a rigid motion"),
        (line() * 5 + "1 0 0 0 0 1 0 0 0 0 -1 0\n", "line 6 that is not a rigid motion"),
        (line() + line(z=2000) * 5, "line 2: a vehicle 2,000 m from where it was"),
        (line() * 5 + line(z=1e300), "line 6: a vehicle inf m from where it was"),
        ("a b c", "line 1: 3 numbers"),
        ("", "0 lines"),
    ],
)
def test_poses_that_cannot_be_are_one_error(text: str, words: str) -> None:
    with pytest.raises(ProblemError, match=rf"^poses.txt: found {words}"):
        lidar_poses(text, cam0_from_lidar=TR, frames=[0, 1, 4, 5], file=FILE)


def test_times() -> None:
    times = scan_times("0.0\n0.1\n0.2\n0.31\n\n", frames=[0, 1, 3], file=FILE)
    assert times.tolist() == [0.0, 0.1, 0.31]
    with pytest.raises(ProblemError, match="scan 000003 that is earlier"):
        scan_times("0.0\n0.1\n0.2\n0.05\n", frames=[0, 1, 3], file=FILE)
    with pytest.raises(ProblemError, match=r"scans 101.2 s apart, expected seconds, of one drive"):
        scan_times("0\n100\n203\n305\n", frames=[0, 1, 3], file=FILE)  # milliseconds


def test_steps_that_do_not_lead_ahead_are_counted() -> None:
    text = line() + line(x=2) + line(x=4) + line(x=4, z=2) + line(x=4, z=1) + line(x=4, z=1.1)
    poses = lidar_poses(text, cam0_from_lidar=TR, frames=range(6), file=FILE)
    (doubt,) = course_doubts(poses, ahead="x", expected="", file=FILE)
    assert doubt.found.endswith("in 3 of 4 steps")  # right twice, back; the last is too short
    level = np.tile(np.eye(3, 4), (6, 1, 1))
    level[:, 1, 3] = range(6)  # along y
    assert not list(course_doubts(level, ahead="y", expected="", file=FILE))
    assert list(course_doubts(level, ahead="x", expected="", file=FILE))


@pytest.mark.parametrize(
    ("steps", "is_odd"),
    [
        ([line(z=2 * i) for i in range(6)], False),
        ([line(x=2 * i) for i in range(6)], True),  # along the lidar's x, as if it were camera 0's
        ([line(z=-2 * i) for i in range(6)], True),  # inverted
        ([line(x=2 * i) for i in range(4)], False),  # too few to tell
        ([line(z=0.01 * i) for i in range(6)], False),
    ],
)
def test_poses_of_the_lidar_itself_are_a_warning(
    tmp_path: Path, steps: list[str], is_odd: bool
) -> None:
    folder = write_sequence(tmp_path, "00", tuple(range(len(steps))))
    (folder / "poses.txt").write_text("".join(steps))
    listing = list_semkitti(tmp_path)
    said = [str(one) for one in listing.warned if "sideways, backwards or up" in str(one)]
    assert len(said) == is_odd
    assert all(scan.pose is not None for scan in listing.scans)
    checked = check_semkitti(tmp_path, progress=Silent())
    assert sum("sideways" in problem.found for problem in checked) == is_odd


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """00: gap, a line for each number; 08: none; 11: without labels."""
    root = tmp_path / "raw"
    folder = write_sequence(root, "00", (0, 1, 4))
    (folder / "poses.txt").write_text("".join(line(z=2 * frame) for frame in range(5)))
    (folder / "times.txt").write_text("".join(f"{frame / 10}\n" for frame in range(5)))
    (write_sequence(root, "08", (0,)) / "poses.txt").unlink()
    write_sequence(root, "11", (3, 4), labels=False)
    return root


def test_the_cache_keeps_poses_times_and_motion(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = prepare(list_semkitti(raw), out, INLINE, Silent())
    assert not summary.warned
    assert any("08: no poses.txt" in note for note in summary.notes)
    assert any("gaps in the frame numbers" in note for note in summary.notes)
    with CacheReader.open(out) as reader:
        scans = reader.scans
        assert scans.pose[:, 0, 3].tolist()[:3] == [0, 2 * 1, 2 * 4]
        assert np.isnan(scans.pose[3]).all()
        assert scans.time_s.tolist() == [0.0, 0.1, 0.4, 0.0, 0.0, 0.0]
        assert scans.has_motion.tolist() == [True] * 4 + [False] * 2
        record = reader.read(0, Fields(motion=True, outside=True))
        assert record.motion is not None
        labels = np.fromfile(raw / "sequences/00/labels/000000.label", "<u4") & 0xFFFF
        motion = np.where(labels == 252, Motion.MOVING, np.where(labels > 1, Motion.STATIC, 0))
        assert record.raw().motion.tolist() == motion.tolist()
        moving_cars = int((record.motion == Motion.MOVING).sum())
        assert scans.moving_histogram[0].tolist() == [moving_cars, 0, 0, 0, 0, 0]
        assert reader.read(0, Fields()).motion is None
        assert reader.read(5, Fields(motion=True)).motion is None


def test_other_poses_make_other_motion_shards_and_nothing_else(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(list_semkitti(raw), out, INLINE, Silent())
    (raw / "sequences/00/poses.txt").write_text(line() * 5)
    todo = plan(list_semkitti(raw), out, INLINE)
    assert [(task.container, task.shard, task.reason) for task in todo.tasks] == [
        ("motion", 0, "poses or times of scans changed 00/000001"),
        ("motion", 1, "poses or times of scans changed 00/000004"),
    ]


def test_an_older_cache_stays_and_gets_the_new_container(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as older:
        older.setattr(plan_module, "containers", lambda job, info: ("lidar", "camera", "voxel"))
        prepare(list_semkitti(raw), out, INLINE, Silent())
    shards = load_manifest(Layout(root=out)).tables.shards["path"].to_pylist()
    with CacheReader.open(out) as reader:
        assert not reader.scans.has_motion.any()
        assert np.isnan(reader.scans.pose).all()
        assert reader.read(0, Fields(motion=True, outside=True)).motion is None
    summary = prepare(list_semkitti(raw), out, INLINE, Silent())
    assert (summary.written_shards, summary.kept_shards) == (4, 12)
    after = load_manifest(Layout(root=out)).tables.shards["path"].to_pylist()
    assert {path for path in after if not path.startswith("motion/")} == set(shards)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("poses.txt", line() * 4, "4 lines"),
        ("poses.txt", "2 0 0 0 0 2 0 0 0 0 2 0\n" * 5, "not a rigid motion"),
        ("calib.txt", "P2: 100 0 50 0 0 100 40 0 0 0 1 0\n", "no Tr among P2"),
    ],
)
def test_what_cannot_be_used_is_said_by_prepare_and_check(
    raw: Path, tmp_path: Path, name: str, text: str, words: str
) -> None:
    for picture in (raw / "sequences/00/image_2").iterdir():
        picture.unlink()  # which alone need calib.txt
    (raw / "sequences/00" / name).write_text(text)
    summary = prepare(list_semkitti(raw), tmp_path / "out", INLINE, Silent())
    (warned,) = summary.warned
    assert words in str(warned)
    assert "cannot be joined" in str(warned)
    found = [p for p in check_semkitti(raw) if p.severity == "warning"]
    assert found == [warned.first]
    assert not summary.failed
    with CacheReader.open(tmp_path / "out") as reader:
        assert np.isnan(reader.scans.pose[:4]).all()
        assert not np.isnan(reader.scans.pose[4:]).any()
