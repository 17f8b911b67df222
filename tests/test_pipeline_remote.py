"""Preparing into remote stores: the same bytes as locally, whatever interrupts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from large_manifest import many_scans, publish_many
from pipeline_files import write_sequence
from remote_samples import FaultyProxy, Request, folder_bytes, s3_environment, s3_server
from typed import pass2d
from typer.testing import CliRunner

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.reader import CacheReader
from pass2d.cache.remote.mirror import RemoteMirror
from pass2d.cache.remote.store import RemoteStore
from pass2d.cli import app
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
INLINE = PrepareConfig(workers=0)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_sequence(root, "00", (0, 1, 2))
    write_sequence(root, "08", (0, 1))
    write_sequence(root, "11", (0,), labels=False, images=False)
    return root


@pytest.fixture(scope="module")
def local(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("local") / "semkitti"
    prepare(list_semkitti(raw), root, INLINE, Silent())
    return root


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that this process's S3 requests go through, and an empty bucket named `bucket`."""
    for name, value in s3_environment(endpoint, tmp_path / "disk").items():
        monkeypatch.setenv(name, value)
    fs = s3()
    if fs.exists("bucket"):
        fs.rm("bucket", recursive=True)
    fs.mkdir("bucket")
    spoiler = FaultyProxy(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", spoiler.endpoint)
    monkeypatch.setenv("PASS2D_STORE_OPTIONS", f'{{"endpoint_url": "{spoiler.endpoint}"}}')
    yield spoiler
    spoiler.close()


def s3() -> Any:
    """The server itself, without the proxy."""
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def far_bytes(fs: Any, place: str) -> dict[str, bytes]:
    names = [name for name in fs.find(place) if ".zarr/" in name]
    return {name.removeprefix(f"{place}/"): fs.cat_file(name) for name in names}


URL = "s3://bucket/some/semkitti"
PLACE = "bucket/some/semkitti"


def test_memory_gets_the_bytes_of_a_folder_and_a_second_run_does_nothing(
    raw: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    first = prepare(list_semkitti(raw), "memory://far/semkitti", INLINE, Silent())
    assert (first.written_shards, first.generation) == (12, 1)
    assert {k.lstrip("/"): v for k, v in far_bytes(fs, "/far/semkitti").items()} == folder_bytes(
        local
    )
    again = prepare(list_semkitti(raw), "memory://far/semkitti", INLINE, Silent())
    assert (again.written_shards, again.kept_shards, again.generation) == (0, 12, 1)
    with CacheReader.open("memory://far") as far, CacheReader.open(local) as near:
        assert far.fingerprint == near.fingerprint
    assert not list((tmp_path / "disk").glob("*/*/.tmp/*"))
    with pytest.raises(CacheError, match="`workers=0`"):
        prepare(list_semkitti(raw), "memory://far/semkitti", PrepareConfig(workers=1), Silent())
    fs.store.clear()


@pytest.mark.slow
def test_s3_gets_the_bytes_of_a_folder_whatever_the_line_does(
    raw: Path, local: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {3: "503", 9: "500", 17: "cut-put", 23: "close", 31: "cut"}
    proxy.set_fault(lambda request: kinds.get(request.number))
    summary = prepare(list_semkitti(raw), URL, INLINE, Silent())
    assert summary.written_shards == 12
    assert len(proxy.log) > 30
    proxy.set_fault(lambda request: None)
    assert far_bytes(s3(), PLACE) == folder_bytes(local)
    proxy.log.clear()
    again = prepare(list_semkitti(raw), URL, INLINE, Silent())
    assert again.written_shards == 0
    assert len(proxy.log) < 25, proxy.log
    assert not [entry for entry in proxy.log if entry[0] in ("PUT", "POST", "DELETE")]


def test_a_line_that_never_works_or_a_bucket_that_is_missing_is_one_line(
    raw: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_STORE_ATTEMPTS", "3")
    words = ["prepare", "semkitti", "--root", str(raw), "--workers", "0", "--cache"]
    proxy.set_fault(lambda request: "503")
    dead = CliRunner().invoke(app, [*words, "s3://bucket/some"])
    assert dead.exit_code == 1
    assert len(proxy.log) == 3  # ours alone: no library below tries on its own
    assert "s3://bucket/some/semkitti" in dead.output
    assert "Given up after 3 attempts" in dead.output
    proxy.set_fault(lambda request: None)
    missing = CliRunner().invoke(app, [*words, "s3://no-such-bucket/some"])
    assert missing.exit_code == 1
    assert "No such object or bucket" in missing.output
    proxy.set_fault(lambda request: "slow" if "/lidar/" in request.path else None)
    monkeypatch.setenv("PASS2D_STORE_TIMEOUT", "0.05")
    slow = CliRunner().invoke(app, [*words, "s3://bucket/some"])
    assert slow.exit_code == 1
    assert "Given up after 3 attempts" in slow.output
    for result in (dead, missing, slow):
        assert result.output.splitlines()[-1].startswith("error: s3://"), result.output
    assert not [name for name in s3().find("bucket") if "/rows/" in name or "CURRENT" in name]


@pytest.mark.slow
def test_a_driver_killed_in_an_upload_leaves_nothing_visible_and_the_next_goes_on(
    raw: Path, local: Path, proxy: FaultyProxy, tmp_path: Path
) -> None:
    words = ["prepare", "semkitti", "--root", str(raw), "--workers", "0", "--cache"]
    killed: list[str] = []

    def kill(request: Request) -> str | None:
        if request.method == "PUT" and "/voxel/" in request.path and not killed:
            killed.append(request.path)
            process.kill()
            return "cut-put"
        return None

    proxy.set_fault(kill)
    process = subprocess.Popen(
        [sys.executable, "-m", "pass2d.cli", *words, "s3://bucket/some"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.wait(300) == -signal.SIGKILL
    proxy.set_fault(lambda request: None)
    fs = s3()
    records = [name for name in fs.find(PLACE) if "/rows/" in name]
    assert records
    assert not fs.exists(f"{PLACE}/CURRENT")
    with pytest.raises(CacheError, match="`prepare` has not finished"):
        CacheReader.open("s3://bucket/some")
    proxy.log.clear()
    summary = prepare(list_semkitti(raw), URL, INLINE, Silent())
    again = {path for method, path in proxy.log if method == "PUT" and "/rows/" in path}
    assert (summary.written_shards, summary.kept_shards) == (12 - len(records), len(records))
    assert len(again) == 12 - len(records)
    assert far_bytes(s3(), PLACE) == folder_bytes(local)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_drivers_that_publish_at_once_lose_nothing(
    raw: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    monkeypatch.setenv("PASS2D_STORE_WAIT", "1e-6")
    fsspec.filesystem("memory").store.clear()
    real, met = RemoteStore.write_new, []

    def write_new(self: RemoteStore, name: str, data: bytes) -> bool:
        if not name.endswith("hashes.json") or met:
            return real(self, name, data)
        met.append(name)
        won = real(self, name, data) if moment == "after" else None
        other = list_semkitti(raw, sequences=("08", "11"))
        prepare(other, "memory://two/semkitti", INLINE, Silent())
        return real(self, name, data) if won is None else won

    monkeypatch.setattr(RemoteStore, "write_new", write_new)
    prepare(list_semkitti(raw, sequences=("00",)), "memory://two/semkitti", INLINE, Silent())
    assert met
    with CacheReader.open("memory://two") as far, CacheReader.open(local) as near:
        assert far.scans.scan_id.tolist() == near.scans.scan_id.tolist()
        assert far.fingerprint == near.fingerprint


def test_a_local_copy_that_falls_behind_loses_nothing(
    raw: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that shares the local cache puts back the CURRENT that it saw before."""
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    fsspec.filesystem("memory").store.clear()
    for sequence in ("00", "08"):
        prepare(
            list_semkitti(raw, sequences=(sequence,)), "memory://late/semkitti", INLINE, Silent()
        )
    real = RemoteMirror.fetch_manifest

    def fetch_manifest(self: RemoteMirror) -> int | None:
        number = real(self)
        self.layout.current_file.write_text("gen-000001\n")
        return number

    monkeypatch.setattr(RemoteMirror, "fetch_manifest", fetch_manifest)
    prepare(list_semkitti(raw, sequences=("11",)), "memory://late/semkitti", INLINE, Silent())
    monkeypatch.undo()
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    with CacheReader.open("memory://late") as far, CacheReader.open(local) as near:
        assert far.scans.scan_id.tolist() == near.scans.scan_id.tolist()


def test_a_full_manifest_far_away_needs_few_requests(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    with CacheReader.open(local) as reader:
        info = reader.info
    listing = many_scans(tmp_path / "raw", info, sequences={"00": 4000, "08": 500})
    publish_many(listing, tmp_path / "semkitti")
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for path in (tmp_path / "semkitti").rglob("*"):
        name = f"/many/semkitti/{path.relative_to(tmp_path / 'semkitti')}"
        if path.is_file():
            fs.pipe_file(name, path.read_bytes())
        elif path.suffix == ".zarr":
            fs.pipe_file(f"{name}/zarr.json", b"")
    calls: list[str] = []
    real = RemoteStore.tried

    def counting(self: RemoteStore, action: Any, name: str, *, verb: str = "read") -> Any:
        calls.append(f"{verb} {name}")
        return real(self, action, name, verb=verb)

    monkeypatch.setattr(RemoteStore, "tried", counting)
    summary = prepare(listing, "memory://many/semkitti", INLINE, Silent())
    assert (summary.scans, summary.written_shards) == (4500, 0)
    assert len(calls) <= 11 + 2 * len(CONTAINERS), calls  # two listings of each
    assert not [call for call in calls if call.startswith("write")]
    fs.store.clear()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_write_the_same_bytes(
    raw: Path, local: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of the user, for something else
    summary = prepare(list_semkitti(raw), URL, PrepareConfig(workers=2), Silent())
    assert summary.written_shards == 12
    assert far_bytes(s3(), PLACE) == folder_bytes(local)


@pytest.fixture
def far(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A prepared data set at memory://kept/semkitti, and its file system."""
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    prepare(list_semkitti(raw), "memory://kept/semkitti", INLINE, Silent())
    yield fs
    fs.store.clear()


def test_verify_finds_a_flipped_bit_far_away_and_repair_fixes_it(
    far: Any, raw: Path, local: Path, tmp_path: Path
) -> None:
    sound = pass2d("cache", "verify", "--cache", "memory://kept", "--rebuild", "40", "--json")
    assert sound.exit_code == 0, sound.output
    report = json.loads(sound.stdout)
    assert (report["shards"], report["rebuilt"], report["notes"]) == (12, 5, [])
    name = next(n for n in far.find("/kept") if "/lidar/000000" in n and "label/c" in n)
    data = bytearray(far.cat_file(name))
    data[len(data) // 3] ^= 1
    far.pipe_file(name, bytes(data))
    record = next(n for n in far.find("/kept") if "/rows/voxel/008000" in n)
    far.pipe_file(record, far.cat_file(record)[:-9])
    far.pipe_file("/kept/semkitti/stray.txt", b"?")
    found = pass2d("cache", "verify", "--cache", "memory://kept")
    assert found.exit_code == 1
    lines = [line for line in found.output.splitlines() if line.startswith("damage:")]
    assert len(lines) == 3, found.output
    assert any("shard 0 of lidar, field label, scan 00/" in line for line in lines)
    fixed = pass2d("cache", "repair", "--cache", "memory://kept")
    assert fixed.exit_code == 1  # stray.txt is not ours to remove
    assert far.exists("/kept/semkitti/stray.txt")
    far.rm_file("/kept/semkitti/stray.txt")
    assert pass2d("cache", "verify", "--cache", "memory://kept").exit_code == 0
    assert {k.lstrip("/"): v for k, v in far_bytes(far, "/kept/semkitti").items()} == folder_bytes(
        local
    )
    assert not list((tmp_path / "disk").glob("*/*/.tmp/*"))


def test_status_plan_and_gc_of_a_store(far: Any, raw: Path) -> None:
    status = pass2d("cache", "status", "--cache", "memory://kept", "--json")
    assert status.exit_code == 0, status.output
    assert json.loads(status.stdout)["dataset_root"] == "memory://kept/semkitti"
    assert json.loads(status.stdout)["missing_shards"] == []
    plan = pass2d("cache", "plan", "--cache", "memory://kept", "--root", str(raw), "--json")
    assert json.loads(plan.stdout)["tasks"] == []
    before = set(far.find("/kept"))
    leftovers = {
        "/kept/semkitti/lidar/000007-0123456789ab.zarr/zarr.json",
        "/kept/semkitti/rows/lidar/000008-0123456789ab.json",
        "/kept/semkitti/manifest/gen-000002/hashes.json",
    }
    for name in leftovers:
        far.pipe_file(name, b"{}")
    with CacheReader.open("memory://kept") as reader:
        assert reader.generation == 1
    careful = pass2d("cache", "gc", "--cache", "memory://kept")
    assert careful.exit_code == 0, careful.output
    assert careful.output.count("kept:") == 3
    assert set(far.find("/kept")) == before | leftovers
    dry = pass2d("cache", "gc", "--cache", "memory://kept", "--unfinished", "--dry-run")
    assert set(far.find("/kept")) == before | leftovers
    assert "would remove 3 files and folders" in dry.output
    assert pass2d("cache", "gc", "--cache", "memory://kept", "--unfinished").exit_code == 0
    assert set(far.find("/kept")) == before
