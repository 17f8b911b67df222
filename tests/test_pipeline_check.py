"""`--check` names every problem of a folder and touches nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline_files import CALIB, check_semkitti, png, write_sequence

from pass2d.common.errors import DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.check import check_scan
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.stages import raw_file


class Counting(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total, self.done, self.n_bytes = 0, 0, 0

    def start(self, title: str, *, total: int, unit: str) -> None:
        self.total += total

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        self.done += count
        self.n_bytes += nbytes


def check(root: Path, **options) -> list[Problem]:
    return check_semkitti(root, progress=Silent(), **options)


def errors(root: Path, **options) -> list[Problem]:
    return [p for p in check(root, **options) if p.severity == "error"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sequence(tmp_path, "00", frames=tuple(range(12)))
    write_sequence(tmp_path, "08")
    return tmp_path


def test_whole_data_has_no_errors(root: Path) -> None:
    assert errors(root) == []


def test_every_damaged_file_is_named(root: Path) -> None:
    folder = root / "sequences" / "00"
    points = [folder / "velodyne" / f"{i:06d}.bin" for i in range(12)]
    labels = [folder / "labels" / f"{i:06d}.label" for i in range(12)]
    images = [folder / "image_2" / f"{i:06d}.png" for i in range(12)]
    points[0].write_bytes(points[0].read_bytes()[:-3])
    points[1].write_bytes(points[1].read_bytes()[:-16])  # whole points, but one too few
    labels[2].write_bytes(labels[2].read_bytes()[:-4])
    labels[3].write_bytes(labels[3].read_bytes()[:-1])
    labels[4].write_bytes(np.full(50, 2, np.uint32).tobytes())
    images[5].write_bytes(images[5].read_bytes()[:1000])
    images[6].write_bytes(b"")
    images[7].write_bytes(png(90, 100))
    bad = np.frombuffer(points[8].read_bytes(), np.float32).copy()
    bad[[5, 9]] = np.nan, np.inf
    points[8].write_bytes(bad.tobytes())
    points[9].write_bytes(b"")
    labels[9].write_bytes(b"")
    points[10].unlink()
    points[10].symlink_to(root / "nowhere")
    (root / "sequences" / "08" / "calib.txt").write_text(CALIB.replace("P2", "P4"))
    found = {p.file: p for p in check(root) if p.severity != "note"}
    assert {file for file, p in found.items() if p.severity == "warning"} == {images[7]}
    assert found.keys() == {
        points[0],
        labels[1],
        labels[2],
        labels[3],
        labels[4],
        images[5],
        images[6],
        images[7],
        points[8],
        points[9],
        points[10],
        root / "sequences" / "08" / "calib.txt",
    }
    assert found[points[0]].found == "797 bytes"
    assert found[labels[1]].found == "50 labels"
    assert found[labels[1]].expected == f"49, one per point of {points[1]}"
    assert found[labels[2]].expected == f"50, one per point of {points[2]}"
    assert found[labels[4]].found == "raw label 2 (50 points)"
    assert found[images[7]].found == "a picture of 100x90 pixels"
    assert found[images[7]].expected.startswith("100x80")
    assert found[points[8]].found == "2 of 50 points with NaN or infinity, first 1"
    assert found[points[9]].found == "an empty file"
    assert found[points[10]].found == "no such file or directory"


def test_all_problems_of_one_scan_are_named(root: Path) -> None:
    folder = root / "sequences" / "08"
    (folder / "velodyne" / "000001.bin").write_bytes(np.full((3, 4), np.nan, "<f4").tobytes())
    (folder / "labels" / "000001.label").write_bytes(np.full(2, 7, "<u4").tobytes())
    (folder / "image_2" / "000001.png").write_bytes(b"x")
    listing = list_semkitti(root, sequences=["08"])
    found = [problem.found for problem in check_scan(listing.scans[1], listing.info).problems]
    assert found[:3] == [
        "3 of 3 points with NaN or infinity, first 0",
        "2 labels",
        "raw label 7 (2 points)",
    ]
    assert found[3].startswith("1 bytes that do not decode")


def test_what_is_legal_is_a_note(root: Path, tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, "01", frames=(0, 4), images=False, texts=False)
    (folder / "labels" / "000004.label").unlink()
    (folder / "labels" / "000002.label").write_bytes(b"")
    write_sequence(tmp_path, "02", frames=(), images=False, labels=False, texts=False)
    found = check(root)
    problems = [p for p in found if p.file.relative_to(root).parts[1:2] in (("01",), ("02",))]
    assert {p.severity for p in problems} == {"note"}
    assert {p.file.relative_to(root / "sequences").as_posix() for p in problems} == {
        "01/image_2",
        "01/calib.txt",
        "01/poses.txt",
        "01/times.txt",
        "01/labels/000004.label",
        "01/labels/000002.label",
        "01/velodyne",
        "02/velodyne",
    }
    gaps = [p.found for p in problems if "no scans" in p.found]
    assert gaps == ["no scans 000001-000003 (3 in all)"]


def test_a_sequence_without_scans_is_an_error_when_asked_for(root: Path) -> None:
    shutil.rmtree(root / "sequences" / "08" / "velodyne")
    assert errors(root) == []
    found = errors(root, sequences=["00", "08"])
    assert [p.file for p in found] == [root / "sequences" / "08" / "velodyne"]
    with pytest.raises(DataError, match="no scans in"):
        check(root, sequences=["08"])


def test_pictures_of_twelve_bits_in_sixteen_are_a_warning(root: Path) -> None:
    file = next(iter((root / "sequences" / "00" / "image_2").iterdir()))
    with Image.open(file) as image:
        grey = np.asarray(image.convert("L")).astype(np.uint16) << 4
    Image.fromarray(grey).save(file)
    (dark,) = [problem for problem in check(root) if problem.kind.startswith("dark")]
    assert (dark.file, dark.severity) == (file, "warning")
    assert "nearly black: no value above" in dark.found
    assert "12 or 14 bits" in dark.remedy


def test_a_wrong_folder_is_refused_as_in_a_listing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty"):
        check(tmp_path)


def test_pictures_that_lack_their_calibration_are_an_error(root: Path) -> None:
    (root / "sequences" / "08" / "calib.txt").unlink()
    assert [p.file for p in errors(root)] == [root / "sequences" / "08" / "calib.txt"]


def test_progress_tells_scans_and_bytes(root: Path) -> None:
    progress = Counting()
    check_semkitti(root, progress=progress)
    assert (progress.total, progress.done) == (15, 15)
    folders = [root / "sequences" / s / f for s in ("00", "08") for f in ("velodyne", "labels")]
    folders += [root / "sequences" / s / "image_2" for s in ("00", "08")]
    assert progress.n_bytes == sum(f.stat().st_size for d in folders for f in d.iterdir())


def test_limit_and_splits_bound_what_is_read(root: Path) -> None:
    (root / "sequences" / "08" / "velodyne" / "000002.bin").write_bytes(b"x")
    assert errors(root, splits=("train",)) == []
    assert errors(root, limit=2) == []
    assert len(errors(root, limit=6)) == 1


def test_nothing_is_written(root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    check(root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["semantickitti", "pandaset_as_semantickitti", "kitti_object_as_odometry"]
)
def test_real_data_has_no_errors(shared: Path, name: str) -> None:
    assert errors(shared / "real" / name) == []


def test_the_remedy_fits_the_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "sequences" / "08" / "calib.txt").unlink()
    locked = root / "sequences" / "00" / "velodyne" / "000000.bin"
    read_bytes = raw_file.read_whole

    def refuse(file: Path) -> bytes:
        if file == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return read_bytes(file)

    monkeypatch.setattr(raw_file, "read_whole", refuse)
    found = {problem.file: problem for problem in errors(root)}
    assert found[locked].remedy == "Change its permissions."
    calib = root / "sequences" / "08" / "calib.txt"
    assert found[calib].remedy.startswith("Prepare leaves the pictures out without it.")


def test_a_folder_that_cannot_be_read_is_a_problem_and_the_others_are_checked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = root / "sequences" / "00" / "labels"
    (root / "sequences" / "08" / "velodyne" / "000001.bin").write_bytes(b"123")
    real = os.listdir

    def listdir(folder: Path) -> list[str]:
        if Path(folder) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(closed))
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    found = {p.file: p.found for p in errors(root)}
    assert found == {
        closed: "permission denied",
        root / "sequences" / "08" / "velodyne" / "000001.bin": "3 bytes",
    }
    assert [p.file for p in errors(root, sequences=["00"])] == [closed]


def test_a_calibration_on_a_failing_disk_is_a_problem(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calib, real = root / "sequences" / "00" / "calib.txt", raw_file.read_whole

    def read_bytes(path: Path) -> bytes:
        if path == calib:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(raw_file, "read_whole", read_bytes)
    assert [(p.file, p.found) for p in errors(root)] == [(calib, "input/output error")]
