"""Scans of a ROS recording, for viewing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.likeness import of_dataset
from pass2d.cache.schema import UNKNOWN_LABEL, DatasetInfo, LabelTable
from pass2d.common.errors import ConfigError, DataError
from pass2d.points.bags.bag import Bag
from pass2d.points.bags.cloud_message import read_cloud
from pass2d.points.bags.storage import Message
from pass2d.points.columns import PointColumns
from pass2d.points.raw_format import own_mapping
from pass2d.train.inference.segmenter import PastPoints
from pass2d.train.stacks.config import StackConfig
from pass2d.train.viewing.predictions import written_lookup
from pass2d.train.viewing.scan import ViewItem, ViewScan, ViewSet

_KEPT = 8
"""Messages that were passed on the way to a later one."""


def bag_clouds(bag: Bag, info: DatasetInfo, *, topic: str | None) -> ViewSet:
    """List the clouds of an open recording; a field `class_id` is shown as the prediction.

    Args:
        bag: Open while scans are loaded.
        info: Label table and units.
        topic: See `Bag.cloud_topic`.

    Raises:
        DataError: No such topic, or no message of it.
    """
    chosen = bag.cloud_topic(topic)
    if not chosen.count:
        raise DataError(f"{bag.path}: no message of topic {chosen.name}")
    clouds = _Clouds(bag, chosen.name, info)
    items = tuple(
        ViewItem(
            name=f"{chosen.name}/{place:06d}",
            sequence=chosen.name,
            frame_index=place,
            token="",
            points=None,
            load=partial(clouds.load, place),
            past=_require_single,
        )
        for place in range(chosen.count)
    )
    return ViewSet(
        title=f"{bag.path} {chosen.name}",
        table=info.labels,
        signal_name=info.signal_name,
        n_cameras=0,
        forward_axis=info.facts.forward_axis,
        items=items,
        expected=of_dataset(info),
    )


def _require_single(stack: StackConfig) -> tuple[PastPoints, ...]:
    """Nothing is known of earlier scans.

    Raises:
        ConfigError: The network needs them.
    """
    if stack.past:
        raise ConfigError(
            f"this network was trained on {stack.past + 1} scans together, and how the sensor "
            "moved between them is not read from recordings. Use one of single scans, or "
            "`no_checkpoint`."
        )
    return ()


class _Clouds:
    """The clouds of a topic by their place: forwards at no cost, backwards from the start."""

    def __init__(self, bag: Bag, topic: str, info: DatasetInfo) -> None:
        self._bag, self._topic, self._info = bag, topic, info
        self._mapping = own_mapping(info, bag.path.name)
        self._lock = threading.Lock()
        self._next = 0
        self._kept: dict[int, Message] = {}
        self._messages: Iterator[Message] = bag.messages(topic)

    def load(self, place: int) -> ViewScan:
        """One cloud; called in threads.

        Raises:
            DataError: Damaged, or a field is missing.
        """
        with self._lock:
            message = self._message(place)
        where = f"{self._bag.path}, {self._topic}, message {place}"
        cloud = read_cloud(message, where=where)
        columns = cloud.columns()
        points = self._mapping.apply(columns, where=where)
        predicted, note = _labels(columns, self._info.labels)
        return ViewScan(
            name=f"{self._topic}/{place:06d}",
            frame_index=place,
            time_s=(cloud.stamp_ns or message.time_ns) / 1e9,
            xyz=np.ascontiguousarray(points[:, :3].T),
            signal=points[:, 3].copy(),
            predicted=predicted,
            note=note,
        )

    def _message(self, place: int) -> Message:
        if place in self._kept:
            return self._kept.pop(place)
        if place < self._next:
            self._messages, self._next = self._bag.messages(self._topic), 0
            self._kept.clear()
        for message in self._messages:
            self._next += 1
            if self._next > place:
                return message
            # Threads ask for neighbours in any order.
            self._kept[self._next - 1] = message
            self._kept.pop(self._next - 1 - _KEPT, None)
        raise DataError(f"{self._bag.path}: {self._topic} has no message {place}")


def _labels(columns: PointColumns, table: LabelTable) -> tuple[NDArray[np.uint8] | None, str]:
    """(N,) training ids that a cloud carries, or why they are not shown."""
    found = dict(zip(columns.names, columns.values, strict=True)).get("class_id")
    if found is None:
        return None, ""
    lookup = written_lookup(table)
    if found.dtype.kind in "iu" and ((found >= 0) & (found < len(lookup))).all():
        labels = lookup[found.astype(np.int64)]
        if not (labels == UNKNOWN_LABEL).any():
            return labels, ""
    return None, "its class_id are of another data set and not shown; `layout` names the classes"
