"""Buckets and folders that somebody else made: nothing outside the data set is read or touched."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from cache_samples import sample_info, write_sample_cache
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from pass2d.cache.care.gc import collect_garbage
from pass2d.cache.care.verify import verify
from pass2d.cache.fields import Fields
from pass2d.cache.layout import Layout, is_format_name, require_dataset_name
from pass2d.cache.manifest import load_manifest, parse_current, parse_hashes, publish_generation
from pass2d.cache.reader import CacheReader
from pass2d.cache.remote.config import RemoteConfig
from pass2d.cache.remote.local_space import LocalSpace
from pass2d.cache.remote.staged import staged
from pass2d.cache.schema import ScanRecord
from pass2d.cli import app
from pass2d.common.errors import CacheError
from pass2d.common.files import remove_abandoned
from pass2d.common.json import seal
from pass2d.common.progress import Silent
from pass2d.pipeline.repair.repair import repair
from pass2d.pipeline.run.destination import LocalFolder

SHARD = "lidar/008000-0123456789ab.zarr"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=2, sequences=("08",), n_points=40, image_hw=(8, 20))
    return root


@pytest.fixture
def out(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "cache")) / "semkitti"


@pytest.fixture
def bucket(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """The objects of ``memory://bucket`` by key; a hostile one may have any key."""
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    monkeypatch.setenv("PASS2D_STORE_ATTEMPTS", "1")
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs.clear()
    for path in sample.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/bucket/{path.relative_to(sample)}", path.read_bytes())
    yield fs.store
    fs.store.clear()


# --- names -------------------------------------------------------------------------------------


def test_every_file_of_a_cache_has_a_name_of_the_format(out: Path) -> None:
    names = [
        str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and ".tmp" not in p.parts
    ]
    assert len(names) > 30
    assert [name for name in names if not is_format_name(name)] == []
    assert is_format_name("failed.jsonl")
    assert is_format_name(f"{SHARD}/a_later_array/c/0/0")


BAD_NAMES = [
    "",
    ".",
    "..",
    "/",
    "../x",
    "/etc/passwd",
    "dataset.json/",
    "/dataset.json",
    "./dataset.json",
    "dataset.json\n",
    "dataset.json\0",
    "DATASET.JSON",
    "current",
    "C:dataset.json",
    "manifest/gen-000001/../../../x",
    "manifest/gen-000001/x.parquet",
    "manifest/gen-000001//scans.parquet",
    "manifest/gen-1/scans.parquet",
    "manifest/gen-0000001/scans.parquet",
    "manifest/gen-\u0660\u0660\u0660\u0660\u0660\u0661/scans.parquet",
    "manifest/Gen-000001/scans.parquet",
    "manifest\\gen-000001\\scans.parquet",
    "manifest/gen-99999999999/scans.parquet",
    "rows/lidar/../x.json",
    "rows/lidar/008000-0123456789ab.json/x",
    "rows/lidar/008000-0123456789AB.json",
    "rows/lidar/008000-0123456789ab.jsonx",
    "rows/radar/008000-0123456789ab.json",
    ".tmp/prepare.lock",
    ".tmp/x",
    f"{SHARD}/../../../x",
    f"{SHARD}/xyz/../x",
    f"{SHARD}/xyz/c/0/../0",
    f"{SHARD}/xyz/c/00",
    f"{SHARD}/xyz/c/0/1",
    f"{SHARD}/xyz/c/0/",
    f"{SHARD}/XYZ/c/0/0",
    f"{SHARD}/xy\u200bz/zarr.json",
    f"{SHARD}/\uff0e\uff0e/zarr.json",
    f"{SHARD}/.zarr.json",
    f"{SHARD}//zarr.json",
    f"{SHARD}/{'x' * 300}/zarr.json",
    f"{SHARD}/xyz" + "/c" * 2000,
    SHARD,
    "lidar/8000-0123456789ab.zarr/zarr.json",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_other_names_are_none_of_the_format(name: str) -> None:
    assert not is_format_name(name)


@given(st.text(st.sampled_from("./\\\0\n0cgen-xyzlidar8ab:~\u2025"), max_size=40))
def test_no_name_of_the_format_leaves_the_folder(name: str) -> None:
    for text in (name, f"{SHARD}/{name}", f"manifest/{name}", f"rows/lidar/{name}"):
        if is_format_name(text):
            assert os.path.normpath(text) == text
            assert not text.startswith(("/", "."))
    with contextlib.suppress(CacheError):
        require_dataset_name(name, where="here")
        assert os.path.normpath(name) == name
        assert ".." not in name.split("/")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"gen-1\n",
        b"gen-000001 \n",
        b" gen-000001",
        b"gen-000001\n\n",
        b"gen-000001\r\n",
        b"../gen-000001\n",
        b"gen-000001/../..\n",
        b"GEN-000001\n",
        b"gen-0000001\n",
        b"\xff" * 99,
        "gen-٠٠٠٠٠١\n".encode(),
        b"gen-000001\x00",
        b"gen-" + b"9" * 5000,
    ],
)
def test_current_is_one_name_and_a_line_end(data: bytes) -> None:
    assert (
        parse_current(b"gen-000012\n", where="x") == parse_current(b"gen-000012", where="x") == 12
    )
    with pytest.raises(CacheError, match=r"^x: found"):
        parse_current(data, where="x")


@pytest.mark.parametrize(
    "files",
    [
        {},
        [],
        None,
        {"../../x": "0" * 32},
        {"scans.parquet": "0" * 32},
        {"scans.parquet": "0" * 32, "shards.parquet": "0" * 32, "/etc/x": "0" * 32},
        {"scans.parquet": "0" * 32, "shards.parquet": 5},
        {"scans.parquet": "0" * 32, "shards.parquet": "0"},
    ],
)
def test_hashes_name_the_two_tables_and_nothing_else(files: object) -> None:
    with pytest.raises(CacheError, match=r"^x: expected the hashes"):
        parse_hashes(seal({"files": files, "format_version": 1}), where="x")


# --- buckets -----------------------------------------------------------------------------------


def snapshot(root: Path, *, but: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in sorted(root.rglob("*"))
        if but not in (path, *path.parents) and "cache" not in path.parts
    }


def evil_hashes(name: str) -> bytes:
    return seal({"format_version": 1, "files": {name: "0" * 32}})


KEYS = [
    "/bucket/semkitti/../../../../../x",
    "/bucket/semkitti/lidar/../../../evil",
    "/bucket/semkitti//etc/evil",
    "/bucket/semkitti/manifest/gen-000001/../../../../evil",
    "/bucket/semkitti/rows/lidar/../../../evil.json",
    "/bucket/../dataset.json",
    "/bucket/..evil/dataset.json",
    "/bucket/semkitti/LIDAR/evil",
    "/bucket/semkitti/.tmp/prepare.lock",
    "/bucket/semkitti/evil\0.txt",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("command", ["stats", "verify", "repair", "gc", "status"])
def test_keys_of_a_bucket_lead_nowhere(
    key: str, command: str, bucket: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("mine")
    kept = bucket["/bucket/semkitti/dataset.json"]
    bucket[key] = type(kept)(kept.fs, key, kept.getvalue())
    before = snapshot(tmp_path, but=tmp_path / "disk")
    words = [command] if command == "stats" else ["cache", command]
    result = CliRunner().invoke(app, [*words, "--cache", "memory://bucket"])
    assert result.exit_code in (0, 1), result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert snapshot(tmp_path, but=tmp_path / "disk") == before
    strays = [p for p in (tmp_path / "disk").rglob("*") if "evil" in p.name]
    assert strays == []


def objects(bucket: dict[str, Any], name: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"/bucket/semkitti/{name}", data)


@pytest.mark.parametrize("name", ["../../../evil", "/evil", "..", "a/b", "scans.parquet\0"])
def test_hashes_of_a_bucket_write_nothing_else(
    name: str, bucket: dict[str, Any], tmp_path: Path
) -> None:
    objects(bucket, "manifest/gen-000001/hashes.json", evil_hashes(name))
    with pytest.raises(CacheError, match="hashes"):
        CacheReader.open("memory://bucket")
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


@pytest.mark.parametrize("text", ["../../x", "/etc", "gen-000001/../../..", "GEN-000001"])
def test_current_of_a_bucket_leads_nowhere(text: str, bucket: dict[str, Any]) -> None:
    objects(bucket, "CURRENT", text.encode())
    with pytest.raises(CacheError, match="CURRENT"):
        CacheReader.open("memory://bucket")
    with staged("memory://bucket") as dataset:
        assert not verify(dataset.layout.root, Silent(), presence=dataset.present).is_sound


def test_other_objects_of_a_bucket_are_named_and_left_alone(bucket: dict[str, Any]) -> None:
    objects(bucket, "notes.txt", b"mine")
    objects(bucket, f"{SHARD}/../notes.txt", b"mine")
    with staged("memory://bucket") as dataset:
        assert dataset.strangers
        assert not (dataset.layout.root / "notes.txt").exists()
    result = CliRunner().invoke(app, ["cache", "verify", "--cache", "memory://bucket"])
    assert result.exit_code == 1
    assert "notes.txt: not part of a prepared data set" in result.output
    result = CliRunner().invoke(app, ["cache", "repair", "--cache", "memory://bucket"])
    assert "notes.txt: not a file of pass2d" in result.output
    assert fsspec.filesystem("memory").cat_file("/bucket/semkitti/notes.txt") == b"mine"


@pytest.mark.parametrize("name", ["..", "../..", "/etc", "a/../..", ".", "a b\n", "x" * 300])
@pytest.mark.parametrize("place", ["memory://bucket", "folder"])
@pytest.mark.parametrize("command", ["stats", "verify", "gc"])
def test_the_option_dataset_leads_nowhere(
    name: str, place: str, command: str, bucket: dict[str, Any], out: Path
) -> None:
    words = [command] if command == "stats" else ["cache", command]
    where = str(out.parent) if place == "folder" else place
    result = CliRunner().invoke(app, [*words, "--cache", where, "--dataset", name])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1


# --- links -------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody's folder, with names that pass2d would delete in its own."""
    folder = tmp_path / "foreign"
    names = (
        f"thesis-{'0' * 32}/a.txt",
        "008000-0123456789ab.zarr/zarr.json",
        "008000-0123456789ab.json",
        "gen-000000/hashes.json",
        "lidar/008000-0123456789ab.json",
        "prepare.lock",
        "thesis.txt",
    )
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p.relative_to(folder)): (p.read_text(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def prepare_into(root: Path) -> None:
    """What `prepare` does before and after its tasks."""
    place = LocalFolder(root)
    with place.locked():
        place.describe(sample_info())
        layout = Layout(root=root)
        tables = load_manifest(layout).tables if layout.current_file.exists() else None
        if tables is not None:
            tables = type(tables)(scans=tables.scans, shards=tables.shards.slice(0))
            publish_generation(layout, sample_info(), tables)
        place.write_failed(b"")


WRITERS: dict[str, Callable[[Path], object]] = {
    "gc": lambda root: collect_garbage(root, unfinished=True),
    "gc --dry-run": lambda root: collect_garbage(root, dry_run=True),
    "repair": lambda root: repair(root, Silent()),
    "prepare": prepare_into,
    "sample": lambda root: write_sample_cache(root.parent, n_scans=1, sequences=("03",)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "link", [".tmp", "manifest", "lidar", "camera", "voxel", "rows", "rows/lidar", "rows/voxel"]
)
def test_nothing_is_written_or_deleted_behind_a_link(
    link: str, writer: str, out: Path, foreign: Path
) -> None:
    place = out / link
    if place.exists():
        shutil.rmtree(place)
    place.symlink_to(foreign)
    before = listing(foreign)
    with pytest.raises(CacheError, match="a link where pass2d expects its own folder"):
        WRITERS[writer](out)
    assert listing(foreign) == before
    assert place.is_symlink()
    damages = verify(out, Silent()).damages
    assert any(d.path == link and "a link" in d.text for d in damages) or link == ".tmp"


@pytest.mark.parametrize("writer", ["gc", "prepare"])
@pytest.mark.parametrize("link", ["CURRENT", "dataset.json", "failed.jsonl", ".tmp/prepare.lock"])
def test_files_that_are_links_are_replaced_or_refused_never_followed(
    link: str, writer: str, out: Path, foreign: Path
) -> None:
    target = foreign / "target"
    place = out / link
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        target.write_bytes(place.read_bytes())
        place.unlink()
    place.symlink_to(target)
    before = listing(foreign)
    with contextlib.suppress(CacheError):
        WRITERS[writer](out)
    assert listing(foreign) == before


@pytest.mark.parametrize("kind", ["an unused shard", "a used shard", "an attempt", "a generation"])
def test_links_in_the_place_of_folders_are_removed_themselves(
    kind: str, out: Path, foreign: Path
) -> None:
    used = min((out / "lidar").iterdir())
    place = {
        "an unused shard": out / SHARD,
        "a used shard": used,
        "an attempt": out / ".tmp" / f"lidar-{'1' * 32}",
        "a generation": out / "manifest" / "gen-000000",
    }[kind]
    if kind == "a used shard":
        shutil.rmtree(used)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(foreign)
    before = listing(foreign)
    if kind == "a used shard":
        assert repair(out, Silent()).unrepaired  # its sources are nowhere
    elif kind == "an attempt":
        remove_abandoned(out / ".tmp")
        assert not place.is_symlink()
    else:
        collect_garbage(out, unfinished=True)
        assert not place.is_symlink()
    assert listing(foreign) == before


def test_a_data_set_may_be_a_link_to_a_larger_disk(out: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "semkitti"
    disk.parent.mkdir()
    shutil.move(out, disk)
    out.symlink_to(disk)
    prepare_into(out)
    collect_garbage(out)
    assert verify(out, Silent()).is_sound
    with CacheReader.open(out.parent) as reader:
        reader.read(0, Fields())
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "disk" / "empty" / "lost+found").mkdir(parents=True)
    (other / "semkitti").symlink_to(tmp_path / "disk" / "empty")
    prepare_into(other / "semkitti")
    assert (tmp_path / "disk" / "empty" / "dataset.json").is_file()


def test_a_data_set_that_is_a_link_to_somebodys_folder_is_refused(
    tmp_path: Path, foreign: Path
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "semkitti").symlink_to(foreign)
    before = listing(foreign)
    with pytest.raises(CacheError, match=r"holds 008000.*Let it lead to an empty folder"):
        prepare_into(tmp_path / "new" / "semkitti")
    assert listing(foreign) == before
    assert sorted(p.name for p in foreign.iterdir()) == sorted({n.split("/")[0] for n in before})


def test_pipes_and_strange_names_in_the_scratch_folder_stop_nobody(out: Path) -> None:
    os.mkfifo(out / ".tmp" / f"fetch-{'0' * 32}")
    os.mkfifo(out / ".tmp" / "mine")
    assert remove_abandoned(out / ".tmp") == 1
    collect_garbage(out)
    assert (out / ".tmp" / "mine").exists()


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_a_local_copy_follows_no_links(
    depth: int, bucket: dict[str, Any], tmp_path: Path, foreign: Path
) -> None:
    with CacheReader.open("memory://bucket") as reader:
        reader.read(0, Fields(image=True))
        root = reader.root
    disk = tmp_path / "disk"
    parts = (root / "lidar").relative_to(disk).parts
    shard = min((root / "lidar").iterdir())
    place = Path(disk, *parts[:depth]) if depth <= 3 else Path(shard, *("xyz", "c")[: depth - 4])
    shutil.rmtree(place)
    place.symlink_to(foreign)
    before = listing(foreign)

    def read() -> None:
        with CacheReader.open("memory://bucket") as reader:
            reader.expect_all()
            reader.read(0, Fields(image=True))

    with pytest.raises(CacheError, match="a link where"):
        read()
    space = LocalSpace(RemoteConfig(folder=disk, limit_bytes=1000))
    space.make_room(1000, "all")
    assert listing(foreign) == before


def test_making_room_removes_what_was_fetched_and_nothing_else(tmp_path: Path) -> None:
    fetched = tmp_path / ("0" * 16) / "semkitti" / SHARD / "xyz/c/0/0"
    mine = [
        tmp_path / "projects/a/b/c.zarr/0",
        tmp_path / ("0" * 16) / "semkitti/lidar/mine.zarr/0",
        tmp_path / ("0" * 16) / "semkitti/radar/008000-0123456789ab.zarr/0",
    ]
    for path in (fetched, *mine):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(100))
    LocalSpace(RemoteConfig(folder=tmp_path, limit_bytes=100)).make_room(100, "all")
    assert not fetched.exists()
    assert all(path.exists() for path in mine)


def with_first(values: NDArray[Any], value: float) -> NDArray[Any]:
    changed = values.copy()
    changed[..., 0] = value
    return changed


def with_level(scan: ScanRecord, field: str, value: int) -> ScanRecord:
    """One of the five scales has another number."""
    level = replace(scan.voxels[2], **{field: with_first(getattr(scan.voxels[2], field), value)})
    return replace(scan, voxels=(*scan.voxels[:2], level, *scan.voxels[3:]))


def with_view(scan: ScanRecord, field: str, value: int) -> ScanRecord:
    (view,) = scan.cameras
    view = replace(view, **{field: with_first(getattr(view, field), value)})
    return replace(scan, cameras=(view,))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("xyz", lambda scan: replace(scan, xyz=with_first(scan.xyz, np.nan))),
        ("xyz", lambda scan: replace(scan, xyz=with_first(scan.xyz, 51))),
        ("raw_index", lambda s: replace(s, raw_index=with_first(s.raw_index, 10**9))),
        ("raw_index", lambda s: replace(s, raw_index=with_first(s.raw_index, -1))),
        ("raw_index", lambda s: replace(s, raw_index=s.raw_index[::-1].copy())),
        ("raw_index", lambda s: replace(s, raw_index=np.zeros_like(s.raw_index))),
        ("inverse", lambda scan: with_level(scan, "inverse", 10**6)),
        ("inverse", lambda scan: with_level(scan, "inverse", -1)),
        ("coord", lambda scan: with_level(scan, "coord", 250)),
        ("coord", lambda scan: with_level(scan, "coord", -1)),
        ("point_index", lambda scan: with_view(scan, "point_index", 40)),
        ("point_index", lambda scan: with_view(scan, "point_index", -1)),
        ("pixel", lambda scan: with_view(scan, "pixel_rc", 8)),
    ],
)
def test_numbers_that_lead_elsewhere_are_refused_although_checksums_fit(
    tmp_path: Path, field: str, change: Callable[[ScanRecord], ScanRecord]
) -> None:
    write_sample_cache(
        tmp_path, n_scans=2, sequences=("08",), n_points=40, image_hw=(8, 20), change=change
    )
    with CacheReader.open(tmp_path) as reader:
        for _ in range(2):
            with pytest.raises(
                CacheError, match=f"field {field} of scan 08/00000.: found"
            ) as error:
                reader.read(1, Fields(pixels=True, voxels=True))
            assert "although the checksums fit" in str(error.value)
