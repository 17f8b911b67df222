"""`cache plan` finds out how a cache was made and lists its raw data set in the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nuscenes_files import NuscenesFolder
from pipeline_files import write_sequence
from typed import answer, printed
from typer.testing import CliRunner

from pass2d.cli import app


def planned(*args: object) -> dict[str, Any]:
    return answer("cache", "plan", *args)


def test_clean_and_corrupted_data_sets_of_any_profile(tmp_path: Path) -> None:
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    write_sequence(raw, "00", (0, 1))
    given = ("--root", raw, "--cache", cache)
    assert len(planned(*given)["tasks"]) == 4
    printed(
        "prepare", "semkitti", *given, "--workers", 0, "--profile", "size", "--corrupt", "fog:light"
    )
    for dataset in ("semkitti", "semkitti-fog-light"):
        assert planned(*given, "--dataset", dataset)["tasks"] == []
    assert planned("--root", raw, "--cache", cache / "semkitti")["tasks"] == []
    speed = planned(*given, "--profile", "speed")["tasks"]
    assert speed[0]["reason"] == "profile size -> speed"
    (raw / "sequences/00/velodyne/000001.bin").unlink()
    todo = planned(*given, "--dataset", "semkitti-fog-light")["tasks"]
    assert todo[0]["reason"] == "scans removed 00/000001"


def test_nuscenes_with_sweeps_and_another_picture_size(tmp_path: Path) -> None:
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    NuscenesFolder(raw, sweeps=1).write()
    given = ("--root", raw, "--cache", cache)
    options = ("--workers", 0, "--sweeps", 1, "--image-size", "original")
    printed("prepare", "nuscenes", *given, *options)
    assert planned(*given)["tasks"] == []
    write_sequence(tmp_path / "kitti", "00", (0,))
    for root, message in (
        (tmp_path, "no tables of any version"),
        (tmp_path / "kitti", "looks like SemanticKITTI, but data set nuscenes is of nuScenes"),
    ):
        words = ["cache", "plan", "--root", str(root), "--cache", str(cache)]
        wrong = CliRunner().invoke(app, [*words, "--dataset", "nuscenes"])
        assert wrong.exit_code == 1
        assert message in wrong.stderr


def test_dropped_points_stay_dropped(tmp_path: Path) -> None:
    given = ("--root", tmp_path / "raw", "--cache", tmp_path / "cache")
    write_sequence(tmp_path / "raw", "00", (0,))
    printed(
        "prepare", "semkitti", *given, "--workers", 0, "--drop-invalid", "--corrupt", "fog:light"
    )
    for dataset in ("semkitti", "semkitti-fog-light"):
        assert planned(*given, "--dataset", dataset)["tasks"] == []


def test_scans_that_cannot_be_listed_are_no_lost_scans(tmp_path: Path) -> None:
    folder = NuscenesFolder(tmp_path / "nus", samples=2, sweeps=1)
    root, cache = folder.write(), tmp_path / "cache"
    printed("prepare", "nuscenes", "--root", root, "--cache", cache, "--sweeps", 1, "--workers", 0)
    sweep = next(d for d in folder.tables["sample_data"] if d["filename"].startswith("sweeps/"))
    gone = sweep["ego_pose_token"]
    poses = [row for row in folder.tables["ego_pose"] if row["token"] != gone]
    (root / "v1.0-mini" / "ego_pose.json").write_text(json.dumps(poses))
    result = CliRunner().invoke(
        app, ["cache", "plan", "--root", str(root), "--cache", str(cache), "--dataset", "nuscenes"]
    )
    assert result.exit_code == 1
    assert gone in result.output.replace("\n", "")
