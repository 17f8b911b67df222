"""Assigns the scans of a described data set to splits."""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import DataError
from pass2d.common.files import read_fault, read_whole
from pass2d.pipeline.datasets.described.description import SplitPart, SplitsPart

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What {split} may be where `[splits]` does not say it."""


@dataclass(frozen=True, kw_only=True)
class NamedScan:
    """A point file that matches the pattern."""

    path: str
    """Below the root."""
    sequence: str
    scan: str
    folder: str
    """What {split} is in its path; "" without."""

    @property
    def name(self) -> str:
        """SEQUENCE/SCAN."""
        return f"{self.sequence}/{self.scan}"


def split_scans(
    scans: Sequence[NamedScan], splits: SplitsPart, *, root: Path
) -> tuple[dict[str, str], list[str]]:
    """Give each scan its split.

    Args:
        scans: sorted by sequence and frame.
        splits: of the description.
        root: where list files lie.

    Returns:
        Path of the points to split, and notes: lines that name no scan, scans of no split.

    Raises:
        DataError: a list file cannot be read or names no scan at all, a sequence is not there, or
            a scan is in two splits.
    """
    notes: list[str] = []
    owner: dict[str, str] = {}
    taken = 0.0
    for split in SPLITS:
        part = getattr(splits, split)
        if part is None:
            if any(getattr(splits, other) for other in SPLITS):
                continue
            part = SplitPart(folders=SPLIT_FOLDERS[split])
        chosen, said = _chosen(part, scans, split=split, start=taken, root=root)
        taken += part.share
        notes += said
        for path in chosen:
            other = owner.setdefault(path, split)
            if other != split:
                raise DataError(
                    f"{root / path}: is in split {other} and in split {split}. Correct [splits] of "
                    "the description: no scan may be in two splits."
                )
    left = [scan for scan in scans if scan.path not in owner]
    if left:
        notes.append(f"{len(left):,} scans in no split, left out, e.g. {left[0].path}")
    return owner, notes


def _chosen(
    part: SplitPart, scans: Sequence[NamedScan], *, split: str, start: float, root: Path
) -> tuple[list[str], list[str]]:
    if part.sequences:
        there = {scan.sequence for scan in scans}
        wanted = set(map(_composed, part.sequences))
        known = set(map(_composed, there))
        lost = [name for name in part.sequences if _composed(name) not in known]
        if len(lost) == len(part.sequences):
            names = ", ".join(sorted(there)[:12])
            return [], [f"split {split}: no sequence found; there are {names}"]
        notes = [f"split {split}: no sequence {name}" for name in lost]
        return [scan.path for scan in scans if _composed(scan.sequence) in wanted], notes
    if part.folders:
        return [scan.path for scan in scans if scan.folder in part.folders], []
    if part.glob:
        found = [
            scan.path
            for scan in scans
            if fnmatch.fnmatchcase(scan.path, part.glob)
            or fnmatch.fnmatchcase(scan.name, part.glob)
        ]
        return found, [] if found else [f"split {split}: no scan matches {part.glob!r}"]
    if part.share:
        return list(_share(scans, start, start + part.share)), []
    return _listed(part.list, scans, split=split, root=root)


def _composed(name: str) -> str:
    """A name in one of the two ways that Unicode writes umlauts; macOS has the other one."""
    return unicodedata.normalize("NFC", name)


def _share(scans: Sequence[NamedScan], low: float, high: float) -> list[str]:
    """A part of each sequence: neighbours, which look alike, stay in one split."""
    found: list[str] = []
    for _, group in groupby(scans, key=lambda scan: scan.sequence):
        paths = [scan.path for scan in group]
        found += paths[round(low * len(paths)) : round(high * len(paths))]
    return found


def _listed(
    name: str, scans: Sequence[NamedScan], *, split: str, root: Path
) -> tuple[list[str], list[str]]:
    """Scans of a list file; of several words in a line the first one counts."""
    file = root / name
    try:
        lines = read_whole(file).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}, the list of split {split}: {read_fault(error)}") from error
    known = _by_tail(scans)
    wanted = [words[0] for line in lines if (words := line.split()) and words[0][0] != "#"]
    found, lost = [], []
    for line in wanted:
        scan = _lookup(line, known)
        if scan is None:
            lost.append(line)
        else:
            found.append(scan)
    if not found:
        shown = f"e.g. {lost[0][:120]!r}" if lost else "it is empty"
        example = scans[0].path if scans else "PATH"
        raise DataError(
            f"{file}: none of its {len(wanted)} lines names a scan ({shown}). Expected paths of "
            f"point files such as {example}, or SEQUENCE/SCAN."
        )
    notes = (
        [f"{name}: {len(lost):,} of {len(wanted):,} lines name no scan, e.g. {lost[0][:120]}"]
        if lost
        else []
    )
    return list(dict.fromkeys(found)), notes


def _by_tail(scans: Sequence[NamedScan]) -> dict[str, str | None]:
    """Every way to name a scan to its path; None where several scans share it."""
    known: dict[str, str | None] = {}
    for scan in scans:
        stem = scan.path.rpartition(".")[0] or scan.path
        ways = {scan.name}
        for text in (scan.path, stem):
            parts = text.split("/")
            ways |= {"/".join(parts[i:]) for i in range(len(parts))}
        for way in ways:
            known[way] = None if known.get(way, scan.path) != scan.path else scan.path
    for scan in scans:
        known[scan.path] = scan.path
    return known


def _lookup(line: str, known: dict[str, str | None]) -> str | None:
    """A line may begin with folders above the root: they are taken away one by one."""
    parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".")]
    for first in range(max(1, len(parts) - 1)):
        if found := known.get("/".join(parts[first:])):
            return found
    return known.get(parts[-1]) if len(parts) == 1 else None
