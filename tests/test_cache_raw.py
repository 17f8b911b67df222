"""Profile `raw`: stored as it is, read without a copy, and as safe as the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pytest
from cache_samples import write_sample_cache
from pipeline_files import write_sequence
from test_cache_reader import ALL, assert_same

from pass2d.cache.care.gc import collect_garbage
from pass2d.cache.care.verify import verify
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading import chunks
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.repair.repair import repair

RAW = PrepareConfig(workers=0, shard_scans=2, profile="raw")


def chunk_of(reader: CacheReader, field: str, position: int) -> tuple[Path, int, int]:
    """A field's file, and where one of its chunks lies in it."""
    table = reader._chunks[field]
    span = table.spans(position)[0]
    (path,) = (reader.root / "lidar").glob(f"000000-*/{field}/c/0/*")
    if path.is_dir():
        path = path / "0"
    return path, span.offset, span.length


def turn_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_values_are_those_of_the_other_profiles(tmp_path: Path) -> None:
    put = write_sample_cache(tmp_path / "raw", profile="raw")
    write_sample_cache(tmp_path / "speed", profile="speed")
    with CacheReader.open(tmp_path / "raw") as raw, CacheReader.open(tmp_path / "speed") as speed:
        assert raw.profiles == ("raw",)
        for position, scan_id in enumerate(raw.scans.scan_id):
            assert_same(raw.read(position, ALL), put[scan_id])
            assert_same(raw.read(position, ALL), speed.read(position, ALL))


def test_points_go_straight_into_the_given_memory(tmp_path: Path) -> None:
    put = write_sample_cache(tmp_path, n_scans=2, sequences=("00",), profile="raw")
    points = replace(ALL, image=False)
    with (
        CacheReader.open(tmp_path) as reader,
        mock.patch.object(chunks, "decode_into", side_effect=AssertionError("decompressed")),
        mock.patch.object(chunks.ChunkReader, "_fetch", side_effect=AssertionError("copied")),
    ):
        found = reader.read(1, points)
    scan = put[str(reader.scans.scan_id[1])]
    np.testing.assert_array_equal(found.xyz, scan.xyz)
    np.testing.assert_array_equal(found.label, scan.label)


def test_strips_of_a_picture_are_not_decompressed(tmp_path: Path) -> None:
    put = write_sample_cache(tmp_path, n_scans=2, sequences=("00",), profile="raw")
    with (
        CacheReader.open(tmp_path) as reader,
        mock.patch.object(chunks, "decode_into", side_effect=AssertionError("decompressed")),
    ):
        assert_same(reader.read(1, ALL), put[str(reader.scans.scan_id[1])])


@pytest.mark.parametrize("place", [0, 4, 16, 500, -1])
def test_a_turned_bit_is_found_where_checksums_are_compared(tmp_path: Path, place: int) -> None:
    put = write_sample_cache(tmp_path, n_scans=2, sequences=("00",), profile="raw")
    with CacheReader.open(tmp_path) as reader:
        path, offset, length = chunk_of(reader, "xyz", 1)
    is_content = place in {16, 500}
    turn_bit(path, offset + (length - 5 if place == -1 else place))
    with CacheReader.open(tmp_path) as reader:
        assert_same(reader.read(0, ALL), put[str(reader.scans.scan_id[0])])
        with pytest.raises(CacheError, match=r"field xyz of scan .* is damaged"):
            reader.read(1, ALL)
    if is_content:
        with CacheReader.open(tmp_path, check=False) as reader:
            found = reader.read(1, ALL).xyz.view(np.uint32)
            apart = found ^ put[str(reader.scans.scan_id[1])].xyz.view(np.uint32)
            assert np.count_nonzero(apart) == 1


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2, sequences=("00",), profile="raw")
    with CacheReader.open(tmp_path) as reader:
        path, offset, length = chunk_of(reader, "xyz", 1)
    path.write_bytes(path.read_bytes()[: offset + length // 2])
    with (
        CacheReader.open(tmp_path, check=False) as reader,
        pytest.raises(CacheError, match="truncated"),
    ):
        reader.read(1, ALL)


def test_verify_repair_and_gc(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "cache" / "semkitti"
    write_sequence(raw, "00", (0, 1, 2))
    listing = list_semkitti(raw)
    prepare(listing, out, RAW, Silent())
    before = {path: path.read_bytes() for path in out.rglob("c/**/*") if path.is_file()}
    with CacheReader.open(out) as reader:
        path, offset, _ = chunk_of(reader, "xyz", 0)
    turn_bit(path, offset + 100)
    assert {damage.field for damage in verify(out, Silent()).damages} == {"xyz"}
    repair(out, Silent())
    assert verify(out, Silent()).is_sound
    assert {path: path.read_bytes() for path in before} == before
    prepare(listing, out, PrepareConfig(workers=0, shard_scans=2), Silent())
    assert collect_garbage(out).nbytes > 0
    assert not any(path.exists() for path in before)


def test_a_remote_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = write_sample_cache(tmp_path / "local", n_scans=2, sequences=("00",), profile="raw")
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    fs = fsspec.filesystem("memory")
    for path in (tmp_path / "local").rglob("*"):
        if path.is_file():
            name = path.relative_to(tmp_path / "local")
            fs.pipe_file(f"/raw-bucket/{name}", path.read_bytes())
    with CacheReader.open("memory://raw-bucket") as reader:
        for position, scan_id in enumerate(reader.scans.scan_id):
            assert_same(reader.read(position, ALL), put[scan_id])
