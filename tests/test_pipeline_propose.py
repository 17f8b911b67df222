"""`pass2d describe`: what it proposes prepares the folder that it looked at, without an edit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from described_variety import write_flight
from PIL import Image
from plyfile import PlyData, PlyElement
from test_cache_columns import street
from train_samples import TINY
from typed import answer, printed
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cli import app
from pass2d.common.errors import DataError
from pass2d.pipeline.datasets.described.description import Description
from pass2d.pipeline.datasets.described.sources import load_description
from pass2d.pipeline.datasets.proposal.propose import Proposal, propose

N = 3000
IDS = (40, 70, 0)


def cloud(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 5) a street-like scan: ground, walls, a signal of 0 to 255, a ring; (N,) raw ids."""
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, (18, 18, 0.3), (N, 3)) - (0, 0, 1.7)
    xyz[::4, 2] += rng.uniform(0, 4, N // 4)
    points = np.column_stack([xyz, rng.uniform(0, 255, N), rng.integers(0, 32, N)])
    return points, np.where(np.arange(N) % 50 == 0, 0, np.where(xyz[:, 2] < -1.2, 40, 70))


def as_bin(root: Path, *, scale: float = 1.0, dtype: str = "<f4") -> None:
    """Drives with points in .bin and labels of 32 bits with instances."""
    for seed, (drive, scan) in enumerate([("d1", "07"), ("d1", "08"), ("d2", "07")]):
        points, raw = cloud(seed)
        points[:, :3] *= scale
        for folder in ("pcl", "gt"):
            (root / drive / folder).mkdir(parents=True, exist_ok=True)
        points.astype(dtype).tofile(root / drive / "pcl" / f"{scan}.bin")
        (raw | 5 << 16).astype("<u4").tofile(root / drive / "gt" / f"{scan}.label")


def as_npy(root: Path) -> None:
    """Folders of splits; labels of any integer type beside the points."""
    for seed, (split, scan) in enumerate(
        [("training", "a-1"), ("training", "a-2"), ("val", "b-1")]
    ):
        points, raw = cloud(seed)
        for folder in ("points", "semantics"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        np.save(root / split / "points" / f"{scan}.npy", points[:, :4].astype(np.float32))
        np.save(root / split / "semantics" / f"{scan}.npy", raw.astype(np.int16))


def as_csv(root: Path) -> None:
    """One folder, a label column, lists of splits."""
    root.mkdir(parents=True, exist_ok=True)
    for seed in range(3):
        points, raw = cloud(seed)
        table = np.column_stack([points[:, :4].round(3), raw])
        lines = "\n".join(",".join(f"{value:g}" for value in row) for row in table)
        (root / f"scan{seed}.csv").write_text(f"pos_x,pos_y,pos_z,Intensity,class\n{lines}\n")
    (root / "train.txt").write_text("scan0.csv\nscan1.csv\n")
    (root / "val.txt").write_text("scan2.csv\n")


def as_pcd(root: Path) -> None:
    """Sequences, fields by name, the label among them."""
    head = (
        "VERSION .7\nFIELDS x y z intensity ring label\nSIZE 4 4 4 4 2 1\nTYPE F F F F U U\n"
        f"COUNT 1 1 1 1 1 1\nWIDTH {N}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {N}\nDATA binary\n"
    )
    kind = [("xyzi", "<f4", 4), ("ring", "<u2"), ("label", "u1")]
    for seed, (sequence, scan) in enumerate([("00", "0"), ("00", "1"), ("01", "0")]):
        points, raw = cloud(seed)
        rows = np.zeros(N, kind)
        rows["xyzi"], rows["ring"], rows["label"] = points[:, :4], points[:, 4], raw
        (root / sequence).mkdir(parents=True, exist_ok=True)
        (root / sequence / f"{scan}.pcd").write_bytes(head.encode() + rows.tobytes())


def as_ply(root: Path) -> None:
    """One drive, one number per point in .label files of one byte."""
    for seed in range(5):
        points, raw = cloud(seed)
        kind = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("reflectivity", "f4")]
        rows = np.array([tuple(row) for row in points[:, :4]], kind)
        for folder in ("clouds", "labels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        data = PlyData([PlyElement.describe(rows, "vertex")])
        data.write(str(root / "clouds" / f"frame_{seed:04d}.ply"))
        raw.astype("u1").tofile(root / "labels" / f"frame_{seed:04d}.label")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str, tuple[int, int]]] = {
    "bin": (as_bin, "{sequence}/pcl/{scan}.bin", (2, 1)),
    "npy": (as_npy, "{split}/points/{scan}.npy", (2, 1)),
    "csv": (as_csv, "scan{scan}.csv", (2, 1)),
    "pcd": (as_pcd, "{sequence}/{scan}.pcd", (2, 1)),
    "ply": (as_ply, "clouds/frame_{scan}.ply", (4, 1)),
}


def described(root: Path) -> tuple[Proposal, Description]:
    """What is proposed of a folder, and the same as a description."""
    found = propose(root)
    file = root.parent / "found.toml"
    file.write_text(found.text)
    return found, load_description(file)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_proposal_goes_all_the_way_as_it_is(layout: str, tmp_path: Path) -> None:
    write, pattern, (train, val) = LAYOUTS[layout]
    root, cache = tmp_path / "my drives", tmp_path / "cache"
    write(root)
    file = tmp_path / "found.toml"
    assert "-check" in printed("describe", root, "--out", file)
    found = load_description(file)
    assert found.dataset.name == "my-drives"
    assert found.points.files == pattern
    assert found.points.signal.full == 255.0
    assert [one.raw for one in found.classes] == [(40,), (70,)]
    assert found.ignored.raw == (0,)
    place = ("prepare", "folder", "--describe", file, "--root", root)
    problems = answer(*place, "--check")["problems"]
    assert [one["found"] for one in problems if one["severity"] != "note"] == []
    printed(*place, "--cache", cache, "--workers", "0")
    with CacheReader.open(cache) as reader:
        splits = reader.scans.split.tolist()
        assert (splits.count("train"), splits.count("val")) == (train, val)
        scan = reader.read(int(reader.select(split="train")[0]), Fields(instance=True))
        assert scan.n > 0.97 * N
        points, raw = cloud(0)
        np.testing.assert_allclose(scan.xyz.T, points[scan.raw_index, :3], atol=1e-3)
        expected = np.select([raw == 40, raw == 70], [1, 2], 0)[scan.raw_index]
        np.testing.assert_array_equal(scan.label, expected)
        assert scan.instance is not None
        assert set(scan.instance.tolist()) == ({5} if layout == "bin" else {0})
    settings = [word for text in (*TINY, "epochs=1") for word in ("--set", text)]
    printed("train", "--cache", cache, "--run", tmp_path / "run", *settings)
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()


def test_notes_say_what_is_seen_guessed_and_unknown(tmp_path: Path) -> None:
    as_pcd(tmp_path / "raw")
    document = answer("describe", tmp_path / "raw")
    points = [np.bincount(cloud(seed)[1], minlength=71) for seed in range(3)]
    counts = {raw: int(sum(one[raw] for one in points)) for raw in (0, 40, 70)}
    seen = ", ".join(f"{raw} ({n:,})" for raw, n in counts.items())
    assert f"classes: raw ids (points) of 3 scans: {seen}" in document["found"]
    assert "scans: 2 train, 1 val" in document["found"]
    assert "sensor: 32 beams by the column ring" in document["guessed"]
    assert any(note.startswith("classes: what the raw ids mean") for note in document["unknown"])
    (tmp_path / "raw.toml").write_text(document["description"])
    assert load_description(tmp_path / "raw.toml").sensor.beams == 32
    printed = CliRunner().invoke(app, ["describe", str(tmp_path / "raw")])
    assert printed.stdout == document["description"]
    assert "guessed: volume" in printed.stderr


def test_units_and_types_are_told_by_the_numbers(tmp_path: Path) -> None:
    as_bin(tmp_path / "raw", scale=1000.0, dtype="<f8")
    found, description = described(tmp_path / "raw")
    assert (description.points.unit, description.points.dtype) == ("mm", "f8")
    assert description.points.columns == ("x", "y", "z", "signal", "ring")
    assert any(note.startswith("unit: mm") for note in found.guessed)
    xy = np.concatenate([cloud(seed)[0][:, :2] for seed in range(3)])
    reach = np.ceil(np.abs(np.percentile(xy, (0.5, 99.5), axis=0)).max() / 10) * 10
    assert description.volume.high[:2] == (reach, reach)


@pytest.mark.parametrize("labels", ["{scan}.npz", "truth/{scan}.npz"])
def test_labels_in_archives_beside_the_points_and_with_them(tmp_path: Path, labels: str) -> None:
    for seed in range(3):
        points, raw = cloud(seed)
        arrays = {"points": points[:, :4].astype(np.float32)}
        truth = {"labels": raw.astype(np.int64)}
        if "/" in labels:
            (tmp_path / "truth").mkdir(exist_ok=True)
            np.savez(tmp_path / "truth" / f"{seed}.npz", **truth)
            truth = {}
        np.savez(tmp_path / f"{seed}.npz", **arrays, **truth)
    _, found = described(tmp_path)
    assert found.points.files == "{scan}.npz"
    assert found.labels is not None
    assert found.labels.files == labels
    assert [one.raw for one in found.classes] == [(40,), (70,)]
    place = ("--describe", tmp_path.parent / "found.toml", "--root", tmp_path)
    problems = answer("prepare", "folder", *place, "--check")["problems"]
    assert [one for one in problems if one["severity"] != "note"] == []


def test_a_flight_with_classes_has_a_signal_of_0_to_1(tmp_path: Path) -> None:
    for seed in range(2):
        points, raw = cloud(seed)
        columns = dict(zip("xyz", points.T, strict=False))
        columns |= {"intensity": points[:, 3].round() * 256, "classification": raw % 32}
        write_flight(tmp_path / f"{seed}.las", columns)
    _, found = described(tmp_path)
    assert found.points.signal.scale == pytest.approx(1 / 65535, rel=1e-5)
    assert found.points.signal.full == 1.0
    assert found.labels is not None
    assert found.labels.column == "classification"


def test_another_axis_that_is_up_is_turned(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    points, _ = cloud(0)
    upright = points[:, [0, 2, 1, 3]] * (1, 1, -1, 1)  # y is up: z of a scan is its y
    np.save(tmp_path / "raw" / "1.npy", upright.astype(np.float32))
    _, description = described(tmp_path / "raw")
    matrix = np.array(description.points.rotation())
    np.testing.assert_allclose(upright[:, :3] @ matrix.T, points[:, :3], atol=1e-9)
    assert description.labels is None
    assert description.splits.test is not None


def test_a_time_in_front_and_labels_by_their_size(tmp_path: Path) -> None:
    for seed in range(2):
        points, raw = cloud(seed)
        (tmp_path / "raw" / "truth").mkdir(parents=True, exist_ok=True)
        rows = np.column_stack([np.linspace(0, 0.1, N), points[:, :4]])
        rows.astype("<f8").tofile(tmp_path / "raw" / f"{seed}.bin")
        raw.astype("u1").tofile(tmp_path / "raw" / "truth" / f"{seed}.label")
    _, description = described(tmp_path / "raw")
    assert description.points.columns == ("time", "x", "y", "z", "signal")
    assert description.points.dtype == "f8"
    assert description.labels is not None
    assert (description.labels.files, description.labels.dtype) == ("truth/{scan}.label", "u1")


@pytest.mark.parametrize(
    ("kind", "shift", "expected"),
    [
        ("<u4", 16, ("u4", 16)),
        (">u4", 0, (">u4", 0)),
        (">u2", 0, (">u2", 0)),
        ("<u2", 0, ("u2", 0)),
        (">i8", 0, (">i8", 0)),
    ],
)
def test_raw_ids_in_the_upper_half_or_in_big_endian_order(
    tmp_path: Path, kind: str, shift: int, expected: tuple[str, int]
) -> None:
    for seed in range(2):
        points, raw = cloud(seed)
        (tmp_path / "raw" / "truth").mkdir(parents=True, exist_ok=True)
        points.astype("<f4").tofile(tmp_path / "raw" / f"{seed}.bin")
        (raw << shift).astype(kind).tofile(tmp_path / "raw" / "truth" / f"{seed}.label")
    _, description = described(tmp_path / "raw")
    assert description.labels is not None
    assert (description.labels.dtype, description.labels.shift) == expected
    assert [one.raw for one in description.classes] == [(40,), (70,)]
    assert description.ignored.raw == (0,)


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_labels_of_floats_are_said_and_not_proposed_as_something_else(
    tmp_path: Path, kind: str
) -> None:
    for seed in range(2):
        points, raw = cloud(seed)
        (tmp_path / "raw" / "truth").mkdir(parents=True, exist_ok=True)
        points.astype("<f4").tofile(tmp_path / "raw" / f"{seed}.bin")
        raw.astype(kind).tofile(tmp_path / "raw" / "truth" / f"{seed}.label")
    found, description = described(tmp_path / "raw")
    assert description.labels is None
    assert any("seems to hold float" in note for note in found.unknown)


def test_packed_rows_of_several_types_are_refused(tmp_path: Path) -> None:
    points, _ = cloud(0)
    rows = np.zeros(N, [("xyzi", "<f4", 4), ("ring", "<u2")])
    rows["xyzi"], rows["ring"] = points[:, :4], points[:, 4]
    rows.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=r"of several types\? Write them as float32, or as \.npy"):
        propose(tmp_path)
    rows["xyzi"] = street(N, 0)
    rows.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match="rows of 36 bytes or a part of it; 3 to 8 columns of one"):
        propose(tmp_path)


def test_cameras_and_poses_beside_the_scans(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for seed, (sequence, scan) in enumerate([("00", 0), ("00", 1), ("03", 0)]):
        points, raw = cloud(seed)
        below = root / "sequences" / sequence
        for folder in ("velodyne", "labels", "image_2"):
            (below / folder).mkdir(parents=True, exist_ok=True)
        points[:, :4].astype("<f4").tofile(below / "velodyne" / f"{scan:06d}.bin")
        raw.astype("<u4").tofile(below / "labels" / f"{scan:06d}.label")
        Image.new("RGB", (64, 32)).save(below / "image_2" / f"{scan:06d}.png")
        (below / "calib.txt").write_text(
            "P0: 9 0 32 0 0 9 16 0 0 0 1 0\nP2: 40 0 32 0 0 40 16 0 0 0 1 0\n"
            "Tr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"
        )
        (below / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 1\n")
    _, description = described(root)
    (camera,) = description.cameras
    assert camera.files == "sequences/{sequence}/image_2/{scan}.png"
    assert (camera.calib.file, camera.calib.matrix) == ("sequences/{sequence}/calib.txt", "P2")
    assert description.poses is not None
    assert description.poses.file == "sequences/{sequence}/poses.txt"
    assert description.poses.frame == "camera"


@pytest.mark.parametrize("name", ["calib.txt", "calib.json", "poses.txt"])
def test_a_pipe_beside_the_scans_is_not_waited_for(tmp_path: Path, name: str) -> None:
    root = tmp_path / "raw"
    as_bin(root)
    for drive in ("d1", "d2"):
        (root / drive / "image_2").mkdir()
        for scan in (root / drive / "pcl").iterdir():
            Image.new("RGB", (64, 32)).save(root / drive / "image_2" / f"{scan.stem}.png")
        os.mkfifo(root / drive / name)
    _, description = described(root)
    assert description.poses is None
    assert not description.cameras


def test_sequences_without_labels_are_test_and_known_ids_are_said(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for seed, (sequence, scan) in enumerate([("00", 0), ("01", 0), ("02", 0)]):
        points, raw = cloud(seed)
        for folder in ("points", "labels"):
            (root / folder / sequence).mkdir(parents=True)
        points[:, :4].astype("<f4").tofile(root / "points" / sequence / f"{scan:06d}.bin")
        if sequence != "02":
            raw.astype("<u4").tofile(root / "labels" / sequence / f"{scan:06d}.label")
    found, description = described(root)
    splits = description.splits
    assert [one and one.sequences for one in (splits.train, splits.val, splits.test)] == [
        ("00",),
        ("01",),
        ("02",),
    ]
    (note,) = (note for note in found.unknown if "are among those of" in note)
    assert 'like = "semkitti"' in note
    assert "labels: 1 scans have none" in found.found


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    as_bin(root)
    (root / "d1" / "pcl" / "09.bin").symlink_to(tmp_path / "nowhere")
    (root / "d2" / "gt" / "07.label").unlink()
    (root / "d2" / "gt" / "07.label").symlink_to(tmp_path / "nowhere")
    (root / "d2" / "loop").symlink_to(root)
    (root / "d2" / "{odd}").mkdir()
    (root / "d2" / "{odd}" / "1.bin").write_bytes(b"")
    found, description = described(root)
    assert description.points.files == "{sequence}/pcl/{scan}.bin"
    assert any("09.bin" in note for note in found.unknown)
    assert any("07.label" in note for note in found.unknown)


def test_folders_that_say_too_little(tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("nothing")
    with pytest.raises(DataError, match=r"no point files .* found \.md"):
        propose(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        propose(tmp_path / "away")
    result = CliRunner().invoke(app, ["describe", str(tmp_path)])
    assert (result.exit_code, len(result.output.strip().splitlines())) == (1, 1)
    (tmp_path / "a.csv").write_text("u,v,w\n" + "1,2,3\n" * 40)
    with pytest.raises(DataError, match="no column of u, v, w can be x"):
        propose(tmp_path)
    (tmp_path / "there.toml").write_text("mine")
    result = CliRunner().invoke(
        app, ["describe", str(tmp_path), "--out", str(tmp_path / "there.toml")]
    )
    assert result.exit_code == 1
    assert (tmp_path / "there.toml").read_text() == "mine"


def test_links_in_circles_hide_nothing(tmp_path: Path) -> None:
    as_bin(tmp_path)
    (tmp_path / "d1" / "itself").symlink_to("itself")
    (tmp_path / "d1" / "above").symlink_to(tmp_path)
    found = propose(tmp_path)
    assert "points: {sequence}/pcl/{scan}.bin, 3 files" in found.found
    assert "scans: 2 train, 1 val" in found.found


def test_of_very_many_folders_some_are_opened(tmp_path: Path) -> None:
    points = cloud(0)[0].astype("<f4").tobytes()
    for place in range(300):
        (tmp_path / f"{place:03d}").mkdir()
        (tmp_path / f"{place:03d}" / "x.bin").write_bytes(points if place != 1 else b"")
    found = propose(tmp_path)
    assert "points: {sequence}/{scan}.bin, 300 files" in found.found
    assert not any("001" in note for note in found.unknown)  # nobody saw that it is empty


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.bin", b"", r"none of 1 files is read as points, e\.g\. .*a\.bin: empty"),
        ("a.bin", bytes(4096), r"a\.bin: its numbers are no coordinates"),
        ("notes.txt", b"to do\nto do\n", r"notes\.txt, line 2: three numbers or more"),
        ("a.png", b"x", r"no point files .* found \.png"),
        ("a{b}.bin", b"x", r"found nothing, and 1 names with braces"),
        (None, b"", r"found nothing"),
    ],
)
def test_why_nothing_can_be_proposed(
    tmp_path: Path, name: str | None, data: bytes, message: str
) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        propose(tmp_path)


def test_files_refused_beside_labels_taken_for_points_are_named(tmp_path: Path) -> None:
    for folder, data in (("a", bytes(4096)), ("b", b"\3\7"), ("c", b"\3\7\5")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.bin").write_bytes(data)
    with pytest.raises(DataError, match=r"none of .*b/1\.bin: h.*c/1\.bin: h.*a/1\.bin: its"):
        propose(tmp_path)


def test_a_file_is_not_a_folder_of_scans(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.bin: a file, not a folder"):
        propose(file)
