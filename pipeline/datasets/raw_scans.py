"""Scans of a raw data set without a cache, for viewing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pass2d.cache.schema import DatasetInfo, ScanRecord
from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.compose import camera_views, lidar_record
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.registry import DATASETS, Dataset, Datasets
from pass2d.pipeline.source import ScanSource


@dataclass(frozen=True, kw_only=True)
class RawScans:
    """Scans of a raw folder."""

    info: DatasetInfo
    scans: tuple[ScanSource, ...]
    notes: tuple[str, ...] = ()
    """What is missing or damaged, one line per fact."""


def list_raw(
    root: Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    name: str | None = None,
    datasets: Datasets = DATASETS,
) -> RawScans | None:
    """Recognise a folder and list its scans; missing files are ignored.

    Args:
        root: The root of a data set in a known layout, or a part of it: of SemanticKITTI its
            ``dataset/``, ``sequences/``, one sequence or its ``velodyne/``.
        split: "train", "val" or "test" only.
        sequences: Only these.
        name: Of the data set; the first one that the folder may be when None.
        datasets: Those that are known.

    Returns:
        None if it is not a data set, but e.g. a folder of point files, or a file.

    Raises:
        DataError: There is nothing there, no such sequence, or the tables are damaged.
    """
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    if not root.is_dir():
        return None
    wanted = Wanted(splits=SPLITS if split is None else (split,), sequences=sequences)
    tried = datasets.values() if name is None else (known_dataset(name, datasets),)
    for dataset in tried:
        list_part = dataset.layout.list_part
        if list_part is not None and dataset.layout.is_part(root):
            listing = list_part(root, dataset.table, wanted, Silent())
        elif dataset.is_at(root):
            listing = dataset.list_scans(root, wanted)
        else:
            continue
        return RawScans(info=listing.info, scans=listing.scans, notes=listing.notes)
    if name is not None and (other := datasets.at(root)) is not None:
        raise DataError(
            f"{root}: laid out as {other.table.info.facts.title}, not as "
            f"{datasets[name].table.info.facts.title}"
        )
    return None


def read_raw(scan: ScanSource, info: DatasetInfo) -> ScanRecord:
    """Read one scan with its points outside the volume and its pictures.

    Rows not finite or too far are moved to ``cache.clouds.nowhere.NOWHERE``.

    Raises:
        ProblemError: A file is missing, truncated, or holds unknown labels.
    """
    record = lidar_record(scan, replace(info, drops_invalid=True))
    views = camera_views(scan, record, info)
    return replace(record, cameras=tuple(view for view in views if view is not None))


def known_dataset(name: str, datasets: Datasets = DATASETS) -> Dataset:
    """A data set by its name.

    Raises:
        DataError: There is none.
    """
    if name not in datasets:
        raise DataError(f"unknown data set {name!r}; choose from {', '.join(datasets)}")
    return datasets[name]
