"""docs/format.md is enough to read a cache: a reader written from it gives what ours gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from nuscenes_files import NuscenesFolder
from pipeline_files import png, scan_points, write_sequence
from second_reader import SCALES, SecondReader, key_of, read_shard_array, unsealed

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.source import SourceListing

ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True)
PER_POINT = ("xyz", "label", "raw_index", "time", "outside_xyz", "outside_label", "outside_time")


def same(found: np.ndarray | None, expected: np.ndarray | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def assert_scans_agree(root: Path) -> None:
    second = SecondReader(root)
    with CacheReader.open(root) as reader:
        assert [scan["scan_id"] for scan in second.scans] == reader.scans.scan_id.tolist()
        for position, scan in enumerate(second.scans):
            ours = reader.read(position, ALL)
            for name in PER_POINT:
                same(second.points(scan, name), getattr(ours, name))
            for name in ("", "outside_"):
                same(second.signal(scan, f"{name}intensity"), getattr(ours, f"{name}signal"))
            instance = second.points(scan, "instance")
            same(None if instance is None else instance.astype(np.uint32), ours.instance)
            for found, view in zip(second.views(scan), ours.cameras, strict=True):
                for array, expected in zip(
                    found, (view.image, view.point_index, view.pixel_rc), strict=True
                ):
                    same(array, expected)
            for found, level in zip(second.voxels(scan), ours.voxels, strict=True):
                assert level.scale in SCALES
                label = np.empty(0, np.uint8) if level.label is None else level.label
                for array, expected in zip(found, (level.coord, label, level.inverse), strict=True):
                    same(array, expected)


def assert_shards_agree(root: Path) -> None:
    """Keys, records and, without the manifest, all arrays as plain Zarr shows them."""
    for row in SecondReader(root).shards.values():
        folder = root / row["path"]
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        assert key_of(attributes) == row["key"] == attributes["key"]
        record = unsealed((root / "rows" / row["stage"] / f"{folder.stem}.json").read_bytes())
        assert record["row"]["header"]["key"] == row["key"]
        group = zarr.open(folder, mode="r")
        assert sorted(group.array_keys()) == sorted(row["arrays"])
        for name, array in group.arrays():
            same(read_shard_array(folder, name), np.asarray(array[...]))


def prepared(listing: SourceListing, out: Path, profile: str) -> Path:
    prepare(listing, out, PrepareConfig(workers=0, shard_scans=3, profile=profile), Silent())
    return out


@pytest.mark.parametrize("profile", ["speed", "size", "raw"])
def test_semantickitti(tmp_path: Path, profile: str) -> None:
    raw = tmp_path / "raw"
    write_sequence(raw, "00", (0, 1, 2, 3), n=300)
    write_sequence(raw, "08", (0, 5), n=200, images=False)
    write_sequence(raw, "11", (0,), n=100, labels=False)
    folder = raw / "sequences/00"
    (folder / "velodyne/000001.bin").write_bytes(scan_points(300)[:1].tobytes())
    (folder / "labels/000001.label").write_bytes(np.uint32([10]).tobytes())
    (folder / "image_2/000000.png").write_bytes(png(40, 300))  # three strips, others one
    (folder / "labels/000002.label").unlink()
    (folder / "image_2/000003.png").unlink()
    root = prepared(list_semkitti(raw), tmp_path / "semkitti", profile)
    assert_scans_agree(root)
    assert_shards_agree(root)


@pytest.mark.parametrize(("profile", "sweeps"), [("speed", 2), ("size", 0)])
def test_nuscenes(tmp_path: Path, profile: str, sweeps: int) -> None:
    raw = NuscenesFolder(tmp_path / "nus", samples=2, sweeps=2).write()
    next((raw / "samples/CAM_BACK").iterdir()).unlink()
    root = prepared(list_nuscenes(raw, sweeps=sweeps), tmp_path / "nuscenes", profile)
    assert_scans_agree(root)
    assert_shards_agree(root)
