"""What `--check` calls a fault `prepare` does not take in silence, and the other way round."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import CALIB, check_semkitti, how_prepare_ends, png, write_sequence

from pass2d.common.errors import Pass2DError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.problem import Problem

INLINE = PrepareConfig(workers=0)
N = 1500


def street(n: int = N) -> np.ndarray:
    """(n, 4) a flat road with walls, all around a sensor 1.7 m above it."""
    rng = np.random.default_rng(0)
    away, angle = rng.uniform(3, 40, n), rng.uniform(-np.pi, np.pi, n)
    z = np.where(rng.random(n) < 0.7, -1.7, rng.uniform(-1.7, 1, n))
    signal = rng.integers(0, 100, n) / 100
    return np.column_stack([away * np.cos(angle), away * np.sin(angle), z, signal]).astype("<f4")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for sequence in ("00", "08"):
        folder = write_sequence(tmp_path / "raw", sequence, frames=(0, 1), n=N)
        for file in (folder / "velodyne").iterdir():
            file.write_bytes(street().tobytes())
    return tmp_path / "raw"


def points(root: Path, frame: int = 0) -> Path:
    return root / "sequences" / "00" / "velodyne" / f"{frame:06d}.bin"


def labels(root: Path, frame: int = 0) -> Path:
    return root / "sequences" / "00" / "labels" / f"{frame:06d}.label"


def picture(root: Path, frame: int = 0) -> Path:
    return root / "sequences" / "00" / "image_2" / f"{frame:06d}.png"


def calib(root: Path) -> Path:
    return root / "sequences" / "00" / "calib.txt"


def scaled(root: Path, *factors: float) -> None:
    for file in (root / "sequences").glob("*/velodyne/*.bin"):
        values = np.fromfile(file, "<f4").reshape(-1, 4)
        file.write_bytes((values * np.array(factors, "<f4")).tobytes())


def all_labels(root: Path, raw: int) -> None:
    for file in (root / "sequences").glob("*/labels/*.label"):
        file.write_bytes(np.full(N, raw, "<u4").tobytes())


def no_calibration(root: Path) -> None:
    calib(root).unlink()


def move(root: Path, *by: float) -> None:
    for file in (root / "sequences").glob("*/velodyne/*.bin"):
        values = np.fromfile(file, "<f4").reshape(-1, 4)
        file.write_bytes((values + np.array(by, "<f4")).tobytes())


ERRORS: dict[str, Callable[[Path], object]] = {
    "truncated points": lambda root: points(root).write_bytes(points(root).read_bytes()[:-3]),
    "no points": lambda root: (points(root).write_bytes(b""), labels(root).write_bytes(b"")),
    "NaN": lambda root: points(root).write_bytes(np.full((N, 4), np.nan, "<f4").tobytes()),
    "millimetres": lambda root: scaled(root, 1000, 1000, 1000, 1),
    "a map": lambda root: move(root, 5e5, 5e6, 100, 0),
    "truncated labels": lambda root: labels(root).write_bytes(labels(root).read_bytes()[:-4]),
    "labels cut in a number": lambda root: labels(root).write_bytes(bytes(4 * N - 1)),
    "unknown label": lambda root: labels(root).write_bytes(np.full(N, 7, "<u4").tobytes()),
    "float labels": lambda root: labels(root).write_bytes(np.full(N, 40, "<f4").tobytes()),
    "int64 labels": lambda root: labels(root).write_bytes(np.full(N, 40, "<i8").tobytes()),
    "big-endian labels": lambda root: labels(root).write_bytes(np.full(N, 40, ">u4").tobytes()),
    "text labels": lambda root: labels(root).write_bytes(b"40\n" * N),
    "no picture in the file": lambda root: picture(root).write_bytes(b"x"),
    "no calibration": no_calibration,
    "empty calibration": lambda root: calib(root).write_text(""),
    "no P2": lambda root: calib(root).write_text(CALIB.replace("P2", "P4")),
    "NaN in P2": lambda root: calib(root).write_text(CALIB.replace("P2: 100", "P2: nan")),
    "zeros": lambda root: calib(root).write_text("P2:" + " 0" * 12 + "\nTr:" + " 0" * 12),
    "identity Tr": lambda root: calib(root).write_text(
        CALIB.replace("Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0", "Tr: 1 0 0 0 0 1 0 0 0 0 1 0")
    ),
    "Tr turned round": lambda root: calib(root).write_text(
        CALIB.replace("Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0", "Tr: 0 0 1 0 -1 0 0 0 0 -1 0 0")
    ),
    "identity P2": lambda root: calib(root).write_text(
        CALIB.replace("P2: 100 0 50 0 0 100 40 0", "P2: 1 0 0 0 0 1 0 0")
    ),
}
WARNINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "signal 0..255": (lambda root: scaled(root, 1, 1, 1, 255), "looks like 0..255"),
    "no signal": (lambda root: scaled(root, 1, 1, 1, 0), "0 everywhere"),
    "one picture of another size": (
        lambda root: picture(root, 1).write_bytes(png(96, 120)),
        "a picture of 120x96 pixels",
    ),
    "pictures of another size": (
        lambda root: [picture(root, i).write_bytes(png(160, 200)) for i in (0, 1)],
        "about 100x80, as the calibration's middle",
    ),
    "focal length of another width": (
        lambda root: calib(root).write_text(
            CALIB.replace("P2: 100 0 50 0 0 100", "P2: 700 0 50 0 0 700")
        ),
        "a focal length of 700 pixels",
    ),
}
NOTES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no labels of a scan": (lambda root: labels(root).unlink(), "000000"),
    "no picture of a scan": (lambda root: picture(root).unlink(), "000000"),
    "labels without scan": (lambda root: labels(root, 9).write_bytes(b""), "000009"),
    "two files of a frame": (
        lambda root: points(root).with_name("00000000.bin").write_bytes(b""),
        "00000000.bin",
    ),
    "no poses": (lambda root: (root / "sequences/00/poses.txt").unlink(), "poses.txt"),
    "a gap": (lambda root: points(root, 1).rename(points(root, 5)), "000001"),
    "a sequence without scans": (
        lambda root: write_sequence(root, "01", (), labels=False, images=False, texts=False),
        "01",
    ),
    "a foreign sequence": (lambda root: write_sequence(root, "77", (0,)), "sequence 77"),
    "a damaged calibration that nobody needs": (
        lambda root: (
            [file.unlink() for file in picture(root).parent.iterdir()],
            calib(root).with_name("poses.txt").unlink(),
            calib(root).write_text("P2: 1"),
        ),
        "calib.txt",
    ),
}


def checked(root: Path) -> list[Problem]:
    return check_semkitti(root, progress=Silent())


prepared = partial(how_prepare_ends, list_semkitti)


def test_whole_data_raise_no_alarm(root: Path) -> None:
    assert {problem.severity for problem in checked(root)} == {"note"}
    code, said = prepared(root)
    assert code == 0
    assert not [line for line in said if "warning" in line]


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_an_error_of_one_fails_the_other(root: Path, name: str) -> None:
    ERRORS[name](root)
    found = [problem for problem in checked(root) if problem.severity == "error"]
    assert found
    code, said = prepared(root)
    assert code == 1
    for problem in found:
        assert any(problem.found in line for line in said), (problem, said)


@pytest.mark.parametrize("name", WARNINGS)
def test_what_one_warns_of_the_other_says_once(root: Path, name: str) -> None:
    damage, words = WARNINGS[name]
    damage(root)
    problems = checked(root)
    assert not [problem for problem in problems if problem.severity == "error"]
    warnings = [problem for problem in problems if problem.severity == "warning"]
    assert any(words in str(problem) for problem in warnings), problems
    code, said = prepared(root)
    assert code == 0
    lines = [line for line in said if line.startswith("warning: ")]
    assert sum(words in line for line in lines) == 1
    assert len(lines) == len({problem.kind for problem in warnings})


@pytest.mark.parametrize("raw_id", [0, 1])
def test_what_only_training_refuses_fails_the_check_and_is_a_warning_of_prepare(
    root: Path, raw_id: int
) -> None:
    """Labels without a class, and of outliers: a network may still label such scans."""
    all_labels(root, raw_id)
    words = "none of 3,000 labelled points"
    found = [problem for problem in checked(root) if problem.severity == "error"]
    assert [words in str(problem) for problem in found] == [True, True]  # train, val
    code, said = prepared(root)
    assert code == 0
    assert sum(line.startswith("warning: ") and words in line for line in said) == 2


@pytest.mark.parametrize("name", NOTES)
def test_what_one_notes_the_other_says(root: Path, name: str) -> None:
    damage, words = NOTES[name]
    damage(root)
    problems = checked(root)
    assert {problem.severity for problem in problems} == {"note"}
    assert any(words in str(problem) for problem in problems)
    code, said = prepared(root)
    assert code == 0
    assert any(words in line for line in said), said


def test_every_damaged_calibration_is_named_by_both(root: Path) -> None:
    for sequence in ("00", "08"):
        (root / "sequences" / sequence / "calib.txt").write_text("P2: nothing")
    assert len([p for p in checked(root) if p.severity == "error"]) == 2
    code, said = prepared(root)
    assert code == 1
    for sequence in ("00", "08"):
        assert any(f"sequences/{sequence}/calib.txt" in line for line in said)


@pytest.mark.parametrize("closed", ["", "velodyne", "labels", "image_2"])
def test_a_folder_that_cannot_be_read_is_named_by_both_and_the_others_are_done(
    root: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    close(root / "sequences" / "00" / closed, monkeypatch)
    (found,) = [problem for problem in checked(root) if problem.severity == "error"]
    assert (found.file, found.found) == (root / "sequences" / "00" / closed, "permission denied")
    summary = prepare(list_semkitti(root), root.parent / "out", INLINE, Silent())
    assert [(f.scan_id, f.reason) for f in summary.failed] == [("00", str(found))]
    assert summary.scans == 2
    assert prepared(root)[0] == 1


def test_no_folder_that_can_be_read_is_one_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(root / "sequences" / "00", monkeypatch)
    with pytest.raises(Pass2DError, match="sequences/00: found permission denied"):
        list_semkitti(root, sequences=["00"])


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.listdir

    def listdir(path: Path) -> list[str]:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
