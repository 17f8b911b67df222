"""Files that may not be read, folders that may not be written: said as such, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_samples import write_sample_cache
from nobody import as_nobody, open_place, read_only
from pipeline_files import write_sequence

from pass2d.cache.care.gc import collect_garbage
from pass2d.cache.care.records_from_shards import current_rows
from pass2d.cache.care.status import status
from pass2d.cache.care.verify import verify
from pass2d.cache.fields import Fields
from pass2d.cache.layout import HASHES_FILE, SCANS_FILE, SHARDS_FILE, Layout
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import CacheError, CheckpointError, ConfigError, Pass2DError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.checkpoints.checkpoint import load_checkpoint
from pass2d.train.checkpoints.published.torch_file import open_torch_file
from pass2d.train.recipes.recipe import load_recipe


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as folder:
        yield folder


@pytest.fixture
def out(place: Path) -> Path:
    write_sample_cache(place, n_scans=1, sequences=("08",), n_points=40, image_hw=(8, 20))
    return place / "semkitti"


def open_and_read(out: Path) -> None:
    with CacheReader.open(out) as reader:
        reader.read(0, Fields(label=True))


@pytest.mark.parametrize(
    "name",
    [
        *("CURRENT", "dataset.json", "lidar", "."),
        *(f"manifest/gen-000001/{name}" for name in (SCANS_FILE, SHARDS_FILE, HASHES_FILE)),
    ],
)
def test_what_may_not_be_read_is_said_as_such(name: str, out: Path) -> None:
    path = out / name
    path.chmod(0)
    with as_nobody(), pytest.raises(CacheError, match=r"no permission to read it\. Change") as told:
        open_and_read(out)
    assert "repair" not in str(told.value)


def test_arrays_and_records_without_permission(out: Path) -> None:
    shard = min((out / "lidar").iterdir())
    (shard / "xyz/c/0/0/0").chmod(0)
    with as_nobody(), pytest.raises(CacheError, match=r"0/0/0: no permission to read it"):
        open_and_read(out)
    min((out / "rows/lidar").iterdir()).chmod(0)
    with as_nobody(), pytest.raises(CacheError, match=r"json: no permission to read it"):
        current_rows(Layout(root=out))
    with as_nobody():
        damages = [str(d) for d in verify(out, Silent()).damages]
    assert any("Permission denied" in text for text in damages)


def enter(path: Path) -> None:
    with open_torch_file(path):
        pass


@pytest.mark.parametrize("name", ["c.safetensors", "c.ckpt", "c.toml"])
def test_checkpoints_and_recipes_without_permission(name: str, place: Path) -> None:
    path = place / name
    path.write_bytes(b"x")
    path.chmod(0)
    read = {
        "c.toml": lambda p: load_recipe(str(p)),
        "c.ckpt": enter,
        "c.safetensors": load_checkpoint,
    }
    with as_nobody(), pytest.raises(Pass2DError, match=f"{name}: no permission to read it") as told:
        read[name](path)
    assert isinstance(told.value, (CheckpointError, ConfigError))


def test_a_cache_that_may_only_be_read(place: Path) -> None:
    write_sequence(place / "raw", "08", (0,))
    listing = list_semkitti(place / "raw")
    out = place / "semkitti"
    config = PrepareConfig(workers=0)
    first = prepare(listing, out, config, Silent())
    read_only(place)
    with as_nobody():
        again = prepare(listing, out, config, Silent())
        assert (again.generation, again.written_shards) == (first.generation, 0)
        assert collect_garbage(out, dry_run=True).removed == ()
        assert status(out).is_current
        assert verify(out, Silent()).is_sound
        open_and_read(out)
        with pytest.raises(CacheError, match=r"cannot write \(Permission denied\)"):
            collect_garbage(out)
        with pytest.raises(CacheError, match=r"cannot write \(Permission denied\)"):
            prepare(listing, out, PrepareConfig(workers=0, profile="size"), Silent())


def test_current_that_names_an_older_generation_is_found(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=1, sequences=("08",), n_points=40, image_hw=(8, 20))
    write_sample_cache(tmp_path, n_scans=2, sequences=("08",), n_points=40, image_hw=(8, 20))
    out = tmp_path / "semkitti"
    assert (out / "CURRENT").read_bytes() == b"gen-000002\n"
    assert not list((out / ".tmp").glob("CURRENT-*"))
    (out / "CURRENT").write_bytes(b"gen-000001\n")
    for read in (open_and_read, status, collect_garbage):
        with pytest.raises(CacheError, match="names gen-000001, but there is gen-000002"):
            read(out)
    # A run that was killed before its last step has left what was to become CURRENT.
    coming = out / ".tmp" / f"CURRENT-{'0' * 32}"
    coming.write_bytes(b"gen-000002\n")
    open_and_read(out)
    collect_garbage(out)
    assert coming.exists()
    open_and_read(out)
    coming.write_bytes(b"gen-00")  # half written: the generation was not in place then
    with pytest.raises(CacheError, match="but there is gen-000002"):
        open_and_read(out)
