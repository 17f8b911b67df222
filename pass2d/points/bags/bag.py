"""A recording: a file, or a ROS 2 folder with its metadata.yaml."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import yaml  # type: ignore[import-untyped]  # pyyaml ships no types

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.files import (
    beside,
    is_there,
    make_folder,
    open_file,
    read_whole,
    remove_leftovers,
    sync_tree,
    temporary_folder,
)
from pass2d.common.text import unknown
from pass2d.points.bags.mcap_file import McapFile
from pass2d.points.bags.ros1_file import Ros1File
from pass2d.points.bags.sqlite_file import SqliteFile
from pass2d.points.bags.storage import CLOUD, ENCODINGS, Message, Storage, Topic, reading
from pass2d.points.columns import reader_package

STORAGES: dict[str, type[McapFile | Ros1File | SqliteFile]] = {
    ".mcap": McapFile,
    ".bag": Ros1File,
    ".db3": SqliteFile,
}
"""By suffix in lower case."""
METADATA = "metadata.yaml"
_PACKED = ".zstd"
_LARGEST_MESSAGE = 1 << 30


def is_bag(path: Path) -> bool:
    """Whether a path names a recording: by its suffix, or by the contents of the folder."""
    if path.is_dir():
        return is_there(path / METADATA)  # no error for a folder that may not be read
    return path.suffix.lower() in STORAGES


@dataclass(frozen=True, kw_only=True)
class Bag:
    """An open recording."""

    path: Path
    storages: tuple[Storage, ...]
    """Its files, in the order of time."""
    topics: tuple[Topic, ...]
    """Each once, in the order of names."""
    is_each_packed: bool = False
    """Whether each message is compressed by itself (zstd)."""

    def cloud_topic(self, wanted: str | None) -> Topic:
        """The requested topic of clouds, or the only one.

        Raises:
            DataError: None, several, no such topic, or one of another type.
        """
        known = {one.name: one for one in self.topics}
        clouds = [one for one in self.topics if one.kind == CLOUD]
        listed = ", ".join(f"{one.name} ({one.count:,})" for one in clouds) or "none"
        if wanted is None:
            if len(clouds) == 1:
                return clouds[0]
            if clouds:
                raise DataError(
                    f"{self.path}: several {CLOUD} topics: {listed}. Choose one by `topic`."
                )
            others = ", ".join(f"{one.name} ({one.kind or 'no type'})" for one in self.topics)
            raise DataError(f"{self.path}: no {CLOUD} topic; it has {others or 'no topics'}")
        found = known.get(wanted)
        if found is None:
            raise DataError(
                f"{self.path}: {unknown(wanted, known, what='topic')}; topics of {CLOUD}: {listed}"
            )
        if found.kind != CLOUD:
            raise DataError(
                f"{self.path}: topic {wanted} is of type {found.kind or 'unknown'}, {CLOUD} is "
                f"expected; topics of that type: {listed}"
            )
        if found.encoding not in ENCODINGS:
            raise DataError(
                f"{self.path}: topic {wanted} is written as {found.encoding!r}; messages of ROS 1 "
                f"or ROS 2 ({' or '.join(ENCODINGS)}) are expected"
            )
        return found

    def messages(self, topic: str) -> Iterator[Message]:
        """The messages of a topic, in the order of its files.

        Raises:
            DataError: Damaged.
        """
        for storage in self.storages:
            for message in storage.messages(topic):
                if not self.is_each_packed:
                    yield message
                    continue
                with reading(storage.path, "recording (each message compressed)"):
                    data = _unpacked(message.data)
                yield replace(message, data=data)

    def copy(self, target: Path, topic: str, replaced: Iterator[bytes], *, overwrite: bool) -> None:
        """Copy the recording, replacing the messages of one topic.

        The copy is written under a temporary name and moved into place at the end; leftovers of a
        killed run are removed first.

        Args:
            target: A file, or a folder for a folder.
            topic: Whose messages are replaced.
            replaced: As many as ``messages`` yields.
            overwrite: Whether to replace what is there.

        Raises:
            DataError: The recording is damaged, or the target exists or cannot be written.
        """
        require_free(self.path, target, overwrite=overwrite)
        make_folder(target.parent, "recording")
        try:
            with beside(target) as attempt:
                made = attempt / target.name
                self._write(made, topic, chain(replaced, self._no_more()))
                if next(replaced, None) is not None:
                    raise self._changed()
                sync_tree(attempt)
                if target.is_dir():  # a folder is not replaced in one step
                    target.replace(attempt / "earlier")
                made.replace(target)
        except OSError as error:
            raise DataError(
                f"{target}: the recording could not be written: {error.strerror or error}. "
                "Is the disk full, or the folder not writable?"
            ) from error

    def _no_more(self) -> Iterator[bytes]:
        """After the last message: requesting another one is an error."""
        raise self._changed()
        yield

    def _changed(self) -> DataError:
        return DataError(f"{self.path}: changed while it was read: is it still being recorded?")

    def _write(self, made: Path, topic: str, replaced: Iterator[bytes]) -> None:
        if self.is_each_packed:
            replaced = map(_packed, replaced)
        if not self.path.is_dir():
            self.storages[0].copy(made, topic, replaced)
            return
        made.mkdir()
        shutil.copyfile(self.path / METADATA, made / METADATA)
        for storage in self.storages:
            copied = made / storage.path.name
            storage.copy(copied, topic, replaced)
            if (self.path / f"{storage.path.name}{_PACKED}").exists():
                _pack(copied)


def require_free(source: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse a target that is the recording itself, or that exists and may not be replaced.

    Leftovers of a killed run beside it are removed first.

    Raises:
        DataError: It is.
    """
    remove_leftovers(target.parent)
    if not target.exists() and not target.is_symlink():
        return
    if target.exists() and target.samefile(source):
        raise DataError(f"{target}: the recording itself. Choose another `out`.")
    if not overwrite:
        raise DataError(f"{target} is already there. Choose another `out`, or set `overwrite`.")
    if target.is_dir() != source.is_dir() or (target.is_dir() and not is_bag(target)):
        raise DataError(
            f"{target}: not a recording of the same format as {source}, so it is not replaced."
        )


def copy_path(source: Path, out: Path) -> Path:
    """Where a copy of a recording goes.

    Args:
        source: A file or folder.
        out: A path that ends as the source does is the copy; so is, for a folder, one that is not
            there yet. Any other is the folder that the copy lies in, by the name of the source.

    Raises:
        ConfigError: ``out`` ends as another form of recording does.
    """
    suffix = out.suffix.lower()
    if source.is_dir():
        is_copy = suffix not in STORAGES and (is_bag(out) or not out.exists())
        return out if is_copy else out / source.name
    if suffix == source.suffix.lower():
        return out
    if suffix in STORAGES:
        raise ConfigError(
            f"{out}: {source.name} keeps its format: `out` must end in {source.suffix}, or name "
            "a folder"
        )
    return out / source.name


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Open a recording; temporary unpacked files are removed at the end.

    Raises:
        ConfigError: The package that reads it is not installed.
        DataError: Missing, damaged, or of no known form.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    with ExitStack() as stack:
        if path.is_dir():
            about = _metadata(path)
            files = [_unpacked_file(file, stack) for file in _files(path, about)]
            mode = str(about.get("compression_mode") or "").lower()
        else:
            files, mode = [path], ""
        storages = tuple(_storage(file) for file in files)
        yield Bag(
            path=path,
            storages=storages,
            topics=_merged(chain.from_iterable(one.topics() for one in storages)),
            is_each_packed=mode == "message",
        )


def _storage(file: Path) -> Storage:
    kind = STORAGES.get(file.suffix.lower())
    if kind is None:
        raise DataError(f"{file}: a recording is expected: {', '.join(STORAGES)}")
    with reading(file, "recording"):
        os.close(open_file(file))  # the libraries would wait for a pipe
    return kind(file)


def _merged(topics: Iterable[Topic]) -> tuple[Topic, ...]:
    """Topics of several files, or of several publishers, merged by name."""
    found: dict[str, Topic] = {}
    for one in topics:
        other = found.get(one.name)
        found[one.name] = one if other is None else replace(other, count=other.count + one.count)
    return tuple(found[name] for name in sorted(found))


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    with reading(path, "metadata of a ROS 2 recording"):
        found = yaml.safe_load(read_whole(path))
    about = found.get("rosbag2_bagfile_information") if isinstance(found, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("relative_file_paths"), list):
        raise DataError(
            f"{path}: not the metadata of a ROS 2 recording: expected "
            "rosbag2_bagfile_information with relative_file_paths"
        )
    return about


def _files(folder: Path, about: dict[str, Any]) -> list[Path]:
    """The files of a recording; of a path in the metadata only the name counts."""
    files = [folder / PurePath(str(word)).name for word in about["relative_file_paths"]]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: missing; {METADATA} beside it names it")
    if not files:
        raise DataError(f"{folder / METADATA}: names no file of messages")
    return files


def _unpacked_file(file: Path, stack: ExitStack) -> Path:
    """The file, or what it unpacks to if it is compressed as a whole."""
    if file.suffix != _PACKED:
        return file
    zstandard = reader_package("zstandard", file, needs="zstandard", extra="bags")
    made = stack.enter_context(temporary_folder()) / file.stem
    with (
        reading(file, "compressed recording"),
        os.fdopen(open_file(file), "rb") as source,
        made.open("wb") as out,
    ):
        zstandard.ZstdDecompressor().copy_stream(source, out)
    return made


def _pack(file: Path) -> None:
    """Compress a file as a whole."""
    zstandard = reader_package("zstandard", file, needs="zstandard", extra="bags")
    packed = file.with_name(f"{file.name}{_PACKED}")
    with file.open("rb") as source, packed.open("wb") as out:
        zstandard.ZstdCompressor().copy_stream(source, out)
    file.unlink()


def _packed(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def _unpacked(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompress(data, max_output_size=_LARGEST_MESSAGE)
