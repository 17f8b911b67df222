"""The interface of all files of recorded messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pass2d.common.errors import DataError, Pass2DError
from pass2d.common.files import NO_PERMISSION
from pass2d.points.columns import error_words

CLOUD = "sensor_msgs/PointCloud2"
ENCODINGS = ("cdr", "ros1")
"""How ROS 2 and ROS 1 write messages."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic of a recording."""

    name: str
    kind: str
    """Type of its messages without "/msg/", e.g. "sensor_msgs/PointCloud2"; "" if unknown."""
    encoding: str
    """Of its messages, one of `ENCODINGS` or another word."""
    count: int
    """Messages."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One recorded message, as it was written."""

    data: bytes
    time_ns: int
    """When it was recorded."""
    encoding: str


class Storage(Protocol):
    """A file of recorded messages."""

    @property
    def path(self) -> Path:
        """The file."""

    def topics(self) -> list[Topic]:
        """What was recorded.

        Raises:
            DataError: Not readable.
        """

    def messages(self, topic: str) -> Iterator[Message]:
        """The messages of a topic, in the order of `copy`; none where the file lacks the topic.

        Raises:
            DataError: Damaged.
        """

    def copy(self, target: Path, topic: str, replaced: Iterator[bytes]) -> None:
        """Copy the recording, replacing the messages of one topic.

        Args:
            target: A new file.
            topic: Whose messages are replaced; their timestamps and order do not change.
            replaced: As many as ``messages`` yields; no more are taken.

        Raises:
            DataError: Damaged.
            OSError: The disk is full.
        """


def plain_kind(name: str) -> str:
    """A type without what ROS 2 puts into its name."""
    return name.replace("/msg/", "/")


@contextmanager
def reading(path: Path, kind: str, *, remedy: str = "") -> Iterator[None]:
    """Turn any exception of a reader into one line that names the file.

    Args:
        path: The recording.
        kind: For the message: "MCAP file".
        remedy: What repairs a truncated one.
    """
    try:
        yield
    except Pass2DError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except PermissionError as error:
        raise DataError(f"{path}: {NO_PERMISSION}.") from error
    except MemoryError as error:
        raise DataError(f"{path}: damaged: a record claims to be larger than the memory") from error
    except Exception as error:
        advice = f". {remedy}" if remedy else ""
        raise DataError(
            f"{path}: not a readable {kind}, truncated or damaged: {error_words(error)}{advice}"
        ) from error
