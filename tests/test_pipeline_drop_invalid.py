"""Points of NaN in a raw data set: named, or dropped so that everything still fits the raw file."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from described_samples import DESCRIPTION, write_description, write_yard
from numpy.typing import NDArray
from nuscenes_files import NuscenesFolder
from pipeline_files import check_semkitti, scan_points, write_sequence
from stub_network import StubNetwork, trained_stub
from typer.testing import CliRunner

from pass2d.cache.clouds.nowhere import NOWHERE, is_measured
from pass2d.cache.clouds.statistics import measured_points
from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo
from pass2d.cli import app
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.raw_scans import list_raw, read_raw
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.run.describe import summary_lines
from pass2d.train.data.scan import without_dropped
from pass2d.train.inference.scans import record_input
from pass2d.train.stacks.config import StackConfig
from pass2d.train.submission.benchmark import Benchmark, parse_meta
from pass2d.train.submission.submit import SubmitConfig, submit
from pass2d.train.viewing.scan import view_scan

INLINE = PrepareConfig(workers=0)
BAD = [3, 7, 8, 40]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two scans of 50 points, the first with four rows of NaN and infinity."""
    root = tmp_path / "raw"
    file = write_sequence(root, "00", (0, 1)) / "velodyne/000000.bin"
    points = np.fromfile(file, "<f4").reshape(-1, 4)
    points[BAD] = [[np.nan] * 4, [np.inf, 0, 0, 0], [1, 2, 3, np.nan], [np.nan, np.nan, 1, 0]]
    points.tofile(file)
    return root


def dropping(root: Path) -> object:
    listing = list_semkitti(root)
    return replace(listing, info=replace(listing.info, drops_invalid=True))


def test_without_the_option_the_file_is_named_with_it(raw: Path, tmp_path: Path) -> None:
    summary = prepare(list_semkitti(raw), tmp_path / "out", INLINE, Silent())
    (failed,) = summary.failed
    assert "000000.bin: found 4 of 50 points with NaN or infinity, first 3" in failed.reason
    assert "`drop_invalid` drops them" in failed.reason
    found = [str(one) for one in check_semkitti(raw, progress=Silent()) if one.severity == "error"]
    assert any("NaN or infinity" in line and "drop_invalid" in line for line in found)
    kept = check_semkitti(raw, drop_invalid=True, progress=Silent())
    assert not [one for one in kept if "NaN" in str(one)]


def test_dropped_points_leave_all_others_and_the_raw_rows_as_they_are(
    raw: Path, tmp_path: Path
) -> None:
    summary = prepare(dropping(raw), tmp_path / "out", INLINE, Silent())
    assert (summary.failed, summary.scans, summary.dropped_points) == ((), 2, 4)
    assert any("4 not finite or beyond 1000 m dropped" in line for line in summary_lines(summary))
    labels = np.fromfile(raw / "sequences/00/labels/000000.label", "<u4") & 0xFFFF
    table = list_semkitti(raw).info.labels.raw_to_training
    with CacheReader.open(tmp_path / "out") as reader:
        assert reader.info.drops_invalid
        record = reader.read(0, Fields(label=True, outside=True))
    assert record.n_raw == 50
    assert not set(record.raw_index.tolist()) & set(BAD)
    points, label = record.raw().points, record.raw().label
    good = np.setdiff1d(np.arange(50), BAD)
    expected = scan_points(50, 0)
    assert np.array_equal(points[good], expected[good])
    assert label is not None
    assert label[good].tolist() == [table[raw_id] for raw_id in labels[good].tolist()]
    assert np.array_equal(points[BAD], [[*NOWHERE, 0]] * 4)
    assert label[BAD].tolist() == [0] * 4
    assert np.isfinite(points).all()
    assert measured_points(record).shape == (4, 46)  # no statistics count them
    ranges = np.concatenate([record.xyz, record.outside_xyz], axis=1)
    assert int(is_measured(ranges).sum()) == 46


def test_a_few_points_beyond_any_lidars_range_count_as_invalid(tmp_path: Path) -> None:
    """VaViT's cells, among others, have no room for them."""
    root = tmp_path / "raw"
    file = write_sequence(root, "00", (0, 1)) / "velodyne/000000.bin"
    points = np.fromfile(file, "<f4").reshape(-1, 4)
    points[[7, 11], [1, 2]] = 1e30, -1000.1
    points[12, 0] = 1000
    points.tofile(file)
    (failed,) = prepare(list_semkitti(root), tmp_path / "out", INLINE, Silent()).failed
    assert "000000.bin: found 2 of 50 points beyond 1000 m, first 7" in failed.reason
    summary = prepare(dropping(root), tmp_path / "out", INLINE, Silent())
    assert (summary.failed, summary.dropped_points) == ((), 2)
    with CacheReader.open(tmp_path / "out") as reader:
        points = reader.read(0, Fields(outside=True)).raw().points
    assert points[[7, 11], :3].tolist() == [list(NOWHERE)] * 2
    assert points[12, 0] == 1000


def test_many_points_beyond_it_are_of_another_unit_which_is_said_as_such(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    file = write_sequence(root, "00", (0, 1)) / "velodyne/000000.bin"
    points = np.fromfile(file, "<f4").reshape(-1, 4)
    points[:, :3] *= 1000
    points.tofile(file)
    for listing in (list_semkitti(root), dropping(root)):
        (failed,) = prepare(listing, tmp_path / "out", INLINE, Silent()).failed
        assert "50 points, none of them in the volume" in failed.reason


def test_the_option_changes_no_scan_without_such_points(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write_sequence(root, "00", (0, 1))
    records = []
    for place, listing in enumerate((list_semkitti(root), dropping(root))):
        prepare(listing, tmp_path / str(place), INLINE, Silent())
        with CacheReader.open(tmp_path / str(place)) as reader:
            records.append(reader.read(0, Fields(label=True, outside=True)))
    plain, dropped = records
    assert np.array_equal(plain.xyz, dropped.xyz)
    assert np.array_equal(plain.outside_xyz, dropped.outside_xyz)
    assert np.array_equal(plain.label, dropped.label)


def test_the_command_has_the_option(raw: Path, tmp_path: Path) -> None:
    words = ["prepare", "semkitti", "--root", str(raw), "--cache", str(tmp_path / "cache")]
    runner = CliRunner()
    result = runner.invoke(app, [*words, "--workers", "0", "--drop-invalid"])
    assert result.exit_code == 0, result.output
    assert "4 not finite or beyond 1000 m dropped" in result.output
    result = runner.invoke(app, [*words, "--workers", "0"])
    assert result.exit_code == 1  # not taken for granted
    assert "--drop-invalid drops them" in result.output


def test_view_of_the_raw_data_shows_the_others(raw: Path) -> None:
    found = list_raw(raw)
    assert found is not None
    scan = view_scan(read_raw(found.scans[0], found.info), frame_index=0, time_s=None)
    assert scan.n == 50
    assert np.flatnonzero(np.isnan(scan.xyz).any(axis=0)).tolist() == BAD


def test_nuscenes_and_its_corrupted_sets_drop_them_too(tmp_path: Path) -> None:
    folder = NuscenesFolder(tmp_path / "raw", scenes=("scene-0061",), samples=1, n=400)
    (name,) = (name for name in folder.files if name.startswith("samples/LIDAR_TOP"))
    points = np.frombuffer(folder.files[name], np.float32).reshape(-1, 5).copy()
    points[[3, 7], 1] = np.nan
    folder.files[name] = points.tobytes()
    words = ["prepare", "nuscenes", "--root", str(folder.write()), "--workers", "0"]
    words += ["--cache", str(tmp_path / "cache"), "--corrupt", "fog:heavy,beam_missing:light"]
    runner = CliRunner()
    refused = runner.invoke(app, words)
    assert refused.exit_code == 1
    assert "NaN" in refused.output
    result = runner.invoke(app, [*words, "--drop-invalid"])
    assert result.exit_code == 0, result.output
    for dataset, n_raw in (
        ("nuscenes", {400}),
        ("nuscenes-fog-heavy", {398}),  # a corrupted scan has rows of its own; fog adds none here
        ("nuscenes-beam_missing-light", set(range(1, 399))),
    ):
        with CacheReader.open(tmp_path / "cache", dataset=dataset) as reader:
            record = reader.read(0, Fields(label=True, outside=True))
        assert np.isfinite(record.xyz).all()
        assert np.isfinite(record.outside_xyz).all()
        assert record.n_raw in n_raw
        assert record.label is not None


SPOILT = [2, 7, 12, 40]
"""The camera sees two of them."""


def described_cache(tmp_path: Path, name: str, *, text: str, options: tuple[str, ...]) -> Path:
    place = tmp_path / name
    place.mkdir()
    words = ["prepare", "folder", "--describe", str(write_description(place, text))]
    words += ["--root", str(tmp_path / "raw"), "--cache", str(place / "cache"), "--workers", "0"]
    result = CliRunner().invoke(app, [*words, *options])
    assert result.exit_code == 0, result.output
    return place / "cache"


LABEL_COLUMN = DESCRIPTION.replace('"z", "signal"]', '"z", "signal", "truth"]').replace(
    'files = "drives/{sequence}/truth/{scan}.label"\ndtype = "u2"', 'column = "truth"'
)


@pytest.mark.parametrize("text", [DESCRIPTION, LABEL_COLUMN], ids=["label files", "label column"])
def test_described_sets_keep_labels_instances_and_pixels_with_their_points(
    text: str, tmp_path: Path
) -> None:
    write_yard(tmp_path / "raw")
    drive = tmp_path / "raw/drives/a"
    for file in sorted((tmp_path / "raw/drives").rglob("*.bin")):
        if text == LABEL_COLUMN:
            label = np.fromfile(file.parents[1] / f"truth/{file.stem}.label", "<u2")
            rows = np.fromfile(file, "<f8").reshape(-1, 5)
            np.column_stack([rows, label]).astype("<f8").tofile(file)
    whole = described_cache(tmp_path, "whole", text=text, options=())
    file = drive / "clouds/0001.bin"
    rows = np.fromfile(file, "<f8").reshape(400, -1)
    rows[SPOILT, 1:5] = [[np.nan] * 4, [np.inf, 0, 0, 0], [1, 2, 3, np.nan], [np.nan, np.nan, 1, 0]]
    rows[SPOILT, 5:] = np.nan  # an organised cloud has no label there
    rows.tofile(file)
    dropped = described_cache(tmp_path, "dropped", text=text, options=("--drop-invalid",))
    fields = Fields(label=True, instance=True, outside=True, pixels=True)
    with CacheReader.open(whole) as one, CacheReader.open(dropped) as other:
        before, after = (reader.read(0, fields) for reader in (one, other))
    assert after.n_raw == before.n_raw == 400
    is_kept = ~np.isin(before.raw_index, SPOILT)
    assert not is_kept.all()
    assert np.array_equal(after.raw_index, before.raw_index[is_kept])
    for name in ("xyz", "signal", "label", "instance"):
        assert np.array_equal(getattr(after, name), getattr(before, name)[..., is_kept]), name
    pixels = [
        {
            int(scan.raw_index[place]): tuple(rc)
            for place, rc in zip(view.point_index, view.pixel_rc.T.tolist(), strict=True)
        }
        for scan in (before, after)
        for view in scan.cameras
    ]
    assert set(pixels[0]) & set(SPOILT)
    assert pixels[1] == {row: rc for row, rc in pixels[0].items() if row not in SPOILT}
    raw = after.raw()
    assert raw.label is not None
    assert raw.label[SPOILT].tolist() == [0] * 4
    assert np.array_equal(raw.points[SPOILT], [[*NOWHERE, 0]] * 4)


def test_networks_that_see_every_point_see_none_that_was_dropped(raw: Path, tmp_path: Path) -> None:
    prepare(dropping(raw), tmp_path / "out", INLINE, Silent())
    with CacheReader.open(tmp_path / "out") as reader:
        record = reader.read(0, Fields(label=True, outside=True, motion=True))
    good = np.setdiff1d(np.arange(50), BAD)
    seen = record_input(record, uses_volume=False, outside="nearest")
    assert seen.n == 50  # an answer for every row of the file
    assert seen.rows.tolist() == good.tolist()
    assert seen.other_rows.tolist() == BAD
    assert np.array_equal(seen.points, scan_points(50, 0)[good])
    before, trained = record.raw(), without_dropped(record).raw()
    for name in ("points", "label", "motion"):
        assert np.array_equal(getattr(trained, name), getattr(before, name)[good]), name
    assert without_dropped(without_dropped(record)).n_raw == 46


def by_height(points: torch.Tensor) -> torch.Tensor:
    """(N,) training ids 1 to 4 by the height alone."""
    return 1 + torch.bucketize(points[:, 2].contiguous(), torch.tensor([-2.0, -1.0, 0.0]))


def answers(points: NDArray[np.float32], info: DatasetInfo) -> NDArray[np.int64]:
    """(R,) raw ids that `by_height` gives the rows of a file inside the volume; else -1."""
    training = by_height(torch.from_numpy(points[:, :4].copy())).numpy()
    raw_ids = np.array(info.labels.training_to_raw)[training]
    rows = inside_volume(np.ascontiguousarray(points[:, :3].T), grid=info.grid)
    return np.where(rows & np.isfinite(points[:, :4]).all(axis=1), raw_ids.astype(np.int64), -1)


@pytest.mark.parametrize("past", [0, 1])
def test_a_submission_answers_every_row_of_the_files_in_their_order(
    past: int, tmp_path: Path
) -> None:
    folder = write_sequence(tmp_path / "raw", "11", (0, 1, 2), n=400, images=False)
    (folder / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {i}\n" for i in range(3)))
    files = sorted((folder / "velodyne").iterdir())
    for place, file in enumerate(files[:2]):
        points = np.fromfile(file, "<f4").reshape(-1, 4)
        points[np.array(BAD) + place] = np.nan
        points.tofile(file)
    listing = dropping(tmp_path / "raw")
    prepare(listing, tmp_path / "cache/semkitti", INLINE, Silent())
    n_classes = listing.info.labels.n_classes
    stub = StubNetwork(by_height, n_classes=n_classes)
    trained = trained_stub(tmp_path / "stub.safetensors", stub, info=listing.info)
    card = replace(trained.card, stack=StackConfig(past=past))
    trained = replace(trained, card=card)
    rules = Benchmark(info=listing.info, splits={"test": ("11",)}, scan_counts={"11": 3})
    out = tmp_path / "s.zip"
    submit(trained, tmp_path / "cache", out, benchmarks=[rules], config=SubmitConfig())
    assert max(len(batch.points) for batch in stub.batches) > (400 if past else 0)
    with zipfile.ZipFile(out) as archive:
        for place, file in enumerate(files):
            points = np.fromfile(file, "<f4").reshape(-1, 4)
            written = archive.read(f"sequences/11/predictions/{place:06d}.label")
            raw_ids = np.frombuffer(written, "<u4").astype(np.int64)
            expected = answers(points, listing.info)
            assert raw_ids.shape == (400,)
            assert (expected >= 0).sum() > 100
            assert np.array_equal(raw_ids[expected >= 0], expected[expected >= 0])
            assert raw_ids.min() > 0


def test_a_submission_to_nuscenes_answers_every_row_of_the_files_in_their_order(
    tmp_path: Path,
) -> None:
    folder = NuscenesFolder(tmp_path / "raw", n=300)
    names = [name for name in folder.files if name.startswith("samples/LIDAR_TOP")]
    for name in names:
        points = np.frombuffer(folder.files[name], np.float32).reshape(-1, 5).copy()
        points[BAD] = [
            [np.nan] * 5,
            [np.inf, 0, 0, 0, 0],
            [1, 2, 3, np.nan, 0],
            [0, np.nan, *[0] * 3],
        ]
        folder.files[name] = points.tobytes()
    listing = list_nuscenes(folder.write(), stored_hw=(32, 48))
    listing = replace(listing, info=replace(listing.info, drops_invalid=True))
    prepare(listing, tmp_path / "cache/nuscenes", INLINE, Silent())
    stub = StubNetwork(by_height, n_classes=17)
    trained = trained_stub(tmp_path / "stub.safetensors", stub, info=listing.info)
    rules = Benchmark(info=listing.info, splits=DATASETS["nuscenes"].table.splits)
    split = listing.scans[0].split
    meta = tuple(parse_meta(None).items())
    config = SubmitConfig(split=split, meta=meta, allow_partial=True)
    out = tmp_path / "s.zip"
    report = submit(trained, tmp_path / "cache", out, benchmarks=[rules], config=config).report
    assert report.is_sound
    scans = {scan.token: scan for scan in listing.scans if scan.split == split}
    with zipfile.ZipFile(out) as archive:
        found = {
            name.rpartition("/")[2][:-13]: name for name in archive.namelist() if ".bin" in name
        }
        assert set(found) == set(scans)
        for token, scan in scans.items():
            points = np.fromfile(scan.points, np.float32).reshape(-1, 5)
            labels = np.frombuffer(archive.read(found[token]), np.uint8).astype(np.int64)
            rows = answers(points, listing.info) >= 0
            expected = by_height(torch.from_numpy(points[:, :4].copy())).numpy()
            assert labels.shape == (300,)
            assert rows.sum() > 100
            assert np.array_equal(labels[rows], expected[rows])
            assert labels.min() >= 1
