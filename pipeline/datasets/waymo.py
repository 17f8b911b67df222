"""The layout of the Waymo Open Dataset v2: which frames there are. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.rows import FailedScan
from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import DataError
from pass2d.common.files import is_there
from pass2d.common.progress import Progress
from pass2d.common.text import and_so_on
from pass2d.pipeline.datasets.layout import RawLayout, Wanted
from pass2d.pipeline.datasets.limit import first_of_each_split, require_splits
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.source import ScanSource, SourceListing
from pass2d.pipeline.stages.waymo_files import (
    BESIDE_CAMERA,
    BESIDE_LIDAR,
    CAMERA_CALIBRATION,
    LABELS,
    LIDAR,
    PICTURES,
    PROJECTION,
    SUFFIX,
    VEHICLE,
    camera_matrices,
    segment_poses,
    segment_times,
    sibling,
)

_NO_MATRIX = (0.0,) * 12


def list_waymo(
    root: Path,
    *,
    table: DatasetTable,
    splits: Sequence[str] = SPLITS,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
    stored_hw: tuple[int, int] | None = None,
) -> SourceListing:
    """List the frames: of train and val those with labels, of test all.

    Args:
        root: has a folder for each split, of which each has one for each component.
        table: of the data set; says which folder is which split.
        splits: any of "train", "val", "test".
        sequences: only these segments; all when None.
        limit: at most this many frames in all, the first ones of each split in equal shares.
        stored_hw: height and width that pictures are resized to; None keeps them as taken.

    Returns:
        The frames by segment and time. A segment with a damaged or missing file is listed as
        failed, by its name.

    Raises:
        DataError: a wrong folder, a segment that does not exist, or no frames at all.
    """
    require_splits(splits)
    root = root.absolute()
    files = _segments(root, table, splits)
    if sequences is not None:
        there = {file.stem for _, file in files}
        if lost := [name for name in sequences if name not in there]:
            raise DataError(
                f"{root}: no segment {lost[0]}; there are {len(there):,}, e.g. "
                f"{', '.join(sorted(there)[:3]) or 'none'}."
            )
        files = [(split, file) for split, file in files if file.stem in sequences]
    if not files:
        folders = ", ".join(name for split in splits for name in table.splits.get(split, ()))
        raise DataError(
            f"{root}: no segments in {LIDAR}/ of {folders}. Expected SPLIT/{LIDAR}/SEGMENT{SUFFIX}."
        )
    scans: list[ScanSource] = []
    failed: list[FailedScan] = []
    notes = _Notes()
    for split, file in files:
        try:
            scans += _frames(file, split, table, stored_hw, notes)
        except ProblemError as error:
            failed.append(FailedScan(scan_id=file.stem, container="lidar", reason=str(error)))
    if not scans:
        if failed:
            raise DataError(failed[0].reason)
        raise DataError(f"{root}: no frames with labels. " + " ".join(notes.lines()))
    return SourceListing(
        info=table.info,
        scans=tuple(first_of_each_split(scans, limit)),
        notes=(
            *(f"split {split}: no segments" for split in splits if split not in dict(files)),
            *notes.lines(),
            *(f"segment {one.scan_id}: not prepared: {one.reason}" for one in failed),
        ),
        failed=tuple(failed),
    )


@dataclass(kw_only=True)
class _Notes:
    """Notes on all segments."""

    bare: list[str] = field(default_factory=list)
    """Segments of train and val without a label file."""
    unlabelled: int = 0
    """Frames without labels of segments that have some."""
    blind: list[str] = field(default_factory=list)
    """Segments without pictures that can be used."""

    def lines(self) -> Iterator[str]:
        """What is missing, and legal."""
        if self.bare:
            yield (
                f"segments of train and val without {LABELS}/SEGMENT{SUFFIX}, left out: "
                f"{and_so_on(self.bare, 8)} ({len(self.bare):,} in all)"
            )
        if self.unlabelled:
            yield f"{self.unlabelled:,} frames of train and val without labels, left out"
        if self.blind:
            yield (
                f"segments without pictures ({PICTURES}, {PROJECTION}, {CAMERA_CALIBRATION}): "
                f"{and_so_on(self.blind, 8)} ({len(self.blind):,} in all)"
            )


def _segments(root: Path, table: DatasetTable, splits: Sequence[str]) -> list[tuple[str, Path]]:
    """Split and lidar file of every segment."""
    return [
        (split, file)
        for split in splits
        for folder in table.splits.get(split, ())
        for file in sorted((root / folder / LIDAR).glob(f"*{SUFFIX}"))
        if not file.name.startswith(".")
    ]


def _frames(
    file: Path,
    split: str,
    table: DatasetTable,
    stored_hw: tuple[int, int] | None,
    notes: _Notes,
) -> Iterator[ScanSource]:
    """The frames of a segment that are wanted.

    Raises:
        ProblemError: a file that they need is missing or damaged.
    """
    poses = segment_poses(sibling(file, VEHICLE))
    labels: Path | None = sibling(file, LABELS)
    labelled = segment_times(labels) if labels is not None and is_there(labels) else []
    times = list(poses)
    if split == "test" and not labelled:
        labels = None
    elif labels is not None and not is_there(labels):
        notes.bare.append(file.stem)
        return
    else:
        notes.unlabelled += len(set(times) - set(labelled))
        times = labelled
    if lost := [time for time in times if time not in poses]:
        raise ProblemError.of(
            file=sibling(file, VEHICLE),
            found=f"no pose of frame {lost[0]}",
            expected="one for each frame with labels",
            remedy="Download the files of this segment again.",
        )
    cameras = _cameras(file, table.info.n_cameras)
    if cameras is None:
        notes.blind.append(file.stem)
    places = {time: place for place, time in enumerate(poses)}
    n_cameras = table.info.n_cameras
    for time in times:
        yield ScanSource(
            scan_id=f"{file.stem}/{time}",
            split=split,
            sequence=file.stem,
            frame_index=places[time],
            points=file,
            labels=labels,
            images=(None,) * n_cameras if cameras is None else cameras.images,
            image_from_lidar=None if cameras is None else cameras.matrices,
            camera_rule=table.camera_rule,
            taken_hw=() if cameras is None else cameras.sizes,
            stored_hw=stored_hw,
            lidar_beside=tuple((name, sibling(file, name)) for name in BESIDE_LIDAR),
            camera_beside=(
                () if cameras is None else tuple((n, sibling(file, n)) for n in BESIDE_CAMERA)
            ),
            pose=tuple(poses[time][:3].ravel().tolist()),
            time_s=(time - next(iter(poses))) / 1e6,
        )


@dataclass(frozen=True, kw_only=True)
class _Cameras:
    """What all frames of a segment share."""

    images: tuple[Path | None, ...]
    matrices: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, int], ...]


def _cameras(file: Path, n_cameras: int) -> _Cameras | None:
    """The cameras of a segment; None unless all three components are there."""
    needed = [sibling(file, name) for name in (PICTURES, PROJECTION, CAMERA_CALIBRATION)]
    if not all(map(is_there, needed)):
        return None
    known = camera_matrices(needed[-1])
    pictures = needed[0]

    def matrix(camera: int) -> tuple[float, ...]:
        found: NDArray[np.float64] | None = known[camera][0] if camera in known else None
        return _NO_MATRIX if found is None else tuple(found.ravel().tolist())

    return _Cameras(
        images=tuple(pictures if camera in known else None for camera in range(n_cameras)),
        matrices=tuple(matrix(camera) for camera in range(n_cameras)),
        sizes=tuple(known[c][1] if c in known else (0, 0) for c in range(n_cameras)),
    )


def _list(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> SourceListing:
    return list_waymo(
        root,
        table=table,
        splits=wanted.splits,
        sequences=wanted.sequences,
        limit=wanted.limit,
        stored_hw=wanted.stored_hw,
    )


def _locate(root: Path, table: DatasetTable) -> Path | None:
    """The root, if some split's folder has lidar files."""
    is_there = root.is_dir() and bool(_segments(root, table, tuple(table.splits)))
    return root.resolve() if is_there else None


LAYOUTS = (
    RawLayout(
        name="waymo",
        sign=f"training/{LIDAR}/*{SUFFIX}",
        locate=_locate,
        list_scans=_list,
    ),
)
