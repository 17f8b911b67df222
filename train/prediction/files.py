"""Which files a prediction reads and writes, and how."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.common.files import NO_PERMISSION
from pass2d.points.bags.bag import STORAGES
from pass2d.points.packed import PACKED
from pass2d.points.registry import TEXTS, point_suffix
from pass2d.points.scan_file import FORMAT_WORDS, SUFFIXES

LONG_SUFFIX = ".pcd.bin"
"""Of nuScenes."""
_NO_SCANS = re.compile(
    r"(.*_)?(calib(ration)?|poses?|timestamps?)(_.*)?|times|imu|gps|gnss|oxts|labels|classes|readme|"
    r"license|train|val|validation|test|splits?"
)
"""Names, without suffix and in lower case, of texts found among scans."""


@dataclass(frozen=True, kw_only=True)
class ScanFile:
    """One file to label."""

    points: Path
    name: str
    """Path below the input folder without suffix: "08/velodyne/000123"."""
    target: Path
    """Path of the results, without suffix."""

    def result(self, suffix: str) -> Path:
        """The result of a suffix such as ".label"."""
        return self.target.with_name(f"{self.target.name}{suffix}")


def find_scans(
    inputs: Path,
    out: Path,
    *,
    say: Callable[[str], None],
    on_closed: Callable[[Path, str], None] | None = None,
) -> list[ScanFile]:
    """List the point files of a file or folder (including sub-folders; links are followed).

    Text files are ignored where there are scans of another format; where all files are text, those
    named like calibrations, poses, times or lists are.

    Args:
        inputs: One file of a known format, or a folder. Hidden files are left out.
        out: Folder of the results, which keep the inputs' relative paths. If it is below
            ``inputs``, it is not searched.
        say: Receives the texts that are left out.
        on_closed: Receives every sub-folder, pipe or socket that cannot be read, with the reason;
            by default the first one is an error.

    Returns:
        In the order of names.

    Raises:
        DataError: Nothing there, no point file, a folder that cannot be read, or two files that
            would write the same result.
    """
    if inputs.is_file():
        if not inputs.name.lower().endswith(SUFFIXES):
            raise DataError(f"{inputs}: a file of points is expected: {FORMAT_WORDS}")
        return [_scan_file(inputs, Path(_stem(inputs.name)), out)]
    if not inputs.is_dir():
        raise DataError(f"{inputs}: no such file or folder")
    found, others, closed = _walk(inputs, leave_out=out)
    if closed and (on_closed is None or not found):
        raise DataError(closed[0][1])
    for place, reason in closed:
        assert on_closed is not None
        on_closed(place, reason)
    if not found:
        seen = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(4)) or "nothing"
        has_bags = any(suffix.lower() in STORAGES for suffix in others)
        hint = ". A ROS recording is given by its own path" if has_bags else ""
        raise DataError(
            f"{inputs}: no file of points ({FORMAT_WORDS}) in this folder or below it; "
            f"found: {seen}{hint}"
        )
    scans = [
        _scan_file(path, path.relative_to(inputs).parent / _stem(path.name), out)
        for path in _without_other_texts(found, say)
    ]
    _require_different_results(scans)
    return scans


def scan_of_line(line: str, *, out: Path, base: Path) -> ScanFile:
    """One file of a stream of paths.

    Args:
        line: A path, relative to ``base`` or absolute.
        out: Folder of the results: a path below ``base`` keeps its relative folders, any other its
            absolute ones.
        base: The current folder.

    Raises:
        DataError: No file of points is there.
    """
    path = Path(os.path.normpath(base / line))
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # too long a name, a zero byte
        shown = ascii(line[:60])
        raise DataError(
            f"{shown}: not the path of a file: {' '.join(str(error).split()[:6])}"
        ) from error
    if is_folder:
        raise DataError(f"{line}: a folder; one file per line is expected")
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{line}: a file of points is expected: {FORMAT_WORDS}")
    if not is_file:
        raise DataError(f"{line}: no such file")
    below = path.relative_to(base if path.is_relative_to(base) else path.anchor)
    return _scan_file(path, below.parent / _stem(path.name), out)


def refuse_input_as_result(scans: Iterable[ScanFile], suffixes: Sequence[str]) -> None:
    """Refuse results that would replace a point file, or be read as one next time.

    Raises:
        DataError: Naming the first.
    """
    for scan in scans:
        for suffix in suffixes:
            if suffix.endswith(SUFFIXES) and scan.target.parent == scan.points.parent:
                raise DataError(
                    f"{scan.result(suffix)}: a result among the point files would be taken for "
                    "one of them. Choose another `out`."
                )


def _walk(
    folder: Path, *, leave_out: Path
) -> tuple[list[Path], Counter[str], list[tuple[Path, str]]]:
    """Point files below a folder, what else there is by suffix, and what cannot be read."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    closed: list[tuple[Path, str]] = []
    visited: set[str] = set()
    if os.path.realpath(leave_out) != os.path.realpath(folder):
        visited.add(os.path.realpath(leave_out))

    def fail(error: OSError) -> None:
        is_refused = isinstance(error, PermissionError)
        why = f"{NO_PERMISSION}." if is_refused else f"not readable: {error.strerror}"
        reason = f"{error.filename}: {why}"
        closed.append((Path(error.filename), reason))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        if not folders and not files and Path(place).name.lower().endswith(SUFFIXES):
            closed.append((Path(place), f"{place}: an empty folder, not a file of points"))
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(place) / name
            if not name.lower().endswith(SUFFIXES):
                others[Path(name).suffix or "without suffix"] += 1
            elif path.is_file() or not path.exists():
                found.append(path)  # also a link that leads nowhere: it will be named
            else:
                what = "pipe" if path.is_fifo() else "socket" if path.is_socket() else "device"
                closed.append((path, f"{path}: a {what}, not a file of points"))
    return found, others, closed


def _without_other_texts(paths: list[Path], say: Callable[[str], None]) -> list[Path]:
    """The files that are scans, by what lies beside them."""
    texts = [path for path in paths if point_suffix(path.name) in TEXTS]
    if len(texts) == len(paths):
        texts = [path for path in texts if _NO_SCANS.fullmatch(_stem(path.name).lower())]
    if not texts or len(texts) == len(paths):
        return paths
    few = ", ".join(str(path) for path in texts[:3])
    more = ", ..." if len(texts) > 3 else ""
    noun = "text file" if len(texts) == 1 else "text files"
    say(f"ignoring {len(texts)} {noun} among the scans: {few}{more}")
    left_out = set(texts)
    return [path for path in paths if path not in left_out]


def _stem(name: str) -> str:
    for suffix in (LONG_SUFFIX, f"{LONG_SUFFIX}{PACKED}", *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _scan_file(path: Path, stem: Path, out: Path) -> ScanFile:
    return ScanFile(points=path, name=stem.as_posix(), target=out / stem)


def _require_different_results(scans: list[ScanFile]) -> None:
    first: dict[Path, ScanFile] = {}
    for scan in scans:
        other = first.setdefault(scan.target, scan)
        if other is not scan:
            raise DataError(
                f"{scan.points} and {other.points} would both be written to {scan.target}.*. "
                "Rename one, or label them one by one."
            )
