"""A point file's bytes: limited to the memory, and unpacked if compressed by gzip."""

from __future__ import annotations

import gzip
import stat
import zlib
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.common.files import NO_PERMISSION

PACKED = ".gz"
LARGEST_UNPACKED = 1 << 29
"""Bytes; 33 million points of KITTI. A few hundred kilobytes may unpack to more than any memory."""

_BLOCK = 1 << 24


def file_bytes(path: Path, *, most: int | None = None) -> bytes:
    """Read a whole file, unpacked if its name ends in ``.gz``.

    Args:
        path: A regular file, or a link to one.
        most: Read only so many bytes from its beginning.

    Raises:
        DataError: Missing, no file (a pipe would wait for ever), no permission, damaged, or it
            unpacks to more than ``LARGEST_UNPACKED`` bytes.
    """
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            raise DataError(f"{path}: {_kind_word(kind)}, not a file of points")
        with path.open("rb") as file:
            if path.suffix.lower() != PACKED:
                return file.read(-1 if most is None else most)
            return _unpacked(path, gzip.GzipFile(fileobj=file), most)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: not a readable gzip file, truncated or damaged: {reason}"
        ) from error
    except OSError as error:
        raise unreadable_file(path, error) from error
    except MemoryError as error:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes do not fit the memory: cut it into parts"
        ) from error


def unreadable_file(path: Path, error: OSError) -> DataError:
    """One line for a file that the system cannot read."""
    if isinstance(error, PermissionError):
        return DataError(f"{path}: {NO_PERMISSION}.")
    if isinstance(error, FileNotFoundError):
        link = ": a link that leads nowhere" if path.is_symlink() else ""
        return DataError(f"{path}: no such file{link}")
    return DataError(f"{path}: not readable: {error.strerror or error}")


def require_small(path: Path, n_bytes: int) -> None:
    """Refuse what unpacks to more than a scan has.

    Raises:
        DataError: It does.
    """
    if n_bytes > LARGEST_UNPACKED:
        raise DataError(
            f"{path}: unpacks to more than {LARGEST_UNPACKED >> 20} MiB; is it a scan? If so, "
            "unpack it yourself and cut it into parts"
        )


def _unpacked(path: Path, file: gzip.GzipFile, most: int | None) -> bytes:
    if most is not None:
        return file.read(most)
    blocks, size = [], 0
    while block := file.read(_BLOCK):
        blocks.append(block)
        size += len(block)
        require_small(path, size)
    return b"".join(blocks)


def _kind_word(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device or socket"
