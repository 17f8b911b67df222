"""The layout of SemanticKITTI: which scans there are, and what is missing."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pass2d.cache.rows import FailedScan
from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import DataError
from pass2d.common.progress import Progress
from pass2d.common.text import listed
from pass2d.pipeline.datasets.layout import Examined, RawLayout, Wanted
from pass2d.pipeline.datasets.limit import first_of_each_split, require_splits
from pass2d.pipeline.datasets.semkitti_course import Course, read_course
from pass2d.pipeline.datasets.semkitti_files import (
    POINTS,
    SequenceFiles,
    find_sequences,
    list_files,
    locate_sequences,
    misnamed_sequences,
)
from pass2d.pipeline.datasets.semkitti_missing import merge_facts, missing_facts, missing_problems
from pass2d.pipeline.datasets.table import DatasetTable, load_table
from pass2d.pipeline.problem import Problem, ProblemError, merge_warnings
from pass2d.pipeline.source import ScanSource, SourceListing
from pass2d.pipeline.stages.calibration import image_from_lidar_matrix, require_sensible
from pass2d.pipeline.stages.raw_file import read_calibration


@functools.cache
def semkitti_table() -> DatasetTable:
    """The table of ``semkitti.toml``: labels, colours, volume, splits, published counts."""
    return load_table(Path(__file__).with_suffix(".toml"))


def list_semkitti(
    root: Path,
    *,
    table: DatasetTable | None = None,
    splits: Sequence[str] = SPLITS,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
) -> SourceListing:
    """List the scans of a folder in SemanticKITTI's layout.

    A scan is a point file; labels, pictures, calib.txt, poses.txt and times.txt may be missing.

    Args:
        root: the data set, its ``dataset/`` or its ``sequences/``.
        table: of the data set; SemanticKITTI's when None.
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
    root = root.absolute()
    table = table or semkitti_table()
    chosen = choose_sequences(root, table, splits=splits, sequences=sequences)
    closed: dict[str, Problem] = {}
    files = list(_readable(chosen, closed))
    if closed and not any(s.points for s in files):
        raise ProblemError(next(iter(closed.values())), len(closed) - 1)
    _require_scans(root, files, is_each=sequences is not None)
    calibrations = {s.sequence: _calibration(s) for s in files}
    courses = {s.sequence: read_course(s) for s in files}
    found = [
        scan
        for s in files
        for scan in _scans(s, table, calibrations[s.sequence], course=courses[s.sequence])
    ]
    scans = tuple(first_of_each_split(found, limit))
    facts = [(s.sequence, fact) for s in files for fact in _facts(s)]
    damaged = {n: c.problem for n, c in calibrations.items() if isinstance(c, ProblemError)}
    return SourceListing(
        info=table.info,
        scans=scans,
        notes=(
            *merge_facts(facts),
            *_notes_on_others(root, table, chosen, splits, sequences),
            *(f"sequence {name}: no pictures are prepared: {p}" for name, p in damaged.items()),
            *(f"sequence {name}: not prepared: {p}" for name, p in closed.items()),
        ),
        warned=merge_warnings(p for course in courses.values() for p in course.problems),
        failed=(
            *(
                FailedScan(scan_id=s.scan_id, container="camera", reason=str(damaged[s.sequence]))
                for s in scans
                if s.sequence in damaged and any(s.images)
            ),
            *(
                FailedScan(scan_id=name, container="lidar", reason=str(p))
                for name, p in closed.items()
            ),
        ),
    )


def _examine(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> Examined:
    """As `list_semkitti`; a damaged calib.txt or a closed folder is one of the problems."""
    chosen = choose_sequences(root, table, splits=wanted.splits, sequences=wanted.sequences)
    closed: dict[str, Problem] = {}
    listed = list(_readable(chosen, closed))
    problems = list(closed.values())
    if listed or not problems:
        _require_scans(root, listed, is_each=False)
    scans: list[ScanSource] = []
    for files in listed:
        problems += missing_problems(files, table, is_asked=wanted.sequences is not None)
        calibration = _calibration(files)
        if isinstance(calibration, ProblemError) and "calib.txt" in files.texts:
            problems.append(calibration.problem)
        if not files.images:
            problems += _unused_damage(files)
        course = read_course(files)
        problems += course.problems
        scans += _scans(files, table, calibration, course=course)
    problems += [
        Problem(
            file=root,
            found=note,
            expected="sequences of the requested splits",
            remedy="Allowed; what is there is prepared.",
            severity="note",
        )
        for note in _notes_on_others(root, table, chosen, wanted.splits, wanted.sequences)
    ]
    return Examined(
        info=table.info,
        scans=tuple(first_of_each_split(scans, wanted.limit)),
        problems=tuple(problems),
    )


def _readable(chosen: dict[str, Path], closed: dict[str, Problem]) -> Iterator[SequenceFiles]:
    """The files of the sequences whose folders can be read; to ``closed`` a problem of the rest."""
    for name, folder in chosen.items():
        try:
            yield list_files(name, folder)
        except ProblemError as error:
            closed[name] = error.problem
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
    root: Path, table: DatasetTable, *, splits: Sequence[str], sequences: Sequence[str] | None
) -> dict[str, Path]:
    """Folders of the sequences that were asked for.

    Raises:
        DataError: wrong folder, unknown split, or a sequence that does not exist.
    """
    require_splits(splits)
    found = find_sequences(root, known=table.sequences)
    if sequences is None:
        chosen = [name for name in found if table.split_of(name) in splits]
        if not chosen:
            raise DataError(
                f"{root}: found sequences {listed(found)}, none of split {listed(splits)}. "
                f"Expected any of {listed(name for s in splits for name in table.splits[s])}."
            )
        return {name: found[name] for name in chosen}
    return {name: found[name] for name in _asked(root, table, found, splits, sequences)}


def _require_scans(root: Path, files: Sequence[SequenceFiles], *, is_each: bool) -> None:
    """Refuse a folder without any scan, or (``is_each``) with a sequence that has none."""
    empty = [sequence for sequence in files if not sequence.points]
    if len(empty) == len(files) or (is_each and empty):
        where = ", ".join(str(sequence.folder / POINTS) for sequence in empty[:3])
        raise DataError(f"{root}: no scans in {where}. Expected files NNNNNN.bin there.")


def _scans(
    files: SequenceFiles,
    table: DatasetTable,
    calibration: tuple[float, ...] | ProblemError | None,
    *,
    course: Course,
    otherwise: str = "",
) -> list[ScanSource]:
    """The scans of a sequence, which without a calibration have no usable picture.

    ``otherwise`` is the split of a sequence that the table does not know.
    """
    matrix = None if isinstance(calibration, ProblemError) else calibration
    split = table.split_of(files.sequence) or otherwise
    return [
        ScanSource(
            scan_id=f"{files.sequence}/{frame:06d}",
            split=split,
            sequence=files.sequence,
            frame_index=frame,
            points=points,
            labels=files.labels.get(frame),
            images=(files.images.get(frame),),
            image_from_lidar=None if matrix is None else (matrix,),
            calibration=None if matrix is None else files.calib,
            camera_rule=table.camera_rule,
            pose=course.poses.get(frame),
            time_s=course.times_s.get(frame),
        )
        for frame, points in files.points.items()
    ]


def _calibration(files: SequenceFiles) -> tuple[float, ...] | ProblemError | None:
    """The sequence's matrix; None without pictures, which alone need calib.txt."""
    if not files.images:
        return None
    if "calib.txt" in files.texts:
        return _attempt_calibration(files)
    return ProblemError.of(
        file=files.calib,
        found="nothing",
        expected="P2 and Tr, which project points onto the pictures beside it",
        remedy="Copy it from the KITTI odometry calibration, or remove the pictures.",
    )


def _facts(files: SequenceFiles) -> list[str]:
    """What is said of a sequence in one line for all that share it."""
    damage = [] if files.images else _unused_damage(files)
    return [
        *missing_facts(files),
        *(f"calib.txt is damaged, and not needed: {problem.found}" for problem in damage),
    ]


def _unused_damage(files: SequenceFiles) -> list[Problem]:
    """What is wrong with a calib.txt that neither a picture nor a pose needs."""
    calibration = _attempt_calibration(files)
    if not isinstance(calibration, ProblemError) or any(
        problem.file == files.calib for problem in read_course(files).problems
    ):
        return []
    return [replace(calibration.problem, severity="note")]


def _attempt_calibration(files: SequenceFiles) -> tuple[float, ...] | ProblemError | None:
    try:
        return _read_calibration(files)
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


def _read_calibration(files: SequenceFiles) -> tuple[float, ...] | None:
    """The sequence's image_from_lidar, row by row; None without calib.txt.

    Raises:
        ProblemError: it is damaged, or cannot be a camera's.
    """
    if "calib.txt" not in files.texts:
        return None
    text = read_calibration(files.calib)
    matrix = image_from_lidar_matrix(text, file=files.calib)
    require_sensible(text, file=files.calib)
    return tuple(float(number) for number in matrix.ravel())


def _asked(
    root: Path,
    table: DatasetTable,
    found: dict[str, Path],
    splits: Sequence[str],
    sequences: Sequence[str],
) -> list[str]:
    names = sorted({name.zfill(2) for name in sequences})
    if not names:
        raise DataError("sequences: none were named. Leave the option out to take all.")
    for name in names:
        split = table.split_of(name)
        if split is None:
            known = listed(name for names in table.splits.values() for name in names)
            raise DataError(
                f"sequence {name}: not one of {table.info.facts.title}. Use any of {known}."
            )
        if name not in found:
            raise DataError(f"{root}: no folder for sequence {name}. Found {listed(found)}.")
        if split not in splits:
            raise DataError(
                f"sequence {name}: belongs to split {split}, but only {listed(splits)} was asked "
                f"for. Add {split} to the splits or leave the sequence out."
            )
    return names


def _notes_on_others(
    root: Path,
    table: DatasetTable,
    chosen: dict[str, Path],
    splits: Sequence[str],
    sequences: Sequence[str] | None,
) -> list[str]:
    if sequences is not None:
        return []
    empty = [s for s in splits if not any(table.split_of(name) == s for name in chosen)]
    found = find_sequences(root, known=table.sequences)
    foreign = [name for name in found if table.split_of(name) is None]
    others = misnamed_sequences(found)
    return [
        *(f"split {split}: no sequence found" for split in empty),
        *(f"sequence {name}: in no split, left out" for name in foreign),
        *(f"folder {path}: not a sequence of two digits, left out" for path in others),
    ]


def _list(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> SourceListing:
    return list_semkitti(
        root,
        table=table,
        splits=wanted.splits,
        sequences=wanted.sequences,
        limit=wanted.limit,
    )


def _list_part(
    root: Path, table: DatasetTable, wanted: Wanted, progress: Progress
) -> SourceListing:
    """A sequence's own folder, of whatever name, or its velodyne/; none if another is wanted."""
    folder = root.parent if root.name == POINTS else root
    files = list_files(folder.name, folder)
    if not files.points:
        raise DataError(f"{folder / POINTS}: no scans NNNNNN.bin")
    calibration = _calibration(files) if "calib.txt" in files.texts else None
    course = read_course(files)
    found = _scans(files, table, calibration, course=course, otherwise="test")
    notes: tuple[str, ...] = ()
    if isinstance(calibration, ProblemError):
        notes = (f"no pictures: {calibration.problem}",)
    is_wanted = found[0].split in wanted.splits and (
        wanted.sequences is None or files.sequence in wanted.sequences
    )
    return SourceListing(
        info=table.info,
        scans=tuple(found) if is_wanted else (),
        notes=notes,
        warned=merge_warnings(course.problems),
    )


def _is_part(folder: Path) -> bool:
    return (folder / POINTS).is_dir() or (folder.name == POINTS and folder.is_dir())


def _locate(root: Path, table: DatasetTable) -> Path | None:
    return locate_sequences(root, known=table.sequences)


LAYOUTS = (
    RawLayout(
        name="semantickitti",
        sign="sequences/NN/velodyne",
        locate=_locate,
        list_scans=_list,
        examine=_examine,
        is_part=_is_part,
        list_part=_list_part,
    ),
)
