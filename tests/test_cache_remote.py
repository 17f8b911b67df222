"""Reading from remote stores: a real S3 server on loopback and fsspec's memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from cache_samples import sample_info, write_sample_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_samples import s3_environment, s3_server
from typer.testing import CliRunner

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.remote.config import RemoteConfig
from pass2d.cache.remote.mirror import RemoteMirror
from pass2d.cache.remote.store import RemoteStore
from pass2d.cli import app
from pass2d.commands.doctor.cache_check import cache_findings
from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.progress import Silent
from pass2d.train.data.plan import block_order

ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=4, sequences=("00", "08"))
    return root


@pytest.fixture
def url(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs.clear()
    for path in local.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/bucket/{path.relative_to(local)}", path.read_bytes())
    yield "memory://bucket"
    fs.store.clear()


def assert_same(one: CacheReader, other: CacheReader) -> None:
    assert one.fingerprint == other.fingerprint
    for position in range(len(one.scans)):
        a, b = one.read(position, ALL), other.read(position, ALL)
        np.testing.assert_array_equal(a.xyz, b.xyz)
        np.testing.assert_array_equal(a.label, b.label)
        np.testing.assert_array_equal(a.cameras[0].image, b.cameras[0].image)
        np.testing.assert_array_equal(a.voxels[0].inverse, b.voxels[0].inverse)


def shard_files(tmp_path: Path) -> list[Path]:
    return sorted(p for p in (tmp_path / "disk").glob("*/*/*/*.zarr/**/*") if p.is_file())


def test_memory_gives_what_the_folder_gives(url: str, local: Path) -> None:
    with CacheReader.open(url) as remote, CacheReader.open(local) as reader:
        assert_same(reader, remote)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_s3_gives_what_the_folder_gives(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as endpoint:
        for name, value in s3_environment(endpoint, tmp_path / "disk").items():
            monkeypatch.setenv(name, value)
        _assert_s3_gives_what_the_folder_gives(local)


def _assert_s3_gives_what_the_folder_gives(local: Path) -> None:
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.makedirs("bucket", exist_ok=True)
    fs.put(str(local) + "/", "bucket/some/prefix/", recursive=True)
    with (
        CacheReader.open("s3://bucket/some/prefix") as remote,
        CacheReader.open(local) as reader,
    ):
        assert_same(reader, remote)
    with pytest.raises(
        CacheError, match=r"s3://bucket/other.*(no prepared data set|No such object)"
    ):
        CacheReader.open("s3://bucket/other")


def test_failures_that_pass_are_tried_again_and_a_short_body_is_never_used(
    url: str, local: Path, tmp_path: Path
) -> None:
    mirror = RemoteMirror.open(
        url, config=RemoteConfig(folder=tmp_path / "disk", attempts=4, first_wait_s=0)
    )
    fs, real, calls = mirror.store._fs, type(mirror.store._fs).get_file, []

    def failing(self: object, source: str, target: str, **more: object) -> None:
        calls.append(source)
        if len(calls) == 1:
            raise OSError("503 Slow Down")
        real(fs, source, target)
        if len(calls) == 2:
            os.truncate(target, 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fs), "get_file", failing)
        with (
            CacheReader(mirror.layout, mirror=mirror) as remote,
            CacheReader.open(local) as reader,
        ):
            remote.expect_all()
            assert_same(reader, remote)
    assert calls[0] == calls[1] == calls[2]


def test_when_it_never_passes_one_line_says_what_and_how_often(url: str, tmp_path: Path) -> None:
    mirror = RemoteMirror.open(
        url, config=RemoteConfig(folder=tmp_path / "disk", attempts=3, first_wait_s=0)
    )
    calls = []

    def failing(self: object, source: str, target: str, **more: object) -> None:
        calls.append(source)
        raise OSError("500 Internal\nError")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(mirror.store._fs), "get_file", failing)
        message = r"memory://bucket/.*500 Internal Error.* after 3 attempts"
        with CacheReader(mirror.layout, mirror=mirror) as remote:
            remote.expect_all()
            with pytest.raises(CacheError, match=message):
                remote.read(0, ALL)
    assert len(calls) == 3
    assert not shard_files(tmp_path)


def test_a_damaged_local_file_is_fetched_again(url: str, local: Path, tmp_path: Path) -> None:
    with CacheReader.open(url) as remote:
        remote.read(0, ALL)
    files = shard_files(tmp_path)
    assert len(files) > 5
    for place, path in enumerate(files):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if place % 2 else data[:-3])
    with CacheReader.open(url) as remote, CacheReader.open(local) as reader:
        assert_same(reader, remote)


def test_the_bound_on_the_local_disk_holds(
    url: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [p.stat().st_size for p in local.glob("*/*/*.zarr/*/c/**/*") if p.is_file()]
    limit = max(sizes) + 1000
    assert sum(sizes) > 2 * limit
    config = RemoteConfig(folder=tmp_path / "disk", limit_bytes=limit)
    mirror = RemoteMirror.open(url, config=config)
    with CacheReader(mirror.layout, mirror=mirror) as remote, CacheReader.open(local) as reader:
        remote.expect_all()
        remote._pool._limit = 1  # else open files hide the eviction
        for position in range(len(reader.scans)):
            a, b = reader.read(position, ALL), remote.read(position, ALL)
            np.testing.assert_array_equal(a.cameras[0].image, b.cameras[0].image)
            assert sum(p.stat().st_size for p in shard_files(tmp_path)) <= limit
    monkeypatch.setenv("PASS2D_LOCAL_CACHE_GB", "0.000001")
    with CacheReader.open(url) as remote:
        remote.expect_all()
        with pytest.raises(CacheError, match="PASS2D_LOCAL_CACHE_GB"):
            remote.read(0, ALL)
    monkeypatch.setenv("PASS2D_LOCAL_CACHE_GB", "many")
    with pytest.raises(ConfigError, match="found 'many'"):
        CacheReader.open(url)


def test_a_new_generation_is_seen_and_a_cut_off_one_is_not(url: str, local: Path) -> None:
    fs = fsspec.filesystem("memory")
    with CacheReader.open(url) as reader:
        assert reader.generation == 1
    fs.pipe_file("/bucket/semkitti/CURRENT", b"gen-000002\n")
    with pytest.raises(CacheError, match=r"gen-000002/hashes\.json"):
        CacheReader.open(url)
    for path in (local / "semkitti/manifest/gen-000001").iterdir():
        fs.pipe_file(f"/bucket/semkitti/manifest/gen-000002/{path.name}", path.read_bytes())
    with CacheReader.open(url) as reader:
        assert reader.generation == 2


def test_commands_take_urls_or_say_what_is_wrong_with_them(url: str, local: Path) -> None:
    far = CliRunner().invoke(app, ["stats", "--cache", url, "--json"])
    near = CliRunner().invoke(app, ["stats", "--cache", str(local), "--json"])
    assert far.exit_code == near.exit_code == 0, far.output
    assert json.loads(far.stdout) == json.loads(near.stdout)
    run = CliRunner().invoke(app, ["train", "--cache", url, "--run", "s3://bucket/run"])
    assert run.exit_code == 1
    assert run.output == (
        "error: --run s3://bucket/run: a run must be on a local disk. Choose a folder.\n"
    )
    missing = CliRunner().invoke(app, ["stats", "--cache", "memory://nothing"])
    assert missing.exit_code == 1
    assert missing.output.count("\n") == 1
    unknown = CliRunner().invoke(app, ["stats", "--cache", "nosuch://bucket"])
    assert unknown.exit_code == 1
    assert unknown.output.startswith("error: nosuch://bucket: ")


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 50),
)
def test_block_order_gives_every_scan_once_and_needs_eight_shards_at_a_time(
    sizes: list[int], seed: int, epoch: int
) -> None:
    shards = np.repeat(np.arange(len(sizes)) * 7, sizes)
    positions = np.arange(len(shards)) * 3 + 1
    order = block_order(positions, shards, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == positions.tolist()
    again = block_order(positions, shards, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(order, again)
    shard_of = dict(zip(positions.tolist(), shards.tolist(), strict=True))
    seen: list[set[int]] = [set()]
    done: set[int] = set()
    for position in order.tolist():
        shard = shard_of[position]
        if shard not in seen[-1] and len(seen[-1]) == 8:
            done |= seen[-1]
            seen.append(set())
        assert shard not in done  # a shard that was left is not asked for again this epoch
        seen[-1].add(shard)


def test_two_readers_share_one_local_folder(url: str, local: Path, tmp_path: Path) -> None:
    with CacheReader.open(url) as one, CacheReader.open(url) as two:
        one.read(0, ALL)
        before = {p: p.stat().st_ino for p in shard_files(tmp_path)}
        two.read(0, ALL)
        assert {p: p.stat().st_ino for p in shard_files(tmp_path)} == before
        for path in before:  # what another process evicts is fetched again
            path.unlink()
        shutil.rmtree(one.root / "camera")
        with CacheReader.open(url) as three, CacheReader.open(local) as reader:
            assert_same(reader, three)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(name, bytes) of every request for a part or the whole of a shard file."""
    fetched: list[tuple[str, int]] = []
    part, whole = RemoteStore.read_range, RemoteStore.fetch

    def read_range(self: RemoteStore, name: str, start: int, stop: int, *more: object) -> bytes:
        fetched.append((name, stop - start))
        return part(self, name, start, stop, *more)

    def fetch(self: RemoteStore, name: str, aside: Path, *, nbytes: int, xxh3: str) -> None:
        fetched.append((name, nbytes))
        whole(self, name, aside, nbytes=nbytes, xxh3=xxh3)

    monkeypatch.setattr(RemoteStore, "read_range", read_range)
    monkeypatch.setattr(RemoteStore, "fetch", fetch)
    return fetched


def stored_bytes(reader: CacheReader, position: int, field: str, parts: Sequence[int]) -> int:
    chunks = reader.stored_chunks(position, field)
    return sum(chunk.span.length for chunk in chunks if chunk.part in parts)


def wide_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """12 scans in one shard, 700 columns (6 strips) per picture, in a folder and at memory://wide."""
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    root = tmp_path / "wide"
    write_sample_cache(
        root, n_scans=12, sequences=("00",), image_hw=(48, 700), shard_scans=12, **options
    )
    fs = fsspec.filesystem("memory")
    if fs.exists("/wide"):  # another test's: this file system outlives a test
        fs.rm("/wide", recursive=True)
    for path in root.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/wide/{path.relative_to(root)}", path.read_bytes())
    return root


def test_a_crop_of_one_scan_fetches_its_chunks_and_no_other_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = wide_cache(tmp_path, monkeypatch)
    fetched = counted(monkeypatch)
    crop = Fields(label=True, image=True)
    with CacheReader.open(root) as reader, CacheReader.open("memory://wide") as remote:
        near = reader.read(5, crop, columns=(130, 300))
        far = remote.read(5, crop, columns=(130, 300))
        np.testing.assert_array_equal(near.cameras[0].image, far.cameras[0].image)
        np.testing.assert_array_equal(near.xyz, far.xyz)
        lidar = [stored_bytes(reader, 5, f, (0,)) for f in ("xyz", "intensity", "label")]
        wanted = sum(lidar) + stored_bytes(reader, 5, "raw_index", (0,))
        strips = stored_bytes(reader, 5, "image", (1, 2))
        assert sum(size for _, size in fetched) == wanted + strips
        assert len(fetched) == 5  # two strips that lie side by side are one request
        fetched.clear()
        remote.read(5, crop, columns=(130, 500))
        assert [size for _, size in fetched] == [stored_bytes(reader, 5, "image", (3,))]
        fetched.clear()
        part = next((tmp_path / "disk").glob("*/*/camera/*/image/c/0/0/0/0.part"))
        span = reader.stored_chunks(5, "image")[2].span
        with part.open("r+b") as file:  # as if a process had been killed in the middle of a write
            file.seek(span.offset + span.length // 2)
            file.write(bytes(7))
    with CacheReader.open(root) as reader, CacheReader.open("memory://wide") as remote:
        far = remote.read(5, crop, columns=(130, 500))
        near = reader.read(5, crop, columns=(130, 500))
        np.testing.assert_array_equal(near.cameras[0].image, far.cameras[0].image)
        assert [size for _, size in fetched] == [span.length]


def test_a_server_without_ranges_is_asked_for_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = wide_cache(tmp_path, monkeypatch)
    fetched = counted(monkeypatch)
    memory = type(fsspec.filesystem("memory"))
    real = memory.cat_file
    monkeypatch.setattr(memory, "cat_file", lambda self, path, **more: real(self, path))
    with CacheReader.open(root) as reader, CacheReader.open("memory://wide") as remote:
        assert_same(reader, remote)
    names = [name for name, _ in fetched]
    others = [name for name in names if name != names[0]]  # the first answer tells
    assert len(others) == len(set(others)) > 5


def test_files_that_are_read_much_become_whole_and_nothing_is_fetched_thrice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = wide_cache(tmp_path, monkeypatch, n_points=20_000)
    fetched = counted(monkeypatch)
    with CacheReader.open(root) as reader, CacheReader.open("memory://wide") as remote:
        assert_same(reader, remote)
    names = {name for name, _ in fetched}
    assert all(len([n for n, _ in fetched if n == name]) <= 12 for name in names)
    xyz = [size for name, size in fetched if "/xyz/" in name]
    assert len(xyz) < 6  # a quarter of the scans, then the rest
    parts = {path.parts[-6] for path in (tmp_path / "disk").glob("**/*.part")}
    assert "xyz" not in parts
    fetched.clear()
    with CacheReader.open(root) as reader, CacheReader.open("memory://wide") as remote:
        assert_same(reader, remote)
    assert not fetched


def test_in_training_one_of_six_cameras_is_read_by_ranges_and_all_else_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = wide_cache(tmp_path, monkeypatch, info=sample_info(n_cameras=6))
    fetched = counted(monkeypatch)
    one = Fields(label=True, image=True, pixels=True, camera=4)
    with CacheReader.open(root) as reader, CacheReader.open("memory://wide") as remote:
        remote.expect_all()
        for position in range(12):
            near, far = reader.read(position, one), remote.read(position, one)
            np.testing.assert_array_equal(near.cameras[0].image, far.cameras[0].image)
        images = [size for name, size in fetched if "/image/" in name]
        assert images == [stored_bytes(reader, p, "image", (4,)) for p in range(12)]
        assert len([name for name, _ in fetched if "/xyz/" in name]) == 1


def test_the_bound_holds_for_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = wide_cache(tmp_path, monkeypatch)
    limit = 300_000
    config = RemoteConfig(folder=tmp_path / "disk", limit_bytes=limit)
    mirror = RemoteMirror.open("memory://wide", config=config)
    crop = Fields(label=True, image=True, pixels=True)
    with CacheReader(mirror.layout, mirror=mirror) as remote, CacheReader.open(root) as reader:
        for position in [*range(12), *range(12)]:
            near = reader.read(position, crop, columns=(0, 100))
            far = remote.read(position, crop, columns=(0, 100))
            np.testing.assert_array_equal(near.cameras[0].image, far.cameras[0].image)
            np.testing.assert_array_equal(near.xyz, far.xyz)
            held = sum(p.stat().st_blocks * 512 for p in shard_files(tmp_path))
            assert held <= limit + 20 * 4096  # the files' last blocks


def test_the_doctor_reads_every_byte_of_a_store(url: str) -> None:
    sound = cache_findings(url, None, full=True, progress=Silent())
    assert [(f.name, f.state) for f in sound] == [
        ("cache", "ok"),
        ("cache, some chunks", "ok"),
        ("cache, every byte", "ok"),
    ]
    fs = fsspec.filesystem("memory")
    name = next(n for n in fs.find("/bucket") if "/label/c/" in n)
    data = bytearray(fs.cat_file(name))
    data[9] ^= 1
    fs.pipe_file(name, bytes(data))
    assert cache_findings(url, None, full=True, progress=Silent())[-1].state == "broken"


@pytest.mark.parametrize(
    "words",
    [
        "prepare synth --out s3://b/raw",
        "prepare semkitti --root s3://b/raw --cache s3://b/c",
        "predict scans --checkpoint=s3://b/best.safetensors",
        "eval --cache s3://b/c --checkpoint best.safetensors --html https://b/x.html",
        "view --cache s3://b/c --png file:///x",
    ],
)
def test_urls_are_refused_where_a_path_is_expected(words: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 1
    wrong = words.replace("=", " ").split(" --")
    assert done.output.startswith("error: --")
    assert any(f"error: --{part}: expected a path" in done.output for part in wrong), done.output


def test_options_set_the_local_cache(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE_GB", "1")  # restores both in the end
    words = ["cache", "bench", "--cache", url, "--limit", "1", "--rounds", "2"]
    place = tmp_path / "elsewhere"
    done = CliRunner().invoke(app, [*words, "--local-cache", str(place)])
    assert done.exit_code == 0, done.output
    assert "unchecked" not in done.output  # of a store all is checked
    assert list(place.glob("*/semkitti/CURRENT"))
    refused = CliRunner().invoke(app, [*words, "--local-cache", "s3://bucket/x"])
    assert refused.exit_code == 2
    assert "expected a folder" in refused.output
    small = CliRunner().invoke(
        app, [*words, "--local-cache", str(tmp_path / "third"), "--local-cache-gb", "0.00001"]
    )
    assert small.exit_code == 1
    assert "Set --local-cache-gb" in small.output
