"""What lies in a SemanticKITTI folder, by name only: no file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.common.files import other_than_folder
from pass2d.common.text import and_so_on
from pass2d.pipeline.problem import ProblemError

POINTS, LABELS, IMAGES = "velodyne", "labels", "image_2"
_SUFFIXES = {POINTS: (".bin",), LABELS: (".label",), IMAGES: (".png", ".jpg", ".jpeg")}
_SEQUENCE = re.compile(r"[0-9]{2}")
_MOST_DIGITS = 18
"""Of a frame number, which is stored in 64 bits."""
_LAYOUT = "sequences/NN/{velodyne/*.bin, labels/*.label, image_2/*.png, calib.txt}"


@dataclass(frozen=True, kw_only=True)
class SequenceFiles:
    """The files of one sequence, by frame number."""

    sequence: str
    folder: Path
    points: dict[int, Path]
    labels: dict[int, Path]
    images: dict[int, Path]
    folders: frozenset[str]
    """Those of velodyne, labels and image_2 that exist."""
    texts: frozenset[str]
    """Those of calib.txt, poses.txt and times.txt that exist."""
    passed_over: tuple[Path, ...] = ()
    """Files of frames that another file is taken for: 0.bin beside 000000.bin."""

    @property
    def poses(self) -> Path:
        """poses.txt, whether or not it exists."""
        return self.folder / "poses.txt"

    @property
    def times(self) -> Path:
        """times.txt, whether or not it exists."""
        return self.folder / "times.txt"

    @property
    def calib(self) -> Path:
        """calib.txt, whether or not it exists."""
        return self.folder / "calib.txt"


def find_sequences(root: Path, *, known: Container[str] = ()) -> dict[str, Path]:
    """Find the sequence folders below a data set's root.

    Args:
        root: the data set, its ``dataset/`` or its ``sequences/``.
        known: names of sequences that are not two digits.

    Returns:
        Folder of each sequence, in the order of their numbers; never empty.

    Raises:
        DataError: no such folder, a file, or no sequences in it: says what is there.
    """
    if other := other_than_folder(root):
        raise DataError(f"{root}: {other}. Expected a folder with {_LAYOUT}.")
    for folder in (root / "sequences", root / "dataset" / "sequences", root):
        names = _names(folder) if folder.is_dir() else ()
        found = {name: folder / name for name in sorted(names) if _is_sequence(name, known)}
        found = {name: path for name, path in found.items() if path.is_dir()}
        if found:
            return found
    raise DataError(f"{root}: {_nothing_found(root)} Expected a folder with {_LAYOUT}.")


def misnamed_sequences(found: Mapping[str, Path]) -> list[Path]:
    """Folders of scans beside the sequences that `find_sequences` found, of another name ("0")."""
    folder = next(iter(found.values())).parent
    return [
        folder / name
        for name in sorted(_names(folder))
        if name not in found and (folder / name / POINTS).is_dir()
    ]


def _is_sequence(name: str, known: Container[str]) -> bool:
    return _SEQUENCE.fullmatch(name) is not None or name in known


def locate_sequences(root: Path, *, known: Container[str] = ()) -> Path | None:
    """The folder of sequences that a root stands for, links resolved; None if it has no scans."""
    try:
        found = find_sequences(root, known=known)
    except (DataError, OSError):
        return None
    folder = next((path for path in found.values() if (path / POINTS).is_dir()), None)
    return None if folder is None else folder.parent.resolve()


def list_files(sequence: str, folder: Path) -> SequenceFiles:
    """List one sequence's files; files that are not frames are skipped."""
    names = set(_names(folder))
    found = {name: _frames(folder / name, suffixes) for name, suffixes in _SUFFIXES.items()}
    return SequenceFiles(
        sequence=sequence,
        folder=folder,
        points=found[POINTS][0],
        labels=found[LABELS][0],
        images=found[IMAGES][0],
        folders=frozenset(name for name in _SUFFIXES if (folder / name).is_dir()),
        texts=frozenset(names & {"calib.txt", "poses.txt", "times.txt"}),
        passed_over=tuple(file for _, others in found.values() for file in others),
    )


def frame_ranges(frames: Collection[int]) -> str:
    """Frame numbers as a person writes them, e.g. "000003, 000007-000009 (4 in all)"."""
    runs: list[tuple[int, int]] = []
    for frame in sorted(frames):
        if runs and frame == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], frame
        else:
            runs.append((frame, frame))
    return _runs_shown(runs, max_runs=3)


def gap_ranges(frames: Collection[int], *, max_runs: int = 3) -> str:
    """The numbers missing between the first and the last frame, as of `frame_ranges`; "" for none.

    The numbers may be time stamps, with billions of others between them.
    """
    runs = [(a + 1, b - 1) for a, b in pairwise(sorted(frames)) if b > a + 1]
    return _runs_shown(runs, max_runs=max_runs) if runs else ""


def _runs_shown(runs: Sequence[tuple[int, int]], *, max_runs: int) -> str:
    shown = [f"{a:06d}" if a == b else f"{a:06d}-{b:06d}" for a, b in runs]
    return f"{and_so_on(shown, max_runs)} ({sum(b - a + 1 for a, b in runs)} in all)"


def _frames(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[int, Path], list[Path]]:
    """Frame number to file, and files that are passed over.

    Of two files for one frame the first suffix in lower case wins.
    """
    if not folder.is_dir():
        return {}, []
    others: list[str] = []
    ranked: dict[int, tuple[tuple[int, bool, str], Path]] = {}
    for name in _names(folder):
        stem, dot, _ = name.rpartition(".")
        suffix = name[len(stem) :]
        if not dot or not (stem.isascii() and stem.isdigit()) or suffix.lower() not in suffixes:
            continue  # foreign: .DS_Store, ._000000.bin, Thumbs.db, 000000.bin.part
        if len(stem.lstrip("0")) > _MOST_DIGITS:
            raise ProblemError.of(
                file=folder / name,
                found=f"a frame number of {len(stem)} digits",
                expected=f"at most {_MOST_DIGITS}",
                remedy="Rename the files: 000000.bin, 000001.bin, ...",
            )
        rank = (suffixes.index(suffix.lower()), suffix != suffix.lower(), name)
        frame = int(stem)
        if frame not in ranked:
            ranked[frame] = (rank, folder / name)
        else:
            best, worse = sorted([ranked[frame], (rank, folder / name)])
            ranked[frame] = best
            others.append(worse[1].name)
    frames = {frame: ranked[frame][1] for frame in sorted(ranked)}
    return frames, [folder / name for name in sorted(others)]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  names only: 40,000 frames, no object for each
    except PermissionError as error:
        raise DataError(f"{folder}: no permission to read it. Change its permissions.") from error


def _nothing_found(root: Path) -> str:
    names = sorted(name for name in _names(root) if not name.startswith("."))
    if not names:
        return "the folder is empty."
    text = f"no sequence folders such as 00; it holds {and_so_on(names, 6)}."
    if POINTS in names:
        text += f" This looks like a single sequence: give {root.parent.parent} and its name."
    elif any(name.lower().endswith(".bin") for name in names):
        text += " These look like the scans of one sequence: give the data set's root."
    elif any(name.startswith("v1.0-") for name in names):
        text += " This looks like nuScenes: use 'prepare nuscenes'."
    return text
