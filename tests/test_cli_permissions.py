"""A user who is not root: what may not be read or written is said in one line; caches only read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_samples import write_sample_cache
from nobody import as_nobody, open_place, read_only
from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from train_samples import tiny_recipe
from typed import pass2d

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.files import may_not_look
from pass2d.train.checkpoints.runs import newest_network, run_folders
from pass2d.train.prediction.files import find_scans
from pass2d.train.recipes.recipe import to_toml


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with what commands read: raw/, cache/, run/, tiny.toml, some.toml."""
    with open_place() as folder:
        monkeypatch.chdir(folder)
        write_sequence(folder / "raw", "08", (0,))
        write_sample_cache(folder / "cache", n_scans=2, n_points=300)
        (folder / "tiny.toml").write_text(to_toml(tiny_recipe("epochs=1")))
        for name in ("some.toml", "some.zip", "run/settings.toml", "run/checkpoints/a.safetensors"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        yield folder


def refusal(*words: str) -> str:
    """The one line of a command that gives up."""
    with as_nobody():
        done = pass2d(*words)
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


PREPARE = ("prepare", "semkitti", "--root", "raw", "--workers", "0", "--cache", "new")
CHECKPOINT = "run/checkpoints/a.safetensors"
UNREADABLE = [
    ("raw", PREPARE),
    ("raw", ("prepare", "semkitti", "--root", "raw", "--check")),
    ("raw/sequences", PREPARE),
    ("cache", ("stats",)),
    ("cache/semkitti", ("train", "--recipe", "tiny.toml", "--run", "new")),
    (CHECKPOINT, ("eval", "--checkpoint", CHECKPOINT)),
    (CHECKPOINT, ("import", CHECKPOINT, "--out", "b.safetensors")),
    ("run/checkpoints", ("predict", "raw", "--checkpoint", CHECKPOINT)),
    ("some.toml", ("train", "--recipe", "some.toml", "--run", "new")),
    ("some.toml", ("prepare", "folder", "--describe", "some.toml", "--root", "raw")),
    ("run", ("train", "--recipe", "tiny.toml", "--run", "run", "--resume")),
    ("some.zip", ("submit", "--verify", "some.zip")),
]


@pytest.mark.parametrize(("name", "words"), UNREADABLE)
def test_what_may_not_be_read_is_named_and_nothing_written(
    name: str, words: tuple[str, ...], place: Path
) -> None:
    before = sorted(place.rglob("*"))
    (place / name).chmod(0)
    line = refusal(*words)
    assert re.search("no permission to read it|Permission denied", line)
    assert name.split("/", maxsplit=1)[0] in line
    for path in (place / name, *(place / name).parents):
        if path == place:
            break
        path.chmod(0o755)
    assert sorted(place.rglob("*")) == before


def test_tables_and_lists_of_files_without_permission(place: Path) -> None:
    root = NuscenesFolder(place / "nus", scenes=("scene-0061",), samples=1).write()
    (root / "v1.0-mini" / "sample_data.json").chmod(0)
    line = refusal("prepare", "nuscenes", "--root", str(root), "--cache", "new", "--workers", "0")
    assert "sample_data.json: no permission to read it" in line
    (place / "raw/sequences").chmod(0)
    line = refusal("describe", "raw")
    assert f"Not looked into: {place / 'raw/sequences'}: permission denied" in line
    (place / "raw/sequences").chmod(0o755)
    closed = place / "raw/sequences/08/velodyne"
    closed.chmod(0)
    with as_nobody(), pytest.raises(DataError, match="velodyne: no permission to read it"):
        find_scans(closed, place / "out", say=print)


OUTPUTS = [
    PREPARE,
    ("prepare", "synth", "--out", "new", "--preset", "tiny", "--workers", "0"),
    ("prepare", "semkitti", "--root", "raw", "--check", "--png", "new"),
    ("train", "--recipe", "tiny.toml", "--run", "new"),
    ("train", "--recipe", "tiny.toml"),
    ("stats", "--html", "new.html"),
    ("view", "--no-checkpoint", "--html", "new.html"),
    ("view", "--no-checkpoint", "--png", "new"),
]


@pytest.mark.parametrize("words", OUTPUTS)
def test_where_nothing_may_be_written_a_command_says_so_and_leaves_nothing(
    words: tuple[str, ...], place: Path
) -> None:
    before = sorted(place.rglob("*"))
    read_only(place)
    line = refusal(*words)
    assert "Permission denied" in line
    assert "runs" in line or "new" in line
    assert sorted(place.rglob("*")) == before


def test_a_cache_that_may_only_be_read_serves_and_stays_as_it_is(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    for folder in ("cache", "raw"):
        read_only(place / folder)

    def state() -> dict[Path, tuple[int, int]]:
        files = [path for folder in ("cache", "raw") for path in (place / folder).rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    commands = [
        ("stats",),
        ("inspect",),
        ("cache", "verify"),
        ("view", "--no-checkpoint", "--html", "out/new.html"),
        ("train", "--recipe", "tiny.toml", "--run", "out/run"),
        ("eval", "--checkpoint", "out/run/checkpoints/best.safetensors"),
        ("prepare", "semkitti", "--root", "raw", "--workers", "0", "--cache", "out/cache"),
    ]
    for words in commands:
        with as_nobody():
            done = pass2d(*words)
        assert done.exit_code == 0, (words, done.output)
    assert state() == before


def test_runs_that_may_not_be_read_are_passed_over_unless_there_are_no_others(
    place: Path,
) -> None:
    for name in ("a", "b"):
        (place / "runs" / name).mkdir(parents=True)
        (place / "runs" / name / "settings.toml").write_text("")
    (place / "runs/a").chmod(0)
    with as_nobody():
        assert [run.root.name for run in run_folders()] == ["b"]
        assert may_not_look(Path("runs/a"))
        assert not may_not_look(Path("runs/b"))
    (place / "runs/b").chmod(0)
    with as_nobody(), pytest.raises(ConfigError, match=r"runs/a: no permission to read it"):
        newest_network()
    (place / "runs").chmod(0)
    with as_nobody(), pytest.raises(ConfigError, match=r"runs: no permission to read it"):
        run_folders()
