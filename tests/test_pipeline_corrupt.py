"""`prepare --corrupt`: corrupted data sets beside the clean one, the same whoever makes them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from cache_samples import sample_info, write_sample_cache
from nuscenes_files import NuscenesFolder
from pipeline_files import shards, write_sequence
from typed import pass2d
from waiting import goes_on

from pass2d.cache.care.status import status
from pass2d.cache.care.verify import verify
from pass2d.cache.fields import Fields
from pass2d.cache.manifest import describe_dataset, parse_dataset
from pass2d.cache.reader import CacheReader
from pass2d.cache.rows import ScanSources
from pass2d.cache.schema import CorruptionInfo
from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.progress import Silent
from pass2d.corruptions import registry
from pass2d.corruptions.cloud import Cloud
from pass2d.corruptions.registry import (
    Variant,
    corrupt,
    corruption_table,
    parse_variants,
    scan_generator,
)
from pass2d.pipeline.compose import camera_views, lidar_record, voxel_levels
from pass2d.pipeline.corrupted import corrupted_listings, variant_of
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table
from pass2d.pipeline.prepare import PrepareConfig, plan, prepare, prepare_all
from pass2d.pipeline.repair.rebuild_shards import rebuild_and_compare
from pass2d.pipeline.repair.repair import repair
from pass2d.pipeline.run.jobs import cut_into_shards, lidar_header
from pass2d.pipeline.stages.labels import map_labels

ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True)
INLINE = PrepareConfig(workers=0, shard_scans=2)
FOG = Variant(name="fog", severity="heavy")
PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    write_sequence(root, "00", (0, 1, 2), n=400)
    write_sequence(root, "08", (0, 5), n=400)
    write_sequence(root, "11", (0,), n=400, labels=False)
    return root


def listings(raw: Path, text: str, **chosen: object):
    clean = list_semkitti(raw, **chosen)
    return clean, corrupted_listings(clean, parse_variants(text))


# what is in it


@pytest.mark.parametrize("word", ["fog:heavy", "crosstalk:heavy", "cross_sensor:light"])
def test_a_corrupted_scan_is_the_corruption_of_the_raw_file(raw: Path, word: str) -> None:
    clean, (listing,) = listings(raw, word)
    variant = parse_variants(word)[0]
    scan = next(s for s in clean.scans if s.scan_id == "08/000005")
    points = np.fromfile(scan.points, "<f4").reshape(-1, 4)
    raw_labels = np.fromfile(scan.labels, "<u4")
    label = map_labels(raw_labels, table=clean.info.labels, file=scan.labels)
    table = corruption_table("semantickitti")
    cloud = Cloud(xyz=points[:, :3].T.copy(), signal=points[:, 3].copy(), label=label,
                  instance=raw_labels >> 16, sensor=table.sensor)  # fmt: skip
    chance = scan_generator(variant, sequence="08", frame_index=5)
    expected = corrupt(cloud, variant, table=table, rng=chance)

    record = lidar_record(scan, listing.info)
    assert record.n_raw == len(expected.source)
    assert np.array_equal(record.xyz, expected.xyz[:, record.raw_index])
    assert np.array_equal(record.signal, expected.signal[record.raw_index])
    assert np.array_equal(record.label, expected.carried(label)[record.raw_index])
    assert np.array_equal(record.instance, expected.carried(raw_labels >> 16)[record.raw_index])
    noise = expected.is_noise[record.raw_index]
    assert not record.label[noise].any()
    assert noise.any() == (word != "cross_sensor:light")


def test_the_cache_holds_corrupted_points_with_pixels_where_they_lie(
    raw: Path, tmp_path: Path
) -> None:
    _, (listing,) = listings(raw, "motion_blur:heavy")
    prepare(listing, tmp_path / "cache" / listing.info.name, INLINE, Silent())
    with CacheReader.open(tmp_path / "cache") as reader:
        assert reader.info.corruption == CorruptionInfo(
            collection="pass2d-C",
            name="motion_blur",
            severity="heavy",
            clean="semkitti",
            noise_label=0,
        )
        for position, scan in enumerate(listing.scans):
            lidar = lidar_record(scan, listing.info)
            held = reader.read(position, ALL)
            assert np.array_equal(held.xyz, lidar.xyz)
            views = camera_views(scan, lidar, listing.info)
            assert np.array_equal(held.cameras[0].point_index, views[0].point_index)
            assert np.array_equal(held.cameras[0].pixel_rc, views[0].pixel_rc)
            levels = voxel_levels(lidar, grid=listing.info.grid)
            assert np.array_equal(held.voxels[0].coord, levels[0].coord)


def test_nuscenes_takes_the_beams_of_the_file_and_corrupts_sweeps(tmp_path: Path) -> None:
    folder = NuscenesFolder(tmp_path / "nus", samples=2, sweeps=1, n=320)
    listing = list_nuscenes(folder.write(), sweeps=1)
    scan = next(scan for scan in listing.scans if scan.sweeps)
    rows = np.fromfile(scan.points, "<f4").reshape(-1, 5)
    rows[:, 4] = np.arange(320) % 32
    scan.points.write_bytes(rows.tobytes())
    (half,) = corrupted_listings(listing, parse_variants("cross_sensor:moderate"))
    record = lidar_record(scan, replace(half.info, sweeps=0))
    assert record.n_raw == 16 * 5  # half of the beams, every second of their ten points
    (blurred,) = corrupted_listings(listing, parse_variants("motion_blur:heavy"))
    clean, after = lidar_record(scan, listing.info), lidar_record(scan, blurred.info)
    assert (clean.time > 0).any()
    assert (after.time > 0).any()
    assert not np.isin(after.xyz[0, after.time > 0], clean.xyz[0]).any()
    own = clean.n_raw - 320  # points of the sweep that are far enough
    assert abs((after.n_raw - 320) - own) < 20
    assert np.isin(lidar_record(scan, blurred.info).xyz, after.xyz).all()
    (echo,) = corrupted_listings(listing, parse_variants("incomplete_echo:heavy"))
    left = lidar_record(scan, echo.info)
    assert np.isin(clean.xyz[0, clean.time > 0], left.xyz[0]).all()


# scans without labels


def test_scans_without_labels(raw: Path) -> None:
    _, (wet, echo) = listings(raw, "wet_ground:heavy,incomplete_echo:heavy")
    assert len(wet.scans) == 6
    assert wet.notes == ()
    assert [scan.sequence for scan in echo.scans] == ["00"] * 3 + ["08"] * 2
    assert echo.notes == (
        "semkitti-incomplete_echo-heavy: 1 scans without labels are left out (sequences 11): "
        "incomplete_echo drops points of labelled vehicles",
    )
    with pytest.raises(ConfigError, match="none of the 1 scans has labels"):
        listings(raw, "incomplete_echo", splits=("test",))


# the same bytes


@pytest.mark.ray
@pytest.mark.slow
def test_same_bytes_with_0_1_and_2_workers_in_any_order(raw: Path, tmp_path: Path) -> None:
    _, both = listings(raw, "snow:heavy,crosstalk:light", splits=("train", "val"))
    made = []
    for workers in (0, 1, 2):
        root = tmp_path / f"cache{workers}"
        order = both if workers else both[::-1]
        prepare_all(order, root, PrepareConfig(workers=workers), Silent())
        made.append({li.info.name: shards(root / li.info.name) for li in order})
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 2
    names = [set(files) for files in made[0].values()]
    assert not names[0] & names[1], "other keys"


def test_clean_data_sets_keep_their_description_and_keys(raw: Path) -> None:
    info = semkitti_table().info
    text = describe_dataset(info)
    assert b"corruption" not in text
    assert parse_dataset(text, where="") == info
    clean, (fog,) = listings(raw, "fog:heavy")
    (job, *_) = cut_into_shards(clean.scans, shard_scans=64)
    sources = [ScanSources(scan_id=scan.scan_id, files=()) for scan in job.scans]
    plain, spoilt = (
        lidar_header(job, sources, info=i, profile="speed") for i in (clean.info, fog.info)
    )
    assert "corruption" not in plain.parameters
    assert spoilt.parameters["corruption"]["settings"]["backscatter"] == 0.2
    assert plain.key != spoilt.key
    again = parse_dataset(describe_dataset(fog.info), where="")
    assert again == fog.info
    assert variant_of(again) == FOG


def test_a_new_severity_table_makes_shards_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (fog,) = listings(raw, "fog:heavy")
    root = tmp_path / fog.info.name
    assert prepare(fog, root, INLINE, Silent()).written_shards == 16
    assert prepare(fog, root, INLINE, Silent()).written_shards == 0
    monkeypatch.setattr(registry, "CODE_VERSION", registry.CODE_VERSION + 1)
    todo = plan(fog, root, INLINE)
    assert {task.reason for task in todo.tasks} == {"corruption changed", "lidar runs again"}
    monkeypatch.undo()
    assert plan(fog, root, INLINE).tasks == ()


# looking after it


def test_verify_rebuild_repair_and_status(raw: Path, tmp_path: Path) -> None:
    _, (snow,) = listings(raw, "snow:heavy")
    root = tmp_path / "cache" / snow.info.name
    prepare(snow, root, INLINE, Silent())
    whole = shards(root)
    report = verify(root, Silent(), rebuild=rebuild_and_compare(root), rebuild_share=1.0)
    assert report.is_sound
    assert report.rebuilt == report.shards
    for name in ("xyz", "coord"):
        file = next(path for path in root.rglob(f"{name}/c/0/0/0") if path.is_file())
        data = bytearray(file.read_bytes())
        data[10] ^= 1
        file.write_bytes(data)
    assert not verify(root, Silent()).is_sound
    assert repair(root, Silent()).unrepaired == ()
    assert shards(root) == whole
    assert status(root).is_current
    (raw / "sequences/00/velodyne/000001.bin").write_bytes(b"\0" * 1600)
    assert not status(root).is_current


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(raw: Path, tmp_path: Path) -> None:
    words = ["prepare", "semkitti", "--root", str(raw), "--workers", "0", "--corrupt", "all:heavy"]
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from pass2d.cli import main; main()"
    command = [sys.executable, "-c", code, *words, "--cache", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed/semkitti-wet_ground-heavy/dataset.json").exists():
        assert goes_on(process), "it has not come that far"
    process.send_signal(signal.SIGKILL)
    process.wait()
    for root in ("killed", "whole"):
        assert pass2d(*words, "--cache", tmp_path / root).exit_code == 0
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) == 9
    for name in names:
        assert shards(tmp_path / "killed" / name) == shards(tmp_path / "whole" / name), name
    plans = json.loads(pass2d(*words, "--cache", tmp_path / "whole", "--plan", "--json").stdout)
    assert {entry["dataset"]: len(entry["tasks"]) for entry in plans["datasets"]} == dict.fromkeys(
        names, 0
    )


# words


def test_wrong_words_are_refused_before_anything_is_written(raw: Path, tmp_path: Path) -> None:
    for words, said in (
        ("fogg", "unknown corruption 'fogg'; did you mean"),
        ("fog:strong", "unknown severity 'strong'; choose from heavy, light, moderate"),
    ):
        result = pass2d(
            "prepare", "semkitti", "--root", raw, "--cache", tmp_path / "c", "--corrupt", words
        )
        assert result.exit_code == 1
        assert said in result.stderr
        assert "Traceback" not in result.output
    assert not (tmp_path / "c").exists()


# which data set is meant


def corrupted_info(name: str):
    corruption = CorruptionInfo(
        collection="pass2d-C", name="fog", severity="heavy", clean="semkitti", noise_label=21
    )
    return replace(sample_info(), name=name, corruption=corruption)


def test_the_clean_data_set_is_meant_where_there_is_one(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=1, info=corrupted_info("semkitti-fog-heavy"))
    with CacheReader.open(tmp_path) as reader:
        assert reader.info.name == "semkitti-fog-heavy"
    write_sample_cache(tmp_path, n_scans=1, info=corrupted_info("semkitti-fog-light"))
    with pytest.raises(CacheError, match="Choose one with `dataset`"):
        CacheReader.open(tmp_path)
    write_sample_cache(tmp_path, n_scans=1)
    with CacheReader.open(tmp_path) as reader:
        assert reader.info.name == "semkitti"
    with CacheReader.open(tmp_path, dataset="semkitti-fog-light") as reader:
        assert reader.info.name == "semkitti-fog-light"
    with pytest.raises(CacheError, match="did you mean 'semkitti-fog-heavy'"):
        CacheReader.open(tmp_path, dataset="semkitti-fog-heav")
    write_sample_cache(tmp_path, n_scans=1, info=replace(sample_info(), name="nuscenes"))
    with pytest.raises(CacheError, match="Choose one with `dataset`"):
        CacheReader.open(tmp_path)


@pytest.mark.parametrize("corrupted", [["fog-heavy"], ["fog-heavy", "fog-light"]])
def test_the_clean_data_set_is_repaired_though_corrupted_ones_alone_are_whole(
    tmp_path: Path, corrupted: list[str]
) -> None:
    for name in corrupted:
        write_sample_cache(tmp_path, n_scans=1, info=corrupted_info(f"semkitti-{name}"))
    write_sample_cache(tmp_path, n_scans=1)
    text = (tmp_path / "semkitti/dataset.json").read_bytes()
    (tmp_path / "semkitti/dataset.json").unlink()
    assert pass2d("cache", "verify", "--cache", tmp_path).exit_code == 1
    assert pass2d("cache", "repair", "--cache", tmp_path).exit_code == 0
    assert (tmp_path / "semkitti/dataset.json").read_bytes() == text


def test_the_clean_data_set_is_meant_in_a_remote_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    write_sample_cache(tmp_path / "c", n_scans=1, info=corrupted_info("semkitti-fog-heavy"))
    write_sample_cache(tmp_path / "c", n_scans=1)
    fs = fsspec.filesystem("memory")
    for path in (tmp_path / "c").rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/corrupted/{path.relative_to(tmp_path / 'c')}", path.read_bytes())
    with CacheReader.open("memory://corrupted") as reader:
        assert reader.info.name == "semkitti"
    fs.store.clear()
