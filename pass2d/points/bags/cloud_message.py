"""`sensor_msgs/PointCloud2`: a message of ROS 1 or ROS 2 as columns, and with more fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.points.bags.storage import CLOUD, ENCODINGS, Message, reading
from pass2d.points.columns import PointColumns, reader_package

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""By the message's number of a type."""
_FLOAT32, _UINT32 = 7, 6
_KIND = "sensor_msgs/msg/PointCloud2"
_ALIGNMENT = 4


@dataclass(frozen=True, kw_only=True)
class CloudMessage:
    """A cloud as it was sent: H rows of W points, each of S bytes."""

    message: Any
    """As rosbags has it."""
    encoding: str
    is_little: bool
    """Of the message's own numbers; those of the points have their own flag."""
    table: NDArray[np.uint8]
    """(H, row bytes); a row may end in bytes that belong to no point."""

    @property
    def n(self) -> int:
        """H x W."""
        return int(self.message.height) * int(self.message.width)

    @property
    def stamp_ns(self) -> int:
        """When it was measured, as its header says; 0 where it does not."""
        stamp = self.message.header.stamp
        return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)

    @property
    def points(self) -> NDArray[np.uint8]:
        """(H, W, S) the bytes of each point."""
        height, width, step = self.message.height, self.message.width, self.message.point_step
        return self.table[:, : width * step].reshape(height, width, step)

    def number_type(self, number: int) -> np.dtype[Any]:
        """Of a field's values."""
        return np.dtype(_NUMBERS[number]).newbyteorder(">" if self.message.is_bigendian else "<")

    def columns(self) -> PointColumns:
        """The fields of one number each, row by row."""
        rows = self.points.reshape(self.n, self.message.point_step)
        names, values = [], []
        for field in self.message.fields:
            if field.count > 1:  # 0 stands for 1 in older drivers
                continue
            kind = self.number_type(field.datatype)
            raw = np.ascontiguousarray(rows[:, field.offset : field.offset + kind.itemsize])
            names.append(field.name)
            values.append(raw.view(kind)[:, 0] if self.n else np.zeros(0, kind))
        return PointColumns(names=tuple(names), values=tuple(values))

    def with_fields(self, added: Mapping[str, NDArray[np.uint32 | np.float32]]) -> bytes:
        """The message with more fields after those of each point.

        An existing field of the same name is renamed to `original_NAME`; its bytes are kept.

        Args:
            added: (N,) uint32 or float32 by name.
        """
        message = self.message
        start = -(-message.point_step // _ALIGNMENT) * _ALIGNMENT
        step = start + 4 * len(added)
        height, width = message.height, message.width
        n_behind = self.table.shape[1] - width * message.point_step
        table = np.zeros((height, width * step + n_behind), np.uint8)
        points = np.zeros((height, width, step), np.uint8)
        points[:, :, : message.point_step] = self.points
        fields = _renamed(message.fields, set(added))
        for place, (name, values) in enumerate(added.items()):
            offset = start + 4 * place
            number = _FLOAT32 if values.dtype == np.float32 else _UINT32
            raw = np.ascontiguousarray(values.astype(self.number_type(number))).view(np.uint8)
            points[:, :, offset : offset + 4] = raw.reshape(height, width, 4)
            fields.append(_new_field(self.encoding, name, offset, number))
        table[:, : width * step] = points.reshape(height, width * step)
        table[:, width * step :] = self.table[:, width * message.point_step :]
        changed = dataclasses.replace(
            message,
            fields=fields,
            point_step=step,
            row_step=table.shape[1],
            data=table.reshape(-1),
        )
        if self.encoding == "ros1":
            return bytes(_types("ros1").serialize_ros1(changed, _KIND))
        return bytes(_types("cdr").serialize_cdr(changed, _KIND, little_endian=self.is_little))


def read_cloud(message: Message, *, where: str) -> CloudMessage:
    """Read a recorded cloud.

    Args:
        message: Of the type `CLOUD`.
        where: Bag, topic and place, for messages.

    Raises:
        ConfigError: rosbags is not installed.
        DataError: Not such a message, or one with inconsistent sizes.
    """
    if message.encoding not in ENCODINGS:
        raise DataError(
            f"{where}: messages written as {message.encoding!r}; {CLOUD} of ROS 1 or ROS 2 "
            f"({' or '.join(ENCODINGS)}) is expected"
        )
    types = _types(message.encoding)
    with reading(Path(where), f"message {CLOUD}"):
        if message.encoding == "ros1":
            found: Any = types.deserialize_ros1(message.data, _KIND)
        else:
            found = types.deserialize_cdr(message.data, _KIND)
    return CloudMessage(
        message=found,
        encoding=message.encoding,
        is_little=message.encoding == "ros1" or message.data[1] == 1,
        table=_table(found, where),
    )


def packed_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours as in PCL and RViz: 0x00RRGGBB in the bytes of a float32.

    Args:
        rgb: (N, 3).

    Returns:
        (N,).
    """
    red, green, blue = rgb.astype(np.uint32).T
    return ((red << 16) | (green << 8) | blue).view(np.float32)


def _table(message: Any, where: str) -> NDArray[np.uint8]:
    """(H, row bytes), after checking that a message's sizes are consistent."""
    height, width, step = message.height, message.width, message.point_step
    names = ", ".join(field.name for field in message.fields)
    for field in message.fields:
        if field.datatype not in _NUMBERS:
            raise DataError(
                f"{where}: field {field.name!r} has the unknown type {field.datatype}; 1 (int8) "
                "to 8 (float64) are expected"
            )
        end = field.offset + np.dtype(_NUMBERS[field.datatype]).itemsize * max(1, field.count)
        if end > step and height * width:
            raise DataError(
                f"{where}: field {field.name!r} ends at byte {end}, a point has {step} bytes "
                f"(fields {names})"
            )
    if not height * width:
        return np.zeros((height, 0), np.uint8)
    # A cloud of one row needs no row step, and some drivers give none.
    row_bytes = message.row_step if height > 1 else max(message.row_step, width * step)
    if row_bytes < width * step or len(message.data) < height * row_bytes:
        raise DataError(
            f"{where}: {len(message.data):,} bytes and a row of {message.row_step:,}, but "
            f"{height} x {width} points of {step} bytes: truncated?"
        )
    return np.asarray(message.data[: height * row_bytes], np.uint8).reshape(height, row_bytes)


def _renamed(fields: list[Any], taken: set[str]) -> list[Any]:
    """Fields that leave some names free."""
    names = {field.name for field in fields} | taken
    made = []
    for field in fields:
        name = field.name
        while name in taken or (name != field.name and name in names):
            name = f"original_{name}"
        names.add(name)
        made.append(dataclasses.replace(field, name=name))
    return made


def _new_field(encoding: str, name: str, offset: int, number: int) -> Any:
    kind: Any = _types(encoding).types["sensor_msgs/msg/PointField"]
    return kind(name=name, offset=offset, datatype=number, count=1)


@lru_cache
def _types(encoding: str) -> Any:
    """What rosbags knows of a ROS version's messages; those of clouds never changed."""
    typesys = reader_package("rosbags.typesys", Path("PointCloud2"), needs="rosbags", extra="bags")
    stores = typesys.Stores
    types = typesys.get_typestore(stores.ROS1_NOETIC if encoding == "ros1" else stores.ROS2_HUMBLE)
    types.get_msgdef(_KIND)  # made here, once, whichever thread asks
    return types
