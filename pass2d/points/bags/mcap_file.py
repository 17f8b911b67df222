"""`.mcap`: messages of ROS 2, or of ROS 1, in chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass2d.common.errors import DataError
from pass2d.points.bags.storage import Message, Topic, plain_kind, reading
from pass2d.points.columns import reader_package

if TYPE_CHECKING:
    from mcap.writer import Writer

_REMEDY = "A truncated recording can be repaired by `mcap recover`"
_LARGEST_RECORD = 1 << 32


class McapFile:
    """One `.mcap` file; read from its beginning to its end, a chunk at a time."""

    def __init__(self, path: Path) -> None:
        reader_package("mcap", path, needs="mcap", extra="bags")
        self.path = path

    def topics(self) -> list[Topic]:
        """By the index at its end, or by all records where it has none."""
        from mcap.reader import SeekingReader

        with reading(self.path, "MCAP file", remedy=_REMEDY), self.path.open("rb") as file:
            summary = SeekingReader(file, record_size_limit=_LARGEST_RECORD).get_summary()
            if summary is None or summary.statistics is None or not summary.channels:
                return self._counted()
            counts = summary.statistics.channel_message_counts
            return [
                _topic(channel, summary.schemas.get(channel.schema_id), counts.get(number, 0))
                for number, channel in summary.channels.items()
            ]

    def messages(self, topic: str) -> Iterator[Message]:
        """In the order of the file."""
        from mcap.records import Channel
        from mcap.records import Message as Record

        encodings: dict[int, str] = {}
        with closing(self._records()) as records:
            for record in records:
                if isinstance(record, Channel) and record.topic == topic:
                    encodings[record.id] = record.message_encoding
                elif isinstance(record, Record) and record.channel_id in encodings:
                    yield Message(
                        data=record.data,
                        time_ns=record.log_time,
                        encoding=encodings[record.channel_id],
                    )

    def copy(self, target: Path, topic: str, replaced: Iterator[bytes]) -> None:
        """Copy record by record, including attachments and metadata, with the same compression.

        Raises:
            DataError: Damaged.
        """
        from mcap.records import Attachment, Channel, Header, Metadata, Schema
        from mcap.records import Message as Record

        schemas, channels = {0: 0}, {}
        chosen: set[int] = set()
        with target.open("wb") as file, closing(self._records()) as records:
            writer = self._writer(file)
            header = next(records, None)
            if not isinstance(header, Header):
                raise DataError(f"{self.path}: damaged: an MCAP file begins with a header")
            writer.start(profile=header.profile)
            for record in records:
                if isinstance(record, Schema) and record.id not in schemas:
                    schemas[record.id] = writer.register_schema(
                        record.name, record.encoding, record.data
                    )
                elif isinstance(record, Channel) and record.id not in channels:
                    channels[record.id] = writer.register_channel(
                        record.topic,
                        record.message_encoding,
                        schemas[self._known(record.schema_id, schemas)],
                        record.metadata,
                    )
                    chosen |= {record.id} if record.topic == topic else set()
                elif isinstance(record, Record):
                    is_chosen = record.channel_id in chosen
                    writer.add_message(
                        channels[self._known(record.channel_id, channels)],
                        record.log_time,
                        next(replaced) if is_chosen else record.data,
                        record.publish_time,
                        record.sequence,
                    )
                elif isinstance(record, Attachment):
                    writer.add_attachment(
                        record.create_time,
                        record.log_time,
                        record.name,
                        record.media_type,
                        record.data,
                    )
                elif isinstance(record, Metadata):
                    writer.add_metadata(record.name, record.metadata)
            writer.finish()  # type: ignore[no-untyped-call]  # of mcap

    def _known(self, number: int, known: dict[int, int]) -> int:
        if number not in known:
            raise DataError(
                f"{self.path}: damaged: a record refers to {number}, which does not exist"
            )
        return number

    def _writer(self, file: Any) -> Writer:
        """One that packs as this file is packed."""
        from mcap.records import Chunk
        from mcap.writer import CompressionType, Writer

        chunk: Chunk | None = None
        with closing(self._records(whole_chunks=True)) as records:
            chunk = next((record for record in records if isinstance(record, Chunk)), None)
        packings = {"lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}
        return Writer(
            file,
            compression=packings.get(chunk.compression if chunk else "", CompressionType.NONE),
            use_chunking=chunk is not None,
        )

    def _records(self, *, whole_chunks: bool = False) -> Generator[Any]:
        """All records before the index, checked by their sums; the index is read to its end."""
        from mcap.records import DataEnd
        from mcap.stream_reader import StreamReader

        with reading(self.path, "MCAP file", remedy=_REMEDY), self.path.open("rb") as file:
            source = StreamReader(
                file,
                validate_crcs=not whole_chunks,
                emit_chunks=whole_chunks,
                record_size_limit=_LARGEST_RECORD,
            )
            is_data = True
            for record in source.records:
                is_data = is_data and not isinstance(record, DataEnd)
                if is_data:
                    yield record

    def _counted(self) -> list[Topic]:
        from mcap.records import Channel, Schema
        from mcap.records import Message as Record

        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        counts: Counter[int] = Counter()
        for record in self._records():
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Record):
                counts[record.channel_id] += 1
        return [
            _topic(channel, schemas.get(channel.schema_id), counts[number])
            for number, channel in channels.items()
        ]


def _topic(channel: Any, schema: Any, count: int) -> Topic:
    return Topic(
        name=channel.topic,
        kind="" if schema is None else plain_kind(schema.name),
        encoding=channel.message_encoding,
        count=count,
    )
