"""Whether the prepared scans are all the raw scans there are, with as many points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.layout import FAILED_FILE
from pass2d.cache.reader import CacheReader
from pass2d.cache.rows import SourceFile
from pass2d.cache.source_state import SourceState, change_words, source_state
from pass2d.common.errors import DataError
from pass2d.common.files import read_whole
from pass2d.common.json import parse


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """The result of checking the raw files."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_sources(reader: CacheReader, positions: Sequence[int]) -> SourceCheck:
    """Compare the manifest with the raw point files.

    Only files whose time differs from the recorded one are read.

    Args:
        reader: An open cache.
        positions: Scans of the split, in table order.

    Raises:
        DataError: A file of points has changed since it was prepared.
    """
    problems, gone = _failed(reader, positions), 0
    by_folder: dict[Path, set[str]] = defaultdict(set)
    states: dict[SourceFile, SourceState] = {}  # scans share their sweeps
    for position in positions:
        files = [s for s in reader.sources(position) if s.role.startswith(("points", "sweep"))]
        for file in files:
            if file not in states:
                states[file] = source_state(file, hash_contents=True)
        points = next((file for file in files if file.role == "points" and file.path), None)
        if points is not None:
            path = Path(points.path)
            by_folder[path.parent].add(path.name)
        gone += points is None or states[points] == "gone"
    changed = [file for file, state in states.items() if state == "changed"]
    if changed:
        more = f" ({len(changed) - 1} more files have changed.)" if len(changed) > 1 else ""
        raise DataError(
            f"{changed[0].path}: {change_words(changed[0])}. Predictions of the cache would not "
            f"be of this file: run `prepare` again.{more}"
        )
    if reader.info.description is None:  # else a folder may hold scans of several splits, or none
        problems += _unprepared(by_folder)
        problems += _unprepared_samples(reader, positions, by_folder)
    notes = []
    if gone:
        notes.append(
            f"{gone} raw point files are not there now: their points were compared with the "
            "manifest only"
        )
    return SourceCheck(problems=tuple(problems), notes=tuple(notes))


def _failed(reader: CacheReader, positions: Sequence[int]) -> list[str]:
    """Scans that `prepare` gave up, of sequences that are submitted."""
    path = reader.root / FAILED_FILE
    if not path.is_file():
        return []
    sequences = {str(reader.scans.sequence[p]) for p in positions}
    problems = []
    for line in read_whole(path).decode(errors="replace").splitlines():
        try:
            scan_id = str(parse(line)["scan_id"])
        except (ValueError, KeyError, TypeError):
            continue
        sequence = scan_id.split("/", maxsplit=1)[0] if "/" in scan_id else None
        if sequence is None or sequence in sequences:
            problems.append(f"scan {scan_id} could not be prepared (see {path})")
    return problems


def _unprepared(by_folder: dict[Path, set[str]]) -> list[str]:
    """Files NNNNNN.bin beside the prepared ones: nuScenes has no such names."""
    problems = []
    for folder, names in sorted(by_folder.items()):
        if not folder.is_dir():
            continue
        there = {
            p.name for p in folder.iterdir() if p.suffix.lower() == ".bin" and p.stem.isdigit()
        }
        missing = sorted(there - names)
        if missing:
            problems.append(f"{folder}: {len(missing)} scans are not prepared, e.g. {missing[0]}")
    return problems


def _unprepared_samples(
    reader: CacheReader, positions: Sequence[int], folders: Iterable[Path]
) -> list[str]:
    """Scenes that have more samples than were prepared, by nuScenes' tables where there are any.

    Point files lie in ``ROOT/samples/LIDAR_TOP``, the tables in ``ROOT/v1.0-*``.
    """
    official: dict[str, int] = {}
    for folder in folders:
        for file in sorted(folder.parent.parent.glob("v1.0-*/scene.json")):
            try:
                rows = parse(read_whole(file))
                official.update((str(row["name"]), int(row["nbr_samples"])) for row in rows)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # `prepare` reads the tables and says what is wrong with them
    counts = Counter(str(reader.scans.sequence[position]) for position in positions)
    return [
        f"{scene}: {count} scans are prepared, the tables list {official[scene]}"
        for scene, count in sorted(counts.items())
        if official.get(scene, count) != count
    ]
