"""Recordings for tests, written and read by the libraries' own writers and readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

CLOUD, TEXT = "sensor_msgs/msg/PointCloud2", "std_msgs/msg/String"
NUMBERS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
USUAL = (("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8), ("intensity", "f4", 16))
START_NS = 1_700_000_000_000_000_000
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)


@dataclass(frozen=True)
class Sent:
    """A message of a recording."""

    topic: str
    time_ns: int
    message: Any


def cloud(
    columns: dict[str, np.ndarray],
    *,
    fields: Sequence[tuple[str, str, int]] = USUAL,
    step: int = 22,
    height: int = 1,
    row_padding: int = 0,
    is_bigendian: bool = False,
    stamp_ns: int = START_NS,
    store: Any = ROS2,
    **changes: Any,
) -> Any:
    """A PointCloud2; what no field covers is filled with 0xAB."""
    n = len(next(iter(columns.values())))
    width = n // height
    points = np.full((n, step), 0xAB, np.uint8)
    for name, kind, offset in fields:
        values = columns[name].astype((">" if is_bigendian else "<") + kind)
        raw = values.view(np.uint8).reshape(n, values.itemsize)
        points[:, offset : offset + raw.shape[1]] = raw
    rows = np.full((height, width * step + row_padding), 0xCD, np.uint8)
    rows[:, : width * step] = points.reshape(height, -1)
    types = store.types
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    more = {"seq": 7} if store is ROS1 else {}
    values = {
        "header": types["std_msgs/msg/Header"](stamp=stamp, frame_id="lidar", **more),
        "height": height,
        "width": width,
        "fields": [
            types["sensor_msgs/msg/PointField"](
                name=name, offset=offset, datatype=NUMBERS[kind], count=1
            )
            for name, kind, offset in fields
        ],
        "is_bigendian": is_bigendian,
        "point_step": step,
        "row_step": rows.shape[1],
        "data": rows.reshape(-1),
        "is_dense": False,
    }
    return types[CLOUD](**{**values, **changes})


def text(words: str, store: Any = ROS2) -> Any:
    return store.types[TEXT](data=words)


def some_columns(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-60, -60, -5], [60, 60, 3], (n, 3)).astype(np.float32)
    return {**dict(zip("xyz", xyz.T, strict=True)), "intensity": rng.random(n, np.float32)}


def drive(store: Any = ROS2, *, n_scans: int = 5, n_points: int = 60) -> list[Sent]:
    """Scans of /points at 10 Hz, two words of /chatter after each, both at one time."""
    sent = []
    for k in range(n_scans):
        time_ns = START_NS + k * 100_000_000
        scan = cloud(some_columns(n_points, k), store=store, stamp_ns=time_ns - 5)
        sent.append(Sent("/points", time_ns, scan))
        sent += [Sent("/chatter", time_ns + 1, text(f"{k} {w}", store)) for w in ("a", "b")]
    return sent


def kind_of(message: Any) -> str:
    return message.__msgtype__


def write_mcap(
    path: Path,
    sent: Iterable[Sent],
    *,
    encoding: str = "cdr",
    is_little: bool = True,
    compression: CompressionType = CompressionType.ZSTD,
    extras: bool = True,
    **options: Any,
) -> Path:
    """As recorders write them: with attachments, metadata and numbered messages."""
    store = ROS1 if encoding == "ros1" else ROS2
    channels: dict[str, int] = {}
    with path.open("wb") as file:
        writer = McapWriter(file, compression=compression, **options)
        writer.start(profile=encoding.replace("cdr", "ros2"))
        for number, one in enumerate(sent):
            kind = kind_of(one.message)
            if one.topic not in channels:
                words, _ = store.generate_msgdef(kind, ros_version=1 if encoding == "ros1" else 2)
                name = kind.replace("/msg/", "/") if encoding == "ros1" else kind
                schema = writer.register_schema(
                    name, "ros1msg" if encoding == "ros1" else "ros2msg", words.encode()
                )
                channels[one.topic] = writer.register_channel(
                    one.topic, encoding, schema, {"offered_qos_profiles": "", "why": "test"}
                )
            writer.add_message(
                channels[one.topic],
                one.time_ns,
                encoded(one.message, encoding, is_little=is_little),
                one.time_ns - 3,
                number,
            )
        if extras:
            writer.add_attachment(START_NS, START_NS + 1, "notes.txt", "text/plain", b"sunny")
            writer.add_metadata("vehicle", {"tyres": "winter"})
        writer.finish()
    return path


def encoded(message: Any, encoding: str, *, is_little: bool = True) -> bytes:
    if encoding == "ros1":
        return bytes(ROS1.serialize_ros1(message, kind_of(message)))
    return bytes(ROS2.serialize_cdr(message, kind_of(message), little_endian=is_little))


def write_ros1(path: Path, sent: Iterable[Sent], *, packing: str | None = None) -> Path:
    writer = Writer1(path)
    if packing:
        writer.set_compression(writer.CompressionFormat[packing])
    with writer:
        connections: dict[str, Any] = {}
        for one in sent:
            if one.topic not in connections:
                connections[one.topic] = writer.add_connection(
                    one.topic, kind_of(one.message), typestore=ROS1, callerid="/node", latching=1
                )
            writer.write(connections[one.topic], one.time_ns, encoded(one.message, "ros1"))
    return path


def write_ros2(
    folder: Path,
    sent: Iterable[Sent],
    *,
    plugin: StoragePlugin = StoragePlugin.SQLITE3,
    packing: CompressionMode = CompressionMode.NONE,
) -> Path:
    writer = Writer2(folder, version=9, storage_plugin=plugin)
    writer.set_compression(packing, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for one in sent:
            if one.topic not in connections:
                connections[one.topic] = writer.add_connection(
                    one.topic, kind_of(one.message), typestore=ROS2
                )
            writer.write(connections[one.topic], one.time_ns, encoded(one.message, "cdr"))
    return folder


def read_bag(path: Path) -> list[tuple[str, int, bytes]]:
    """Topic, stamp and bytes of every message, as rosbags reads them."""
    with AnyReader([path]) as reader:
        return [(one.topic, time_ns, bytes(data)) for one, time_ns, data in reader.messages()]


def read_mcap(path: Path) -> list[tuple[str, int, int, int, bytes]]:
    """Topic, both stamps, number and bytes of every message, as mcap reads them."""
    with path.open("rb") as file:
        return [
            (channel.topic, one.log_time, one.publish_time, one.sequence, one.data)
            for _, channel, one in make_reader(file, validate_crcs=True).iter_messages(
                log_time_order=False
            )
        ]


def decoded(data: bytes, *, is_ros1: bool = False) -> Any:
    return ROS1.deserialize_ros1(data, CLOUD) if is_ros1 else ROS2.deserialize_cdr(data, CLOUD)


def field(message: Any, name: str) -> np.ndarray:
    """(H, W) of a field, by the plain rule."""
    (found,) = [one for one in message.fields if one.name == name]
    kinds = {number: kind for kind, number in NUMBERS.items()}
    kind = np.dtype(("<", ">")[message.is_bigendian] + kinds[found.datatype])
    values = [
        np.frombuffer(
            bytes(message.data),
            kind,
            count=1,
            offset=row * message.row_step + column * message.point_step + found.offset,
        )[0]
        for row in range(message.height)
        for column in range(message.width)
    ]
    return np.array(values, kind).reshape(message.height, message.width)
