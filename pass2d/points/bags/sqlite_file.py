"""`.db3`: messages of ROS 2 as rows of SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.points.bags.storage import Message, Topic, plain_kind, reading

_ROWS = (
    " FROM messages JOIN topics ON messages.topic_id = topics.id"
    " WHERE topics.name = ? ORDER BY messages.timestamp, messages.id"
)
_NUMBERS = "SELECT messages.id" + _ROWS
_MESSAGES = "SELECT messages.data, messages.timestamp, topics.serialization_format" + _ROWS


class SqliteFile:
    """One `.db3` file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def topics(self) -> list[Topic]:
        """As its tables say."""
        with self._open() as source:
            rows = source.execute(
                "SELECT name, type, serialization_format, count(messages.id) FROM topics "
                "LEFT JOIN messages ON messages.topic_id = topics.id "
                "GROUP BY topics.id ORDER BY topics.id"
            ).fetchall()
        return [
            Topic(name=str(name), kind=plain_kind(str(kind)), encoding=str(encoding), count=count)
            for name, kind, encoding, count in rows
        ]

    def messages(self, topic: str) -> Iterator[Message]:
        """Messages in playback order.

        Raises:
            DataError: Damaged.
        """
        with self._open() as source:
            for data, time_ns, encoding in source.execute(_MESSAGES, (topic,)):
                if not isinstance(data, bytes) or not isinstance(time_ns, int):
                    raise DataError(
                        f"{self.path}: damaged: a message of {topic} is not binary data"
                    )
                yield Message(data=data, time_ns=time_ns, encoding=str(encoding))

    def copy(self, target: Path, topic: str, replaced: Iterator[bytes]) -> None:
        """Copy the file, then replace the rows of the topic; all others are unchanged."""
        with self._open() as source, closing(sqlite3.connect(target)) as made:
            with _writing(target):
                source.backup(made)
                # The file is not visible before it is complete: no journal.
                made.execute("PRAGMA journal_mode = OFF")
                made.execute("PRAGMA synchronous = OFF")
            numbers = [number for (number,) in source.execute(_NUMBERS, (topic,))]
            for number in numbers:
                data = next(replaced)
                with _writing(target):
                    made.execute("UPDATE messages SET data = ? WHERE id = ?", (data, number))
            with _writing(target):
                made.commit()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The file, opened read-only.

        Raises:
            DataError: What the block reads is damaged.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        # As it is on a read-only disk, unless the last messages still lie in a file beside it.
        mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
        with (
            reading(self.path, "ROS 2 database"),
            closing(
                sqlite3.connect(
                    f"{self.path.absolute().as_uri()}?{mode}", uri=True, check_same_thread=False
                )
            ) as source,
        ):
            yield source


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Distinguish a full disk from a damaged file.

    Raises:
        DataError: The target cannot be written.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(f"{target.name}: could not be written: {error}") from error
