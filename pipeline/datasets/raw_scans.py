"""Scans of a raw data set as they are, without a cache: for looking at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pass2d.cache.schema import DatasetInfo, ScanRecord
from pass2d.common.errors import DataError
from pass2d.pipeline.compose import camera_arrays, lidar_arrays
from pass2d.pipeline.datasets.limit import SPLITS
from pass2d.pipeline.datasets.nuscenes import list_nuscenes, nuscenes_table
from pass2d.pipeline.datasets.semkitti import (
    list_semkitti,
    read_calibration,
    scan_sources,
    semkitti_table,
)
from pass2d.pipeline.datasets.semkitti_files import POINTS, find_sequences, list_files
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.source import ScanSource


@dataclass(frozen=True, kw_only=True)
class RawScans:
    """Scans of a raw folder."""

    info: DatasetInfo
    scans: tuple[ScanSource, ...]
    notes: tuple[str, ...] = ()
    """What is missing or damaged, one line per fact."""


def list_raw(
    root: Path, *, split: str | None = None, sequences: Sequence[str] | None = None
) -> RawScans | None:
    """Find out what a folder is and list its scans; files that are missing are passed over.

    Args:
        root: SemanticKITTI (its root, ``dataset/``, ``sequences/``, one sequence or its
            ``velodyne/``), or the root of nuScenes.
        split: "train", "val" or "test" only.
        sequences: Only these.

    Returns:
        None when it is neither: a folder of point files, perhaps, or a file.

    Raises:
        DataError: There is nothing there, no such sequence, or the tables are damaged.
    """
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    if not root.is_dir():
        return None
    if root.name == POINTS and (root.parent / POINTS).is_dir():
        root = root.parent
    splits = SPLITS if split is None else (split,)
    if (root / POINTS).is_dir():
        return _one_sequence(root, splits=splits, sequences=sequences)
    if any(root.glob("v1.0-*/scene.json")) or (root / "scene.json").is_file():
        listing = list_nuscenes(root, splits=splits, scenes=sequences, stored_hw=None)
        return RawScans(info=listing.info, scans=listing.scans, notes=listing.notes)
    try:
        find_sequences(root)
    except DataError:
        return None
    listing = list_semkitti(root, splits=splits, sequences=sequences)
    return RawScans(info=listing.info, scans=listing.scans, notes=listing.notes)


def read_raw(scan: ScanSource, info: DatasetInfo) -> ScanRecord:
    """Read one scan with its points outside the volume and its pictures.

    Rows of no finite numbers lie at ``cache.nowhere.NOWHERE``.

    Raises:
        ProblemError: A file is missing, truncated, or holds unknown labels.
    """
    record = lidar_arrays(scan, replace(info, drops_invalid=True))
    views = camera_arrays(scan, record)
    return replace(record, cameras=tuple(view for view in views if view is not None))


def info_of_layout(layout: str) -> DatasetInfo:
    """Label table, colours and columns by the name of a data set: "semkitti" or "nuscenes".

    Raises:
        DataError: Another name.
    """
    tables = {"semkitti": semkitti_table, "nuscenes": nuscenes_table}
    if layout not in tables:
        raise DataError(f"--layout {layout!r}: semkitti or nuscenes is expected")
    return tables[layout]().info


def _one_sequence(
    folder: Path, *, splits: Sequence[str], sequences: Sequence[str] | None
) -> RawScans:
    """A sequence's own folder, of whatever name; no scans if another one is wanted."""
    files = list_files(folder.name, folder)
    if not files.points:
        raise DataError(f"{folder / POINTS}: no scans NNNNNN.bin")
    table = semkitti_table()
    split = table.split_of(files.sequence) or "test"
    if split not in splits or files.sequence not in (sequences or [files.sequence]):
        return RawScans(info=table.info, scans=())
    notes: tuple[str, ...] = ()
    try:
        matrix = read_calibration(files) if files.images else None
    except ProblemError as error:
        matrix, notes = None, (f"no pictures: {error.problem}",)
    scans = tuple(scan_sources(files, matrix, split=split))
    return RawScans(info=table.info, scans=scans, notes=notes)
