"""Plain `zarr.open` shows every array of a prepared cache as our reader gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from thinned_caches import with_thinned

from pass2d.cache.fields import CONTAINERS, FIELDS, Fields
from pass2d.cache.layout import shard_name
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare

ALL = Fields(
    label=True,
    instance=True,
    image=True,
    pixels=True,
    voxels=True,
    outside=True,
    motion=True,
    thinned=True,
)


def padded_equal(stored: np.ndarray, value: np.ndarray) -> bool:
    """Whether ``stored`` begins with ``value`` along every axis and is zero beyond."""
    inside = tuple(slice(0, size) for size in value.shape)
    rest = stored.copy()
    rest[inside] = 0
    return bool((stored[inside] == value).all()) and not rest.any()


def assert_equal_field(
    stored: np.ndarray, name: str, scan: ScanRecord, *, n_cameras: int, divisor: int
) -> None:
    if name in ("image", "point_index", "pixel"):
        attribute = {"image": "image", "point_index": "point_index", "pixel": "pixel_rc"}[name]
        values = [getattr(view, attribute) for view in scan.cameras]
        if n_cameras == 1:
            stored = stored[None]
        seen = [camera for camera in range(len(stored)) if stored[camera].any()]
        assert len(seen) <= len(values)
        # Cameras without a picture hold zeros; those that are left come in the reader's order.
        left = [value for value in values if value.any()]
        assert all(padded_equal(stored[c], v) for c, v in zip(seen, left, strict=True)), name
        return
    assert scan.thinned is not None
    value = {
        "thinned_row": scan.thinned.rows,
        "neighbour": scan.thinned.apart,
        "nearest_thinned": scan.thinned.answers,
        "intensity": scan.signal,
        "outside_intensity": scan.outside_signal,
        "coord": np.concatenate([level.coord for level in scan.voxels], axis=1),
        "vlabel": None
        if scan.label is None
        else np.concatenate([level.label for level in scan.voxels]),
        "inverse": np.stack([level.inverse for level in scan.voxels]),
    }.get(name, getattr(scan, name, None))
    if name.endswith("intensity") and divisor:
        stored = (stored / divisor).astype(np.float32)
    if value is None:
        assert not stored.any(), name  # labels of a scan without labels
    else:
        assert padded_equal(stored, value), name


def assert_zarr_shows_what_the_reader_gives(root: Path) -> set[str]:
    """Compare every array of every shard, all scans; returns the fields that were there."""
    seen = set()
    with CacheReader.open(root) as reader:
        shards = reader._shards.keys()
        keys = {(stage, shard): key for stage, shard, key in shards}
        for position in range(len(reader.scans)):
            scan = reader.read(position, ALL)
            shard, row = int(reader.scans.shard[position]), int(reader.scans.row[position])
            for stage in CONTAINERS:
                folder = root / stage / f"{shard_name(shard, keys[stage, shard])}.zarr"
                group = zarr.open(folder, mode="r")
                assert group.attrs["scan_ids"][row] == scan.scan_id
                for name, array in group.arrays():
                    assert FIELDS[name].container == stage
                    assert_equal_field(
                        np.asarray(array[row]),
                        name,
                        scan,
                        n_cameras=reader.info.n_cameras,
                        divisor=group.attrs["encodings"].get("intensity_divisor", 0),
                    )
                    seen.add(name)
    return seen


@pytest.mark.parametrize("profile", ["speed", "size", "raw"])
def test_semantickitti(tmp_path: Path, profile: str) -> None:
    raw = tmp_path / "raw"
    write_sequence(raw, "00", (0, 1, 2), n=300)
    write_sequence(raw, "08", (0, 5), n=200, images=False)
    write_sequence(raw, "11", (0,), n=100, labels=False)
    config = PrepareConfig(workers=0, shard_scans=2, profile=profile)
    prepare(with_thinned(list_semkitti(raw)), tmp_path / "semkitti", config, Silent())
    seen = assert_zarr_shows_what_the_reader_gives(tmp_path / "semkitti")
    assert seen == {name for name in FIELDS if not name.endswith("time")}


@pytest.mark.parametrize(("profile", "sweeps"), [("speed", 2), ("size", 0)])
def test_nuscenes(tmp_path: Path, profile: str, sweeps: int) -> None:
    root = NuscenesFolder(tmp_path / "nus", samples=2, sweeps=2).write()
    listing = with_thinned(list_nuscenes(root, sweeps=sweeps))
    config = PrepareConfig(workers=0, shard_scans=2, profile=profile)
    prepare(listing, tmp_path / "nuscenes", config, Silent())
    seen = assert_zarr_shows_what_the_reader_gives(tmp_path / "nuscenes")
    assert {"xyz", "label", "image", "point_index", "pixel", "coord", "inverse"} <= seen
    assert ("time" in seen) == (sweeps > 0)
