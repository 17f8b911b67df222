"""What a new per-point field costs: a line in the table of arrays, and nothing else.

The toy field is `ring`, the beam that measured each point. It goes through writing, reading,
`inspect`, `verify`, repair's records and plain Zarr; caches from before it are read as they are.
Another, `flat`, is computed when a scan is prepared, and drawn by `view`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from cache_samples import write_sample_cache
from pipeline_files import write_sequence

from pass2d.cache.care.records_from_shards import describe_shard, without_paths
from pass2d.cache.care.verify import verify
from pass2d.cache.fields import FIELDS, Fields, FieldSpec
from pass2d.cache.inspection.scan import scan_detail
from pass2d.cache.inspection.summary import summarize_dataset
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest, publish_generation, publishing
from pass2d.cache.reader import CacheReader
from pass2d.cache.rows import load_row
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.viewing.cached import cached_scans
from pass2d.train.viewing.panels import panels_of

RING = FieldSpec(
    name="ring",
    container="lidar",
    length="points",
    dtypes=("uint8", "uint16"),
    speed=FIELDS["label"].speed,
)
WITH_RING = Fields(extra=("ring",))


@pytest.fixture
def ring() -> Iterator[None]:
    FIELDS["ring"] = RING  # the line
    yield
    del FIELDS["ring"]


def rings(scan_id: str, n: int) -> dict[str, np.ndarray]:
    """Of frame 3 with a beam that needs 16 bits; scans of sequence 08 have none."""
    if scan_id.startswith("08"):
        return {}
    values = np.arange(n, dtype=np.uint16) % 64
    if scan_id.endswith("3"):
        values[-1] = 1000
    return {"ring": values}


@pytest.fixture
def root(tmp_path: Path, ring: None) -> Path:
    write_sample_cache(tmp_path, n_scans=4, shard_scans=2, extra=rings)
    return tmp_path / "semkitti"


def test_it_comes_back_where_it_is_asked_for(root: Path) -> None:
    with CacheReader.open(root) as reader:
        for position, scan_id in enumerate(reader.scans.scan_id.tolist()):
            record = reader.read(position, WITH_RING)
            expected = rings(scan_id, record.n)
            assert record.extra.keys() == expected.keys()
            for name, values in expected.items():
                assert record.extra[name].dtype == np.uint16
                assert np.array_equal(record.extra[name], values)
            assert reader.read(position, Fields()).extra == {}


def test_its_type_is_the_first_that_holds_a_shard(root: Path) -> None:
    types = {
        path.parent.name[:6]: np.asarray(zarr.open(path, mode="r")).dtype
        for path in sorted(root.glob("lidar/*.zarr/ring"))
    }
    assert types == {"000000": np.uint8, "000001": np.uint16}


def test_inspect_shows_it(root: Path) -> None:
    with CacheReader.open(root) as reader:
        (size,) = (f for f in summarize_dataset(reader, location="x").fields if f.name == "ring")
        detail = scan_detail(reader, 3)
        n = int(reader.scans.n[:4].sum())
    assert (size.container, size.dtypes, size.scans) == ("lidar", ("uint16", "uint8"), 4)
    assert n < size.plain_bytes < 2 * n
    assert size.stored_bytes < size.plain_bytes
    (values,) = (value for value in detail.values if value.name == "ring")
    assert (values.low, values.high) == (0, 1000)
    assert [chunk.problem for chunk in detail.chunks if chunk.field == "ring"] == [""]


def test_verify_checks_it_and_its_record_is_made_again(root: Path) -> None:
    assert verify(root, Silent()).is_sound
    layout = Layout(root=root)
    for folder in root.glob("lidar/000*.zarr"):
        described = describe_shard(folder)
        record = load_row(layout, "lidar", described.shard, described.header.key)
        assert record is not None
        assert without_paths(record) == described
        assert "ring" in {field.name for field in described.fields}
    (data,) = root.glob("lidar/000001-*.zarr/ring/c/0/0")
    damaged = bytearray(data.read_bytes())
    damaged[30] ^= 1
    data.write_bytes(damaged)
    (damage,) = verify(root, Silent()).damages
    assert (damage.field, damage.scan_ids) == ("ring", ("00/000002",))
    with CacheReader.open(root) as reader:
        with pytest.raises(CacheError, match="field ring of scan 00/000002 is damaged"):
            reader.read(2, WITH_RING)
        reader.read(2, Fields())


def test_a_cache_from_before_it_is_read_and_can_grow(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2)
    FIELDS["ring"] = RING
    try:
        with CacheReader.open(tmp_path) as reader:
            assert reader.read(0, WITH_RING).extra == {}
            info = reader.info
        with publishing(layout := Layout(root=tmp_path / "semkitti")):
            tables = load_manifest(layout).tables
            assert publish_generation(layout, info, tables) == 2
    finally:
        del FIELDS["ring"]
    with CacheReader.open(tmp_path) as reader:  # as a version reads it that lacks the field
        assert reader.generation == 2
        assert reader.read(0, Fields()).n == reader.scans.n[0]


FLAT = replace(
    RING,
    name="flat",
    dtypes=("float32",),
    compute=lambda points: np.hypot(points[0], points[1]),  # metres from the sensor's axis
)


def test_a_computed_one_goes_through_prepare_and_view(tmp_path: Path) -> None:
    write_sequence(tmp_path / "raw", "00", (0, 1))
    listing = list_semkitti(tmp_path / "raw")
    inline = PrepareConfig(workers=0)
    n_shards = prepare(listing, tmp_path / "semkitti", inline, Silent()).written_shards
    FIELDS["flat"] = FLAT
    try:
        assert prepare(listing, tmp_path / "semkitti", inline, Silent()).written_shards == n_shards
        assert prepare(listing, tmp_path / "semkitti", inline, Silent()).written_shards == 0
        with CacheReader.open(tmp_path) as reader:
            record = reader.read(1, Fields(outside=True, extra=("flat",)))
            expected = np.hypot(record.xyz[0], record.xyz[1])
            assert np.array_equal(record.extra["flat"], expected)
            assert reader.read(1, Fields()).extra == {}
            views = cached_scans(reader, split=None, sequences=None)
            scan = views.items[1].load()
            shown = scan.extra["flat"]
            assert np.array_equal(shown[record.raw_index], expected)
            assert np.isnan(shown).sum() == record.n_raw - record.n
            titles = [p.title for p in panels_of(scan, views.table, signal_name="remission")]
            assert titles == ["ground truth", "flat"]
        assert verify(tmp_path / "semkitti", Silent()).is_sound
    finally:
        del FIELDS["flat"]
    assert prepare(listing, tmp_path / "semkitti", inline, Silent()).written_shards == 0
