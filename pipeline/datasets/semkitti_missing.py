"""What a SemanticKITTI sequence lacks: one line per fact, or file by file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pass2d.common.text import and_so_on
from pass2d.pipeline.datasets.semkitti_files import (
    IMAGES,
    LABELS,
    POINTS,
    SequenceFiles,
    frame_ranges,
    gap_ranges,
)
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.problem import Problem

_TEXTS = ("calib.txt", "poses.txt", "times.txt")
_MOST_GAPS = 100


def missing_facts(files: SequenceFiles) -> list[str]:
    """What a sequence lacks although it may, e.g. "no image_2"; empty when nothing."""
    points = set(files.points)
    if not points:
        return [f"no {POINTS}: left out"]
    facts = [f"no {name}" for name, frames in _frames_of(files) if not frames]
    # Pictures that need calib.txt are listed as failed without it.
    needed = {"calib.txt"} if files.images else set()
    facts += [f"no {name}" for name in _TEXTS if name not in files.texts and name not in needed]
    for folder, frames in _frames_of(files):
        if frames and points - frames.keys():
            facts.append(f"scans without {folder}: {frame_ranges(points - frames.keys())}")
        if frames.keys() - points:
            facts.append(f"{folder} without scan: {frame_ranges(frames.keys() - points)}")
    if files.passed_over:
        names = and_so_on((file.name for file in files.passed_over), 3)
        facts.append(f"second files for a frame, left out: {names}")
    if gaps := gap_ranges(points):
        facts.append(f"gaps in the frame numbers: {gaps}")
    return facts


def merge_facts(facts: Iterable[tuple[str, str]]) -> list[str]:
    """One line per fact, naming all sequences that share it."""
    by_fact: dict[str, list[str]] = {}
    for sequence, fact in facts:
        by_fact.setdefault(fact, []).append(sequence)
    return [
        f"sequence{'s' if len(names) > 1 else ''} {', '.join(names)}: {fact}"
        for fact, names in by_fact.items()
    ]


def missing_problems(files: SequenceFiles, table: DatasetTable, *, is_asked: bool) -> list[Problem]:
    """Name every file that a sequence lacks and every one that belongs to no scan.

    Args:
        files: of the sequence.
        table: knows how many scans the whole sequence has.
        is_asked: whether it was requested by name: then it must have scans.

    Returns:
        Notes, as all of it occurs in real data, but for pictures without a calib.txt.
    """
    if not files.points:
        problem = Problem(
            file=files.folder / POINTS,
            found="no NNNNNN.bin" if POINTS in files.folders else "nothing",
            expected="scans",
            remedy="The sequence is left out.",
            severity="error" if is_asked else "note",
        )
        return [problem]
    problems = [*_missing_folders(files), *_unpaired(files)]
    problems += [
        _note(file, "a second file for its frame", "one file for each frame", _SECOND)
        for file in files.passed_over
    ]
    n_scans = len(files.points)
    if gaps := gap_ranges(files.points, max_runs=_MOST_GAPS):
        found = f"no scans {gaps}"
        problems.append(_note(files.folder / POINTS, found, "frame numbers without gaps", _GAPS))
    published_scans = table.scan_counts.get(files.sequence)
    if published_scans is not None and published_scans != n_scans:
        expected = f"{published_scans}, as in the whole of {table.info.facts.title}"
        problems.append(
            _note(
                files.folder / POINTS,
                f"{n_scans} scan{'s' if n_scans > 1 else ''}",
                expected,
                _PART,
            )
        )
    return problems


def _frames_of(files: SequenceFiles) -> tuple[tuple[str, dict[int, Path]], ...]:
    return (LABELS, files.labels), (IMAGES, files.images)


def _missing_folders(files: SequenceFiles) -> list[Problem]:
    missing = [name for name, frames in _frames_of(files) if not frames]
    missing += [name for name in _TEXTS if name not in files.texts]
    return [
        Problem(
            file=files.folder / name,
            found="no files" if name in files.folders else "nothing",
            expected=_USE[name],
            remedy=(
                "Prepare leaves the pictures out without it."
                if name == "calib.txt" and files.images
                else "Prepare works without it."
            ),
            severity="error" if name == "calib.txt" and files.images else "note",
        )
        for name in missing
    ]


def _unpaired(files: SequenceFiles) -> list[Problem]:
    problems = []
    for folder, frames in _frames_of(files):
        suffix = "label" if folder == LABELS else "png"
        lacking = [frame for frame in files.points if frames and frame not in frames]
        for frame in lacking:
            file = files.folder / folder / f"{frame:06d}.{suffix}"
            problems.append(_note(file, "nothing", f"one for {files.points[frame]}", _WITHOUT))
        for frame in sorted(frames.keys() - files.points.keys()):
            expected = f"a scan {files.folder / POINTS / f'{frame:06d}.bin'}"
            problems.append(_note(frames[frame], "no scan for it", expected, _ORPHAN))
    return problems


_USE = {
    LABELS: "labels, for training and evaluation",
    IMAGES: "pictures, for training with the 2D branch",
    "calib.txt": "P2 and Tr, which project points onto pictures",
    "poses.txt": "poses of the vehicle, to join several scans",
    "times.txt": "time stamps",
}
_GAPS = "Allowed; the scans keep their numbers."
_PART = "Allowed; a part of the data set can be prepared."
_WITHOUT = "Allowed; the scan is prepared without it. Download it if it should be there."
_SECOND = "Allowed; it is left out. Remove it, or the other one."
_ORPHAN = "Allowed; it is left out. Download the scan if it should be there."


def _note(file: Path, found: str, expected: str, remedy: str) -> Problem:
    return Problem(file=file, found=found, expected=expected, remedy=remedy, severity="note")
