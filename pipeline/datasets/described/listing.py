"""Lists the scans of a folder by its description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.rows import FailedScan
from pass2d.cache.statistics import NEEDED_BY, SPLITS
from pass2d.common.errors import DataError
from pass2d.common.files import other_than_folder
from pass2d.common.path_pattern import fill, placeholders
from pass2d.common.progress import Progress
from pass2d.pipeline.datasets.described.cameras import Calibration, Calibrations, lidar_from_file
from pass2d.pipeline.datasets.described.description import Description, PosesPart
from pass2d.pipeline.datasets.described.facts import LAYOUT_NAME
from pass2d.pipeline.datasets.described.pattern import Folders, Match
from pass2d.pipeline.datasets.described.poses import read_poses, with_poses, with_sweeps
from pass2d.pipeline.datasets.described.splits import NamedScan, split_scans
from pass2d.pipeline.datasets.layout import Examined, RawLayout, Wanted, listing_problems
from pass2d.pipeline.datasets.limit import first_of_each_split, require_splits
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.problem import Problem, ProblemError, merge_warnings
from pass2d.pipeline.source import ScanSource, SourceListing
from pass2d.pipeline.stages.poses import course_doubts

_MOST_FRAMES = (1 << 31) - 1
_FEW = 3


def layout_of(description: Description) -> RawLayout:
    """The reader of a described folder."""

    def locate(root: Path, table: DatasetTable) -> Path | None:
        folders = Folders(root=root.absolute())
        is_there = root.is_dir() and bool(folders.matches(description.points.files))
        return root.absolute() if is_there else None

    def list_scans(
        root: Path, table: DatasetTable, wanted: Wanted, progress: Progress
    ) -> SourceListing:
        return list_described(root, description, table, wanted)

    def examine(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> Examined:
        listing = list_described(root, description, table, wanted)
        return Examined(
            info=listing.info,
            scans=listing.scans,
            problems=listing_problems(root, table, listing),
        )

    return RawLayout(
        name=LAYOUT_NAME,
        sign=description.points.files,
        locate=locate,
        list_scans=list_scans,
        examine=examine,
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A scan by its words, before its files are looked for."""

    named: NamedScan
    match: Match
    frame_index: int


def list_described(
    root: Path, description: Description, table: DatasetTable, wanted: Wanted
) -> SourceListing:
    """List the scans of a folder.

    Args:
        root: the patterns are below it.
        description: of its contents.
        table: of the same.
        wanted: splits, sequences, sweeps.

    Returns:
        The scans, sequence by sequence in the order of frames; what is missing as notes. Pictures
        whose calibration is damaged are listed as failed.

    Raises:
        DataError: no such folder, no scan, or splits that contradict each other.
    """
    root = root.absolute()  # Ray's workers have another current folder
    if other := other_than_folder(root):
        raise DataError(f"{root}: {other}. Expected the folder that the description is of.")
    require_splits(wanted.splits)
    folders = Folders(root=root)
    found = in_order(folders.matches(description.points.files))
    if not found:
        raise DataError(_nothing(root, description, folders))
    split_of, notes = split_scans([one.named for one in found], description.splits, root=root)
    notes += [f"{folder or '.'}: {reason}, left out" for folder, reason in folders.closed.items()]
    notes += _labels_alone(description, found, folders)
    listed = _Lister(root=root, description=description, table=table, folders=folders)
    scans: list[ScanSource] = []
    for _, group in groupby(found, key=lambda one: one.named.sequence):
        scans += listed.sequence(list(group), split_of, wanted)
    chosen = _wanted(scans, wanted, root)
    failed = listed.failures({scan.scan_id for scan in chosen})
    return SourceListing(
        info=replace(table.info, sweeps=wanted.sweeps),
        scans=tuple(first_of_each_split(chosen, wanted.limit)),
        notes=(*notes, *_missing(chosen, description, wanted), *listed.notes),
        warned=merge_warnings(
            [
                *listed.warned,
                *_empty_splits(chosen, description, wanted, root),
                *_blind_cameras(chosen, description, root),
            ]
        ),
        failed=tuple(failed),
    )


def _labels_alone(
    description: Description, found: Sequence[_Found], folders: Folders
) -> Iterator[str]:
    """A note where label files have no points, which may have been lost."""
    labels = description.labels
    if labels is None or not labels.files:
        return
    used = {folders.find(labels.files, one.match.words) for one in found}
    alone = [match for match in folders.matches(labels.files) if match.path not in used]
    if alone:
        pattern, words = description.points.files, alone[0].words
        is_known = words.keys() >= set(placeholders(pattern))
        yield (
            f"{fill(pattern, words) if is_known else pattern}: no such file, though there are "
            f"labels, {alone[0].path}. Label files without points, which are left out: "
            f"{len(alone):,}"
        )


def in_order(matches: Sequence[Match]) -> list[_Found]:
    """Scans by sequence and frame."""
    named = [_named(match) for match in matches]
    folders_of: dict[str, set[str]] = {}
    for one in named:
        folders_of.setdefault(one.sequence, set()).add(one.folder)
    named = [
        replace(one, sequence=f"{one.folder}_{one.sequence}")
        if len(folders_of[one.sequence]) > 1
        else one
        for one in named
    ]
    found: list[_Found] = []
    pairs = sorted(zip(named, matches, strict=True), key=lambda pair: pair[0].sequence)
    for _, group in groupby(pairs, key=lambda pair: pair[0].sequence):
        members = list(group)
        numbers = [_number(one.scan) for one, _ in members]
        are_frames = None not in numbers and len(set(numbers)) == len(numbers)
        keys = [n or 0 for n in numbers] if are_frames else list(range(len(members)))
        if not are_frames:
            members.sort(key=lambda pair: (_number_or_all(pair[0].scan), pair[0].scan))
        found += sorted(
            (
                _Found(named=one, match=match, frame_index=key)
                for key, (one, match) in zip(keys, members, strict=True)
            ),
            key=lambda one: one.frame_index,
        )
    return found


def _named(match: Match) -> NamedScan:
    words = match.words
    others = [words[word] for word in words if word not in ("scan", "split", "sequence")]
    sequence = words.get("sequence") or "_".join(others) or words.get("split") or "all"
    return NamedScan(
        path=match.path, sequence=sequence, scan=words["scan"], folder=words.get("split", "")
    )


def _number(scan: str) -> int | None:
    """The frame number that a scan's name is."""
    if not (scan.isascii() and scan.isdecimal()) or len(scan) > 10 or int(scan) > _MOST_FRAMES:
        return None
    return int(scan)


def _number_or_all(scan: str) -> int:
    """So that "10" comes after "9", also where some names are no small numbers."""
    return int(scan) if scan.isascii() and scan.isdecimal() and len(scan) < 40 else 1 << 140


class _Lister:
    """Files of the scans, calibrations and poses."""

    def __init__(
        self, *, root: Path, description: Description, table: DatasetTable, folders: Folders
    ) -> None:
        self.notes: list[str] = []
        self.warned: list[Problem] = []
        self._root = root
        self._description = description
        self._table = table
        self._folders = folders
        self._calibrations = Calibrations(root=root, points=description.points)
        self._broken: dict[str, ProblemError] = {}
        self._said: set[str] = set()

    def sequence(
        self, found: Sequence[_Found], split_of: Mapping[str, str], wanted: Wanted
    ) -> list[ScanSource]:
        """The scans of a sequence that belong to a split."""
        labels = self._label_pattern(found)
        scans = [self._scan(one, split_of.get(one.named.path, ""), wanted, labels) for one in found]
        if wanted.sweeps or self._description.poses is not None:
            scans = self._with_poses(scans, found, wanted.sweeps)
        return [scan for scan in scans if scan.split]

    def failures(self, scan_ids: set[str]) -> list[FailedScan]:
        """Scans whose pictures cannot be used."""
        return [
            FailedScan(scan_id=scan_id, container="camera", reason=str(error))
            for scan_id, error in self._broken.items()
            if scan_id in scan_ids
        ]

    def _label_pattern(self, found: Sequence[_Found]) -> str:
        """Pattern of a sequence's label files; "" for a column, or none."""
        labels = self._description.labels
        if labels is None:
            return ""
        has_own = not labels.otherwise or any(
            self._folders.find(labels.files, one.match.words) for one in found
        )
        return labels.files if has_own else labels.otherwise

    def _scan(self, one: _Found, split: str, wanted: Wanted, label_pattern: str) -> ScanSource:
        description, words = self._description, one.match.words
        points = self._root / one.match.path
        labels = description.labels
        labels_file = None
        if labels is not None and labels.column:
            labels_file = points
        elif labels is not None:
            path = self._folders.find(label_pattern, words)
            labels_file = None if path is None else self._root / path
        scan = ScanSource(
            scan_id=one.named.name,
            split=split,
            sequence=one.named.sequence,
            frame_index=one.frame_index,
            points=points,
            labels=labels_file,
            images=(None,) * max(1, len(description.cameras)),
            camera_rule=self._table.camera_rule,
            stored_hw=wanted.stored_hw,
        )
        return self._with_pictures(scan, words) if description.cameras and split else scan

    def _with_pictures(self, scan: ScanSource, words: Mapping[str, str]) -> ScanSource:
        images: list[Path | None] = []
        matrices: list[tuple[float, ...]] = []
        files: set[Path | None] = set()
        for place, camera in enumerate(self._description.cameras):
            path = self._folders.find(camera.files, words)
            found: Calibration | ProblemError | None = None
            if path is not None:
                found = self._calibrations.of(place, camera, words)
            if isinstance(found, ProblemError):
                self._broken[scan.scan_id] = found
                self._say(f"sequence {scan.sequence}: no pictures are prepared: {found}")
            is_usable = isinstance(found, Calibration) and path is not None
            images.append(self._root / path if is_usable and path is not None else None)
            if isinstance(found, Calibration):
                matrices.append(tuple(found.image_from_lidar.ravel().tolist()))
                files.add(found.file)
            else:
                matrices.append((0.0,) * 12)
        if not any(images):
            return scan
        return replace(
            scan,
            images=tuple(images),
            image_from_lidar=tuple(matrices),
            calibration=files.pop() if len(files) == 1 else None,
        )

    def _with_poses(
        self, scans: list[ScanSource], found: Sequence[_Found], most: int
    ) -> list[ScanSource]:
        """Poses and times of a sequence, and the sweeps that are wanted."""
        part = self._description.poses
        if part is None:
            raise DataError(
                f"{self._root}: `sweeps` need poses. Add [poses] to the description, or leave "
                "`sweeps` out."
            )
        words = found[0].match.words
        file = self._root / fill(part.file, words)
        try:
            posed = with_poses(
                scans,
                read_poses(file),
                part=part,
                sensor_from_lidar=self._sensor_from_lidar(part, words),
                file=file,
            )
            self.warned += course_doubts(
                np.array([scan.pose for scan in posed], np.float64).reshape(-1, 3, 4),
                ahead=self._description.points.ahead,
                expected=f"mostly ahead: poses of the {part.frame}, as the description says",
                file=file,
            )
        except ProblemError as error:
            if most:
                raise
            self.warned.append(_without_poses(error.problem))
            return scans
        return with_sweeps(posed, most=most) if most else posed

    def _sensor_from_lidar(self, part: PosesPart, words: Mapping[str, str]) -> NDArray[np.float64]:
        """(4, 4) to the sensor that the poses are of, from the points as the stages have them."""
        to_file = np.asarray(np.linalg.inv(lidar_from_file(self._description.points)), np.float64)
        if part.frame != "camera":
            return to_file
        calibration = self._calibrations.of(0, self._description.cameras[0], words)
        if isinstance(calibration, ProblemError):
            raise calibration
        return calibration.camera_from_file @ to_file

    def _say(self, note: str) -> None:
        if note not in self._said:
            self._said.add(note)
            self.notes.append(note)


def _without_poses(problem: Problem) -> Problem:
    """A warning about poses that are not needed now and cannot be used later."""
    return replace(
        problem,
        severity="warning",
        kind=f"poses {problem.file}",
        remedy=f"{problem.remedy} Until then its scans cannot be joined with others.",
    )


def _wanted(scans: list[ScanSource], wanted: Wanted, root: Path) -> list[ScanSource]:
    if wanted.sequences is not None:
        there = sorted({scan.sequence for scan in scans})
        lost = [name for name in wanted.sequences if name not in there]
        if lost:
            raise DataError(
                f"{root}: no sequence {lost[0]}; there are {', '.join(there[:12]) or 'none'}"
            )
        scans = [scan for scan in scans if scan.sequence in wanted.sequences]
    chosen = [scan for scan in scans if scan.split in wanted.splits]
    if not chosen:
        counts = {split: sum(scan.split == split for scan in scans) for split in SPLITS}
        raise DataError(
            f"{root}: no scan in split {', '.join(wanted.splits)}; by [splits] of the description "
            f"there are {', '.join(f'{n} in {split}' for split, n in counts.items())}."
        )
    return chosen


def _missing(scans: Sequence[ScanSource], description: Description, wanted: Wanted) -> list[str]:
    """Missing files that the description names, one line per fact."""
    labels = description.labels
    notes = [
        f"split {split}: no scans"
        for split in _empty(scans, wanted)
        if getattr(description.splits, split) is not None
        and (split not in NEEDED_BY or labels is None)
    ]
    if labels is not None:
        for split in SPLITS:
            of_split = [scan for scan in scans if scan.split == split]
            bare = [scan for scan in of_split if scan.labels is None]
            if bare:
                notes.append(
                    f"split {split}: {len(bare):,} of {len(of_split):,} scans without labels "
                    f"({labels.files}), e.g. {', '.join(scan.scan_id for scan in bare[:_FEW])}"
                )
    for place, camera in enumerate(description.cameras):
        bare = [scan for scan in scans if scan.images[place] is None]
        if 0 < len(bare) < len(scans):
            notes.append(
                f"{len(bare):,} of {len(scans):,} scans without a picture {camera.files}, e.g. "
                f"{', '.join(scan.scan_id for scan in bare[:_FEW])}"
            )
    return notes


def _empty(scans: Sequence[ScanSource], wanted: Wanted) -> list[str]:
    """Splits that are wanted and have no scan."""
    if wanted.sequences is not None:
        return []
    return [split for split in wanted.splits if all(scan.split != split for scan in scans)]


def _empty_splits(
    scans: Sequence[ScanSource], description: Description, wanted: Wanted, root: Path
) -> Iterator[Problem]:
    """Splits without which a later command fails: training and evaluation."""
    for split in () if description.labels is None else _empty(scans, wanted):
        if split in NEEDED_BY:
            is_promised = split == "train" or getattr(description.splits, split) is not None
            without = "training stops" if split == "train" else "no run is validated"
            yield Problem(
                file=root,
                found=f"split {split}: no scans",
                expected=f"scans for {NEEDED_BY[split]}",
                remedy=f"Give [splits] {split} scans of this folder: {without} without them.",
                severity="error" if is_promised else "warning",
                kind=f"empty {split}",
            )


def _blind_cameras(
    scans: Sequence[ScanSource], description: Description, root: Path
) -> Iterator[Problem]:
    """Cameras without any picture."""
    for place, camera in enumerate(description.cameras):
        if all(scan.images[place] is None for scan in scans):
            yield Problem(
                file=root,
                found=f"none of {len(scans):,} scans has a usable picture {camera.files}",
                expected="pictures of the camera that the description has",
                remedy="Correct [[camera]] files or its calib, or leave the camera out; networks "
                "that need pictures stop without them.",
                severity="warning",
                kind=f"blind {place}",
            )


def _nothing(root: Path, description: Description, folders: Folders) -> str:
    """Where the pattern stops matching."""
    parts = description.points.files.split("/")
    for n in range(len(parts) - 1, 0, -1):
        prefix = "/".join(parts[:n])
        if found := next(folders.folders(prefix), None):
            shown = sorted(path.name for path in (root / found).iterdir())[:6]
            rest = "/".join(parts[n:])
            return (
                f"{root / found}: no {rest} here, nor in its like. There are "
                f"{', '.join(shown) or 'no files'}. Correct [points] files of the description."
            )
    shown = sorted(path.name for path in root.iterdir())[:6]
    words = placeholders(description.points.files)
    example = fill(description.points.files, dict.fromkeys(words, "*"))
    return (
        f"{root}: nothing matches [points] files of the description ({example}). There are "
        f"{', '.join(shown) or 'no files'}. Give the folder above, or correct the pattern."
    )
