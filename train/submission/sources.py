"""Whether the prepared scans are all the raw scans there are, with as many points."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.layout import FAILED_FILE
from pass2d.cache.reader import CacheReader
from pass2d.common.files import read_whole


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """What a look at the raw files showed."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_sources(reader: CacheReader, positions: Sequence[int]) -> SourceCheck:
    """Compare the manifest with the raw point files; their contents are not read.

    Args:
        reader: An open cache.
        positions: Scans of the split, in table order.
    """
    problems, gone = _failed(reader, positions), 0
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for position in positions:
        path = reader.source_file(position, "points")
        if path is None:
            gone += 1
            continue
        by_folder[path.parent].add(path.name)
        try:
            nbytes = path.stat().st_size
        except OSError:
            gone += 1
            continue
        n_raw = int(reader.scans.n_raw[position])
        # With added sweeps n_raw counts more than this file.
        is_plain = not reader.info.sweeps and reader.info.raw_format is None
        if is_plain and nbytes != 4 * reader.info.raw_columns * n_raw:
            problems.append(
                f"{path}: {nbytes:,} bytes do not hold the {n_raw:,} points that were prepared"
            )
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
            scan_id = str(json.loads(line)["scan_id"])
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
                rows = json.loads(read_whole(file))
                official.update((str(row["name"]), int(row["nbr_samples"])) for row in rows)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # `prepare` reads the tables and says what is wrong with them
    counts = Counter(str(reader.scans.sequence[position]) for position in positions)
    return [
        f"{scene}: {count} scans are prepared, the tables list {official[scene]}"
        for scene, count in sorted(counts.items())
        if official.get(scene, count) != count
    ]
