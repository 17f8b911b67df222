"""Warnings about a prepared data set as a whole, from its manifest alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pass2d.cache.manifest import Manifest
from pass2d.cache.reading.scan_table import ScanTable, scan_table
from pass2d.pipeline.datasets.check import class_problems
from pass2d.pipeline.doubts import odd_sizes
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.source import SourceListing


def cache_doubts(manifest: Manifest, listing: SourceListing) -> Iterator[Problem]:
    """Look at the scans that were asked for: splits without classes, pictures of odd sizes.

    Args:
        manifest: the new generation.
        listing: what was asked for.
    """
    table = scan_table(manifest.tables.scans)
    files = {scan.scan_id: scan for scan in listing.scans}
    listed = np.isin(table.scan_id, sorted(files))
    for split in sorted(set(table.split[listed].tolist())):
        rows = np.flatnonzero(listed & (table.split == split) & table.has_label)
        counts = table.label_histogram[rows].sum(axis=0)
        labels = next((files[i].labels for i in table.scan_id[rows].tolist()), None)
        if labels is not None:
            table_of = listing.info.labels
            yield from class_problems(labels.parent, counts, split=split, labels=table_of)
    if all(scan.stored_hw is None and not scan.taken_hw for scan in listing.scans):
        yield from _odd_pictures(table, listed, listing)


def _odd_pictures(
    table: ScanTable, listed: np.ndarray, listing: SourceListing
) -> Iterator[Problem]:
    """For data sets whose calibration gives no size and whose pictures are kept as taken."""
    images = {scan.scan_id: scan.images for scan in listing.scans}
    groups: dict[tuple[str, int], list[tuple[Path, tuple[int, int]]]] = {}
    for row in np.flatnonzero(listed):
        for camera, (height, width) in enumerate(table.camera_hw[row].tolist()):
            file = images[str(table.scan_id[row])][camera]
            if height and file is not None:
                group = groups.setdefault((str(table.sequence[row]), camera), [])
                group.append((file, (height, width)))
    for group in groups.values():
        yield from odd_sizes(group)
