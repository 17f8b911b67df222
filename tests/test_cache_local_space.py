"""The local disk of remote caches: its bound, what gives way, and several threads at once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pass2d.cache.keys import hash_bytes
from pass2d.cache.reading.descriptors import DescriptorPool
from pass2d.cache.remote.config import RemoteConfig
from pass2d.cache.remote.local_space import LocalSpace
from pass2d.cache.remote.mirror import RemoteMirror, find_store
from pass2d.cache.remote.store import RemoteStore
from pass2d.cache.rows import FileHash
from pass2d.cache.urls import absolute_location, canonical_url
from pass2d.common.errors import CacheError, ConfigError

SHARD = "lidar/000000-0123456789ab.zarr"


@pytest.fixture
def fs() -> Any:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs.clear()
    return memory


def mirror_of(tmp_path: Path, fs: Any, files: dict[str, bytes], **settings: Any) -> RemoteMirror:
    """A mirror of memory://far/set that expects these files of one shard."""
    for name, data in files.items():
        fs.pipe_file(f"/far/set/{SHARD}/{name}", data)
    config = RemoteConfig(folder=tmp_path / "disk", first_wait_s=0, **settings)
    mirror = RemoteMirror(RemoteStore("memory://far/set", config))
    mirror.expect_files(
        SHARD, [FileHash(name=n, nbytes=len(d), xxh3=hash_bytes(d)) for n, d in files.items()]
    )
    return mirror


def held(tmp_path: Path) -> dict[str, int]:
    found = (tmp_path / "disk").glob("*/*/*/*.zarr/**/*")
    return {path.name: path.stat().st_size for path in found if path.is_file()}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("S3://Bucket//some///prefix//", "s3://Bucket/some/prefix"),
        ("memory:///x/", "memory:///x"),
        ("s3://b/n\udcc3\udcb6", "s3://b/nö"),  # as Python reads words in the locale C
        ("simplecache::s3://b//x", "simplecache::s3://b/x"),
        ("FILE:///data/a%20b/", "/data/a b"),
        ("file:/data/x", "/data/x"),
        ("local://localhost/x", "/x"),
    ],
)
def test_one_place_has_one_name(text: str, place: str) -> None:
    assert absolute_location(text) == place


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///prefix", "s3:/b/x", "file://b/x", "gs:b", "az://"]
)
def test_what_looks_like_a_url_is_never_taken_for_a_folder(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)^[^\n]*xpected e\.g\. (\w+://bucket|file:///)"):
        absolute_location(text)


def test_a_folder_may_be_called_as_its_data_set(fs: Any, tmp_path: Path) -> None:
    fs.pipe_file("/bucket/semkitti/semkitti/dataset.json", b"{}")
    config = RemoteConfig(folder=tmp_path)
    assert find_store("memory://bucket/semkitti/", None, config).url == canonical_url(
        "memory://bucket/semkitti/semkitti"
    )
    assert RemoteStore("memory://bucket", config).names("semkitti") == ["semkitti"]


def test_what_was_created_after_a_listing_is_seen(tmp_path: Path) -> None:
    """Some file systems answer from listings that they keep."""

    class Remembering(type(fsspec.filesystem("memory"))):  # type: ignore[misc]
        kept = False

        def invalidate_cache(self, path: str | None = None) -> None:
            self.kept = False

        def exists(self, path: str, **more: Any) -> bool:
            return not self.kept and super().exists(path, **more)

    store = RemoteStore("memory://far/set", RemoteConfig(folder=tmp_path))
    store._fs = Remembering(skip_instance_cache=True)
    store.write("a", b"1")
    store._fs.kept = True
    assert store.exists("a")
    store._fs.kept = True
    assert not store._write_if_absent("a", b"2")


def test_nothing_is_evicted_without_need_and_the_oldest_first(fs: Any, tmp_path: Path) -> None:
    files = {name: bytes([place]) * 1000 for place, name in enumerate("abc")}
    mirror = mirror_of(tmp_path, fs, files, limit_bytes=3000)
    for age, name in enumerate(files):
        path = mirror.layout.root / SHARD / name
        os.close(mirror.open_file(str(path)))
        os.utime(path, (1000 + age, 1000 + age))
    assert set(held(tmp_path)) == set(files)
    mirror.space.make_room(900, "d")
    assert set(held(tmp_path)) == {"b", "c"}
    with pytest.raises(CacheError, match=r"^d: 0\.000 GB do not fit .* Set `local_cache_gb`"):
        mirror.space.make_room(3001, "d")


def test_room_on_the_disk_counts_as_the_bound_does(fs: Any, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, fs, {"a": bytes(1000), "b": bytes(1000)})
    for name in "ab":
        os.close(mirror.open_file(str(mirror.layout.root / SHARD / name)))

    def free(folder: Path) -> int:
        return (64 << 20) + 2500 - sum(held(tmp_path).values())

    LocalSpace(RemoteConfig(folder=tmp_path / "disk"), free).make_room(1200, "c")
    assert len(held(tmp_path)) < 2


def test_a_small_step_is_taken_without_looking_at_the_disk(fs: Any, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, fs, {"a": bytes(80_000)})
    os.close(mirror.open_file(str(mirror.layout.root / SHARD / "a")))
    looks: list[Path] = []

    def free(folder: Path) -> int:
        looks.append(folder)
        return 1 << 40

    space = LocalSpace(RemoteConfig(folder=tmp_path / "disk", limit_bytes=160_000), free)
    for _ in range(6):
        space.make_room(1000, "x")
    assert len(looks) == 2  # 79,000 are left after the first: 4,937 without a look


def test_a_full_local_disk_is_said_at_once_and_not_blamed_on_the_store(
    fs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(tmp_path, fs, {"a": bytes(10)})
    calls: list[str] = []

    def full(self: object, source: str, target: str, **more: object) -> None:
        calls.append(source)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(fs), "get_file", full)
    path = mirror.layout.root / SHARD / "a"
    with pytest.raises(CacheError, match=rf"^{tmp_path}/disk/.*the disk is full: free space"):
        mirror.open_file(str(path))
    assert len(calls) == 1


def test_threads_that_make_room_and_open_at_once_do_not_wait_for_each_other(
    fs: Any, tmp_path: Path
) -> None:
    """One brings a file and evicts another; one opens the first, whose copy here is damaged."""
    files = {name: name.encode() * 1000 for name in "ab"}
    mirror = mirror_of(tmp_path, fs, files, limit_bytes=1500)
    pool = DescriptorPool(opener=mirror.open_file)
    a, b = (str(mirror.layout.root / SHARD / name) for name in files)
    with pool.lend(b):
        pass
    opens, brings = threading.Event(), threading.Event()
    forget = pool.forget

    def slow_forget(path: str) -> None:  # the bringing thread waits here for the opening one
        brings.set()
        assert opens.wait(60)
        forget(path)

    def opener(path: str) -> int:
        assert brings.wait(60)
        opens.set()
        return mirror.open_file(path)

    mirror.space.forget = slow_forget
    pool._opener = opener
    read: list[bytes] = []

    def open_it() -> None:
        with pool.lend(a) as file:
            read.append(os.pread(file.fd, 3, 0))

    threads = [
        threading.Thread(target=mirror.bring, args=(a,), daemon=True),
        threading.Thread(target=open_it, daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert read == [b"aaa"]


def test_a_file_evicted_while_it_is_checked_is_fetched_again_and_no_descriptor_is_left(
    fs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mirror_of(tmp_path, fs, {"a": b"x" * 1000})
    path = mirror.layout.root / SHARD / "a"
    os.close(mirror.open_file(str(path)))
    mirror._sound.clear()
    real = mirror._is_sound

    def evicted(*arguments: Any) -> bool:
        path.unlink(missing_ok=True)
        return real(*arguments)

    monkeypatch.setattr(mirror, "_is_sound", evicted)
    before = len(list(Path("/proc/self/fd").iterdir()))
    fd = mirror.open_file(str(path))
    assert os.pread(fd, 3, 0) == b"xxx"
    os.close(fd)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_local_folder_that_cannot_be_made_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"")
    config = RemoteConfig(folder=tmp_path / "disk")
    with pytest.raises(CacheError, match=rf"^{tmp_path}/disk/.*Not a directory.*`local_cache`"):
        RemoteMirror(RemoteStore("memory://far/set", config))


def test_without_a_home_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="`local_cache`"):
        RemoteConfig.from_environment()
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", "/somewhere")
    assert RemoteConfig.from_environment().folder == Path("/somewhere")


def test_a_home_of_nobody_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", "~nobody-of-that-name/disk")
    with pytest.raises(ConfigError, match=r"~nobody-of-that-name/disk: Could not determine"):
        RemoteConfig.from_environment()


def test_closing_leaves_open_what_a_thread_still_reads(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    pool = DescriptorPool()
    with pool.lend(str(tmp_path / "a")) as entry:
        pool.close()
        assert os.pread(entry.fd, 3, 0) == b"aaa"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(entry.fd)
    assert len(pool) == 0
