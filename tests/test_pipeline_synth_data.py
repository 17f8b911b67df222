"""The synthetic data set on disk: layout, determinism, resuming, errors, and what can be learnt."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT_ROOT
from leftovers import left_by_a_kill
from PIL import Image
from pipeline_files import check_semkitti
from waiting import ends, goes_on

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.compose import lidar_record
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table
from pass2d.pipeline.run.ray_guard import children
from pass2d.pipeline.stages.projection import project_points
from pass2d.synth.config import SynthConfig, preset
from pass2d.synth.frame import camera_model, lidar_pose, render_frame
from pass2d.synth.generate import generate
from pass2d.synth.labels import MOVING, Raw
from pass2d.synth.motion import camera_poses

TINY = preset("tiny", scans=2)
DRIVE = preset("small", scans=30, image_hw=(96, 304))


class Listener(Silent):
    """Keeps what `generate` tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = 0
        self.total = -1

    def start(self, title: str, *, total: int, unit: str) -> None:
        self.total = total

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        self.done += count

    def say(self, text: str) -> None:
        self.lines.append(text)


def contents(root: Path) -> dict[str, bytes]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "world"
    generate(out, TINY, Silent())
    return out


# layout


def test_layout_is_that_of_semantickitti(tiny: Path) -> None:
    common = {"calib.txt", "poses.txt", "times.txt", "velodyne", "image_2"}
    for sequence in ("00", "08", "11"):
        folder = tiny / "sequences" / sequence
        labelled = {"labels"} if sequence != "11" else set()
        assert {p.name for p in folder.iterdir()} == common | labelled
        for frame in ("000000", "000001"):
            points = np.fromfile(folder / "velodyne" / f"{frame}.bin", "<f4").reshape(-1, 4)
            assert 200 < len(points) <= 16 * 128
            if labelled:
                assert (folder / "labels" / f"{frame}.label").stat().st_size == 4 * len(points)
            with Image.open(folder / "image_2" / f"{frame}.png") as image:
                assert (image.size, image.mode) == ((96, 32), "RGB")


def test_calibration_and_poses_are_kittis(tiny: Path) -> None:
    folder = tiny / "sequences" / "00"
    rows = dict(line.split(":") for line in (folder / "calib.txt").read_text().splitlines())
    assert list(rows) == ["P0", "P1", "P2", "P3", "Tr"]
    values = {name: np.array(text.split(), float).reshape(3, 4) for name, text in rows.items()}
    assert values["P2"][0, 3] != 0
    rotation = values["Tr"][:, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    poses = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    assert len(poses) == len((folder / "times.txt").read_text().split()) == TINY.scans
    np.testing.assert_allclose(poses[0], np.eye(3, 4), atol=1e-6)
    # Camera 0 looks along its z: 0.8 s at 8 m/s.
    assert poses[1, 2, 3] == pytest.approx(6.4, abs=0.3)


def test_reader_finds_nothing_to_complain_about(tiny: Path) -> None:
    # Notes say that a world of two scans is not the whole of SemanticKITTI.
    problems = check_semkitti(tiny, progress=Silent())
    assert [p for p in problems if p.severity != "note"] == []
    listing = list_semkitti(tiny)
    assert [s.scan_id for s in listing.scans if s.split == "val"] == ["08/000000", "08/000001"]
    record = lidar_record(listing.scans[0], listing.info)
    assert record.label is not None
    assert record.n > 0.8 * record.n_raw


# determinism


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tiny: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", preset("tiny", scans=2, workers=2), Silent())
    assert contents(tmp_path / "two") == contents(tiny)


def test_frames_do_not_depend_on_those_before() -> None:
    late = render_frame(TINY, "08", 1)
    render_frame(TINY, "00", 0)
    again = render_frame(TINY, "08", 1)
    np.testing.assert_array_equal(late.scan.points, again.scan.points)
    np.testing.assert_array_equal(late.image, again.image)


def test_scan_does_not_depend_on_the_size_of_the_picture() -> None:
    large = render_frame(preset("tiny", scans=2, image_hw=(48, 64)), "00", 1)
    np.testing.assert_array_equal(large.scan.points, render_frame(TINY, "00", 1).scan.points)


def test_seed_and_sequence_change_the_world() -> None:
    first = render_frame(TINY, "00", 0)
    for config, sequence in ((TINY, "08"), (preset("tiny", scans=2, seed=1), "00")):
        other = render_frame(config, sequence, 0)
        assert len(other.scan.points) != len(first.scan.points) or not np.array_equal(
            other.scan.points, first.scan.points
        )
        assert not np.array_equal(other.image, first.image)


# resuming and errors


def test_second_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    config = preset("tiny", scans=2, sequences=("00", "11"))
    generate(tmp_path / "w", config, Silent())
    before = contents(tmp_path / "w")
    folder = tmp_path / "w" / "sequences" / "00"
    (folder / "labels" / "000001.label").unlink()
    left_by_a_kill(folder / "velodyne")
    listener = Listener()
    summary = generate(tmp_path / "w", config, listener)
    assert (summary.scans_written, summary.scans_kept) == (1, 3)
    assert (listener.total, listener.done) == (1, 1)
    assert "3 of 4 scans" in listener.lines[0]
    assert contents(tmp_path / "w") == before


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(DataError, match="not empty"):
        generate(tmp_path, TINY, Silent())
    assert contents(tmp_path) == {"thesis.tex": b"do not touch"}


def test_other_settings_are_refused_by_name(tiny: Path) -> None:
    before = contents(tiny)
    with pytest.raises(DataError, match=r"seed = 0, asked for 5"):
        generate(tiny, preset("tiny", scans=2, seed=5), Silent())
    assert contents(tiny) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_file_in_the_way_is_one_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=str(tmp_path / "file")):
        generate(tmp_path / place, TINY, Silent())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch, number: int) -> None:
    write, place = Path.write_bytes, tmp_path / "w/sequences/00/image_2"

    def fail(self: Path, data: bytes) -> int:
        if (place / "000000.png").exists() and self.is_relative_to(place):
            write(self, data[: len(data) // 2])
            raise OSError(number, "it is full")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(DataError, match=r"000001\.png: cannot write: it is full"):
        generate(tmp_path / "w", TINY, Silent())
    assert [path.name for path in place.iterdir()] == ["000000.png"]


def test_interrupt_leaves_no_half_file_and_can_be_continued(tmp_path: Path, monkeypatch) -> None:
    write, folder = Path.write_bytes, tmp_path / "w/sequences/00/velodyne"

    def interrupt(self: Path, data: bytes) -> int:
        if (folder / "000000.bin").exists() and self.is_relative_to(folder):
            write(self, data[: len(data) // 2])
            raise KeyboardInterrupt
        return write(self, data)

    config = preset("tiny", scans=2, sequences=("00",))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "w", config, Silent())
    assert not list(tmp_path.rglob(".*"))
    assert not (folder / "000001.bin").exists()
    assert generate(tmp_path / "w", config, Silent()).scans_kept == 1


@pytest.mark.slow
def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pass2d.cli import main; main()"
    command = [sys.executable, "-c", code, str(PROJECT_ROOT), "prepare", "synth", "--workers", "2"]
    with subprocess.Popen([*command, "--preset", "full", "--out", str(tmp_path / "w")]) as driver:
        while not (workers := [pid for pid in children(driver.pid) if _imports_numpy(pid)]):
            assert goes_on(driver)
        driver.kill()
    assert all(ends(pid) for pid in workers)


def _imports_numpy(pid: int) -> bool:
    """Whether a worker has come as far as its first scan."""
    try:
        return "numpy" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scans": 0}, "scans"),
        ({"beams": -1}, "beams"),
        ({"columns": 2.5}, "columns"),
        ({"image_hw": (0, 96)}, "image height"),
        ({"workers": -1}, "workers"),
        ({"interval_s": float("nan")}, "interval_s"),
        ({"speed_mps": 0.0}, "speed_mps"),
        ({"sequences": ()}, "sequences is empty"),
        ({"sequences": ("00", "00")}, "twice"),
        ({"sequences": ("22",)}, "00 to 21"),
        ({"sequences": ("../etc",)}, "00 to 21"),
        ({"seed": True}, "seed"),
        ({"scans": 100_000}, "drive of 80000 m"),
    ],
)
def test_impossible_settings_are_named(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthConfig(**changes)


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="full, small, demo, movers, tiny"):
        preset("huge")


# what there is to learn


@pytest.fixture(scope="module")
def drives() -> dict[str, list]:
    """Every fourth frame of three sequences: scan and picture."""
    return {s: [render_frame(DRIVE, s, i) for i in range(0, 30, 4)] for s in ("00", "01", "08")}


@pytest.mark.slow
def test_every_class_occurs_in_training_and_in_validation(drives) -> None:
    table = semkitti_table().info.labels
    for sequences in (("00", "01"), ("08",)):
        raw = np.concatenate([f.scan.labels & 0xFFFF for s in sequences for f in drives[s]])
        assert set(np.unique(raw).tolist()) <= set(table.raw_to_training)
        counts = np.bincount([table.raw_to_training[int(r)] for r in raw], minlength=20)
        missing = [table.names[c] for c in np.flatnonzero(counts < 20)]
        assert missing == []
        assert counts[1:].max() < 0.5 * len(raw)
    assert len(set(np.unique(raw).tolist()) & {int(m) for m in MOVING.values()}) >= 4


def test_an_instance_keeps_its_class_and_standing_things_their_place(drives) -> None:
    poses = _world_from_lidar()
    seen: dict[int, set[int]] = {}
    places: dict[int, list] = {}
    for number, frame in zip(range(0, 30, 4), drives["08"], strict=True):
        label, instance = frame.scan.labels & 0xFFFF, frame.scan.labels >> 16
        world = frame.scan.points[:, :3] @ poses[number][:3, :3].T + poses[number][:3, 3]
        for one in np.unique(instance[instance > 0]):
            rows = instance == one
            seen.setdefault(int(one), set()).update(label[rows].tolist())
            if (label[rows] == Raw.CAR).all():
                places.setdefault(int(one), []).append(world[rows])
    assert len(seen) > 20
    assert all(len(classes) == 1 for classes in seen.values())
    lengths = [
        np.ptp(np.concatenate(p)[:, :2], axis=0).max() for p in places.values() if len(p) > 1
    ]
    assert len(lengths) > 5
    assert max(lengths) < 6.0  # a car, not its track


def _world_from_lidar() -> np.ndarray:
    """From poses as they are written: camera 0, relative to the first."""
    camera = camera_model(DRIVE)
    lidar = np.stack([lidar_pose(DRIVE, "08", i) for i in range(30)])
    cam0 = np.tile(np.eye(4), (30, 1, 1))
    cam0[:, :3] = camera_poses(lidar, camera)
    tr = camera.cam0_from_lidar
    return np.linalg.inv(tr) @ cam0 @ tr


def _samples(frames, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Geometry (height, range, remission) and colour of the visible points of a class."""
    camera, geometry, color = camera_model(DRIVE), [], []
    for frame in frames:
        seen = project_points(
            np.ascontiguousarray(frame.scan.points[:, :3].T),
            image_from_lidar=camera.image_from_cam0 @ camera.cam0_from_lidar,
            image_hw=camera.image_hw,
        )
        rows = (frame.scan.labels[seen.point_index] & 0xFFFF) == label
        points = frame.scan.points[seen.point_index[rows]]
        reach = np.linalg.norm(points[:, :3], axis=1)
        geometry.append(np.column_stack([points[:, 2], reach, points[:, 3]]))
        color.append(frame.image[tuple(seen.pixel_rc[:, rows])].astype(float))
    return np.concatenate(geometry), np.concatenate(color)


def _accuracy(train: list[np.ndarray], val: list[np.ndarray]) -> float:
    """Mean accuracy per class of the nearest 15 training samples, features scaled alike."""
    from scipy.spatial import KDTree

    rng = np.random.default_rng(0)
    base = [samples[rng.integers(len(samples), size=800)] for samples in train]
    scale = np.concatenate(base).std(axis=0)
    tree = KDTree(np.concatenate(base) / scale)
    shares = []
    for label, samples in enumerate(val):
        _, near = tree.query(samples[rng.integers(len(samples), size=800)] / scale, k=15)
        shares.append(((near >= 800).mean(axis=1) > 0.5) == label)
    return float(np.mean([share.mean() for share in shares]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Raw.ROAD, Raw.PARKING),
        (Raw.PARKING, Raw.SIDEWALK),
        (Raw.SIDEWALK, Raw.TERRAIN),
        (Raw.POLE, Raw.TRAFFIC_SIGN),
        (Raw.TRUNK, Raw.POLE),
    ],
)
def test_colour_tells_more_than_height_range_and_remission(drives, one: Raw, other: Raw) -> None:
    train = [_samples(drives["00"] + drives["01"], label) for label in (one, other)]
    val = [_samples(drives["08"], label) for label in (one, other)]
    geometry, color = (
        _accuracy([t[kind] for t in train], [v[kind] for v in val]) for kind in (0, 1)
    )
    assert color > 0.68
    assert geometry < 0.85
    assert color > geometry
