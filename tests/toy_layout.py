"""The reader of a made-up layout: what a data set costs whose files lie in a new way.

ROOT/SPLIT/SCAN.bin beside SCAN.lab, with one byte per label and five numbers per point.
"""

from __future__ import annotations

from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.common.progress import Progress
from pass2d.pipeline.datasets.layout import RawLayout, Wanted
from pass2d.pipeline.datasets.limit import first_of_each_split
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.source import ScanSource, SourceListing


def _locate(root: Path, table: DatasetTable) -> Path | None:
    return root.resolve() if list(root.glob("*/*.lab")) else None


def _list(root: Path, table: DatasetTable, wanted: Wanted, progress: Progress) -> SourceListing:
    files = [file for split in wanted.splits for file in sorted((root / split).glob("*.bin"))]
    scans = [
        ScanSource(
            scan_id=f"{file.parent.name}/{file.stem}",
            split=file.parent.name,
            sequence=file.parent.name,
            frame_index=place,
            points=file,
            labels=file.with_suffix(".lab") if file.with_suffix(".lab").is_file() else None,
            images=(None,),
            camera_rule=table.camera_rule,
        )
        for place, file in enumerate(files)
    ]
    if not scans:
        raise DataError(f"{root}: no scans. Expected SPLIT/SCAN.bin.")
    bare = sum(scan.labels is None for scan in scans)
    return SourceListing(
        info=table.info,
        scans=tuple(first_of_each_split(scans, wanted.limit)),
        notes=(f"{bare} scans without labels",) if bare else (),
    )


LAYOUT = RawLayout(name="flat", sign="SPLIT/SCAN.lab", locate=_locate, list_scans=_list)
