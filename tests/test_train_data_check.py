"""Caches that nothing can be learnt from are refused; other data than expected is said once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pass2d.cache.clouds.likeness import of_dataset, of_statistics
from pass2d.cache.clouds.statistics import scan_statistics
from pass2d.cache.reader import CacheReader
from pass2d.cache.statistics import lacks_classes
from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.synth.config import preset
from pass2d.synth.frame import render_frame
from pass2d.train.data.check import require_usable, say_differences


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    """A scan of the generated world, (N, 4)."""
    return render_frame(preset("small", scans=2), "00", 0).scan.points


def cached(folder: Path, points: np.ndarray, raw_label: int = 40) -> CacheReader:
    for name in ("velodyne", "labels"):
        (folder / "raw" / "sequences" / "08" / name).mkdir(parents=True)
    sequence = folder / "raw" / "sequences" / "08"
    for frame in range(6):
        points.astype("<f4").tofile(sequence / "velodyne" / f"{frame:06d}.bin")
        labels = np.full(len(points), raw_label, "<u4")
        labels.tofile(sequence / "labels" / f"{frame:06d}.label")
    listing = list_semkitti(folder / "raw")
    prepare(listing, folder / "cache" / "semkitti", PrepareConfig(workers=0), Silent())
    return CacheReader.open(folder / "cache")


def said(reader: CacheReader, expected) -> list[str]:
    lines: list[str] = []
    say_differences(reader, np.arange(6), expected, lines.append)
    return lines


def test_usual_data_is_taken_without_a_word(tmp_path: Path, street: np.ndarray) -> None:
    with cached(tmp_path, street) as reader:
        require_usable(reader, np.arange(6), split="val")
        assert said(reader, of_dataset(reader.info)) == []
        assert said(reader, of_statistics(scan_statistics([street.T]), reader.info)) == []


@pytest.mark.parametrize("raw_label", [0, 1, 99])
def test_a_split_without_classes_is_refused(
    tmp_path: Path, street: np.ndarray, raw_label: int
) -> None:
    said = r"split val: none of .* labelled points has a class"
    with cached(tmp_path, street, raw_label) as reader, pytest.raises(ConfigError, match=said):
        require_usable(reader, np.arange(6), split="val")


def test_a_cache_of_which_nothing_lies_in_the_volume_is_refused(
    tmp_path: Path, street: np.ndarray
) -> None:
    """An old one: today such scans are not prepared."""
    with cached(tmp_path, street) as reader:
        reader.scans = replace(reader.scans, n=np.zeros(6, np.int64))
        with pytest.raises(ConfigError, match="none lies in the volume"):
            require_usable(reader, np.arange(6), split="val")


def test_another_scale_of_the_signal_is_said_once(tmp_path: Path, street: np.ndarray) -> None:
    with cached(tmp_path, street * np.array([1, 1, 1, 255], "f4")) as reader:
        for expected in (
            of_dataset(reader.info),
            of_statistics(scan_statistics([street.T]), reader.info),
            of_statistics(None, reader.info),
        ):
            (line,) = said(reader, expected)
            assert line.startswith("warning: scan 08/000000: the signal looks like 0..255, the ")
            assert line.endswith("multiply the signal by 0.00392")


def test_scans_of_another_height_are_said_to_a_network_and_not_to_a_data_set(
    tmp_path: Path, street: np.ndarray
) -> None:
    card = scan_statistics([street.T])
    with cached(tmp_path, street + np.array([0, 0, 1.5, 0], "f4")) as reader:
        assert said(reader, of_dataset(reader.info)) == []
        (line,) = said(reader, of_statistics(card, reader.info))
        assert "the ground lies at z = " in line
        assert "add -1." in line


def test_few_classes_are_told_from_none() -> None:
    assert lacks_classes([10_000, 0, 0]) == (
        "none of 10,000 labelled points has a class: all others are ignored ones"
    )
    assert lacks_classes([100_000, 5, 0]) is not None
    assert lacks_classes([100_000, 50, 0]) is None  # as sets for weak supervision
    assert lacks_classes([0, 5, 0]) is None
    assert lacks_classes([0, 0, 0]) is None
