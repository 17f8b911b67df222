"""`pass2d inspect`: what a cache holds, against the scans that went in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from typer.testing import CliRunner, Result

from pass2d.cache.inspection.scan import find_scan, scan_detail
from pass2d.cache.inspection.summary import summarize_dataset
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.cli import app
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import save_checkpoint

Written = tuple[Path, dict[str, ScanRecord]]


def inspect(*words: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *(str(word) for word in words)])


def refusal(*words: object) -> str:
    """The one line of a command that must fail."""
    result = inspect(*words)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("cache")
    return root, write_sample_cache(
        root, n_scans=3, sequences=("00", "08", "11"), n_points=400, shard_scans=2
    )


def test_summary_counts_what_was_written(written: Written) -> None:
    root, scans = written
    with CacheReader.open(root) as reader:
        summary = summarize_dataset(reader, location="here")
        fingerprint = reader.fingerprint
    assert [(s.split, s.sequences, s.scans, s.scans_with_label) for s in summary.splits] == [
        ("train", 1, 3, 3),
        ("val", 1, 3, 3),
        ("test", 1, 3, 0),
    ]
    assert [s.points_raw for s in summary.sequences] == [
        sum(scan.n_raw for name, scan in scans.items() if name.startswith(sequence))
        for sequence in ("00", "08", "11")
    ]
    assert (summary.sequences[1].first_frame, summary.sequences[1].last_frame) == (0, 2)
    assert [(c.container, c.shards, c.scans) for c in summary.containers] == [
        *((stage, 6, 9) for stage in ("lidar", "camera", "voxel")),
        ("motion", 0, 0),  # as in caches of earlier versions
        ("thinned", 0, 0),
    ]
    assert summary.fingerprint == fingerprint
    on_disk = [p for p in (root / "semkitti").glob("*/*.zarr/**/*") if p.is_file()]
    assert summary.nbytes == sum(path.stat().st_size for path in on_disk)


def test_plain_bytes_are_those_of_the_arrays(written: Written) -> None:
    root, scans = written
    with CacheReader.open(root) as reader:
        fields = {f.name: f for f in summarize_dataset(reader, location="").fields}
    kept = sum(scan.n for scan in scans.values())
    labelled = sum(scan.n for scan in scans.values() if scan.label is not None)
    seen = sum(len(scan.cameras[0].point_index) for scan in scans.values())
    assert fields["xyz"].plain_bytes == kept * 3 * 4
    assert fields["intensity"].plain_bytes == kept  # hundredths are stored as one byte
    assert (fields["label"].plain_bytes, fields["label"].scans) == (labelled, 6)
    assert fields["image"].plain_bytes == 9 * 48 * 200 * 3
    assert fields["image"].chunks == 9 * 2  # 200 columns are two strips of 128
    assert fields["pixel"].plain_bytes == seen * 2 * 2
    assert fields["inverse"].plain_bytes == kept * 5 * 4
    voxels = sum(level.coord.shape[1] for scan in scans.values() for level in scan.voxels)
    assert fields["coord"].plain_bytes == voxels * 3 * 2
    assert "time" not in fields


def test_stored_bytes_are_nearly_the_files(written: Written) -> None:
    root, _ = written
    with CacheReader.open(root) as reader:
        fields = summarize_dataset(reader, location="").fields
    for field in fields:
        files = list((root / "semkitti").glob(f"{field.container}/*.zarr/{field.name}/c/**/0"))
        on_disk = sum(path.stat().st_size for path in files if path.is_file())
        index = on_disk - field.stored_bytes
        assert 0 < index <= len(files) * 4 + 16 * 2 * 6 * 2, field.name  # 16 a chunk, crc32c


def test_one_scan_in_detail(written: Written) -> None:
    root, scans = written
    with CacheReader.open(root) as reader:
        detail = scan_detail(reader, find_scan(reader, "8/1"))
    scan = scans["08/000001"]
    assert (detail.scan_id, detail.split, detail.frame_index) == ("08/000001", "val", 1)
    assert (detail.n_raw, detail.n_kept) == (scan.n_raw, scan.n)
    assert scan.label is not None
    assert [n for _, n in detail.class_points] == np.bincount(scan.label, minlength=5).tolist()
    assert [v for _, v in detail.voxels] == [level.coord.shape[1] for level in scan.voxels]
    (camera,) = detail.cameras
    assert (camera.height, camera.width) == (48, 200)
    assert camera.visible_points == len(scan.cameras[0].point_index)
    assert detail.values[0].low == pytest.approx(scan.xyz[0].min())
    assert scan.instance is not None
    assert detail.instances == len(set(scan.instance.tolist()) - {0})
    assert [source.state for source in detail.sources] == ["gone"]
    assert detail.is_sound


def test_flipped_byte_is_named_by_its_chunk_and_ends_with_1(
    written: Written, tmp_path: Path
) -> None:
    shutil.copytree(written[0], tmp_path / "cache")
    (file,) = (tmp_path / "cache/semkitti/lidar").glob("008000-*/xyz/c/0/0/0")
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    result = inspect(tmp_path / "cache", "--scan", "08/000000", "--json")
    assert result.exit_code == 1
    scan = json.loads(result.stdout)["datasets"][0]["scan"]
    damaged = [chunk for chunk in scan["chunks"] if chunk["problem"]]
    assert [chunk["field"] for chunk in damaged] == ["xyz"]
    assert "crc32c" in damaged[0]["problem"]
    assert not scan["is_sound"]
    assert inspect(tmp_path / "cache", "--scan", "08/000001").exit_code == 0


def test_tables_and_json_tell_the_same(written: Written) -> None:
    root, scans = written
    table = inspect(root, "--scan", "00/000002")
    assert table.exit_code == 0, table.output
    assert f"{scans['00/000002'].n_raw:,} raw" in table.stdout
    document = json.loads(inspect(root, "--json").stdout)["datasets"][0]
    assert document["fingerprint"] in inspect(root).stdout
    assert document["info"]["grid"]["shape"] == [1000, 1000, 60]
    assert document["containers"][0]["profiles"] == ["speed"]
    assert document["info"]["labels"]["raw_to_training"]["40"] == 1


def test_several_data_sets_are_all_shown(written: Written, tmp_path: Path) -> None:
    root, _ = written
    shutil.copytree(root / "semkitti", tmp_path / "one")
    shutil.copytree(root / "semkitti", tmp_path / "two")
    shown = json.loads(inspect(tmp_path, "--json").stdout)["datasets"]
    assert len(shown) == 2
    assert "--dataset" in refusal(tmp_path, "--scan", "00/000000")
    (tmp_path / "two" / "CURRENT").write_text("rubbish")
    result = inspect(tmp_path, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["datasets"]) == 1
    assert "CURRENT" in result.stderr


def test_remote_cache(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    fs = fsspec.filesystem("memory")
    for path in written[0].rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/inspected/{path.relative_to(written[0])}", path.read_bytes())
    near = json.loads(inspect(written[0], "--scan", "08/000000", "--json").stdout)["datasets"][0]
    far = json.loads(inspect("memory://inspected", "--scan", "08/000000", "--json").stdout)[
        "datasets"
    ][0]
    fs.rm("/inspected", recursive=True)
    assert near["location"] != far["location"]
    for name in ("fingerprint", "fields", "sequences", "containers", "scan"):
        assert near[name] == far[name], name


def test_empty_cache_is_shown(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=0, sequences=())
    result = inspect(tmp_path)
    assert result.exit_code == 0, result.output
    assert "0 scans" in result.stdout
    assert "no scan at all" in refusal(tmp_path, "--scan", "00/000000")


def test_bad_places_give_one_line(written: Written, tmp_path: Path) -> None:
    root, _ = written
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "no prepared data set" in refusal(tmp_path)
    assert "no scan '08/000009'" in refusal(root, "--scan", "08/000009")
    assert "00/000000" in refusal(root, "--scan", "x")
    (tmp_path / "x.safetensors").write_bytes(b"rubbish")
    assert "x.safetensors" in refusal(tmp_path / "x.safetensors")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/best.safetensors").write_bytes(b"")
    assert "best.safetensors" in refusal(tmp_path / "run")
    shutil.copytree(root, tmp_path / "cache")
    (parquet,) = (tmp_path / "cache").glob("*/manifest/*/scans.parquet")
    parquet.write_bytes(parquet.read_bytes()[:-100])
    assert "scans.parquet" in refusal(tmp_path / "cache")


def test_checkpoint_shows_its_card(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    card = Card(
        architecture="2dpass",
        settings={"hidden": 8},
        info=sample_info(),
        metrics={"val/miou_official": 0.25},
        provenance={"recipe": "mine"},
    )
    save_checkpoint(path, {"network.w": torch.zeros(2, 3), "network.b": torch.zeros(4)}, card)
    document = json.loads(inspect(path, "--json").stdout)
    assert document["tensors"] == {"network": {"tensors": 2, "numbers": 10}}
    assert document["card"]["metrics"] == {"val/miou_official": 0.25}
    table = inspect(path).stdout
    assert all(word in table for word in ("2dpass", "hidden=8", "0.25", "mine", "building"))
    assert "--scan" in refusal(path, "--scan", "00/000000")
