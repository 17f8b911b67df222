"""Point files of any sensor, for viewing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pass2d.cache.clouds.likeness import of_dataset
from pass2d.cache.schema import DatasetInfo
from pass2d.points.binary import BinaryOptions
from pass2d.points.mapping import InputMapping
from pass2d.points.raw_format import own_binary, own_mapping
from pass2d.points.scan_file import read_scan_file
from pass2d.train.prediction.files import find_scans
from pass2d.train.viewing.scan import ViewItem, ViewScan, ViewSet
from pass2d.train.viewing.times import scan_time_s


def point_files(
    inputs: Path, info: DatasetInfo, *, columns: int | None, dtype: str | None
) -> ViewSet:
    """List a file or folder of points (of every format of `points`); none has labels.

    Args:
        inputs: File or folder.
        info: Label table and usual columns.
        columns: Numbers per point of ``.bin`` files; by default found out.
        dtype: Of their numbers; by default found out.

    Raises:
        DataError: No point file there. What cannot be read beside others is one of the notes.
    """
    notes: list[str] = []
    files = find_scans(
        inputs, Path("unused"), say=notes.append, on_closed=lambda _, why: notes.append(why)
    )
    binary, mapping = own_binary(info, columns=columns, dtype=dtype), partial(own_mapping, info)
    items = tuple(
        ViewItem(
            name=file.name,
            sequence=inputs.name,
            frame_index=place,
            token="",
            points=file.points,
            load=partial(_load, file.points, file.name, place, binary, mapping(file.points.name)),
        )
        for place, file in enumerate(files)
    )
    return ViewSet(
        title=str(inputs),
        table=info.labels,
        signal_name=info.signal_name,
        n_cameras=0,
        forward_axis=info.facts.forward_axis,
        items=items,
        notes=tuple(notes),
        expected=of_dataset(info),
    )


def _load(
    path: Path, name: str, place: int, binary: BinaryOptions, mapping: InputMapping
) -> ViewScan:
    points, note = read_scan_file(path, mapping, binary)
    return ViewScan(
        name=name,
        frame_index=place,
        time_s=scan_time_s(path, place),
        xyz=np.ascontiguousarray(points[:, :3].T),
        signal=points[:, 3].copy(),
        note=note,
    )
