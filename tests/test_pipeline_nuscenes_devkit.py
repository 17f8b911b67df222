"""The reader beside nuscenes-devkit, which runs in an environment of its own.

Set PASS2D_DEVKIT_PYTHON to a Python that has it (python -m venv dk; dk/bin/pip install
nuscenes-devkit); without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass2d.common.progress import Silent
from pass2d.pipeline.compose import camera_views, lidar_record
from pass2d.pipeline.datasets.nuscenes import list_nuscenes, nuscenes_table
from pass2d.pipeline.stages.read import read_label_file, read_point_file
from pass2d.synth.nuscenes_config import nuscenes_preset
from pass2d.synth.nuscenes_generate import generate_nuscenes

PYTHON = os.environ.get("PASS2D_DEVKIT_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="PASS2D_DEVKIT_PYTHON names no Python")
REPORT = Path(__file__).with_name("nuscenes_devkit_report.py")


def devkit(root: Path, version: str, sweeps: int) -> list[dict[str, Any]]:
    result = subprocess.run(
        [PYTHON, str(REPORT), str(root), version, str(sweeps)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def compare(root: Path, version: str, *, sweeps: int) -> None:
    listing = list_nuscenes(root, version=version, sweeps=sweeps, stored_hw=None)
    reports = {report["token"]: report for report in devkit(root, version, sweeps)}
    assert {scan.token for scan in listing.scans} == reports.keys()
    names = nuscenes_table().raw_names
    for scan in listing.scans:
        report = reports[scan.token]
        assert (scan.sequence, str(scan.points)) == (report["scene"], report["points"])
        assert len(read_point_file(scan.points, listing.info)) == report["n"]
        assert scan.labels is not None
        raw = read_label_file(scan.labels, listing.info)
        assert [names[value] for value in raw.tolist()] == report["labels"]
        record = lidar_record(scan, listing.info)
        for name, view in zip(
            nuscenes_table().cameras, camera_views(scan, record, listing.info), strict=True
        ):
            if view is not None:
                same_pixels(
                    record.raw_index[view.point_index], view.pixel_rc, *report["pixels"][name]
                )
        if sweeps:
            same_sweeps(record, report)


def same_pixels(rows: np.ndarray, pixel_rc: np.ndarray, seen: list[int], uv: list) -> None:
    """Every pixel is the devkit's but where its coordinate rounds to the next whole number."""
    of_row = dict(zip(rows.tolist(), pixel_rc[::-1].T.tolist(), strict=True))
    theirs = dict(zip(seen, np.array(uv).T.tolist(), strict=True))
    assert len(of_row.keys() - theirs.keys()) <= 1
    assert len(of_row) > 0.5 * len(theirs)  # those outside the volume are not ours
    for row in of_row.keys() & theirs.keys():
        away = np.array(theirs[row]) - of_row[row]
        assert (away > -1e-3).all()
        assert (away < 1 + 1e-3).all()


def same_sweeps(record: Any, report: dict[str, Any]) -> None:
    theirs = np.array(report["sweep_points"]).reshape(4, -1)
    n_own = record.n_raw - theirs.shape[1]
    added = record.raw_index >= n_own
    rows = record.raw_index[added] - n_own
    np.testing.assert_allclose(record.xyz[:, added], theirs[:3, rows], atol=2e-4)
    np.testing.assert_array_equal(record.signal[added], theirs[3, rows])
    np.testing.assert_allclose(record.time[added], np.array(report["sweep_times"])[rows], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("nuscenes", "v1.0-mini"),
        ("nuscenes_labelled", "v1.0-trainval"),
        ("pandaset_as_nuscenes", "v1.0-mini"),
    ],
)
def test_real_folders_read_as_the_devkit_reads_them(shared: Path, name: str, version: str) -> None:
    compare(shared / "real" / name, version, sweeps=0)


def test_the_devkit_loads_the_synthetic_world_and_its_sweeps(tmp_path: Path) -> None:
    generate_nuscenes(tmp_path / "world", nuscenes_preset("tiny", scans=3), Silent())
    compare(tmp_path / "world", "v1.0-mini", sweeps=3)
