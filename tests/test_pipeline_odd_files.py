"""A pipe, or a link to nowhere, in place of a file that need not be there is not taken for none."""

import os
from pathlib import Path

import pandaset_files
import pytest
from nuscenes_files import NuscenesFolder
from typer.testing import CliRunner
from waymo_files import write_segment

from pass2d.cli import app


def write_pandaset(root: Path) -> None:
    pandaset_files.write_sequence(root / "001", frames=1, n=300)


def write_waymo(root: Path) -> None:
    write_segment(root / "training", "seg-a", frames=2, labelled=(0, 1))


def write_nuscenes(root: Path) -> None:
    NuscenesFolder(root=root, samples=1, n=300).write()


WRITE = {"pandaset": write_pandaset, "waymo": write_waymo, "nuscenes": write_nuscenes}


@pytest.mark.parametrize("is_pipe", [True, False])
@pytest.mark.parametrize(
    ("layout", "pattern"),
    [
        ("waymo", "training/lidar_segmentation/*"),
        ("waymo", "training/camera_image/*"),
        ("waymo", "training/camera_calibration/*"),
        ("pandaset", "001/lidar/timestamps.json"),
        ("pandaset", "001/lidar/poses.json"),
        ("pandaset", "001/camera/*/00.jpg"),
        ("nuscenes", "v1.0-*/lidarseg.json"),
    ],
)
def test_what_is_there_and_no_file_is_an_error(
    tmp_path: Path, layout: str, pattern: str, *, is_pipe: bool
) -> None:
    WRITE[layout](tmp_path)
    file = min(tmp_path.glob(pattern))
    file.unlink()
    if is_pipe:
        os.mkfifo(file)
    else:
        file.symlink_to("/nowhere/at-all")
    checked = CliRunner().invoke(app, ["prepare", layout, "--root", str(tmp_path), "--check"])
    assert checked.exit_code == 1
    (error,) = {line for line in checked.output.splitlines() if line.startswith("error")}
    assert str(file) in error
    assert ("pipe" if is_pipe else "no such file") in error
