"""Wrong contents of packed files whose headers, lengths and checksums fit."""

from __future__ import annotations

import gzip
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bag_samples import CLOUD, ROS1, ROS2
from mcap.reader import make_reader
from mcap.writer import Writer
from pandas_samples import write_table
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import Writer as Writer1

from pass2d.points.pandas_pickle import read_pandas

ODD_NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1e300, 1e39, 0.0, -1.0, 2.0**63, 1e-320)
ODD_WORDS = ("", "x" * 3000, "../../x", "a\nb", "\0", "🚗", "sensor_msgs/msg/Image")
ODD_TIMES = (0, 1, 2**63 - 1)


def alter_inside(file: Path, choose: random.Random) -> bool:
    """Change what a file holds, and pack it again.

    Returns:
        Whether it is of a kind that is known here.
    """
    by_suffix: dict[str, Callable[[Path, random.Random], None]] = {
        ".parquet": _parquet,
        ".pkl": _pickled_table,
        ".mcap": _mcap,
        ".bag": _ros1,
        ".db3": _sqlite,
    }
    suffix = Path(file.name.removesuffix(".gz")).suffix
    if suffix in by_suffix:
        by_suffix[suffix](file, choose)
    elif file.suffix == ".gz":
        file.write_bytes(gzip.compress(_flipped(gzip.decompress(file.read_bytes()), choose)))
    else:
        return False
    return True


def _flipped(data: bytes, choose: random.Random) -> bytes:
    """One to many bytes are others, mostly near the start."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 8, 60))):
        if changed:
            most = choose.choice((len(changed), min(len(changed), 160)))
            changed[choose.randrange(most)] = choose.randrange(256)
    return bytes(changed)


def _parquet(file: Path, choose: random.Random) -> None:
    """Another name, type, number or order of columns and rows."""
    table = pq.read_table(file)
    place = choose.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place).combine_chunks()
    others = [
        pa.array(["word"] * len(column)),
        pa.array([1.5] * len(column)),
        pa.array([-7] * len(column), pa.int64()),
        pa.array([True] * len(column)),
        pa.array([None] * len(column), column.type),
        pa.nulls(len(column)),
        pa.array([b"\xff\xd8\xff"] * len(column)),
        pa.array([[]] * len(column), pa.list_(pa.float32())),
        pa.array([[None, 3]] * len(column), pa.list_(pa.int32())),
        pa.array([[2**31, 2**31, 4]] * len(column), pa.list_(pa.int64())),
        pa.array([[-1, -1, 4]] * len(column), pa.list_(pa.int32())),
        pa.array([{"a": 1}] * len(column)),
        pa.array([[[1.0]]] * len(column)),
        _with_one_odd(column, choose),
        _with_one_odd(column, choose),
    ]
    action = choose.randrange(8)
    if action == 0:
        table = table.drop_columns([name])
    elif action == 1:
        names = list(table.column_names)
        names[place] = choose.choice((name.upper(), "", "x" * 3000, names[0]))
        table = table.rename_columns(names)
    elif action == 2:
        table = table.slice(0, choose.randrange(table.num_rows))
    elif action == 3:
        rows = [choose.randrange(table.num_rows) for _ in range(table.num_rows)]
        table = table.take(rows)
    else:
        table = table.set_column(place, name, choose.choice(others))
    pq.write_table(table, file)


def _with_one_odd(column: pa.Array, choose: random.Random) -> pa.Array:
    """Some number in it is out of all bounds; of other columns, one value is missing."""
    values = column.to_pylist()
    place = choose.randrange(len(values))
    if isinstance(values[place], list) and values[place]:
        items = list(values[place])
        odds = {float: ODD_NUMBERS, int: (-1, 77)}.get(type(items[0]), (None,))
        odd = choose.choice(odds)
        for _ in range(choose.choice((1, 9))):
            items[choose.randrange(len(items))] = odd
        fixed = pa.types.is_fixed_size_list(column.type)
        values[place] = items if fixed else choose.choice((items, items[:-1]))
    elif isinstance(values[place], float):
        values[place] = choose.choice(ODD_NUMBERS)
    else:
        values[place] = None
    with np.errstate(all="ignore"):
        return pa.array(values, column.type)


def _pickled_table(file: Path, choose: random.Random) -> None:
    """Another name, type, number or order of columns; or a pickle that is another program."""
    is_packed = file.suffix == ".gz"
    data = gzip.decompress(file.read_bytes()) if is_packed else file.read_bytes()
    if choose.random() < 0.3:
        changed = _flipped(data, choose)
        file.write_bytes(gzip.compress(changed) if is_packed else changed)
        return
    found = read_pandas(file, data)
    columns = dict(zip(found.names, found.values, strict=True))
    name = choose.choice(list(columns))
    n = len(columns[name])
    action = choose.randrange(6)
    if action == 0 and len(columns) > 1:
        del columns[name]
    elif action == 1:
        columns[choose.choice((*ODD_WORDS, name.upper(), "y"))] = columns.pop(name)
    elif action == 2:
        kinds = ("f4", "f8", "i1", "u1", "i8", "?", "c16", "O", "S4", "M8[s]")
        with np.errstate(all="ignore"):
            columns[name] = columns[name].astype(choose.choice(kinds))
    elif action == 3:
        values = columns[name].astype(np.float64)
        values[choose.randrange(n) :: choose.choice((1, n))] = choose.choice(ODD_NUMBERS)
        columns[name] = values
    elif action == 4:
        fewer = choose.choice((0, 1, n // 2))
        columns = {key: column[:fewer] for key, column in columns.items()}
    else:
        columns = dict(choose.sample(list(columns.items()), len(columns)))
    write_table(file, columns, choose.choice(("0.25", "1.1", "2.2")))


def _message(data: bytes, kind: str, store: Any, choose: random.Random) -> bytes:
    """A message with other numbers in its head; or with other bytes."""
    is_ros1 = store is ROS1
    if kind != CLOUD or choose.random() < 0.4:
        return _flipped(data, choose)
    cloud = (store.deserialize_ros1 if is_ros1 else store.deserialize_cdr)(data, CLOUD)
    field = choose.choice(("width", "height", "point_step", "row_step", "data", "fields", "one"))
    if field == "data":
        cloud = replace(cloud, data=cloud.data[: choose.choice((0, 1, len(cloud.data) - 1))])
    elif field == "fields":
        fields = list(cloud.fields)
        fields = choose.choice(([], fields[:2], [*fields, fields[0]], fields[::-1]))
        cloud = replace(cloud, fields=fields)
    elif field == "one":
        fields = list(cloud.fields)
        place = choose.randrange(len(fields))
        change = choose.choice(
            (
                {"offset": choose.choice((1, 2**20, 2**32 - 1))},
                {"datatype": choose.choice((0, 1, 8, 9, 255))},
                {"count": choose.choice((0, 2, 2**32 - 1))},
                {"name": choose.choice(ODD_WORDS)},
            )
        )
        fields[place] = replace(fields[place], **change)
        cloud = replace(cloud, fields=fields)
    else:
        odd = choose.choice((0, 1, 2**16, 2**31, 2**32 - 1))
        cloud = replace(cloud, **{field: odd})
    return bytes((store.serialize_ros1 if is_ros1 else store.serialize_cdr)(cloud, CLOUD))


def _one_of(number: int, choose: random.Random) -> Callable[[int], bool]:
    """Whether the message of a place is changed: one, or all."""
    chosen, is_all = choose.randrange(number), choose.random() < 0.3
    return lambda place: is_all or place == chosen


def _mcap(file: Path, choose: random.Random) -> None:
    with file.open("rb") as stream:
        messages = list(make_reader(stream).iter_messages(log_time_order=False))
    is_changed = _one_of(len(messages), choose)
    about = choose.choice(("data", "data", "data", "topic", "schema", "encoding", "time", "text"))
    with file.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        channels: dict[int, int] = {}
        for place, (schema, channel, message) in enumerate(messages):
            store = ROS1 if channel.message_encoding == "ros1" else ROS2
            odd = choose.choice(ODD_WORDS) if is_changed(place) else ""
            if channel.id not in channels:
                kind = odd if odd and about == "schema" else schema.name
                text = odd.encode() if odd and about == "text" else schema.data
                name = odd if odd and about == "topic" else channel.topic
                encoding = odd if odd and about == "encoding" else channel.message_encoding
                number = writer.register_schema(kind, schema.encoding, text)
                channels[channel.id] = writer.register_channel(name, encoding, number)
            data, time = message.data, message.log_time
            if is_changed(place) and about == "data":
                kind = schema.name if "/msg/" in schema.name else schema.name.replace("/", "/msg/")
                data = _message(data, kind, store, choose)
            elif is_changed(place) and about == "time":
                time = choose.choice((*ODD_TIMES, 2**64 - 1))
            writer.add_message(channels[channel.id], time, data, time, place)
        writer.finish()


def _ros1(file: Path, choose: random.Random) -> None:
    with Reader1(file) as reader:
        connections = {one.id: one for one in reader.connections}
        messages = [(one.id, time_ns, bytes(data)) for one, time_ns, data in reader.messages()]
    file.unlink()
    is_changed = _one_of(len(messages), choose)
    about = choose.choice(("data", "data", "data", "kind", "time"))
    with Writer1(file) as writer:
        made = {}
        for place, (number, time_ns, data) in enumerate(messages):
            old = connections[number]
            if number not in made:
                odd = is_changed(place) and about == "kind"
                kind = "sensor_msgs/msg/Image" if odd else old.msgtype
                more = {"msgdef": old.msgdef.data, "md5sum": old.digest}
                made[number] = writer.add_connection(old.topic, kind, **more)
            new = _message(data, old.msgtype, ROS1, choose)
            use = is_changed(place) and about == "data"
            when = choose.choice(ODD_TIMES[:2]) if is_changed(place) and about == "time" else None
            writer.write(made[number], time_ns if when is None else when, new if use else data)


def _sqlite(file: Path, choose: random.Random) -> None:
    with closing(sqlite3.connect(file)) as base, base:
        rows = base.execute("SELECT id, topic_id, data FROM messages").fetchall()
        kinds = dict(base.execute("SELECT id, type FROM topics").fetchall())
        number, topic, data = choose.choice(rows)
        to_data = "UPDATE messages SET data = ? WHERE id = ?"
        changed = _message(data, kinds[topic], ROS2, choose)
        words, values = choose.choice(
            (
                *((to_data, (changed,)),) * 4,
                (to_data, (choose.choice((None, "x", 7)),)),
                ("UPDATE messages SET timestamp = ?", (choose.choice((*ODD_TIMES, "x", -1)),)),
                ("UPDATE messages SET topic_id = ?", (choose.choice((99, -1)),)),
                ("UPDATE topics SET name = ?", (choose.choice(ODD_WORDS),)),
                ("UPDATE topics SET type = ?", (choose.choice(ODD_WORDS),)),
                ("UPDATE topics SET serialization_format = ?", ("json",)),
                ("DELETE FROM topics", ()),
                ("DELETE FROM messages", ()),
                ("DROP TABLE messages", ()),
                ("ALTER TABLE messages RENAME COLUMN data TO bytes", ()),
            )
        )
        base.execute(words, (*values, number) if words == to_data else values)
    base.close()
