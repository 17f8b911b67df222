"""`pass2d cache bench` on caches that are damaged, empty, or go away while it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from cache_samples import write_sample_cache
from typer.testing import CliRunner

from pass2d.cache.inspection.benchmark import measure_reader
from pass2d.commands.app import app
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent


def bench(cache: str | Path) -> tuple[int, str]:
    words = ["cache", "bench", "--cache", str(cache), "--limit", "4", "--rounds", "2"]
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sample_cache(tmp_path, n_scans=2, n_points=200)
    return tmp_path / "semkitti"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def one(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in a chunk": (
        lambda root: flip(one(root, "lidar/*/xyz/c/0/0/0")),
        "field xyz of scan 00/000000 is damaged",
    ),
    "a file that ends early": (
        lambda root: one(root, "camera/*/image/c/0/0/0/0").write_bytes(b"short"),
        "field image of scan 00/000000",
    ),
    "a file that is gone": (
        lambda root: one(root, "voxel/*/inverse/c/0/0/0").unlink(),
        "field inverse of scan 00/000000",
    ),
    "a container that is gone": (lambda root: shutil.rmtree(root / "lidar"), "field xyz of scan"),
    "a flipped bit in the manifest": (
        lambda root: flip(one(root, "manifest/*/scans.parquet")),
        "scans.parquet",
    ),
    "no CURRENT": (lambda root: (root / "CURRENT").unlink(), "no finished generation"),
    "no data set": (shutil.rmtree, "no prepared data set"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_is_one_line_that_names_it(root: Path, name: str) -> None:
    harm, words = DAMAGES[name]
    harm(root)
    code, output = bench(root.parent)
    last = output.splitlines()[-1]
    assert code == 1
    assert last.startswith(f"error: {root.parent}")
    assert words in last
    assert "nan" not in output


def test_a_cache_without_scans_has_nothing_to_measure(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=0)
    code, output = bench(tmp_path)
    assert code == 1
    assert "holds no scan" in output.splitlines()[-1]


class Leaves(Silent):
    """Takes the data away when the reading begins."""

    def __init__(self, harm: Callable[[], object]) -> None:
        self._harm = harm

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        self._harm()


def test_a_store_that_ends_while_it_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    monkeypatch.setenv("PASS2D_STORE_ATTEMPTS", "1")
    fs = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file() and ".tmp" not in path.parts:
            fs.pipe_file(f"/ends/semkitti/{path.relative_to(root)}", path.read_bytes())

    def end() -> None:
        if fs.exists("/ends"):
            fs.rm("/ends", recursive=True)
        shutil.rmtree(tmp_path / "disk", ignore_errors=True)

    with pytest.raises(CacheError, match="memory://ends"):
        measure_reader("memory://ends", dataset=None, scans=1, rounds=2, progress=Leaves(end))
    end()
