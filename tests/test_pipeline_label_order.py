"""Labels in another order than the points, by how often close points have the same class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from numpy.typing import NDArray
from pipeline_files import check_semkitti

from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.raw_scans import list_raw
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.stages.label_order import agreement, is_other_order
from pass2d.pipeline.stages.read import read_scan
from pass2d.pipeline.stages.volume import split_volume
from pass2d.synth.config import preset
from pass2d.synth.generate import generate

ROOTS = (
    "semantickitti",
    "pandaset_as_semantickitti",
    "nuscenes",
    "nuscenes_labelled",
    "pandaset_as_nuscenes",
)


def two_halves(per_cell: int = 4, cells: int = 400) -> tuple[NDArray, NDArray, NDArray]:
    """Points of each cell far apart in the file; one class on either side."""
    x = np.tile(np.arange(cells) - cells / 2 + 0.25, per_cell)
    xyz = np.stack([x, np.zeros_like(x), np.zeros_like(x)]).astype(np.float32)
    return xyz, (x > 0).astype(np.uint8) + np.uint8(1), np.arange(len(x))


def test_one_class_per_cell_agrees_wholly_and_every_second_point_of_another_never() -> None:
    xyz, label, rows = two_halves(per_cell=2)
    assert agreement(xyz, label, rows) == 1
    turned = label.copy()
    turned[:400] = 3 - turned[:400]  # of the two points in a cell now one is of each class
    # By chance half of the pairs agree, but none does: (0 - 0.5) / (1 - 0.5).
    assert agreement(xyz, turned, rows) == -1


def test_points_without_a_class_do_not_count() -> None:
    xyz, label, rows = two_halves(per_cell=4)
    scribbles = label.copy()
    scribbles[::2] = 0
    beside = np.repeat(xyz, 2, axis=1), np.repeat(scribbles, 2), np.repeat(rows, 2) * 100
    beside[1][::2] = 0
    assert agreement(*beside) == 1
    assert agreement(xyz, np.zeros_like(label), rows) is None


def test_points_at_zero_do_not_count() -> None:
    xyz, label, _ = two_halves(per_cell=4)
    lost = np.zeros((3, 2000), np.float32), np.tile(np.array([1, 2], np.uint8), 1000)
    beside = np.hstack([xyz, lost[0]]), np.concatenate([label, lost[1]])
    assert agreement(*beside, np.arange(len(beside[1])) * 100) == 1
    assert agreement(*lost, np.arange(2000) * 100) is None


def test_what_cannot_be_judged() -> None:
    xyz, label, rows = two_halves()
    assert agreement(xyz, label, rows) == 1
    assert agreement(xyz, np.ones_like(label), rows) is None, "one class"
    assert agreement(xyz[:, :0], label[:0], rows[:0]) is None, "no point"
    assert agreement(xyz[:, :400], label[:400], rows[:400]) is None, "one point in each cell"
    assert agreement(xyz, label, rows // 100) is None, "points of a cell are close in the file"
    assert not is_other_order(None)
    assert not is_other_order(1.0)
    assert is_other_order(0.0)


@pytest.mark.parametrize("name", ROOTS)
def test_real_labels_agree_and_in_another_order_they_do_not(shared: Path, name: str) -> None:
    listing = list_raw(shared / "real" / name)
    assert listing is not None
    n_judged = 0
    for scan in listing.scans:
        if scan.labels is None:
            continue
        points, label, _ = read_scan(
            scan.points, scan.labels, listing.info, panoptic_file=None, scan_id=scan.scan_id
        )
        assert label is not None
        raw = np.ascontiguousarray(points[:, :3].T)
        rows = split_volume(raw, grid=listing.info.grid).inside
        xyz, kept = raw.take(rows, axis=1), label[rows]
        agreed = agreement(xyz, kept, rows)
        if agreed is None:
            continue
        n_judged += 1
        assert agreed > 0.9, scan.scan_id
        mixed = np.random.default_rng(0).permutation(label)
        for other in (label[::-1], mixed):
            assert is_other_order(agreement(xyz, other[rows], rows)), scan.scan_id
    assert n_judged


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "raw"
    changes = {"sequences": ("00", "08"), "scans": 2, "interval_s": 2.0}
    generate(root, preset("small", **changes), Silent())
    return root


def test_check_and_prepare_say_that_labels_are_of_another_order(
    world: Path, tmp_path: Path
) -> None:
    def said() -> list[str]:
        found = [p for p in check_semkitti(world) if p.kind == "order of labels"]
        assert all(p.severity == "warning" for p in found)
        return [f"{p.file}: found {p.found}" for p in found]

    file = world / "sequences" / "00" / "labels" / "000000.label"
    right = file.read_bytes()
    assert said() == []
    try:
        file.write_bytes(np.frombuffer(right, "<u4")[::-1].tobytes())
        found = said()
        heard = Heard()
        prepare(list_semkitti(world), tmp_path / "cache", PrepareConfig(workers=0), progress=heard)
    finally:
        file.write_bytes(right)
    assert len(found) == 1
    assert found[0].startswith(f"{file}: found neighbouring points that rarely share a class")
    lines = [line for line in heard.lines if "rarely share a class" in line]
    assert len(lines) == 1
    assert found[0] in lines[0]
