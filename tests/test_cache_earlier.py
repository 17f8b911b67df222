"""Caches that an earlier version wrote are read as they were, and kept shard by shard.

`tests/data/format_1.tar.xz` holds, small: raw data of the synthetic world in both layouts, the
caches that the version before the import package `pass2d` prepared from it (SemanticKITTI's layout
by profile `speed`, nuScenes' by `size` with added sweeps), and what its reader gave.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from pipeline_files import shards

from pass2d.cache.care.verify import verify
from pass2d.cache.fields import Fields
from pass2d.cache.layout import Layout
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import ScanRecord
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.run.jobs import cut_into_shards
from pass2d.pipeline.run.plan import plan_prepare
from pass2d.pipeline.source import SourceListing

ARCHIVE = Path(__file__).parent / "data" / "format_1.tar.xz"
ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True)
POINT_FIELDS = ("xyz", "signal", "raw_index", "label", "instance", "time")
OUTSIDE_FIELDS = ("outside_xyz", "outside_signal", "outside_label", "outside_time")
SETS: dict[str, tuple[Callable[[Path], SourceListing], str]] = {
    "semkitti": (list_semkitti, "speed"),
    "nuscenes": (lambda root: list_nuscenes(root, stored_hw=(12, 24), sweeps=1), "size"),
}
"""How the raw data of each was listed, and the profile."""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def arrays(scan: ScanRecord) -> dict[str, Any]:
    named = {name: getattr(scan, name) for name in (*POINT_FIELDS, *OUTSIDE_FIELDS)}
    for camera, view in enumerate(scan.cameras):
        for name in ("image", "point_index", "pixel_rc"):
            named[f"camera{camera} {name}"] = getattr(view, name)
    for level in scan.voxels:
        for name in ("coord", "label", "inverse"):
            named[f"scale{level.scale} {name}"] = getattr(level, name)
    return named


def described(array: np.ndarray | None) -> str | None:
    if array is None:
        return None
    return f"{array.dtype} {array.shape} {xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array))}"


@pytest.mark.parametrize("name", SETS)
def test_it_is_read_as_it_was(world: Path, name: str) -> None:
    expected = json.loads((world / "expected.json").read_text())[name]
    with CacheReader.open(world / "cache" / name) as reader:
        assert reader.fingerprint == expected["fingerprint"]
        assert reader.scans.scan_id.tolist() == list(expected["scans"])
        for position, scan_id in enumerate(reader.scans.scan_id.tolist()):
            found = arrays(reader.read(position, ALL))
            assert {k: described(v) for k, v in found.items()} == expected["scans"][scan_id]


@pytest.mark.parametrize("name", SETS)
def test_prepare_keeps_every_shard(world: Path, name: str) -> None:
    list_raw, profile = SETS[name]
    root = world / "cache" / name
    before = shards(root)
    listing = list_raw(world / "raw" / name)
    config = PrepareConfig(workers=0, shard_scans=2, profile=profile)
    summary = prepare(listing, root, config, Silent())
    # What older caches lack is added; all that they hold stays as it is.
    jobs = cut_into_shards(listing.scans, shard_scans=2)
    assert summary.written_shards == len(jobs)
    assert {n: d for n, d in shards(root).items() if not n.startswith("motion/")} == before
    assert verify(root, Silent()).is_sound
    # The raw files lie elsewhere now: the records say so, and from here on nothing is left to do.
    plan = plan_prepare(jobs, Layout(root=root), info=listing.info, profile=profile)
    assert plan.tasks == ()
    assert len(plan.keys) == 4 * len(jobs)


def test_a_shard_of_other_settings_is_not_kept(world: Path) -> None:
    """The test above can fail: in another volume every scan of the cache is made again."""
    listing = list_semkitti(world / "raw" / "semkitti")
    grid = replace(listing.info.grid, low=(-51.0, -50.0, -4.0))
    listing = replace(listing, info=replace(listing.info, grid=grid), scans=listing.scans[:2])
    config = PrepareConfig(workers=0, shard_scans=2)
    summary = prepare(listing, world / "cache" / "semkitti", config, Silent())
    assert summary.written_shards == 4
