"""Looking at scans: what is read of caches, raw folders and predictions; what pictures show."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from PIL import Image
from pipeline_files import scan_points, write_sequence
from test_cache_columns import street
from typed import pass2d
from typed import refusal as refused

from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import DataError
from pass2d.pipeline.datasets.raw_scans import list_raw, read_raw
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.drawing.legend import ERRORS
from pass2d.train.viewing.cached import cached_scans
from pass2d.train.viewing.colors import Scale, binned, ramp
from pass2d.train.viewing.panels import panels_of
from pass2d.train.viewing.predictions import PredictionFolder
from pass2d.train.viewing.scan import ViewItem, ViewScan, choose_items, view_scan

Written = tuple[Path, dict[str, ScanRecord]]


view = partial(pass2d, "view")
refusal = partial(refused, "view")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("cache")
    return root, write_sample_cache(root, n_scans=3, sequences=("00", "08"), n_points=600)


def raw_labels(scan: ScanRecord) -> np.ndarray:
    """(n_raw,) training ids in the raw file's order, the slow way."""
    labels = np.zeros(scan.n_raw, np.uint8)
    others = sorted(set(range(scan.n_raw)) - set(scan.raw_index.tolist()))
    for row, label in zip(scan.raw_index.tolist(), scan.label, strict=True):
        labels[row] = label
    for row, label in zip(others, scan.outside_label, strict=True):
        labels[row] = label
    return labels


def item(name: str, **changes: object) -> ViewItem:
    sequence, frame = name.split("/")
    values = {
        "name": name,
        "sequence": sequence,
        "frame_index": int(frame),
        "token": "",
        "points": None,
        "load": None,
    }
    return ViewItem(**{**values, **changes})


def test_cached_scan_is_the_raw_scan(written: Written) -> None:
    root, scans = written
    with CacheReader.open(root) as reader:
        found = cached_scans(reader, split="val", sequences=None)
        assert [i.name for i in found.items] == ["08/000000", "08/000001", "08/000002"]
        shown = found.items[1].load()
    scan = scans["08/000001"]
    assert shown.n == scan.n_raw
    np.testing.assert_array_equal(shown.xyz[:, scan.raw_index], scan.xyz)
    np.testing.assert_array_equal(shown.truth, raw_labels(scan))
    (camera,) = shown.cameras
    np.testing.assert_array_equal(camera.point_index, scan.raw_index[scan.cameras[0].point_index])
    np.testing.assert_array_equal(camera.image, scan.cameras[0].image)


def test_added_sweeps_are_left_out() -> None:
    record = ScanRecord(
        scan_id="x",
        n_raw=6,  # rows 0..3 are the scan's own
        xyz=np.arange(12, dtype=np.float32).reshape(3, 4),
        signal=np.zeros(4, np.float32),
        raw_index=np.array([0, 2, 3, 5], np.int32),
        label=np.array([1, 2, 3, 0], np.uint8),
        time=np.array([0, 0, 0, 0.1], np.float32),
        outside_xyz=np.full((3, 2), 99, np.float32),
        outside_signal=np.zeros(2, np.float32),
        outside_label=np.array([4, 0], np.uint8),
        outside_time=np.array([0, 0.1], np.float32),
    )
    shown = view_scan(record, frame_index=0, time_s=None)
    assert shown.n == 4
    assert shown.truth is not None
    assert shown.truth.tolist() == [1, 4, 2, 3]


@pytest.mark.parametrize("place", [".", "sequences", "sequences/08", "sequences/08/velodyne"])
def test_raw_folder_is_known_by_what_lies_in_it(tmp_path: Path, place: str) -> None:
    folder = write_sequence(tmp_path, "08")
    (folder / "times.txt").write_text("0.0\n0.1\n0.25\n")
    found = list_raw(tmp_path / place)
    assert found is not None
    assert [scan.scan_id for scan in found.scans] == ["08/000000", "08/000001", "08/000002"]
    record = read_raw(found.scans[2], found.info)
    shown = view_scan(record, frame_index=2, time_s=None)
    np.testing.assert_array_equal(shown.points, scan_points(50, 2))
    assert len(shown.cameras) == 1
    document = json.loads(
        view(tmp_path / place, "--scan", "8/2", "--png", tmp_path / "out", "--json").stdout
    )
    assert document["scans"] == ["08/000002"]
    names = [Path(file["path"]).name for file in document["files"]]
    assert names == [f"08_000002_{kind}.png" for kind in ("above", "range", "camera")]


@pytest.mark.parametrize("place", [".", "sequences/08"])
def test_damaged_calibration_costs_the_pictures_and_is_said(tmp_path: Path, place: str) -> None:
    folder = write_sequence(tmp_path, "08")
    (folder / "calib.txt").write_text("P2: 1 2\n")
    result = view(tmp_path / place, "--scan", "8/2", "--png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert str(folder / "calib.txt") in result.stderr
    assert {path.stem.split("_")[-1] for path in (tmp_path / "out").iterdir()} == {"above", "range"}


def test_plain_folder_of_bin_files_needs_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.bin").write_bytes(scan_points(200).tobytes())
    first = view(tmp_path, "--png", tmp_path / "first")
    assert "1 of 2 scans, from a; choose with --scan NAME" in first.stderr
    assert len(list((tmp_path / "first").iterdir())) == 2
    result = view(tmp_path, "--scans", ":", "--png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_above.png",
        "a_range.png",
        "b_above.png",
        "b_range.png",
    ]


def test_plain_files_in_another_unit_are_told_so(tmp_path: Path) -> None:
    points = street(3000, 0)
    for name, scale in (("m", 1), ("mm", 1000)):
        scaled = points * [scale, scale, scale, 1]
        (tmp_path / f"{name}.bin").write_bytes(scaled.astype("<f4").tobytes())
    result = view(tmp_path, "--scans", ":", "--png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if "millimetres" in line]
    assert said == [
        f"{tmp_path / 'mm.bin'}: the points look like millimetres, not metres: multiply x, y and z "
        "by 0.001: metres are expected"
    ]


def test_a_pipe_or_a_closed_folder_among_point_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(scan_points(200).tobytes())
    os.mkfifo(tmp_path / "b.bin")  # to open it would wait for ever
    result = view(tmp_path, "--png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'b.bin'}: a pipe, not a file of points" in result.stderr
    assert (tmp_path / "out" / "a_above.png").is_file()


def test_panels_say_right_and_wrong() -> None:
    scan = ViewScan(
        name="x",
        frame_index=0,
        time_s=None,
        xyz=np.array([[10, 20, 30], [0, 5, -5], [0, 0, 0]], np.float32),
        signal=np.zeros(3, np.float32),
        truth=np.array([1, 2, 0], np.uint8),
        predicted=np.array([1, 3, 3], np.uint8),
        confidence=np.array([0.05, 0.95, 1.0], np.float32),
    )
    panels = panels_of(scan, sample_info().labels, signal_name="remission")
    by_title = {panel.title: panel.labels.tolist() for panel in panels}
    assert by_title == {
        "ground truth": [1, 2, 0],
        "prediction": [1, 3, 3],
        "error": [1, 2, 0],
        "confidence": [1, 10, 10],
    }


def test_numbers_become_bins_and_colours() -> None:
    labels, table = binned(
        np.array([-5, 0, 0.5, 1, np.nan], np.float32), Scale(low=0, high=1, unit="m")
    )
    assert labels.tolist() == [1, 1, 6, 10, 0]
    assert table.names[6] == "0.5 to 0.6 m"
    assert ramp(np.array([0.0, 1.0])).tolist() == [[62, 20, 110], [253, 231, 37]]


def test_written_pictures_show_errors_of_predictions(written: Written, tmp_path: Path) -> None:
    root, scans = written
    scan = scans["08/000000"]
    wrong = np.array([0, 40, 10, 50, 70], np.uint32)[raw_labels(scan)]
    wrong[::2] = 40  # road
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "000000.label").write_bytes(wrong.tobytes())
    np.save(tmp_path / "labels" / "000000_confidence.npy", np.ones(scan.n_raw, np.float32))
    result = view("--cache", root, "--predictions", tmp_path / "labels", "--png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "08_000000_above.png") as picture:
        above = np.asarray(picture)
    half_h, half_w = above.shape[0] // 2, above.shape[1] // 2
    truth, error = above[:half_h, :half_w], above[half_h:, :half_w]
    for color in ERRORS.colors_rgb[1:]:
        assert (error == color).all(axis=2).sum() > 50
        assert not (truth == color).all(axis=2).any()


def test_prediction_is_found_by_name_sequence_or_token(tmp_path: Path) -> None:
    table = sample_info().labels
    for name in ("sequences/08/predictions/000001.label", "sequences/11/predictions/000001.label"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(np.array([40, 70 | 5 << 16], np.uint32).tobytes())
    (tmp_path / "abc_lidarseg.bin").write_bytes(bytes([10, 50, 0]))
    folder = PredictionFolder(tmp_path, table)
    assert folder.find(item("08/000001")) == tmp_path / "sequences/08/predictions/000001.label"
    prediction = folder.load(item("11/000001"))
    assert prediction is not None
    assert prediction.labels.tolist() == [1, 4]
    assert folder.load(item("08/000002")) is None
    scene = folder.load(item("s/3", token="abc", points=Path("n__LIDAR_TOP__1.pcd.bin")))
    assert scene is not None
    assert scene.labels.tolist() == [2, 3, 0]


def test_predictions_that_do_not_fit_are_refused(written: Written, tmp_path: Path) -> None:
    root, scans = written
    words = ["--cache", root, "--predictions", tmp_path, "--png", tmp_path / "out"]
    assert "no *.label" in refusal(*words)
    file = tmp_path / "000000.label"
    file.write_bytes(np.full(7, 40, np.uint32).tobytes())
    assert "7 values" in refusal(*words)
    file.write_bytes(np.full(scans["08/000000"].n_raw, 99, np.uint32).tobytes())
    assert "[99]" in refusal(*words)
    file.write_bytes(b"123")
    assert "truncated" in refusal(*words)
    assert "no such folder" in refusal(*words[:3], tmp_path / "no", *words[4:])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "000000.label").write_bytes(b"")
    with pytest.raises(DataError, match="could both be"):
        PredictionFolder(tmp_path, sample_info().labels).find(
            item("08/000000", sequence=tmp_path.name)
        ) or PredictionFolder(tmp_path.parent, sample_info().labels).find(
            item("08/000000", sequence=tmp_path.name)
        )


def test_checkpoint_predicts_on_the_fly_and_other_classes_are_refused(
    written: Written, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    card = Card(
        architecture="2dpass",
        settings={"block_scales": [2, 4], "hidden": 8, "image_branch": False},
        info=sample_info(),
    )
    network = build_from_card(card, torch.device("cpu"))
    save_checkpoint(tmp_path / "c.safetensors", network_tensors(network.inference_state()), card)
    words = ["--checkpoint", tmp_path / "c.safetensors", "--png", tmp_path / "out"]
    result = view("--cache", written[0], *words, "--device", "cpu")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "08_000000_above.png") as above:
        assert min(above.size) > 2000  # four panels: two by two
    write_sequence(tmp_path / "raw", "08")
    assert "other classes" in refusal(tmp_path / "raw", *words)


def test_scans_are_chosen_by_name_place_and_range() -> None:
    items = [item(f"08/{frame:06d}") for frame in range(10)]

    def names(**words: str | None) -> list[int]:
        chosen = choose_items(items, **{"scan": None, "scans": None, "default": 2, **words})
        return [i.frame_index for i in chosen]

    assert names() == [0, 1]
    assert names(scan="08/000003") == names(scan="8/3") == names(scan="3") == [3]
    assert names(scans="4") == [4]
    assert names(scans="-1") == [9]
    assert names(scans="2:9:3") == [2, 5, 8]
    for words in ({"scans": "x"}, {"scans": "20"}, {"scans": "::0"}, {"scan": "08/000099"}):
        with pytest.raises(DataError):
            names(**words)


def test_bad_requests_give_one_line(written: Written, tmp_path: Path) -> None:
    png = ["--png", tmp_path / "out"]
    assert "--cache" in refusal(*png)
    assert "either" in refusal(tmp_path, "--cache", written[0], *png)
    assert "no such file" in refusal(tmp_path / "no", *png)
    assert "no file of points" in refusal(tmp_path, *png)
    assert "no sequence 05" in refusal("--cache", written[0], "--sequence", "05", *png)
    assert "give only one" in refusal(
        "--cache", written[0], "--predictions", tmp_path, "--checkpoint", tmp_path / "x", *png
    )
    (tmp_path / "file").write_text("")
    assert "file" in refusal("--cache", written[0], "--png", tmp_path / "file")


def test_options_that_say_nothing_about_the_input_are_refused(
    written: Written, tmp_path: Path
) -> None:
    raw, png = write_sequence(tmp_path / "raw", "08"), ["--png", tmp_path / "out"]
    points = tmp_path / "a.bin"
    points.write_bytes(scan_points(20).tobytes())
    assert "--layout" in refusal("--cache", written[0], "--layout", "nuscenes", *png)
    assert "--columns" in refusal(raw, "--columns", 5, *png)
    assert "--dataset" in refusal(raw, "--dataset", "semkitti", *png)
    assert "no splits" in refusal(points, "--split", "val", *png)
    assert "train, val or test" in refusal("--cache", written[0], "--split", "all", *png)
    assert "no scan to show" in refusal(raw, "--sequence", "07", *png)
    assert ".rrd" in refusal(points, "--save", tmp_path / "recording")
    assert view(points, "--columns", 0, *png).exit_code == 2
    assert not (tmp_path / "out").exists()
