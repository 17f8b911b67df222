"""Every preset on a small made-up folder of its layout: checked, prepared, its numbers by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from described_course import train_and_use
from PIL import Image
from typed import answer
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader, Fields
from pass2d.cli import app
from pass2d.pipeline.datasets.registry import DATASETS

N = 300
VELO = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"  # camera: x right, y down, z ahead
CAMERA = "P_rect_02: 40 0 32 0 0 40 16 0 0 0 1 0\nR_rect_00: 1 0 0 0 1 0 0 0 1\ncalib_time: 9-Jan\n"


def scan(file: Path, *, columns: int = 4, seed: int = 0, full: float = 1.0) -> np.ndarray:
    """A scan of points about the sensor."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-20, 20, (N, columns)).astype("<f4")
    points[:, 2] = rng.uniform(-2, 0.5, N)
    points[:, 3:] = rng.uniform(0, full, (N, columns - 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    points.tofile(file)
    return points


def labels(file: Path, ids: list[int], *, seed: int = 0) -> np.ndarray:
    """Raw ids with an instance in the high bits."""
    raw = np.random.default_rng(seed).choice(ids, N)
    file.parent.mkdir(parents=True, exist_ok=True)
    (raw | 3 << 16).astype("<u4").tofile(file)
    return raw


def kitti_like(
    root: Path, *, ids: list[int], sequences: tuple[str, ...], folder: str = "labels"
) -> None:
    for name in sequences:
        for place in range(2):
            below = root / "sequences" / name
            scan(below / "velodyne" / f"{place:06d}.bin", seed=place)
            labels(below / folder / f"{place:06d}.label", ids, seed=place)


def semkitti(root: Path) -> dict[str, int]:
    kitti_like(root, ids=[0, 10, 40, 252], sequences=("00", "08"))
    return {"train": 2, "val": 2}


def nuscenes(root: Path) -> dict[str, int]:
    for name in ("scene-0001", "scene-0003"):
        below = root / "sequences" / name
        scan(below / "velodyne" / "0.bin", columns=5, full=255)
        below.joinpath("labels").mkdir()
        np.full(N, 17, "u1").tofile(below / "labels" / "0.label")
    return {"train": 1, "val": 1}


def waymo(root: Path) -> dict[str, int]:
    kitti_like(root, ids=[0, 1, 18, 22], sequences=("training", "validation"))
    return {"train": 2, "val": 2}


def pandaset(root: Path) -> dict[str, int]:
    kitti_like(root, ids=[0, 5, 13, 42], sequences=("001", "005"))
    return {"train": 2, "val": 2}


def semanticposs(root: Path) -> dict[str, int]:
    kitti_like(root, ids=[0, 4, 5, 11, 18, 22], sequences=("00", "02"))
    return {"train": 2, "val": 2}


def semanticthab(root: Path) -> dict[str, int]:
    for place in range(10):
        scan(root / f"sequences/0000/velodyne/{place:06d}.bin", seed=place)
        labels(root / f"sequences/0000/labels/{place:06d}.label", [40, 70], seed=place)
    return {"train": 8, "val": 2}


def semanticstf(root: Path) -> dict[str, int]:
    for split in ("train", "val", "test"):
        scan(root / split / "velodyne" / "2018-02-03_1.bin", columns=5, full=255)
        if split != "test":
            labels(root / split / "labels" / "2018-02-03_1.label", [0, 1, 9, 20])
    return {"train": 1, "val": 1, "test": 1}


def scribblekitti(root: Path) -> dict[str, int]:
    kitti_like(root, ids=[0, 10], sequences=("00", "08"))
    kitti_like(root, ids=[0, 0, 0, 40], sequences=("00",), folder="scribbles")
    return {"train": 2, "val": 2}


def synlidar(root: Path) -> dict[str, int]:
    kitti_like(root, ids=[0, *range(1, 33)], sequences=("00", "12"))
    return {"train": 2, "val": 2}


def rellis(root: Path) -> dict[str, int]:
    for name in ("00000", "00004"):
        for place in range(4):
            scan(root / name / f"os1_cloud_node_kitti_bin/{place:06d}.bin", seed=place)
            labels(
                root / name / f"os1_cloud_node_semantickitti_label_id/{place:06d}.label",
                [0, 3, 4, 19, 31],
            )
    for split, lines in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        text = "".join(
            f"{name}/os1_cloud_node_kitti_bin/{place:06d}.bin "
            f"{name}/os1_cloud_node_semantickitti_label_id/{place:06d}.label\n"
            for name in ("00000", "00004")
            for place in lines
        )
        (root / f"pt_{split}.lst").write_text(text)
    return {"train": 4, "val": 2, "test": 2}


def kitti_raw(root: Path) -> dict[str, int]:
    date = root / "2011_09_26"
    drive = date / "2011_09_26_drive_0001_sync"
    scan(drive / "velodyne_points" / "data" / "0000000000.bin")
    picture = drive / "image_02" / "data" / "0000000000.png"
    picture.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(picture)
    (date / "calib_velo_to_cam.txt").write_text(VELO)
    (date / "calib_cam_to_cam.txt").write_text(CAMERA)
    return {"test": 1}


def kitti_360(root: Path) -> dict[str, int]:
    scan(root / "data_3d_raw/2013_05_28_drive_0000_sync/velodyne_points/data/0000000000.bin")
    return {"test": 1}


LAYOUTS: dict[str, Callable[[Path], dict[str, int]]] = {
    "semkitti": semkitti,
    "nuscenes": nuscenes,
    "waymo": waymo,
    "pandaset": pandaset,
    "pandaset_gt": pandaset,
    "semanticposs": semanticposs,
    "semanticthab": semanticthab,
    "semanticstf": semanticstf,
    "scribblekitti": scribblekitti,
    "synlidar": synlidar,
    "rellis-3d": rellis,
    "kitti-raw": kitti_raw,
    "kitti-360": kitti_360,
}


def prepared(name: str, root: Path, cache: Path) -> None:
    place = ["prepare", "folder", "--describe", name, "--root", str(root)]
    checked = CliRunner().invoke(app, [*place, "--check", "--json"])
    problems = json.loads(checked.stdout)["problems"]
    assert [one for one in problems if one["severity"] == "error"] == []
    done = CliRunner().invoke(app, [*place, "--cache", str(cache), "--workers", "0"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_preset_finds_the_scans_of_its_layout(name: str, tmp_path: Path) -> None:
    expected = LAYOUTS[name](tmp_path / "raw")
    prepared(name, tmp_path / "raw", tmp_path / "cache")
    with CacheReader.open(tmp_path / "cache") as reader:
        splits = reader.scans.split.tolist()
        assert {split: splits.count(split) for split in set(splits)} == expected
        assert reader.info.name == name
        is_labelled = not name.startswith("kitti")
        if is_labelled:
            assert reader.scans.has_label[reader.select(split="train")].all()


@pytest.fixture(scope="module")
def street_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the classes of SemanticKITTI, for scans without labels."""
    folder = tmp_path_factory.mktemp("street")
    semkitti(folder / "raw")
    prepared("semkitti", folder / "raw", folder / "cache")
    points = folder / "raw/sequences/08/velodyne/000000.bin"
    return train_and_use(folder / "cache", points, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in DATASETS])
def test_a_preset_goes_all_the_way(name: str, tmp_path: Path, street_network: Path) -> None:
    """Two steps, `eval`, `predict`, `view`; scans without labels are labelled and drawn."""
    root, cache = tmp_path / "raw", tmp_path / "cache"
    splits = LAYOUTS[name](root)
    prepared(name, root, cache)
    points = min(root.rglob("*.bin"))
    if "train" in splits:
        train_and_use(cache, points, tmp_path)
    else:
        place = ("--checkpoint", street_network, "--device", "cpu")
        labelled = answer("predict", points, *place, "--out", tmp_path / "labels")
        assert labelled["points"] == N
        answer("view", "--cache", cache, *place, "--png", tmp_path / "pictures")


def test_all_presets_are_tried() -> None:
    from pass2d.pipeline.datasets.described.sources import preset_names

    assert set(LAYOUTS) == set(preset_names())


def test_classes_of_presets(tmp_path: Path) -> None:
    """Raw ids of a scan to training ids, worked out by hand."""
    for name, raw_ids, training in (
        ("semanticposs", [0, 4, 5, 11, 18, 22], [0, 1, 1, 6, 0, 13]),
        ("rellis-3d", [0, 3, 4, 19, 31], [0, 1, 2, 9, 12]),
        ("semanticstf", [0, 1, 9, 20], [0, 1, 9, 0]),
    ):
        root, cache = tmp_path / name, tmp_path / f"{name}-cache"
        LAYOUTS[name](root)
        prepared(name, root, cache)
        with CacheReader.open(cache) as reader:
            position = int(reader.select(split="val")[0])
            found = reader.read(position, Fields())
            file = reader.source_file(position, "labels")
            assert file is not None
            raw = np.fromfile(file, "<u4")[found.raw_index] & 0xFFFF
        lookup = dict(zip(raw_ids, training, strict=True))
        assert found.label is not None
        assert found.label.tolist() == [lookup[raw_id] for raw_id in raw.tolist()]


def test_scribbles_are_for_train_and_whole_labels_for_val(tmp_path: Path) -> None:
    scribblekitti(tmp_path / "raw")
    prepared("scribblekitti", tmp_path / "raw", tmp_path / "cache")
    with CacheReader.open(tmp_path / "cache") as reader:
        for split, folder in (("train", "scribbles"), ("val", "labels")):
            file = reader.source_file(int(reader.select(split=split)[0]), "labels")
            assert file is not None
            assert file.parent.name == folder


def test_the_calibration_of_kitti_raw(tmp_path: Path) -> None:
    kitti_raw(tmp_path / "raw")
    prepared("kitti-raw", tmp_path / "raw", tmp_path / "cache")
    with CacheReader.open(tmp_path / "cache") as reader:
        found = reader.read(0, Fields(image=True, pixels=True))
    (view,) = found.cameras
    x, y, z = found.xyz[:, view.point_index].astype(np.float64)
    depth = x - 0.27
    row, col = 40 * (-z - 0.08) / depth + 16, 40 * -y / depth + 32
    assert len(x) > 10
    np.testing.assert_array_equal(view.pixel_rc, np.floor(np.float32([row, col])))
