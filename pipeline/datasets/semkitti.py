"""SemanticKITTI: which scans there are, and what is missing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pass2d.cache.rows import FailedScan
from pass2d.common.errors import DataError
from pass2d.common.progress import Progress
from pass2d.pipeline.compose import read_file
from pass2d.pipeline.datasets.check import check_scans
from pass2d.pipeline.datasets.draw_calibration import draw_calibrations
from pass2d.pipeline.datasets.limit import SPLITS, first_of_each_split
from pass2d.pipeline.datasets.roots import FoundRoot, find_root
from pass2d.pipeline.datasets.semkitti_files import (
    POINTS,
    SequenceFiles,
    find_sequences,
    list_files,
    locate_sequences,
)
from pass2d.pipeline.datasets.semkitti_missing import merge_facts, missing_facts, missing_problems
from pass2d.pipeline.datasets.table import DatasetTable, load_table
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.source import ScanSource, SourceListing
from pass2d.pipeline.stages.calibration import image_from_lidar_matrix, require_sensible


@functools.cache
def semkitti_table() -> DatasetTable:
    """The table of ``semkitti.toml``: labels, colours, volume, splits, published counts."""
    return load_table(Path(__file__).with_suffix(".toml"))


def find_semkitti() -> FoundRoot:
    """Where the data set lies for a user who does not say.

    Raises:
        ConfigError: as `find_root`.
    """
    return find_root(semkitti_table(), locate_sequences, sign="sequences/NN/velodyne")


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
        The scans in the order of sequences and frames, and notes on what is missing. Pictures that
        need a damaged calib.txt are listed as failed; their scans have none. So is, by its name, a
        sequence with a folder that cannot be read.

    Raises:
        DataError: wrong folder, a sequence that does not exist, or no scans at all.
    """
    # Absolute: Ray's workers have another current folder.
    chosen = choose_sequences(root.absolute(), splits=splits, sequences=sequences)
    closed: dict[str, Problem] = {}
    files = list(_readable(chosen, closed))
    if closed and not any(s.points for s in files):
        raise ProblemError(next(iter(closed.values())))
    _require_scans(root, files, is_each=sequences is not None)
    calibrations = {s.sequence: _calibration(s) for s in files}
    found = [scan for s in files for scan in _scans(s, _matrix(calibrations[s.sequence]))]
    scans = tuple(first_of_each_split(found, limit))
    facts = [(s.sequence, fact) for s in files for fact in _facts(s)]
    damaged = {n: c.problem for n, c in calibrations.items() if isinstance(c, ProblemError)}
    return SourceListing(
        info=semkitti_table().info,
        scans=scans,
        notes=(
            *merge_facts(facts),
            *_notes_on_others(root, chosen, splits, sequences),
            *(f"sequence {name}: no pictures are prepared: {p}" for name, p in damaged.items()),
            *(f"sequence {name}: not prepared: {p}" for name, p in closed.items()),
        ),
        failed=(
            *(
                FailedScan(scan_id=s.scan_id, stage="camera", reason=str(damaged[s.sequence]))
                for s in scans
                if s.sequence in damaged and any(s.images)
            ),
            *(FailedScan(scan_id=name, stage="lidar", reason=str(p)) for name, p in closed.items()),
        ),
    )


def check_semkitti(
    root: Path,
    *,
    splits: Sequence[str] = SPLITS,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
    drop_invalid: bool = False,
    png: Path | None = None,
    progress: Progress,
) -> list[Problem]:
    """Look at every file of a SemanticKITTI folder and write nothing but pictures, if asked.

    Args:
        root: as for ``list_semkitti``, likewise the next three.
        splits: any of "train", "val", "test".
        sequences: only these; all that exist when None.
        limit: read at most this many scans.
        drop_invalid: whether points of NaN are to be dropped, and so are no fault.
        png: folder of one picture per sequence and camera, with the points on it; None: none.
        progress: scans read and their bytes.

    Returns:
        Every missing, damaged or inconsistent file; first those seen by name, then scan by scan.

    Raises:
        DataError: as ``list_semkitti``, but a damaged calib.txt is one of the problems.
    """
    table = semkitti_table()
    chosen = choose_sequences(root, splits=splits, sequences=sequences)
    closed: dict[str, Problem] = {}
    listed = list(_readable(chosen, closed))
    problems = list(closed.values())
    if listed or not problems:
        _require_scans(root, listed, is_each=False)
    scans: list[ScanSource] = []
    for files in listed:
        n_published = table.scan_counts.get(files.sequence)
        problems += missing_problems(
            files, published_scans=n_published, is_asked=sequences is not None
        )
        calibration = _calibration(files)
        if isinstance(calibration, ProblemError) and "calib.txt" in files.texts:
            problems.append(calibration.problem)
        if not files.images:
            problems += _unused_damage(files)
        scans += _scans(files, _matrix(calibration))
    problems += [
        Problem(
            file=root,
            found=note,
            expected="sequences of the splits that were asked for",
            remedy="Legal; what is there is prepared.",
            severity="note",
        )
        for note in _notes_on_others(root, chosen, splits, sequences)
    ]
    info = replace(table.info, drops_invalid=drop_invalid or None)
    read = first_of_each_split(scans, limit)
    problems += check_scans(read, info, progress=progress)
    if png is not None:
        draw_calibrations(read, info, png, problems=problems, progress=progress)
    return problems


def _readable(chosen: dict[str, Path], closed: dict[str, Problem]) -> Iterator[SequenceFiles]:
    """The files of the sequences whose folders can be read; to ``closed`` a problem of the rest."""
    for name, folder in chosen.items():
        try:
            yield list_files(name, folder)
        except (DataError, OSError) as error:
            cause = error.__cause__ if isinstance(error, DataError) else error
            found = getattr(cause, "strerror", None) or str(error)
            where = getattr(cause, "filename", None) or folder
            closed[name] = Problem(
                file=Path(where),
                found=found.lower(),
                expected="a readable folder",
                remedy="Change its permissions, or check the disk.",
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


def _require_scans(root: Path, files: Sequence[SequenceFiles], *, is_each: bool) -> None:
    """Refuse a folder without any scan, or (``is_each``) with a sequence that has none."""
    empty = [sequence for sequence in files if not sequence.points]
    if len(empty) == len(files) or (is_each and empty):
        where = ", ".join(str(sequence.folder / POINTS) for sequence in empty[:3])
        raise DataError(f"{root}: no scans in {where}. Expected files NNNNNN.bin there.")


def _scans(files: SequenceFiles, matrix: tuple[float, ...] | None) -> list[ScanSource]:
    split = semkitti_table().split_of(files.sequence)
    assert split is not None  # choose_sequences took them from the table
    return scan_sources(files, matrix, split=split)


def scan_sources(
    files: SequenceFiles, matrix: tuple[float, ...] | None, *, split: str
) -> list[ScanSource]:
    """The scans of a sequence; without a matrix, image_from_lidar, they have no usable picture."""
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
            calibration=None if matrix is None else files.calib,
        )
        for frame, points in files.points.items()
    ]


def _calibration(files: SequenceFiles) -> tuple[float, ...] | ProblemError | None:
    """The sequence's matrix; None without pictures: then nobody asks what calib.txt says."""
    if not files.images:
        return None
    if "calib.txt" in files.texts:
        return _attempt_calibration(files)
    return ProblemError(
        Problem(
            file=files.calib,
            found="nothing",
            expected="P2 and Tr, which put points on the pictures beside it",
            remedy="Copy it from the KITTI odometry calibration, or remove the pictures.",
        )
    )


def _facts(files: SequenceFiles) -> list[str]:
    """What is said of a sequence in one line for all that share it."""
    damage = [] if files.images else _unused_damage(files)
    return [
        *missing_facts(files),
        *(f"calib.txt is damaged, and not needed: {problem.found}" for problem in damage),
    ]


def _unused_damage(files: SequenceFiles) -> list[Problem]:
    """What is wrong with a calib.txt that no picture needs."""
    calibration = _attempt_calibration(files)
    if not isinstance(calibration, ProblemError):
        return []
    return [replace(calibration.problem, severity="note")]


def _attempt_calibration(files: SequenceFiles) -> tuple[float, ...] | ProblemError | None:
    try:
        return read_calibration(files)
    except ProblemError as error:
        return error
    except OSError as error:  # the disk fails on this file
        problem = Problem(
            file=files.calib,
            found=(error.strerror or type(error).__name__).lower(),
            expected="a readable file",
            remedy="Check the disk, or copy the file again.",
        )
        return ProblemError(problem)


def _matrix(calibration: tuple[float, ...] | ProblemError | None) -> tuple[float, ...] | None:
    return None if isinstance(calibration, ProblemError) else calibration


def read_calibration(files: SequenceFiles) -> tuple[float, ...] | None:
    """The sequence's image_from_lidar, row by row; None without calib.txt.

    Raises:
        ProblemError: it is damaged, or cannot be a camera's.
    """
    if "calib.txt" not in files.texts:
        return None
    text = read_file(files.calib).decode("utf-8-sig", errors="replace")
    matrix = image_from_lidar_matrix(text, file=files.calib)
    require_sensible(text, file=files.calib)
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


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
