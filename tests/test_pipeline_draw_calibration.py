"""`--check --png` shows the points on a picture of every sequence and camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nuscenes_files import CHANNELS, NuscenesFolder
from PIL import Image
from pipeline_files import write_sequence
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.pipeline.datasets.draw_calibration import on_picture_by_depth


def test_near_points_are_red_far_ones_blue_and_near_ones_on_top() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    pixel_rc = np.array([[10, 10, 30], [20, 20, 50]], np.uint16)
    drawn = on_picture_by_depth(image, pixel_rc, np.array([50.0, 3.0, 80.0]))
    assert drawn[10, 20].tolist() == [255, 60, 40]
    assert drawn[30, 50].tolist() == [110, 80, 255]
    assert drawn[0, 0].tolist() == [60, 60, 60]


def test_a_picture_of_each_sequence_and_camera_is_written(tmp_path: Path) -> None:
    for sequence in ("00", "08"):
        write_sequence(tmp_path / "kitti", sequence)
    out = tmp_path / "png"
    command = ["prepare", "semkitti", "--root", str(tmp_path / "kitti"), "--png", str(out)]
    run = CliRunner().invoke(app, [*command, "--check"])
    assert run.exit_code == 0, run.output
    assert sorted(file.name for file in out.iterdir()) == ["00.png", "08.png"]
    with Image.open(out / "00.png") as picture:
        assert picture.size == (100, 80)
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "only --check draws pictures" in refused.output
    root = NuscenesFolder(tmp_path / "nus", scenes=("scene-0061",), samples=1).write()
    out = tmp_path / "six"
    command = ["prepare", "nuscenes", "--root", str(root), "--check", "--png", str(out)]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert {file.name for file in out.iterdir()} == {f"scene-0061-{c}.png" for c in CHANNELS[1:]}
