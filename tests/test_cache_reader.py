"""What goes into the cache comes out again, by our reader and by plain zarr."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from cache_samples import made_up_scan, made_up_view, sample_info, write_sample_cache

from pass2d.cache.fields import FIELDS, SIGNAL_DIVISORS, Fields, signal_table
from pass2d.cache.inspection.benchmark import measure_reader
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.cache.schema import SCALES, ScanRecord
from pass2d.cache.writing.encode import signal_divisor
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent

ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True, outside=True)

ARRAYS = ("xyz", "signal", "raw_index", "label", "instance")
ARRAYS += ("outside_xyz", "outside_signal", "outside_label")


def assert_same(found: ScanRecord, put: ScanRecord) -> None:
    """Every array of two records is equal, in value and type."""
    for name in ARRAYS:
        a, b = getattr(found, name), getattr(put, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert found.n_raw == put.n_raw
    assert len(found.cameras) == len(put.cameras)
    for a, b in zip(found.cameras, put.cameras, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.point_index, b.point_index)
        np.testing.assert_array_equal(a.pixel_rc, b.pixel_rc)
    for a, b in zip(found.voxels, put.voxels, strict=True):
        assert a.scale == b.scale
        np.testing.assert_array_equal(a.coord, b.coord)
        np.testing.assert_array_equal(a.inverse, b.inverse)
        assert (a.label is None) == (b.label is None)
        if a.label is not None:
            np.testing.assert_array_equal(a.label, b.label)


@pytest.mark.parametrize("profile", ["speed", "size", "raw"])
def test_reader_gives_back_every_array_exactly(tmp_path: Path, profile: str) -> None:
    put = write_sample_cache(
        tmp_path, sequences=("00", "08", "11"), without_image=("08",), profile=profile
    )
    with CacheReader.open(tmp_path) as reader:
        assert len(reader.scans) == len(put) == 18
        for position, scan_id in enumerate(reader.scans.scan_id):
            assert_same(reader.read(position, ALL), put[scan_id])
        assert reader.scans.has_image.tolist() == [True] * 6 + [False] * 6 + [True] * 6
        assert reader.scans.has_label.tolist() == [True] * 12 + [False] * 6


def test_plain_zarr_shows_the_same_arrays(tmp_path: Path) -> None:
    put = write_sample_cache(tmp_path, n_scans=3, sequences=("00",))
    scans = list(put.values())
    root = tmp_path / "semkitti"
    groups = {s: zarr.open(next((root / s).iterdir())) for s in ("lidar", "camera", "voxel")}
    lidar, camera, voxel = groups["lidar"], groups["camera"], groups["voxel"]
    assert lidar.attrs["scan_ids"] == list(put)
    assert lidar.metadata.consolidated_metadata is not None
    assert sorted(lidar.array_keys()) == sorted(
        name for name, spec in FIELDS.items() if spec.container == "lidar" and "time" not in name
    )
    assert lidar["xyz"].shards == lidar["xyz"].shape == (3, 3, max(s.n for s in scans))
    for row, scan in enumerate(scans):
        np.testing.assert_array_equal(lidar["xyz"][row, :, : scan.n], scan.xyz)
        assert not lidar["xyz"][row, :, scan.n :].any()
        signal = lidar["intensity"][row, : scan.n] / np.float32(100)
        np.testing.assert_array_equal(signal, scan.signal)
        np.testing.assert_array_equal(lidar["label"][row, : scan.n], scan.label)
        np.testing.assert_array_equal(lidar["instance"][row, : scan.n], scan.instance)
        np.testing.assert_array_equal(lidar["raw_index"][row, : scan.n], scan.raw_index)
        view = scan.cameras[0]
        np.testing.assert_array_equal(camera["image"][row], view.image)
        m = len(view.point_index)
        np.testing.assert_array_equal(camera["point_index"][row, :m], view.point_index)
        np.testing.assert_array_equal(camera["pixel"][row, :, :m], view.pixel_rc)
        coord = np.concatenate([level.coord for level in scan.voxels], axis=1)
        np.testing.assert_array_equal(voxel["coord"][row, :, : coord.shape[1]], coord)
        for index in range(len(SCALES)):
            inverse = voxel["inverse"][row, index, : scan.n]
            np.testing.assert_array_equal(inverse, scan.voxels[index].inverse)


def test_zarr_metadata_says_what_zarr_itself_would_write(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2, sequences=("00",))
    folder = next((tmp_path / "semkitti" / "lidar").iterdir())
    ours = zarr.open_array(folder / "xyz")
    theirs = zarr.create_array(
        tmp_path / "other.zarr",
        shape=ours.shape,
        dtype=ours.dtype,
        chunks=ours.chunks,
        shards=ours.shards,
        fill_value=0,
        compressors=[
            zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4),
            zarr.codecs.Crc32cCodec(),
        ],
    )
    assert ours.metadata.to_dict() == theirs.metadata.to_dict()
    theirs[:] = ours[:]
    assert (tmp_path / "other.zarr/c/0/0/0").read_bytes() == (folder / "xyz/c/0/0/0").read_bytes()


@pytest.mark.parametrize("columns", [(0, 200), (0, 1), (127, 129), (100, 180), (128, 200)])
def test_column_crop_equals_slice_of_whole_picture(
    tmp_path: Path, columns: tuple[int, int]
) -> None:
    put = write_sample_cache(tmp_path, n_scans=2, sequences=("00",))
    with CacheReader.open(tmp_path) as reader:
        found = reader.read(1, Fields(image=True), columns=columns)
    whole = put["00/000001"].cameras[0].image
    np.testing.assert_array_equal(found.cameras[0].image, whole[:, columns[0] : columns[1]])


def test_pictures_of_different_sizes_share_a_shard(tmp_path: Path) -> None:
    from cache_samples import write_sample_shard

    from pass2d.cache.layout import Layout
    from pass2d.cache.manifest import publish_generation
    from pass2d.cache.tables import build_tables, merge_tables

    info, rng = sample_info(), np.random.default_rng(1)
    sizes = [(48, 200), (40, 260), (56, 100)]
    scans = [
        made_up_scan(rng, scan_id=f"00/{i:06d}", info=info, image_hw=hw)
        for i, hw in enumerate(sizes)
    ]
    layout = Layout(root=tmp_path / "semkitti")
    rows = write_sample_shard(layout, scans, info=info, sequence="00")
    publish_generation(layout, info, merge_tables([build_tables([rows], n_cameras=1)]))
    with CacheReader.open(tmp_path) as reader:
        assert reader.scans.image_hw.tolist() == [list(hw) for hw in sizes]
        for position, scan in enumerate(scans):
            assert_same(reader.read(position, ALL), scan)


def test_six_cameras_with_one_missing(tmp_path: Path) -> None:
    from cache_samples import _header, write_sample_shard

    from pass2d.cache.layout import Layout
    from pass2d.cache.manifest import publish_generation
    from pass2d.cache.tables import build_tables, merge_tables
    from pass2d.cache.writing.writer import write_camera_shard

    info, rng = sample_info(n_cameras=6), np.random.default_rng(2)
    scan = made_up_scan(rng, scan_id="a", info=info, image_hw=(24, 40))
    layout = Layout(root=tmp_path / "semkitti")
    rows = write_sample_shard(layout, [scan], info=info, sequence="00")
    pictures = [*scan.cameras[:2], None, *scan.cameras[3:]]
    rows["camera"] = write_camera_shard(
        layout,
        shard=0,
        header=_header("camera", "speed", {"lidar": "other"}),
        scan_ids=["a"],
        pictures=[pictures],
        image_from_lidar=[None],
        n_cameras=6,
        sources=(),
    )
    publish_generation(layout, info, merge_tables([build_tables([rows], n_cameras=6)]))
    with CacheReader.open(tmp_path) as reader:
        assert_same(
            reader.read(0, ALL), replace(scan, cameras=tuple(p for p in pictures if p is not None))
        )
        one = reader.read(0, replace(ALL, camera=4)).cameras
        np.testing.assert_array_equal(one[0].image, scan.cameras[4].image)
        assert reader.read(0, replace(ALL, camera=2)).cameras == ()
        assert reader.scans.camera_m[0].tolist() == [
            0 if p is None else len(p.point_index) for p in pictures
        ]


def test_an_empty_scan_and_a_scan_without_visible_points(tmp_path: Path) -> None:
    from cache_samples import plain_voxels, write_sample_shard

    from pass2d.cache.layout import Layout
    from pass2d.cache.manifest import publish_generation
    from pass2d.cache.tables import build_tables, merge_tables

    info, rng = sample_info(), np.random.default_rng(3)
    view = made_up_view(rng, 0, (16, 30))
    empty = ScanRecord(
        scan_id="00/000000",
        n_raw=0,
        xyz=np.zeros((3, 0), np.float32),
        signal=np.zeros(0, np.float32),
        raw_index=np.zeros(0, np.int32),
        label=np.zeros(0, np.uint8),
        instance=np.zeros(0, np.uint32),
        cameras=(view,),
        voxels=plain_voxels(np.zeros((3, 0), np.float32), np.zeros(0, np.uint8), info.grid),
        outside_xyz=np.zeros((3, 0), np.float32),
        outside_signal=np.zeros(0, np.float32),
        outside_label=np.zeros(0, np.uint8),
    )
    layout = Layout(root=tmp_path / "semkitti")
    rows = write_sample_shard(layout, [empty], info=info, sequence="00")
    publish_generation(layout, info, merge_tables([build_tables([rows], n_cameras=1)]))
    with CacheReader.open(tmp_path) as reader:
        assert_same(reader.read(0, ALL), empty)


@pytest.mark.parametrize(
    ("values", "divisor"),
    [
        ([0.0, 0.01, 0.29, 0.99, 1.0], 100),
        ([0.0, 7.0, 255.0], 1),
        ([k / 255 for k in range(256)], 255),
        ([0.125], 0),
        ([-0.0, 0.5], 0),
        ([np.nan], 0),
        ([-0.01], 0),
        ([256.0], 0),
        ([2.56], 0),
        ([np.inf], 0),
    ],
)
def test_signal_becomes_bytes_only_when_that_is_exact(values: list[float], divisor: int) -> None:
    assert signal_divisor([np.array(values, np.float32)]) == divisor


@pytest.mark.parametrize("divisor", SIGNAL_DIVISORS)
def test_dividing_gives_what_the_table_holds(divisor: int) -> None:
    codes = np.arange(256, dtype=np.uint8)
    divided = np.divide(codes, np.float32(divisor), dtype=np.float32)
    np.testing.assert_array_equal(divided.view(np.uint32), signal_table(divisor).view(np.uint32))


def test_an_arena_serves_one_scan_after_the_other(tmp_path: Path) -> None:
    put = write_sample_cache(tmp_path, n_scans=4, sequences=("00", "11"))
    arena = Arena()
    with CacheReader.open(tmp_path) as reader:
        for position in (0, 5, 2, 7, 0):
            arena.restart()
            found = reader.read(position, ALL, allocate=arena)
            assert_same(found, put[found.scan_id])
        blocks = [block.ctypes.data for block in arena._blocks]
        arena.restart()
        reader.read(0, ALL, allocate=arena)
        assert [block.ctypes.data for block in arena._blocks] == blocks


def test_same_scans_give_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_sample_cache(tmp_path / name, n_scans=3)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.zarr/**/*")]
    assert len(files) > 30
    for file in files:
        if (tmp_path / "a" / file).is_file():
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_threads_read_what_one_thread_reads(tmp_path: Path) -> None:
    put = write_sample_cache(tmp_path, n_scans=12, shard_scans=2)
    failures: list[Exception] = []
    with CacheReader.open(tmp_path) as reader:
        reader._pool._limit = 3  # far below the 20 shard files in use: evictions all the time

        def work(seed: int) -> None:
            try:
                for position in np.random.default_rng(seed).permutation(len(reader.scans)):
                    found = reader.read(int(position), ALL)
                    assert_same(found, put[found.scan_id])
            except (AssertionError, CacheError, OSError) as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(reader._pool) <= 3 + 4


def test_the_benchmark_counts_what_each_way_reads(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=5, sequences=("00",))
    report = measure_reader(tmp_path, dataset=None, scans=99, rounds=2, progress=Silent())
    assert [(w.fields, w.is_checked) for w in report.ways] == [
        (name, checked) for name in ("points", "training", "all") for checked in (True, False)
    ]
    stored_bytes = 0
    for path in (tmp_path / "semkitti").rglob("c/**/0"):
        if path.is_file():  # chunks lie end to end, then the index: (offset, length) each, a crc
            array = zarr.open_array(next(p for p in path.parents if (p / "zarr.json").exists()))
            grid = [-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]
            stored_bytes += path.stat().st_size - 16 * int(np.prod(grid)) - 4
    assert report.ways[-1].stored_bytes * 5 == stored_bytes
    stored = [way.stored_bytes for way in report.ways[::2]]
    assert stored == sorted(stored)
    assert [rate.threads for rate in report.threads] == [1, 2, 3]


def test_select_by_split_and_sequence(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2, sequences=("08", "00", "11", "01"))
    with CacheReader.open(tmp_path) as reader:
        assert reader.scans.sequence.tolist() == ["00", "00", "01", "01", "08", "08", "11", "11"]
        assert reader.select(split="train").tolist() == [0, 1, 2, 3]
        assert reader.select(split="val").tolist() == [4, 5]
        assert reader.select(split="train", sequences=["01", "08"]).tolist() == [2, 3]
        with pytest.raises(CacheError, match=r"no sequence 05; prepared are 00, 01, 08, 11"):
            reader.select(sequences=["05"])


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such folder"):
        CacheReader.open(tmp_path / "none")
    with pytest.raises(CacheError, match="no prepared data set"):
        CacheReader.open(tmp_path)
    write_sample_cache(tmp_path, n_scans=1)
    write_sample_cache(tmp_path, n_scans=1, info=replace(sample_info(), name="other"))
    with pytest.raises(CacheError, match="holds other, semkitti"):
        CacheReader.open(tmp_path)
    with CacheReader.open(tmp_path, dataset="other") as reader:
        assert reader.info.name == "other"
    with CacheReader.open(tmp_path / "semkitti") as reader:
        assert reader.info == sample_info()
    with pytest.raises(CacheError, match="no data set 'third'"):
        CacheReader.open(tmp_path, dataset="third")


def test_arrows_threads_are_given_no_python_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that they let go of while Python ends took the process down with SIGABRT."""
    write_sample_cache(tmp_path, n_scans=1)
    given: list[pa.NativeFile] = []
    read_table = pq.read_table

    def watched(source: object, **options: object) -> pa.Table:
        assert type(source) is pa.BufferReader
        given.append(source)
        return read_table(source, **options)

    monkeypatch.setattr(pq, "read_table", watched)
    with CacheReader.open(tmp_path) as reader:
        assert len(reader.scans.n) > 0
    assert given


def test_damage_names_file_field_and_scan(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2, sequences=("00",))
    file = next((tmp_path / "semkitti" / "lidar").iterdir()) / "label/c/0/0"
    data = bytearray(file.read_bytes())
    data[30] ^= 4
    file.write_bytes(data)
    with CacheReader.open(tmp_path) as reader:
        with pytest.raises(CacheError, match=r"label/c/0/0: field label of scan 00/000000 is dam"):
            reader.read(0, Fields())
        reader.read(1, Fields())
        file.write_bytes(data[:100])
        with pytest.raises(CacheError, match=r"truncated, field label of scan 00/000001"):
            reader.read(1, Fields())
    file.unlink()
    with (
        CacheReader.open(tmp_path) as reader,
        pytest.raises(CacheError, match=r"cannot read field label of scan 00/000000 \(No such"),
    ):
        reader.read(0, Fields())


def test_few_files_may_be_open(tmp_path: Path, monkeypatch) -> None:
    write_sample_cache(tmp_path, n_scans=2, sequences=("00", "08"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))
    with CacheReader.open(tmp_path) as reader:
        for position in range(len(reader.scans)):
            reader.read(position, Fields(label=True, image=True, pixels=True, voxels=True))
        assert len(reader._pool) == 4


def test_reading_needs_no_zarr_torch_or_ray() -> None:
    code = (
        "import sys, pass2d.cache.reader, pass2d.cache.writing.writer; "
        "print(sorted({'zarr', 'torch', 'ray', 'spconv'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert done.stdout.strip() == "[]"
