"""Which files a prediction reads and writes, and how."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from train.points.binary import read_binary
from train.points.columns import from_matrix
from train.points.mapping import InputMapping
from train.points.registry import READERS, read_columns

SUFFIXES = (".bin", *READERS)
"""What can be read, in lower case."""
LONG_SUFFIX = ".pcd.bin"
"""Of nuScenes."""


@dataclass(frozen=True, kw_only=True)
class ScanFile:
    """One file to label."""

    points: Path
    name: str
    """Path below the input folder without suffix: "08/velodyne/000123"."""
    labels: Path
    """The ``.label`` file to write."""
    above_png: Path
    range_png: Path


def find_scans(inputs: Path, out: Path) -> list[ScanFile]:
    """List the point files of a file or folder (with its sub-folders; links are followed).

    Args:
        inputs: One file of a known format, or a folder. Hidden files are left out.
        out: Folder of the results; they lie in it as the inputs lie in theirs.

    Returns:
        In the order of names.

    Raises:
        DataError: Nothing there, no point file, or two that would write the same result.
    """
    if inputs.is_file():
        if not inputs.name.lower().endswith(SUFFIXES):
            raise DataError(f"{inputs}: a file of points is expected: {', '.join(SUFFIXES)}")
        return [_scan_file(inputs, Path(_stem(inputs.name)), out)]
    if not inputs.is_dir():
        raise DataError(f"{inputs}: no such file or folder")
    found, others = _walk(inputs)
    if not found:
        seen = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(4)) or "nothing"
        raise DataError(
            f"{inputs}: no file of points ({', '.join(SUFFIXES)}) in this folder or below it; "
            f"found: {seen}"
        )
    scans = [
        _scan_file(path, path.relative_to(inputs).parent / _stem(path.name), out) for path in found
    ]
    _require_different_results(scans)
    return scans


def make_folder(out: Path) -> None:
    """Make the folder of the results, before any work is done for them.

    Raises:
        DataError: A file is in the way, or its place is not writable.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{out}: no results can be written there: {error.strerror}. Choose another --out."
        ) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise DataError(f"{out}: no results can be written there: no permission.")


def require_free(scans: list[ScanFile], *, with_png: bool) -> None:
    """Refuse to overwrite anything.

    Raises:
        DataError: Naming the first result that is already there.
    """
    taken = [
        path
        for scan in scans
        for path in (scan.labels, *((scan.above_png, scan.range_png) if with_png else ()))
        if path.exists()
    ]
    if taken:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise DataError(
            f"{taken[0]}{more} is already there. Choose another --out, or allow --overwrite."
        )


def read_points(
    path: Path, mapping: InputMapping, *, columns: int | None, usual: int
) -> tuple[NDArray[np.float32], list[str]]:
    """Read a file of points and bring them into the network's frame and units.

    Args:
        path: Of a known format.
        mapping: Which column is which, units, place, rotation.
        columns: Numbers per point of a ``.bin`` file; None: found out.
        usual: Those of the checkpoint's data set.

    Returns:
        (N, 4) x, y, z in metres, signal, in the order of the file; and what a person should know.

    Raises:
        ConfigError: The package that reads the format is not installed.
        DataError: Missing, not readable, truncated, or a column is missing.
    """
    notes: list[str] = []
    if path.suffix.lower() == ".bin":
        points, note = read_binary(path, columns=columns, usual=usual)
        notes += [note] if note else []
        found = from_matrix(path, points)
    else:
        found = read_columns(path)
    if not mapping.has_signal(found):
        notes.append(
            f"{path}: no column of the signal among {', '.join(found.names)}: taken as 0. "
            "Name it: --map signal=NAME"
        )
    return mapping.apply(found, where=str(path)), notes


def write_labels(path: Path, raw_ids: NDArray[np.uint32]) -> None:
    """Write a ``.label`` file aside and rename it.

    Args:
        path: Its folder is made if needed.
        raw_ids: (N,) one per point of the raw file.

    Raises:
        DataError: The disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(raw_ids.astype("<u4").tobytes())
        aside.replace(path)
    except OSError as error:
        if aside.parent.is_dir():
            aside.unlink(missing_ok=True)
        raise DataError(
            f"{path}: the labels could not be written: {error.strerror or error}. "
            "Is the disk full, or the folder not writable?"
        ) from error


def _walk(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Point files below a folder, and what else there is by suffix."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: not readable: {error.strerror}") from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        for name in sorted(files):
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                found.append(Path(place) / name)
            else:
                others[Path(name).suffix or "without suffix"] += 1
    return found, others


def _stem(name: str) -> str:
    for suffix in (LONG_SUFFIX, *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _scan_file(path: Path, stem: Path, out: Path) -> ScanFile:
    target = out / stem
    return ScanFile(
        points=path,
        name=stem.as_posix(),
        labels=target.with_name(f"{target.name}.label"),
        above_png=target.with_name(f"{target.name}_above.png"),
        range_png=target.with_name(f"{target.name}_range.png"),
    )


def _require_different_results(scans: list[ScanFile]) -> None:
    first: dict[Path, ScanFile] = {}
    for scan in scans:
        other = first.setdefault(scan.labels, scan)
        if other is not scan:
            raise DataError(
                f"{scan.points} and {other.points} would both be written to {scan.labels}. "
                "Rename one, or label them one by one."
            )
