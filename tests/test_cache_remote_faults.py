"""Reading through a line that fails: a proxy in front of a real S3 server spoils requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from cache_samples import write_sample_cache
from remote_samples import FaultyProxy, Request, s3_environment, s3_server
from train_samples import INSTANCE_COPY
from typer.testing import CliRunner

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.train.data.plan import StreamPlan, block_order, mix_partner
from pass2d.train.data.sampling import AugmentConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ALL = Fields(label=True, instance=True, image=True, pixels=True, voxels=True)
ROOT = Path(__file__).resolve().parents[1]
URL = "s3://reading/some/prefix"
READ_ALL = """
import sys
import xxhash
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader

fields = Fields(label=True, instance=True, image=True, pixels=True, voxels=True)
digest = xxhash.xxh3_128()
with CacheReader.open(sys.argv[1]) as reader:
    if "whole" in sys.argv:
        reader.expect_all()
    for position in range(len(reader.scans)):
        scan = reader.read(position, fields)
        for array in (scan.xyz, scan.label, scan.cameras[0].image, scan.voxels[0].inverse):
            digest.update(array.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=3, sequences=("00", "08"))
    return root


@pytest.fixture(scope="module")
def endpoint(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that holds the sample cache at `URL`."""
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(address, tmp_path_factory.mktemp("unused")).items():
            patch.setenv(name, value)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("reading")
        fs.put(str(local) + "/", "reading/some/prefix/", recursive=True)
        yield address


@pytest.fixture
def proxy(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    spoiler = FaultyProxy(endpoint)
    for name, value in s3_environment(spoiler.endpoint, tmp_path / "disk").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PASS2D_STORE_OPTIONS", f'{{"endpoint_url": "{spoiler.endpoint}"}}')
    yield spoiler
    spoiler.close()


def assert_reads_all(local: Path, *, whole: bool) -> None:
    with CacheReader.open(URL) as far, CacheReader.open(local) as near:
        if whole:
            far.expect_all()
        for position in range(len(near.scans)):
            a, b = near.read(position, ALL), far.read(position, ALL)
            np.testing.assert_array_equal(a.xyz, b.xyz)
            np.testing.assert_array_equal(a.cameras[0].image, b.cameras[0].image)
            np.testing.assert_array_equal(a.voxels[0].inverse, b.voxels[0].inverse)


@pytest.mark.parametrize("whole", [True, False])
def test_errors_and_cut_off_bodies_that_pass_change_nothing(
    proxy: FaultyProxy, local: Path, whole: bool
) -> None:
    kinds = {1: "503", 2: "500", 5: "cut", 8: "close", 12: "cut", 13: "500", 16: "cut", 20: "503"}
    proxy.set_fault(lambda request: kinds.get(request.number))
    assert_reads_all(local, whole=whole)
    assert len(proxy.log) > 20


def test_a_slow_answer_is_given_up_and_asked_for_again(
    proxy: FaultyProxy, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_STORE_TIMEOUT", "0.3")
    slow: list[str] = []

    def fault(request: Request) -> str | None:
        if "/camera/" in request.path and not slow:
            slow.append(request.path)
            return "slow"
        return None

    proxy.set_fault(fault)
    monkeypatch.setenv("PASS2D_STORE_ATTEMPTS", "20")  # a busy machine is slow on its own
    assert_reads_all(local, whole=True)
    assert [path for _, path in proxy.log].count(slow[0]) >= 2


def test_what_never_passes_is_one_line_that_names_place_and_remedy(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_STORE_ATTEMPTS", "4")
    bench = ["cache", "bench", "--limit", "1", "--rounds", "2", "--cache"]

    def error(url: str) -> str:
        result = CliRunner().invoke(app, [*bench, url])
        assert result.exit_code == 1, result.output
        last = result.output.splitlines()[-1]
        assert last.startswith(f"error: {url}"), result.output
        return last

    proxy.set_fault(lambda request: "500")
    assert "Given up after 4 attempts" in error(URL)
    assert len(proxy.log) == 4
    proxy.set_fault(lambda request: "cut" if "/lidar/" in request.path else None)
    assert "Given up after 4 attempts" in error(URL)
    proxy.set_fault(lambda request: None)
    assert "heck the address" in error("s3://reading/elsewhere")
    assert "heck the address" in error("s3://no-such-bucket/some")
    assert "pip install gcsfs" in error("gs://bucket/some")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    fsspec.filesystem("s3").clear_instance_cache()
    proxy.log.clear()
    assert "check the credentials" in error(URL)
    assert not proxy.log
    fsspec.filesystem("s3").clear_instance_cache()
    for setting, said in (('{"nonsense": 1}', "nonsense"), ('{"endpoint_url": "x"}', "endpoint")):
        monkeypatch.setenv("PASS2D_STORE_OPTIONS", setting)
        assert said in error(URL)
        assert "Check the settings" in error(URL)
        fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setenv("PASS2D_STORE_OPTIONS", "[]")
    options = CliRunner().invoke(app, [*bench, URL])
    assert options.output.startswith("error: PASS2D_STORE_OPTIONS: expected a JSON object")


@pytest.mark.slow
def test_two_processes_and_one_that_is_killed_share_a_local_cache(
    proxy: FaultyProxy, local: Path, tmp_path: Path
) -> None:
    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", READ_ALL, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    killed: list[str] = []

    def kill(request: Request) -> str | None:
        if "/camera/" in request.path and request.method == "GET" and not killed:
            killed.append(request.path)
            victim.kill()
            return "cut"
        return None

    proxy.set_fault(kill)
    victim = start(URL, "whole")
    with victim:
        assert victim.wait(120) == -9
    assert killed
    near, whole, parts = start(str(local)), start(URL, "whole"), start(URL)
    found = [process.communicate(timeout=240)[0] for process in (near, whole, parts)]
    assert len(found[0]) == 33
    assert found[1] == found[2] == found[0]
    assert not list((tmp_path / "disk").glob("*/*/*.zarr/**/file"))


def test_a_mix_partner_lies_in_the_block_that_is_read_then() -> None:
    shards = np.repeat(np.arange(40), 5)
    positions = np.arange(200) * 2 + 1
    plan = StreamPlan(
        positions=positions,
        batch_size=4,
        seed=3,
        augment=AugmentConfig(mixes=INSTANCE_COPY),
        size_hw=None,
        shards=shards,
    )
    shard_of = dict(zip(positions.tolist(), shards.tolist(), strict=True))
    for epoch in (0, 7):
        order = block_order(positions, shards, seed=3, epoch=epoch)
        for block in np.split(order, 5):  # 8 shards of 5 scans each
            shares = np.linspace(0, 0.999, 39)
            near = {mix_partner(plan, int(block[0]), s, epoch=epoch) for s in shares.tolist()}
            others = set(block[1:].tolist())
            assert near == others  # each once, never itself: 39 shares, 39 scans
            assert {shard_of[p] for p in near} <= {shard_of[p] for p in block.tolist()}
    scattered = StreamPlan(
        positions=positions, batch_size=4, seed=3, augment=plan.augment, size_hw=None
    )
    assert mix_partner(scattered, 1, 0.5, epoch=0) == positions[100]
