"""The import package: its public names, what an install puts where, and use beside other names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pipeline_files import write_own_names, write_sequence

import pass2d

PROJECT = Path(__file__).resolve().parents[1]
HEAVY = {"numpy", "torch", "ray", "zarr", "spconv", "scipy", "pyarrow", "typer", "rich"}


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_only_public_names_are_listed_and_each_is_there() -> None:
    assert dir(pass2d) == sorted([*pass2d.__all__, "__version__"])
    assert all(getattr(pass2d, name) is not None for name in dir(pass2d))
    assert pass2d.Segmenter.__module__ == "pass2d.train.inference.segmenter"
    with pytest.raises(AttributeError, match="segmenter"):
        _ = pass2d.segmenter


def test_type_checkers_read_the_names_that_python_imports() -> None:
    tree = ast.parse(Path(pass2d.__file__).read_text("utf-8"))
    typed = {
        alias.asname or alias.name: (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    named = {name: home.partition(":") for name, home in pass2d._HOMES.items()}
    found = {name: (f"pass2d.{home}", other or name) for name, (home, _, other) in named.items()}
    assert typed == found
    assert sorted(found) == pass2d.__all__


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, pass2d; pass2d.__version__; print(*{name for name in sys.modules})"
    assert HEAVY.isdisjoint(run("-c", code, cwd=tmp_path, path=PROJECT).split())


def test_python_runs_the_package(tmp_path: Path) -> None:
    shown = run("-m", "pass2d", "--help", cwd=tmp_path, path=PROJECT)
    assert "Usage: pass2d" in shown


SCRIPT = """
import sys
from pathlib import Path

import numpy as np

import pass2d

if __name__ == "__main__":
    home, raw = Path(sys.argv[1]), Path("../raw")
    assert Path(pass2d.__file__).is_relative_to(home), pass2d.__file__
    config = pass2d.PrepareConfig(workers=0)
    summary = pass2d.prepare(pass2d.list_semkitti(raw), Path("cache/semkitti"), config)
    assert (summary.scans, summary.failed) == (2, ())
    with pass2d.CacheReader.open("cache") as reader:
        assert len(reader.read(0, pass2d.Fields(label=True)).xyz) > 0
    recipe = pass2d.load_recipe(
        "demo", ["network.settings.hidden=8", "epochs=1", "device=cpu", "log.tensorboard=false"]
    )
    result = pass2d.fit("cache", pass2d.train.recipes.recipe.without_images(recipe))
    points = np.fromfile(raw / "sequences/08/velodyne/000000.bin", np.float32).reshape(-1, 4)
    labels, _ = pass2d.Segmenter.load(result.best)(points)
    assert len(labels) == len(points)
    out = Path("labels")
    assert pass2d.predict(raw / "sequences/08/velodyne", result.best, out).scans == 1
    assert (out / "000000.label").stat().st_size == 4 * len(points)
    try:
        pass2d.evaluate(result.best, "nowhere")
    except pass2d.Pass2DError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_script_beside_the_users_own_names(tmp_path: Path, wheel: Path) -> None:
    """Each step of the work; on Ray: test_pipeline_prepare_cluster."""
    site, here, raw = tmp_path / "site", tmp_path / "here", tmp_path / "raw"
    zipfile.ZipFile(wheel).extractall(site)
    here.mkdir()
    write_own_names(here)
    for sequence in ("00", "08"):
        write_sequence(raw, sequence, (0,), n=3000)
    (here / "script.py").write_text(SCRIPT)
    said = run("script.py", site, cwd=here, path=site)
    assert "nowhere" in said
    shown = run("-P", "-m", "pass2d", "stats", "--json", cwd=here, path=site)
    assert '"scans": 1' in shown


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist, and below `tree/` and `sdist/` the wheels of either."""
    pytest.importorskip("hatchling", reason="no hatchling to build with (pip install hatchling)")
    out = tmp_path_factory.mktemp("built")
    build = "import sys; from hatchling import build; getattr(build, sys.argv[1])(sys.argv[2])"
    for folder in ("tree", "sdist", "unpacked"):
        (out / folder).mkdir()
    run("-c", build, "build_sdist", out, cwd=PROJECT)
    run("-c", build, "build_wheel", out / "tree", cwd=PROJECT)
    run("-c", build, "build_editable", out, cwd=PROJECT)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(out / "unpacked", filter="data")
    (source,) = (out / "unpacked").iterdir()
    run("-c", build, "build_wheel", out / "sdist", cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = (built / "tree").glob("*.whl")
    return path


def test_an_install_puts_only_the_package_into_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"pass2d", "pass2d-0.1.0.dist-info"}
    packaged = {name.removeprefix("pass2d/") for name in names if name.startswith("pass2d/")}
    in_git = subprocess.run(
        ["git", "ls-files", "-z", "pass2d", "cache", "train", "pipeline", "pass2d_models"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if in_git.returncode == 0 and in_git.stdout:
        tracked = {name for name in in_git.stdout.split("\0") if not (PROJECT / name).is_symlink()}
        tracked = {name.removeprefix("pass2d/") for name in tracked if (PROJECT / name).is_file()}
        tracked = {name.replace("pass2d_models/", "models/") for name in tracked}
        assert tracked <= packaged


def test_the_wheel_of_the_source_archive_is_that_of_the_tree(built: Path, wheel: Path) -> None:
    (other,) = (built / "sdist").glob("*.whl")
    ours, theirs = (
        {info.filename: info.CRC for info in zipfile.ZipFile(path).infolist()}
        for path in (wheel, other)
    )
    assert ours == theirs


def test_an_editable_install_is_one_line_that_leads_here(built: Path) -> None:
    (path,) = built.glob("*.whl")
    archive = zipfile.ZipFile(path)
    outside = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(outside) == 1
    assert archive.read(outside[0]).decode().split() == [str(PROJECT)]
