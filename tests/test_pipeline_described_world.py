"""One described world with everything at once: what follows from its cache alone, step by step."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from thin_pictures import thin_pictures
from train_samples import TINY
from typed import answer, printed
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cli import app

DESCRIPTION = """
[dataset]
name = "quay"
class_weights = false

[points]
files = "runs/{sequence}/pts/{scan}.bin"
ahead = "y"
signal = { name = "intensity", full = 255.0 }

[labels]
files = "runs/{sequence}/sem/{scan}.npy"
shift = 4
mask = 0xFF
instance = { shift = 16 }

[ignored]
raw = [0]
write = 0

[[class]]
name = "ground"
raw = [50, 51]
write = 51
sealed = true

[[class]]
name = "car"
raw = [7]
thing = true
vehicle = true

[[class]]
name = "wall"
raw = [200]

[[class]]
name = "ghost"
raw = [99]

[splits]
train = { sequences = ["a"] }
val = { sequences = ["b"] }
test = { sequences = ["c"] }

[volume]
low = [-20, -20, -3]
high = [20, 20, 3]
cells = [200, 200, 30]

[[camera]]
name = "front"
files = "runs/{sequence}/front/{scan}.png"
calib = { kind = "inline", K = KAY, T = AHEAD }

[[camera]]
name = "rear"
files = "runs/{sequence}/rear/{scan}.jpg"
calib = { kind = "kitti", file = "runs/{sequence}/calib.txt", matrix = "P3", extrinsic = "Tr" }

[poses]
file = "runs/{sequence}/poses.txt"
hz = 10.0
"""
K = [[30.0, 0.0, 32.0], [0.0, 30.0, 16.0], [0.0, 0.0, 1.0]]
AHEAD = [[1, 0, 0, 0], [0, 0, -1, 0.2], [0, 1, 0, 0]]
"""In the files y is ahead, x to the right."""
BEHIND = [[-1, 0, 0, 0], [0, 0, -1, 0.2], [0, -1, 0, 0]]
DESCRIPTION = DESCRIPTION.replace("KAY", str(K)).replace("AHEAD", str(AHEAD))
N = 600
SCANS = {"a": 3, "b": 2, "c": 1}
RAW = (0, 50, 51, 7, 200)
TRAINING = {0: 0, 50: 1, 51: 1, 7: 2, 200: 3}
WRITTEN = {0, 51, 7, 200, 99}


@dataclass(frozen=True, kw_only=True)
class World:
    """A prepared world and a network."""

    root: Path
    description: Path
    cache: Path
    network: Path
    points: dict[str, np.ndarray]
    """(N, 4) by scan id."""
    raw: dict[str, np.ndarray]


def write_world(root: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    points, raw = {}, {}
    for seed, (sequence, n_scans) in enumerate(SCANS.items()):
        below = root / "runs" / sequence
        for folder in ("pts", "sem", "front", "rear"):
            (below / folder).mkdir(parents=True)
        for place in range(n_scans):
            rng = np.random.default_rng(10 * seed + place)
            cloud = rng.uniform(-19, 19, (N, 4)).astype("<f4")
            cloud[:, 2], cloud[:, 3] = rng.uniform(-2, 1, N), rng.uniform(0, 255, N)
            ids = rng.choice(RAW, N)
            points[f"{sequence}/{place}"], raw[f"{sequence}/{place}"] = cloud, ids
            cloud.tofile(below / "pts" / f"{place}.bin")
            instance = np.where(ids == 7, rng.integers(1, 4, N), 0)
            packed = (instance << 16) | (ids << 4) | rng.integers(0, 16, N)
            if sequence != "c":
                np.save(below / "sem" / f"{place}.npy", packed.astype(">i8"))
            for folder, suffix in (("front", "png"), ("rear", "jpg")):
                picture = rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)
                Image.fromarray(picture).save(below / folder / f"{place}.{suffix}")
        numbers = " ".join(str(value) for row in BEHIND for value in row)
        (below / "calib.txt").write_text(f"P3: 30 0 32 0 0 30 16 0 0 0 1 0\nTr: {numbers}\n")
        poses = (f"1 0 0 0 0 1 0 {0.5 * place} 0 0 1 0" for place in range(n_scans))
        (below / "poses.txt").write_text("\n".join(poses))
    return points, raw


def trained(cache: Path, run: Path, *settings: str) -> Path:
    options = [word for text in (*TINY, "epochs=1", *settings) for word in ("--set", text)]
    printed("train", "--cache", cache, "--dataset", "quay", "--run", run, *options)
    return run / "checkpoints" / "last.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    points, raw = write_world(folder / "raw")
    description = folder / "quay.toml"
    description.write_text(DESCRIPTION)
    cache = folder / "cache"
    place = ("--describe", description, "--root", folder / "raw", "--cache", cache)
    printed(
        "prepare", "folder", *place, "--workers", "0", "--corrupt", "fog:light,wet_ground:light"
    )
    return World(
        root=folder / "raw",
        description=description,
        cache=cache,
        network=trained(cache, folder / "run"),
        points=points,
        raw=raw,
    )


def test_labels_of_npy_files_are_shifted_and_masked(world: World) -> None:
    with CacheReader.open(world.cache, dataset="quay") as reader:
        assert reader.info.facts.forward_axis == "y"
        for position, scan_id in enumerate(reader.scans.scan_id.tolist()):
            scan = reader.read(position, Fields(instance=True))
            assert (scan.label is None) == scan_id.startswith("c/")
            if scan.label is not None and scan.instance is not None:
                ids = world.raw[scan_id][scan.raw_index]
                assert scan.label.tolist() == [TRAINING[one] for one in ids.tolist()]
                np.testing.assert_array_equal(scan.instance > 0, ids == 7)


def test_each_camera_sees_the_points_of_its_own_calibration(world: World) -> None:
    with CacheReader.open(world.cache, dataset="quay") as reader:
        assert reader.info.n_cameras == 2
        scan = reader.read(0, Fields(pixels=True, image=True))
    for view, matrix in zip(scan.cameras, (AHEAD, BEHIND), strict=True):
        expected = []
        for place, (x, y, z) in enumerate(scan.xyz.T.astype(float).tolist()):
            right, down, depth = np.array(matrix, float) @ (x, y, z, 1)
            if depth > 0:
                col, row = 30 * right / depth + 32, 30 * down / depth + 16
                if 0 < col < 64 and 0 < row < 32:
                    expected.append((place, int(row), int(col)))
        found = zip(view.point_index.tolist(), *view.pixel_rc.tolist(), strict=True)
        assert list(found) == expected
        assert len(expected) > 20


def test_a_network_sees_all_cameras_mixes_and_earlier_scans(world: World, tmp_path: Path) -> None:
    pictures = ("network.settings.image_branch=true", 'augment.cameras="all"')
    with thin_pictures():
        trained(world.cache, tmp_path / "pictures", *pictures, "augment.crop_hw=[32, 64]")
    mixes = (
        '{"instance-copy" = 0.25, "laser-mix" = 0.25, "polar-mix" = 0.25, "instance-cutmix" = 0.25}'
    )
    trained(world.cache, tmp_path / "mixes", f"augment.mixes=[{mixes}]")
    network = trained(world.cache, tmp_path / "stack", "stack.past=2", 'stack.time="lag"')
    report = answer(
        *("eval", "--cache", world.cache, "--dataset", "quay", "--checkpoint", network),
        *("--device", "cpu"),
    )
    assert report["scans"] == 2


def test_poses_are_those_of_the_lidar(world: World) -> None:
    with CacheReader.open(world.cache, dataset="quay") as reader:
        position = reader.scans.scan_id.tolist().index("a/2")
        pose = reader.scans.pose[position]
        np.testing.assert_allclose(pose[:3, 3], [0, 1, 0])


def test_a_network_of_other_classes_is_tuned(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    fewer = DESCRIPTION.replace('name = "quay"', 'name = "quay"\ntitle = "fewer"')
    start = fewer.index('[[class]]\nname = "ghost"')
    other.write_text(fewer[:start] + fewer[fewer.index("[splits]") :])
    place = ("--describe", other, "--root", world.root, "--cache", tmp_path / "cache")
    printed("prepare", "folder", *place, "--workers", "0")
    network = trained(tmp_path / "cache", tmp_path / "run", f'start_from="{world.network}"')
    card = answer("inspect", network)
    assert "ghost" not in json.dumps(card)
    assert "wall" in json.dumps(card)


def test_absent_classes_count_as_the_description_says(world: World, tmp_path: Path) -> None:
    words = ("--checkpoint", world.network, "--device", "cpu")
    left_out = answer("eval", "--cache", world.cache, "--dataset", "quay", *words)
    file = tmp_path / "zero.toml"
    file.write_text(
        DESCRIPTION.replace(
            "class_weights = false", 'class_weights = false\nabsent_classes = "zero"'
        )
    )
    place = ("--describe", file, "--root", world.root, "--cache", tmp_path / "cache")
    printed("prepare", "folder", *place, "--workers", "0", "--splits", "val")
    zero = answer("eval", "--cache", tmp_path / "cache", *words)
    one, other = (report["passes"][0]["official"]["iou"] for report in (left_out, zero))
    absent = [name for name, iou in one.items() if iou is None]
    assert absent
    assert other == {name: iou or 0.0 for name, iou in one.items()}
    present = [iou for iou in one.values() if iou is not None]
    assert left_out["miou"] == pytest.approx(sum(present) / len(present))
    assert zero["miou"] == pytest.approx(sum(present) / 4)


def test_predictions_have_the_ids_to_write(world: World, tmp_path: Path) -> None:
    place = world.root / "runs" / "c" / "pts"
    printed(
        *("predict", place, "--checkpoint", world.network, "--out", tmp_path / "out"),
        *("--device", "cpu"),
    )
    written = np.fromfile(next((tmp_path / "out").rglob("*.label")), "<u4")
    assert len(written) == N
    assert set(written.tolist()) <= WRITTEN


def test_corrupted_twins_are_scored(world: World, tmp_path: Path) -> None:
    report = answer(
        *("robust", "--cache", world.cache, "--dataset", "quay", "--checkpoint", world.network),
        *("--out", tmp_path / "robust", "--device", "cpu"),
    )
    text = json.dumps(report)
    assert "fog" in text
    assert "wet_ground" in text


def test_a_damaged_shard_is_made_again(world: World) -> None:
    for container in ("lidar", "camera", "voxel"):
        files = sorted((world.cache / "quay" / container).rglob("c/**/*"))
        file = next(file for file in files if file.is_file())
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        printed("cache", "repair", "--cache", world.cache, "--dataset", "quay")
        assert file.read_bytes() == data


@pytest.mark.parametrize("split", ["val", "test"])
def test_submitted_files_lie_and_read_as_the_labels_of_the_description(
    world: World, tmp_path: Path, split: str
) -> None:
    """Names, type, bits and length as `[labels]` says; the ids are those that `predict` writes."""
    words = ("--cache", world.cache, "--dataset", "quay", "--split", split)
    network, out = ("--checkpoint", world.network, "--device", "cpu"), tmp_path / "mine.zip"
    report = answer("submit", *words, *network, "--out", out)
    sequence = {"val": "b", "test": "c"}[split]
    assert (report["scans"], report["points"]) == (SCANS[sequence], N * SCANS[sequence])
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "out")
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    below = Path("runs") / sequence / "sem"
    names = [below / f"{place}.npy" for place in range(SCANS[sequence])]
    assert [file.relative_to(tmp_path / "out") for file in files] == names
    scans = world.root / "runs" / sequence / "pts"
    printed("predict", scans, *network, "--out", tmp_path / "predicted")
    predicted = sorted((tmp_path / "predicted").rglob("*.label"))
    for file, other in zip(files, predicted, strict=True):
        values = np.load(file)
        assert (values.dtype, values.shape) == (np.dtype("<u4"), (N,))
        assert not (values & 0xFFFFF00F).any()
        assert (values >> 4).tolist() == np.fromfile(other, "<u4").tolist()
        assert set((values >> 4).tolist()) <= WRITTEN - {0}
    assert "sound" in printed("submit", "--verify", out, *words)


def test_a_submission_with_faults_is_refused_line_by_line(world: World, tmp_path: Path) -> None:
    def npy(values: object) -> bytes:
        np.save(file := io.BytesIO(), values)
        return file.getvalue()

    zeros = np.zeros(N, "<u4")
    contents = {
        "runs/b/sem/0.npy": npy(zeros[1:] + (7 << 4)),
        "runs/b/sem/1.npy": npy(zeros + (8 << 4)),
        "runs/b/sem/2.npy": npy(zeros),
    }
    expected = {
        "0.npy": "599 points, the scan has 600",
        "1.npy": "holds 8, which is not a raw id",
        "2.npy": "not the label file of a scan of this split",
    }
    check = ("submit", "--cache", world.cache, "--dataset", "quay", "--split", "val", "--verify")
    for given in (contents, {"runs/b/sem/0.npy": npy(zeros.astype("<i8"))}):
        with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
            for name, data in given.items():
                archive.writestr(name, data)
        result = CliRunner().invoke(app, [str(word) for word in (*check, tmp_path / "odd.zip")])
        assert result.exit_code == 1
        if given is contents:
            for name, fault in expected.items():
                assert any(name in line and fault in line for line in result.stdout.splitlines())
        else:
            assert "int64 of shape (600,), expected one uint32 per point" in result.stdout
            assert "runs/b/sem/1.npy: missing" in result.stdout


def test_ray_makes_the_same_bytes(world: World, tmp_path: Path) -> None:
    place = ("--describe", world.description, "--root", world.root, "--cache", tmp_path)
    printed("prepare", "folder", *place, "--workers", "2")
    for container in ("lidar", "camera", "voxel", "motion"):
        here, there = (root / "quay" / container for root in (world.cache, tmp_path))
        files = {f.relative_to(here): f.read_bytes() for f in here.rglob("*") if f.is_file()}
        assert files == {
            f.relative_to(there): f.read_bytes() for f in there.rglob("*") if f.is_file()
        }
