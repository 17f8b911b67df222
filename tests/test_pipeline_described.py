"""Any folder by a description: from the files to labels, without a line of code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from described_samples import (
    CAMERA_FROM_FILE,
    DESCRIPTION,
    INTRINSICS,
    N,
    write_description,
    write_yard,
)
from train_samples import TINY
from typed import answer, printed
from typer.testing import CliRunner

from pass2d.cache.manifest import describe_dataset, parse_dataset
from pass2d.cache.reader import CacheReader, Fields
from pass2d.cli import app
from pass2d.common.errors import ConfigError
from pass2d.corruptions.registry import Variant, table_of
from pass2d.pipeline.datasets.described.sources import load_description, preset_names
from pass2d.pipeline.datasets.described.template import TEMPLATE
from pass2d.pipeline.datasets.registry import DATASETS, described
from pass2d.train.inference.segmenter import Segmenter


def prepare(description: Path, root: Path, cache: Path, *words: str) -> str:
    place = ("--describe", description, "--root", root, "--cache", cache)
    return printed("prepare", "folder", *place, "--workers", "0", *words)


def test_a_folder_goes_all_the_way(tmp_path: Path) -> None:
    root, cache = tmp_path / "raw", tmp_path / "cache"
    truth = write_yard(root)
    description = write_description(tmp_path)
    found = json.loads(prepare(description, root, cache, "--json"))
    assert (found["scans"], found["failed"]) == (3, [])
    with CacheReader.open(cache) as reader:
        position = reader.select(split="val").tolist()[0]
        scan = reader.read(position, Fields(instance=True))
        expected = truth["b/0001"]
        inside = (np.abs(expected.points[:, :2]) < 20).all(axis=1)
        np.testing.assert_allclose(scan.xyz.T, expected.points[inside, :3], atol=2e-6)
        np.testing.assert_allclose(scan.signal, expected.points[inside, 3], atol=1e-6)
        training = np.select([np.isin(expected.raw, (7, 9)), expected.raw == 1], [1, 2], 0)
        np.testing.assert_array_equal(scan.label, training[inside])
        np.testing.assert_array_equal(scan.instance, expected.instance[inside])
        info = reader.info
        assert parse_dataset(describe_dataset(info), where="") == info
    assert info.labels.names == ("nothing", "hedge", "cart")
    assert info.labels.training_to_raw == (0, 9, 1)
    assert info.labels.colors_rgb[:2] == ((0, 0, 0), (16, 32, 48))
    assert (info.facts.movable, info.facts.absent_counts_zero) == ((2,), True)
    assert info.facts.pitch_deg == (-12.0, 10.0)
    # Nothing but the cache is needed from here on.
    description.unlink()
    statistics = answer("stats", "--cache", cache)
    assert [one["name"] for one in statistics["splits"]["train"]["classes"]] == list(
        info.labels.names
    )
    settings = [word for text in (*TINY, "epochs=1") for word in ("--set", text)]
    printed("train", "--cache", cache, "--run", tmp_path / "run", *settings)
    network = tmp_path / "run" / "checkpoints" / "last.safetensors"
    report = answer("eval", "--cache", cache, "--checkpoint", network, "--device", "cpu")
    assert report["scans"] == 1
    out = tmp_path / "out"
    printed(
        "predict",
        root / "drives" / "b" / "clouds",
        "--checkpoint",
        network,
        "--out",
        out,
        "--device",
        "cpu",
    )
    written = np.fromfile(next(out.rglob("*.label")), "<u4")
    assert len(written) == 400
    assert set(written.tolist()) <= {0, 9, 1}
    # The checkpoint knows centimetres, columns and rotation of this data set's files.
    segmenter = Segmenter.load(network, device=torch.device("cpu"))
    labels = segmenter(truth["b/0001"].points).labels
    np.testing.assert_array_equal(written, segmenter.raw_ids(labels))
    printed("view", "--cache", cache, "--no-checkpoint", "--png", tmp_path / "seen")
    assert list((tmp_path / "seen").glob("*.png"))
    again = answer("cache", "plan", "--cache", cache, "--root", root)
    assert again["tasks"] == []


def test_a_folder_in_place_of_a_scan_is_not_left_out_in_silence(tmp_path: Path) -> None:
    root, cache = tmp_path / "raw", tmp_path / "cache"
    write_yard(root)
    scan = root / "drives" / "a" / "clouds" / "0001.bin"
    scan.unlink()
    scan.mkdir()
    place = ("--describe", write_description(tmp_path), "--root", root, "--cache", cache)
    words = ["prepare", "folder", *map(str, place), "--workers", "0"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 1
    (failed,) = json.loads(result.stdout)["failed"]
    assert failed["scan_id"] == "a/0001"
    assert "0001.bin: found a folder" in str(failed)
    assert "0001.bin: found a folder" in CliRunner().invoke(app, [*words, "--check"]).output


def test_pictures_show_the_points_that_the_calibration_says(tmp_path: Path) -> None:
    truth = write_yard(tmp_path)
    prepare(write_description(tmp_path), tmp_path, tmp_path / "cache")
    with CacheReader.open(tmp_path / "cache") as reader:
        position = reader.select(split="val").tolist()[0]
        scan = reader.read(position, Fields(image=True, pixels=True))
    (view,) = scan.cameras
    points = truth["b/0001"].points
    file_m = np.column_stack(
        [points[:, 1], -points[:, 0], points[:, 2] - 0.5, np.ones(len(points))]
    )
    camera = (np.array(CAMERA_FROM_FILE, float) @ file_m.T)[:3]
    u, v, w = np.array(INTRINSICS) @ camera
    with np.errstate(divide="ignore"):
        col, row = u / w, v / w
    sees = (w > 0) & (col > 0) & (col < 64) & (row > 0) & (row < 32)
    sees &= (np.abs(points[:, :2]) < 20).all(axis=1)
    rows = scan.raw_index[view.point_index]
    assert len(rows) > 10
    np.testing.assert_array_equal(rows, np.flatnonzero(sees))
    np.testing.assert_array_equal(view.pixel_rc[0], np.floor(row[rows]))
    np.testing.assert_array_equal(view.pixel_rc[1], np.floor(col[rows]))


def test_earlier_scans_are_added_by_their_poses(tmp_path: Path) -> None:
    truth = write_yard(tmp_path)
    prepare(write_description(tmp_path), tmp_path, tmp_path / "cache", "--sweeps", "3")
    with CacheReader.open(tmp_path / "cache") as reader:
        ids = reader.scans.scan_id.tolist()
        scan = reader.read(ids.index("a/0002"), Fields(outside=True))
        first = reader.read(ids.index("a/0001"), Fields(outside=True))
    assert first.time is not None
    assert not first.time.any()
    raw = scan.raw()
    assert raw.n_own == N
    earlier = truth["a/0001"].points
    earlier = earlier[(np.abs(earlier[:, :2]) >= 1).any(axis=1)]
    # The sensor went one metre along the files' y, which is -x of the lidar frame.
    expected = earlier[:, :3] + np.float32([1, 0, 0])
    np.testing.assert_allclose(raw.points[N:, :3], expected, atol=1e-5)
    np.testing.assert_allclose(raw.points[N:, 4], 0.2, atol=1e-6)


def test_corrupted_twins_follow_the_described_lidar(tmp_path: Path) -> None:
    write_yard(tmp_path)
    corrupt = "incomplete_echo:heavy,beam_missing:moderate,wet_ground:light"
    prepare(write_description(tmp_path), tmp_path, tmp_path / "cache", "--corrupt", corrupt)
    with CacheReader.open(tmp_path / "cache", dataset="yard-beam_missing-moderate") as reader:
        table = table_of(reader.info)
        assert table.sensor.beams == 16
        assert table.sensor.elevation_deg == (-12.0, 10.0)
        assert table.sensor.vehicles == (2,)
        settings = table.settings[Variant(name="beam_missing", severity="moderate")]
        assert (settings.draws, settings.beam_range) == (8, (1, 14))  # 32 of 64; 4 to 58 of 64
        assert all(reader.scans.n_raw < N)


def test_labels_may_be_a_column_of_the_points(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(-9, 9, (200, 3))
    raw = np.random.default_rng(1).choice([-1, 3, 300], 200)
    for name in ("one", "two"):
        rows = [f"{x},{y},{z / 9},{c}" for (x, y, z), c in zip(points, raw, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["easting,northing,up,kind", *rows]))
    description = tmp_path / "columns.toml"
    description.write_text(
        """
        [dataset]
        name = "survey"
        [points]
        files = "{scan}.csv"
        map = { x = "easting", y = "northing", z = "up" }
        [labels]
        column = "kind"
        unnamed = "ignore"
        [ignored]
        raw = [-1]
        [[class]]
        name = "tree"
        raw = [300]
        [splits]
        train = { glob = "one*" }
        val = { glob = "all/two" }
        """
    )
    prepare(description, tmp_path, tmp_path / "cache")
    with CacheReader.open(tmp_path / "cache") as reader:
        scan = reader.read(int(reader.select(split="val")[0]), Fields())
        np.testing.assert_array_equal(scan.label, (raw == 300).astype(np.uint8))
        np.testing.assert_allclose(scan.xyz[:2].T, points[:, :2], rtol=1e-6)
        assert not scan.signal.any()
        assert reader.info.labels.training_to_raw == (65535, 300)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[dataset]", "[data]", r"unknown table '\[data\]'; did you mean '\[dataset\]'"),
        ('name = "yard"', "", "[dataset]: key 'name' is missing"),
        ('name = "yard"', 'name = "../yard"', "expected letters, digits"),
        ('name = "yard"', 'name = "yard"\nlike = "semkity"', "did you mean 'semkitti'"),
        ('name = "yard"', 'name = "yard"\nlike = 7', "[dataset].like: expected text"),
        ("absent_classes", "absent_clases", "did you mean 'absent_classes'"),
        ('"zero"', '"null"', "[dataset].absent_classes: expected one of 'zero', 'left-out'"),
        ("clouds/{scan}.bin", "clouds/{Scan}.bin", "words in braces are lower-case"),
        ("clouds/{scan}.bin", "clouds/*.bin", "lacks {scan}"),
        ("drives/{sequence}/clouds", "../{sequence}/clouds", "a path below the root"),
        ("truth/{scan}.label", "truth/{frame}.label", "lacks {scan}"),
        ("left/{scan}_*", "left/{scan}_{time}", "{time} is not a word of [points] files"),
        ('["time", "x", "y", "z", "signal"]', '["x", "y"]', "expected x, y, z and others"),
        ('dtype = "f8"', 'dtype = "f2"', "[points]: dtype 'f2'"),
        ('unit = "cm"', 'unit = "furlong"', "[points]: unit must be m, cm, mm, ft"),
        ('rotate = "90,0,0"', 'rotate = "up"', "[points]: rotate must be yaw,pitch,roll"),
        ("scale = 0.5", "scale = 0", "[points].signal: scale and full must be"),
        ('dtype = "u2"', 'dtype = "word"', "[labels]: dtype 'word'"),
        ("mask = 0x3F", "mask = 0", "[labels]: mask 0"),
        ("raw = [1]", "raw = [7]", "raw id 7 is both 'hedge' and 'cart'"),
        ("raw = [1]", "raw = []", "[[class]] 2 (cart): class 'cart': raw is empty"),
        ("raw = [1]", "raw = [70000]", "raw id 70000"),
        ("raw = [1]", 'raw = ["1"]', "[[class]] 2 (cart).raw[0]: expected a whole number"),
        ("write = 9", "write = 8", "write = 8 is not one of its raw ids"),
        ('name = "cart"', 'name = "hedge"', "two classes are called 'hedge'"),
        ('color = "#102030"', 'color = "blue"', "expected #rrggbb"),
        ("[[class]]\nname", "[class]\nname", "not a TOML file|expected a list of tables"),
        ('sequences = ["a"]', 'sequence = ["a"]', "did you mean 'sequences'"),
        ('{ sequences = ["a"] }', "{ share = 2.0 }", "share 2.0"),
        ('{ sequences = ["a"] }', "{ }", "give one of sequences, list, glob, share"),
        ('{ sequences = ["a"] }', '{ folders = ["a"] }', "need {split} in [points] files"),
        ("high = [20, 20, 3]", "high = [20, -20, 3]", "high must be above low on every axis"),
        ("cells = [200, 200, 30]", "cells = [200, 200]", "[volume].cells: expected 3 values"),
        ("beams = 16", "beams = 0", "[sensor]: beams 0"),
        ("fov_deg = [10, -12]", "fov_deg = [10, 10]", "two different angles"),
        ('kind = "json"', 'kind = "jsn"', "[[camera]] 1.calib.kind: expected one of"),
        ('matrix = "left.K"', "", "kind 'json' needs matrix and extrinsic"),
        ("hz = 5.0", "hz = -1", "[poses]: hz -1"),
        ("hz = 5.0", "hz = ", "not a TOML file"),
    ],
)
def test_descriptions_that_cannot_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DESCRIPTION
    file = write_description(tmp_path, DESCRIPTION.replace(old, new))
    with pytest.raises(ConfigError) as found:
        described(load_description(file))
    text = str(found.value)
    assert any(part.replace("\\", "") in text for part in message.split("|")), text
    assert str(file) in text


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_descriptions(name: str) -> None:
    table = described(load_description(name)).table
    assert parse_dataset(describe_dataset(table.info), where="") == table.info


def test_the_template_is_a_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "description.toml" in printed("prepare", "--describe-template")
    written = tmp_path / "description.toml"
    assert written.read_bytes() == TEMPLATE.read_bytes()
    assert described(load_description(written)).table.info.labels.names[1:] == ("person", "ground")
    again = CliRunner().invoke(app, ["prepare", "--describe-template"])
    assert (again.exit_code, "already exists" in again.output) == (1, True)


def test_the_yaml_of_semantic_kitti_api_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "semantic-poss.yaml"
    file.write_text(
        """
name: "poss"
labels: {0: "unlabeled", 4: "person", 5: "people", 6: "rider", 22: "ground"}
color_map: {0: [0, 0, 0], 4: [30, 30, 255], 6: [90, 30, 150], 22: [1, 2, 3]}
content: {0: 0.1, 4: 0.2}
learning_map: {0: 0, 4: 1, 5: 1, 6: 2, 22: 3}
learning_map_inv: {0: 0, 1: 4, 2: 6, 3: 22}
learning_ignore: {0: True, 1: False, 2: False, 3: False}
split: {train: [0, 1], valid: [2], test: []}
"""
    )
    found = load_description(file)
    labels = described(found).table.info.labels
    assert found.dataset.name == "poss"
    assert labels.names == ("unlabeled", "person", "rider", "ground")
    assert labels.raw_to_training == {0: 0, 4: 1, 5: 1, 6: 2, 22: 3}
    assert labels.training_to_raw == (0, 4, 6, 22)
    assert labels.colors_rgb == ((0, 0, 0), (255, 30, 30), (150, 30, 90), (3, 2, 1))
    assert found.splits.train is not None
    assert found.splits.train.sequences == ("00", "01")
    assert found.splits.test is None
    own = tmp_path / "own.toml"
    own.write_text('[dataset]\nname = "own"\nlike = "semantic-poss.yaml"\n[sensor]\nbeams = 40\n')
    assert load_description(own).classes == found.classes


def test_what_is_like_a_built_in_data_set_has_its_classes_and_numbers(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[dataset]\nname = "mine"\nlike = "semkitti"\n[volume]\nlow = [-60, -60, -5]\n')
    ours, theirs = (described(load_description(one)).table.info for one in (file, "semkitti"))
    assert ours.labels == DATASETS["semkitti"].table.info.labels
    assert ours.grid.low == (-60, -60, -5)
    assert (ours.grid.high, ours.grid.shape) == (theirs.grid.high, theirs.grid.shape)
    assert ours.facts.absent_counts_zero
    assert ours.facts.movable == DATASETS["semkitti"].table.info.facts.movable
