"""SemanticKITTI: which scans there are, and what is missing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from cache.errors import DataError
from pipeline.compose import read_file
from pipeline.datasets.semkitti_files import (
    IMAGES,
    LABELS,
    POINTS,
    SequenceFiles,
    find_sequences,
    frame_ranges,
    list_files,
)
from pipeline.datasets.table import DatasetTable, load_table
from pipeline.source import ScanSource, SourceListing
from pipeline.stages.calibration import image_from_lidar_matrix

SPLITS = ("train", "val", "test")


@functools.cache
def semkitti_table() -> DatasetTable:
    """The table of ``semkitti.toml``: labels, colours, volume, splits, published counts."""
    return load_table(Path(__file__).with_suffix(".toml"))


def list_semkitti(
    root: Path,
    *,
    splits: Sequence[str] = SPLITS,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
) -> SourceListing:
    """List the scans of a SemanticKITTI folder.

    A scan is a point file; labels, pictures, calib.txt, poses.txt and times.txt may be missing.

    Args:
        root: the data set, its ``dataset/`` or its ``sequences/``.
        splits: any of "train", "val", "test".
        sequences: only these, e.g. ("00", "08"); all that exist when None.
        limit: at most this many scans in all, the first ones of each split in equal shares.

    Returns:
        The scans in the order of sequences and frames, and notes on what is missing.

    Raises:
        DataError: wrong folder, a sequence that does not exist, or no scans at all.
        ProblemError: a calib.txt that is there, and needed for pictures, has no P2 or Tr.
    """
    chosen = choose_sequences(root, splits=splits, sequences=sequences)
    files = [list_files(name, folder) for name, folder in chosen.items()]
    scans = [scan for sequence in files for scan in _scans(sequence)]
    if not scans:
        where = ", ".join(str(sequence.folder / POINTS) for sequence in files[:3])
        raise DataError(f"{root}: no scans. Expected NNNNNN.bin files in {where}.")
    facts = [(s.sequence, fact) for s in files for fact in missing_facts(s)]
    return SourceListing(
        info=semkitti_table().info,
        scans=tuple(_first_of_each_split(scans, limit)),
        notes=(*_merge(facts), *_notes_on_others(root, chosen, splits, sequences)),
    )


def choose_sequences(
    root: Path, *, splits: Sequence[str], sequences: Sequence[str] | None
) -> dict[str, Path]:
    """Folders of the sequences that were asked for.

    Raises:
        DataError: wrong folder, unknown split, or a sequence that does not exist.
    """
    table = semkitti_table()
    if unknown := [split for split in splits if split not in SPLITS]:
        raise DataError(f"split {unknown[0]!r}: there is none of that name. Use {_words(SPLITS)}.")
    found = find_sequences(root)
    if sequences is None:
        chosen = [name for name in found if table.split_of(name) in splits]
        if not chosen:
            raise DataError(
                f"{root}: found sequences {_words(found)}, none of split {_words(splits)}. "
                f"Expected any of {_words(name for s in splits for name in table.splits[s])}."
            )
        return {name: found[name] for name in chosen}
    return {name: found[name] for name in _asked(root, found, splits, sequences)}


def missing_facts(files: SequenceFiles) -> list[str]:
    """What a sequence lacks although it may, e.g. "no image_2"; empty when nothing."""
    points = set(files.points)
    if not points:
        return [f"no {POINTS}: left out"]
    facts = [f"no {name}" for name in (LABELS, IMAGES) if name not in files.folders]
    facts += [
        f"no {name}" for name in ("calib.txt", "poses.txt", "times.txt") if name not in files.texts
    ]
    for folder, frames in ((LABELS, set(files.labels)), (IMAGES, set(files.images))):
        if folder in files.folders and points - frames:
            facts.append(f"scans without {folder}: {frame_ranges(points - frames)}")
        if frames - points:
            facts.append(f"{folder} without scan: {frame_ranges(frames - points)}")
    gaps = set(range(min(points), max(points))) - points
    if gaps:
        facts.append(f"gaps in the frame numbers: {frame_ranges(gaps)}")
    return facts


def _scans(files: SequenceFiles) -> list[ScanSource]:
    matrix = _calibration(files)
    split = semkitti_table().split_of(files.sequence)
    assert split is not None  # choose_sequences took them from the table
    return [
        ScanSource(
            scan_id=f"{files.sequence}/{frame:06d}",
            split=split,
            sequence=files.sequence,
            frame_index=frame,
            token="",
            points=points,
            labels=files.labels.get(frame),
            images=(files.images.get(frame),),
            image_from_lidar=None if matrix is None else (matrix,),
        )
        for frame, points in files.points.items()
    ]


def _calibration(files: SequenceFiles) -> tuple[float, ...] | None:
    """The sequence's matrix; None without pictures or without calib.txt."""
    if not files.images or "calib.txt" not in files.texts:
        return None
    text = read_file(files.calib).decode("utf-8", errors="replace")
    matrix = image_from_lidar_matrix(text, file=files.calib)
    return tuple(float(number) for number in matrix.ravel())


def _asked(
    root: Path, found: dict[str, Path], splits: Sequence[str], sequences: Sequence[str]
) -> list[str]:
    table = semkitti_table()
    names = sorted({name.zfill(2) for name in sequences})
    if not names:
        raise DataError("sequences: none were named. Leave the option out to take all.")
    for name in names:
        split = table.split_of(name)
        if split is None:
            known = _words(name for names in table.splits.values() for name in names)
            raise DataError(f"sequence {name}: not one of SemanticKITTI. Use any of {known}.")
        if name not in found:
            raise DataError(f"{root}: no folder for sequence {name}. Found {_words(found)}.")
        if split not in splits:
            raise DataError(
                f"sequence {name}: belongs to split {split}, but only {_words(splits)} was asked "
                f"for. Add {split} to the splits or leave the sequence out."
            )
    return names


def _first_of_each_split(scans: list[ScanSource], limit: int | None) -> list[ScanSource]:
    """At most ``limit`` scans; what one split cannot fill goes to the next."""
    if limit is None or len(scans) <= limit:
        return scans
    if limit < 1:
        raise DataError(f"limit {limit}: must be at least 1. Leave it out to take all scans.")
    sizes = {split: sum(scan.split == split for scan in scans) for split in SPLITS}
    shares = dict.fromkeys(SPLITS, 0)
    while sum(shares.values()) < limit:
        open_splits = [split for split in SPLITS if shares[split] < sizes[split]]
        for split in open_splits[: limit - sum(shares.values())]:
            shares[split] += 1
    kept = []
    for scan in scans:
        if shares[scan.split]:
            shares[scan.split] -= 1
            kept.append(scan)
    return kept


def _notes_on_others(
    root: Path, chosen: dict[str, Path], splits: Sequence[str], sequences: Sequence[str] | None
) -> list[str]:
    if sequences is not None:
        return []
    table = semkitti_table()
    empty = [s for s in splits if not any(table.split_of(name) == s for name in chosen)]
    foreign = [name for name in find_sequences(root) if table.split_of(name) is None]
    notes = [f"split {split}: no sequence found" for split in empty]
    return notes + [f"sequence {name}: in no split, left out" for name in foreign]


def _merge(facts: Iterable[tuple[str, str]]) -> list[str]:
    """One line per fact, naming all sequences that share it."""
    by_fact: dict[str, list[str]] = {}
    for sequence, fact in facts:
        by_fact.setdefault(fact, []).append(sequence)
    return [
        f"sequence{'s' if len(names) > 1 else ''} {_words(names)}: {fact}"
        for fact, names in by_fact.items()
    ]


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
