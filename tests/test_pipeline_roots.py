"""Where raw data sets are found for a user who gives no --root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from typed import pass2d

from pass2d.common.errors import ConfigError
from pass2d.pipeline.datasets.nuscenes_scenes import locate_tables
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.roots import FoundRoot, find_root
from pass2d.pipeline.datasets.semkitti_files import locate_sequences

SEMKITTI, NUSCENES = (DATASETS[name].table for name in ("semkitti", "nuscenes"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no variable set."""
    monkeypatch.chdir(tmp_path)
    for name in ("PASS2D_SEMKITTI", "PASS2D_NUSCENES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def semkitti(here: Path, **environment: str) -> FoundRoot:
    return find_root(
        SEMKITTI, locate_sequences, sign="sequences/", environment=environment, here=here
    )


@pytest.mark.parametrize(
    "place",
    [
        "dataset/SemanticKitti",
        "dataset/SemanticKITTI",
        "SemanticKITTI",
        "data/semantickitti",
        "data/SemanticKITTI",
        "datasets/semantic-kitti",
        "Data/semantic_kitti",
        "dataset",
        ".",
    ],
)
def test_every_usual_place_is_found(here: Path, place: str) -> None:
    write_sequence(here / place, "08", (0,))
    assert semkitti(here).root == (here / place).resolve()


@pytest.mark.parametrize("inner", ["dataset", "dataset/sequences"])
def test_the_published_archive_is_found_unpacked_here(here: Path, inner: str) -> None:
    write_sequence(here / "dataset", "00", (0,))
    for folder in (here, here / inner):
        assert locate_sequences(semkitti(folder).root) == here / "dataset" / "sequences"


@pytest.mark.parametrize("place", ["dataset/nuscenes", "data/sets/nuScenes", "NuScenes", "."])
def test_nuscenes_is_found_likewise(here: Path, place: str) -> None:
    NuscenesFolder(here / place).write()
    found = find_root(NUSCENES, locate_tables, sign="v1.0-*/", environment={}, here=here)
    assert found.root == (here / place).resolve()


def test_variable_goes_before_all_places(here: Path) -> None:
    write_sequence(here / "dataset" / "SemanticKitti", "08", (0,))
    write_sequence(here / "elsewhere", "08", (0,))
    found = semkitti(here, PASS2D_SEMKITTI=str(here / "elsewhere"))
    assert (found.root, found.reason) == (here / "elsewhere", "from PASS2D_SEMKITTI")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("gone", "no such folder"),
        ("file", "a file"),
        ("", "empty"),
        (" ", "empty"),
        ("s3://b/x", "local"),
        ("~nobody-of-that-name/x", "no such folder"),
        ("x" * 5000, "name too long"),
    ],
)
def test_variable_that_points_nowhere_is_an_error_beside_data(
    here: Path, value: str, said: str
) -> None:
    write_sequence(here / "dataset" / "SemanticKitti", "08", (0,))
    (here / "file").touch()
    with pytest.raises(ConfigError, match=rf"^PASS2D_SEMKITTI.*{said}.*`root`"):
        semkitti(here, PASS2D_SEMKITTI=value)


def test_of_several_places_the_likeliest_is_taken_and_the_others_are_named(here: Path) -> None:
    for place in ("data/semantickitti", "dataset/SemanticKitti", "sequences/.."):
        write_sequence(here / place, "08", (0,))
    found = semkitti(here)
    assert found.root == here / "dataset" / "SemanticKitti"
    assert "data/semantickitti, the current folder" in found.reason
    assert "`root` chooses" in found.reason


def test_two_ways_to_the_same_data_are_no_choice(here: Path) -> None:
    write_sequence(here / "data" / "kitti", "08", (0,))
    (here / "SemanticKITTI").symlink_to(here / "data" / "kitti")
    assert "`root`" not in semkitti(here).reason


def test_folders_of_the_name_without_the_data_are_passed_over_and_named(here: Path) -> None:
    (here / "dataset" / "SemanticKitti" / "sequences").mkdir(parents=True)
    (here / "kitti" / "training" / "velodyne").mkdir(parents=True)
    (here / "data" / "semkitti" / "sequences" / "00").mkdir(parents=True)
    (here / "semkitti").symlink_to("/unmounted")
    (here / "datasets").touch()
    with pytest.raises(ConfigError) as refused:
        semkitti(here)
    said = str(refused.value)
    file = "datasets (a file, not a folder)."
    listed = f"semkitti (a link to nothing), data/semkitti, kitti, dataset, data, {file}"
    assert f"without it: dataset/SemanticKitti, {listed}" in said
    assert "`prepare_semkitti(root=FOLDER)`" in said
    assert "PASS2D_SEMKITTI" in said
    write_sequence(here / "data" / "semantickitti", "08", (0,))
    assert semkitti(here).root == here / "data" / "semantickitti"


def test_prepare_runs_as_typed_and_says_the_root(here: Path) -> None:
    write_sequence(here / "dataset" / "SemanticKitti", "08", (0,))
    for option in ("--check", "--plan", ""):
        words = [word for word in (option, "--json") if word]
        done = pass2d("prepare", "semkitti", *words)
        assert json.loads(done.stdout), done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("root: ")]
        assert line == f"root: {here}/dataset/SemanticKitti (found below the current folder)"
    assert json.loads(pass2d("stats", "--json").stdout)["splits"]["val"]["scans"] == 1


def test_nuscenes_is_prepared_from_its_variable(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NuscenesFolder(here / "far").write()
    monkeypatch.setenv("PASS2D_NUSCENES", "far")
    done = pass2d("prepare", "nuscenes", "--json")
    assert json.loads(done.stdout)["scans"] == 4
    assert f"root: {here}/far (from PASS2D_NUSCENES)" in done.stderr


@pytest.mark.parametrize("name", ["semkitti", "nuscenes"])
def test_nothing_found_is_one_error(name: str) -> None:
    refused = pass2d("prepare", name)
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"pass2d prepare {name} --root FOLDER" in line
    assert f"dataset/{name.replace('semkitti', 'SemanticKITTI')}" in line
