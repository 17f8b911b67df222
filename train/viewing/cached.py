"""Scans of a cache, for viewing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pass2d.cache.fields import FIELDS, Fields
from pass2d.cache.reader import CacheReader
from pass2d.train.inference.segmenter import PastPoints
from pass2d.train.stacks.choose import past_scans, require_poses
from pass2d.train.stacks.config import StackConfig
from pass2d.train.viewing.scan import ViewItem, ViewScan, ViewSet, view_scan
from pass2d.train.viewing.times import scan_time_s


def cached_scans(
    reader: CacheReader, *, split: str | None, sequences: Sequence[str] | None
) -> ViewSet:
    """List the scans of a cache.

    Args:
        reader: Open; stays open as long as scans are loaded.
        split: Only these.
        sequences: Only these.

    Raises:
        CacheError: A sequence is not there, or the manifest is damaged.
    """
    scans = reader.scans
    items = []
    for position in reader.select(split=split, sequences=sequences).tolist():
        points = reader.source_file(position, "points")
        items.append(
            ViewItem(
                name=str(scans.scan_id[position]),
                sequence=str(scans.sequence[position]),
                frame_index=int(scans.frame_index[position]),
                token=str(scans.token[position]),
                points=points,
                load=partial(_load, reader, position, points),
                past=partial(_past, reader, position),
            )
        )
    return ViewSet(
        title=reader.info.name,
        table=reader.info.labels,
        signal_name=reader.info.signal_name,
        n_cameras=reader.info.n_cameras,
        forward_axis=reader.info.facts.forward_axis,
        items=tuple(items),
    )


def _past(reader: CacheReader, position: int, stack: StackConfig) -> tuple[PastPoints, ...]:
    """The scans before one.

    Raises:
        ConfigError: Their poses or times are not known.
    """
    if not stack.past:
        return ()
    require_poses(reader.scans, np.array([position]), stack, where=str(reader.root))
    fields = Fields(label=False, outside=True)
    return tuple(
        PastPoints(
            points=reader.read(past.position, fields).raw().points,
            current_from_past=past.current_from_past,
            lag=past.lag,
            seconds=past.seconds,
        )
        for past in past_scans(reader.scans, position, stack)
    )


def _load(reader: CacheReader, position: int, points: Path | None) -> ViewScan:
    frame_index = int(reader.scans.frame_index[position])
    extra = tuple(s.name for s in FIELDS.values() if s.option == "extra" and s.length == "points")
    fields = Fields(label=True, image=True, pixels=True, outside=True, extra=extra)
    record = reader.read(position, fields)
    return view_scan(record, frame_index=frame_index, time_s=scan_time_s(points, frame_index))
