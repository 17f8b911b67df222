"""`.bag`: messages of ROS 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass2d.points.bags.storage import Message, Topic, plain_kind, reading
from pass2d.points.columns import reader_package

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag1 import Reader, Writer

_REMEDY = "A truncated recording can be repaired by `rosbag reindex`"


class Ros1File:
    """One `.bag` file, read in the order of time."""

    def __init__(self, path: Path) -> None:
        reader_package("rosbags.rosbag1", path, needs="rosbags", extra="bags")
        self.path = path

    def topics(self) -> list[Topic]:
        """By its index."""
        with self._open() as source:
            return [
                Topic(
                    name=one.topic,
                    kind=plain_kind(one.msgtype),
                    encoding="ros1",
                    count=one.msgcount,
                )
                for one in source.connections
            ]

    def messages(self, topic: str) -> Iterator[Message]:
        """In the order of time."""
        with self._open() as source:
            chosen = [one for one in source.connections if one.topic == topic]
            for _, time_ns, data in self._recorded(source, chosen):
                yield Message(data=data, time_ns=time_ns, encoding="ros1")

    def copy(self, target: Path, topic: str, replaced: Iterator[bytes]) -> None:
        """Copy message by message in the order of time, with the same compression."""
        from rosbags.rosbag1 import Writer

        writer = Writer(target)
        with self._open() as source:
            _pack_as(writer, source)
            with writer:
                made = _copied(source.connections, writer)
                for connection, time_ns, data in self._recorded(source, source.connections):
                    is_chosen = connection.topic == topic
                    writer.write(
                        made[connection.id], time_ns, next(replaced) if is_chosen else data
                    )

    @contextmanager
    def _open(self) -> Iterator[Reader]:
        from rosbags.rosbag1 import Reader

        with reading(self.path, "ROS 1 bag", remedy=_REMEDY):
            source = Reader(self.path)
            source.open()
        try:
            yield source
        finally:
            source.close()

    def _recorded(
        self, source: Reader, chosen: list[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        if chosen:  # for none, the library takes all
            with reading(self.path, "ROS 1 bag", remedy=_REMEDY):
                yield from source.messages(chosen)


def _copied(connections: list[Connection], writer: Writer) -> dict[int, Connection]:
    """The connections of another bag in a new one, by their numbers there."""
    made: dict[object, Connection] = {}
    for one in connections:
        known = one.topic, one.msgtype, one.msgdef, one.digest, one.ext
        if known not in made:  # a publisher that connected twice is listed once
            extra: Any = one.ext
            made[known] = writer.add_connection(
                one.topic,
                one.msgtype,
                msgdef=one.msgdef.data,
                md5sum=one.digest,
                callerid=extra.callerid,
                latching=extra.latching,
            )
    return {
        one.id: made[one.topic, one.msgtype, one.msgdef, one.digest, one.ext] for one in connections
    }


def _pack_as(writer: Writer, source: Reader) -> None:
    """Compress as the first chunk is compressed."""
    from rosbags.rosbag1.reader import decompressors

    for chunk in list(source.chunks.values())[:1]:
        for name, decompress in decompressors.items():
            if chunk.decompressor is decompress and name != "none":
                writer.set_compression(writer.CompressionFormat[name.upper()])
