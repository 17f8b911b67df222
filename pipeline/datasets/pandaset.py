"""The layout of PandaSet as downloaded: sequences of pickled tables, pictures and JSON files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.rows import FailedScan
from pass2d.common.errors import DataError
from pass2d.common.files import is_there
from pass2d.common.progress import Progress
from pass2d.common.text import and_so_on
from pass2d.pipeline.datasets.layout import RawLayout, Wanted
from pass2d.pipeline.datasets.limit import first_of_each_split, require_splits
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.source import ScanSource, SourceListing
from pass2d.pipeline.stages.pandaset_files import (
    INTRINSICS,
    LABELS,
    LIDAR,
    POSES,
    SENSOR_OF_LAYOUT,
    SUFFIXES,
    TIMES,
    frame_of,
    read_intrinsics,
    read_poses,
    read_times,
)

T = TypeVar("T")
CAMERA = "camera"
_NO_MATRIX = (0.0,) * 12
_LAST = np.array([0.0, 0.0, 0.0, 1.0])


@dataclass(kw_only=True)
class _Found:
    """Notes on all sequences."""

    failed: list[FailedScan] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    """Sequences."""
    bare: list[str] = field(default_factory=list)
    """Ids of scans without labels in sequences that have some."""
    pointless: list[str] = field(default_factory=list)
    """Sequences, and ids of labels, without points."""
    unposed: list[str] = field(default_factory=list)
    """Pictures without a pose."""
    blind: Counter[str] = field(default_factory=Counter)
    """Sequences without pictures by camera."""

    def lines(self) -> Iterator[str]:
        """What is missing, and legal."""
        if self.unlabelled:
            yield f"sequences without labels (split test): {', '.join(self.unlabelled)}"
        if self.bare:
            names = and_so_on(self.bare, 8)
            yield f"scans without labels, left out: {names} ({len(self.bare):,} in all)"
        for lost, what in (
            (self.pointless, f"no points ({LIDAR}/FRAME{SUFFIXES[0]})"),
            (self.unposed, f"pictures that {POSES} beside them has no pose of"),
        ):
            if lost:
                yield f"{what}, left out: {and_so_on(lost, 8)} ({len(lost):,} in all)"
        for camera, n in self.blind.items():
            yield f"{camera}: no pictures in {n:,} sequences"
        for one in self.failed:
            yield f"{one.scan_id}: not prepared: {one.reason}"


def _list(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> SourceListing:
    """List the scans of one lidar.

    Raises:
        DataError: a wrong folder, a sequence that does not exist, or no scans at all.
    """
    require_splits(wanted.splits)
    root = root.absolute()
    folders = {folder.name: folder for folder in _sequences(root)}
    if lost := [name for name in wanted.sequences or () if name not in folders]:
        raise DataError(
            f"{root}: no sequence {lost[0]}; there are {and_so_on(folders, 5) or 'none'}."
        )
    if not folders:
        raise DataError(f"{root}: no sequences. Expected SEQUENCE/{LIDAR}/00{SUFFIXES[0]}.")
    found = _Found()
    scans: list[ScanSource] = []
    for name, folder in folders.items():
        if wanted.sequences is None or name in wanted.sequences:
            scans += _scans(folder, table, wanted, found)
    if not scans:
        if found.failed:
            raise DataError(found.failed[0].reason)
        raise DataError(f"{root}: no scans of {', '.join(wanted.splits)}.")
    return SourceListing(
        info=table.info,
        scans=tuple(first_of_each_split(scans, wanted.limit)),
        notes=tuple(found.lines()),
        failed=tuple(found.failed),
    )


def _sequences(root: Path) -> list[Path]:
    """Folders of sequences, in the order of their names."""
    if not root.is_dir():
        return []
    return [
        folder
        for folder in sorted(root.iterdir())
        if not folder.name.startswith(".")
        and any(is_there(folder / part) for part in (LIDAR, LABELS, CAMERA))
    ]


def _tables(folder: Path) -> dict[int, Path]:
    """Pickled tables by frame; of a packed one and the same unpacked, the packed one."""
    if not folder.is_dir():
        return {}
    files = [file for suffix in reversed(SUFFIXES) for file in sorted(folder.glob(f"*{suffix}"))]
    named = {frame_of(file): file for file in files if not file.name.startswith(".")}
    return {frame: named[frame] for frame in sorted(f for f in named if f is not None)}


def _scans(
    folder: Path, table: DatasetTable, wanted: Wanted, found: _Found
) -> Iterator[ScanSource]:
    """The scans of a sequence; one whose poses are damaged is a failure."""
    points, labels = _tables(folder / LIDAR), _tables(folder / LABELS)
    split = (table.split_of(folder.name) or "train") if labels else "test"
    if split not in wanted.splits:
        return
    if not points:
        found.pointless.append(folder.name)
        return
    found.pointless += [f"{folder.name}/{frame:02d}" for frame in sorted(labels.keys() - points)]
    if not labels:
        found.unlabelled.append(folder.name)
    poses = _tried(lambda: read_poses(folder / LIDAR / POSES), folder.name, "lidar", found)
    if poses is None:
        return
    clock = folder / LIDAR / TIMES
    times = None
    if is_there(clock):
        times = _tried(lambda: read_times(clock), folder.name, "motion", found)
    cameras = [_camera(folder, name, found) for name in table.cameras]
    beside = tuple(
        (f"{role}{place}", folder / "camera" / name / file)
        for place, name in enumerate(table.cameras)
        for role, file in (("intrinsics", INTRINSICS), ("poses", POSES))
        if cameras[place] is not None
    )
    for frame, file in points.items():
        scan_id, label = f"{folder.name}/{frame:02d}", labels.get(frame)
        if label is None and labels:
            found.bare.append(scan_id)
            continue
        seen = [None if one is None else one.at(frame, poses) for one in cameras]
        found.unposed += [
            str(one.picture(frame).relative_to(folder.parent))
            for one in cameras
            if one is not None and one.lacks_pose(frame)
        ]
        pose = poses[frame] if frame < len(poses) else None
        yield ScanSource(
            scan_id=scan_id,
            split=split,
            sequence=folder.name,
            frame_index=frame,
            points=file,
            labels=label,
            images=tuple(None if one is None else one[0] for one in seen),
            image_from_lidar=tuple(_NO_MATRIX if one is None else one[1] for one in seen),
            camera_rule=table.camera_rule,
            stored_hw=wanted.stored_hw,
            # The table of points tells to which lidar each label belongs.
            lidar_beside=(("poses", folder / LIDAR / POSES),),
            camera_beside=beside,
            pose=None if pose is None else tuple(pose.ravel().tolist()),
            time_s=times[frame] - times[0] if times and frame < len(times) else None,
        )


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """One camera of a sequence."""

    folder: Path
    intrinsics: NDArray[np.float64]
    """(3, 3)."""
    poses: NDArray[np.float64]
    """(F, 3, 4) world_from_camera."""

    def picture(self, frame: int) -> Path:
        """The file, whether or not it exists."""
        return self.folder / f"{frame:02d}.jpg"

    def lacks_pose(self, frame: int) -> bool:
        """Whether there is a picture of a frame, but no pose."""
        return frame >= len(self.poses) and is_there(self.picture(frame))

    def at(
        self, frame: int, lidar_poses: NDArray[np.float64]
    ) -> tuple[Path, tuple[float, ...]] | None:
        """Picture and image_from_lidar of a frame; None where one is missing."""
        picture = self.picture(frame)
        if frame >= min(len(self.poses), len(lidar_poses)) or not is_there(picture):
            return None
        world_from_camera = np.vstack([self.poses[frame], _LAST])
        world_from_lidar = np.vstack([lidar_poses[frame], _LAST])
        camera_from_lidar = (np.linalg.inv(world_from_camera) @ world_from_lidar)[:3]
        return picture, tuple((self.intrinsics @ camera_from_lidar).ravel().tolist())


def _camera(folder: Path, name: str, found: _Found) -> _Camera | None:
    """A camera of a sequence; None without pictures, or with calibration that is damaged."""
    place = folder / CAMERA / name
    if not place.is_dir():
        found.blind[name] += 1
        return None

    def read() -> _Camera:
        return _Camera(
            folder=place,
            intrinsics=read_intrinsics(place / INTRINSICS),
            poses=read_poses(place / POSES),
        )

    return _tried(read, f"{folder.name} {name}", "camera", found)


def _tried(read: Callable[[], T], name: str, container: str, found: _Found) -> T | None:
    try:
        return read()
    except ProblemError as error:
        found.failed.append(FailedScan(scan_id=name, container=container, reason=str(error)))
        return None


def _locate(root: Path, table: DatasetTable) -> Path | None:
    """The root, if its folders are sequences."""
    is_there = any(_tables(folder / LIDAR) for folder in _sequences(root)[:3])
    return root.resolve() if is_there else None


LAYOUTS = tuple(
    RawLayout(
        name=name,
        sign=f"001/{LIDAR}/00{SUFFIXES[0]}",
        locate=_locate,
        list_scans=_list,
    )
    for name in SENSOR_OF_LAYOUT
)
"""One per lidar; the files are the same."""
