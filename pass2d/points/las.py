"""`.las` and `.laz` of the ASPRS."""

from __future__ import annotations

import atexit
import contextlib
import io
import math
import os
import struct
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns, reader_package
from pass2d.points.laz_worker import ANSWER, REQUEST, columns_of

NEEDS = "laspy[lazrs]"
_MAGIC = b"LASF"
_SMALLEST_HEADER, _SMALLEST_RECORD, _SMALLEST_POINT = 227, 54, 20
_EXTENDED_AT, _COUNT_AT = 235, 247
"""In version 1.4: where the extended records start (uint64) and how many there are (uint32), then
the number of points (uint64)."""
_SCALES_AT = 131
"""Of x, y, z: three float64; their offsets follow."""
_LAST_FORMAT = 10
_MOST_RECORDS = 10_000
_LARGEST_POINTS = 1 << 32
"""Bytes of all points of a compressed file; 140 million with 30 bytes each."""


def read_las(path: Path, data: bytes) -> PointColumns:
    """Read the columns; x, y, z as float64 in the file's unit, scale and offset applied.

    Raises:
        ConfigError: laspy or lazrs is not installed.
        DataError: Not such a file, or truncated.
    """
    plain, is_packed = _without_extended_records(path, data)
    reader_package("laspy", path, needs=NEEDS)
    if is_packed:
        reader_package("lazrs", path, needs=NEEDS)
        columns = _WORKER.read(path, plain)
    else:
        columns = columns_of(plain)
    return PointColumns(names=tuple(columns), values=tuple(columns.values()))


class _Worker:
    """A decompression process; if a file crashes it, it is restarted for the next."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._one_at_a_time = threading.Lock()

    def read(self, path: Path, data: bytearray) -> dict[str, NDArray[Any]]:
        """The columns of a file.

        Raises:
            DataError: It cannot be read; the process may have crashed.
        """
        with self._one_at_a_time:
            try:
                is_read, words = self._ask(data)
            except BaseException as error:
                self.end()
                if isinstance(error, OSError | EOFError):
                    raise _wrong(path, "its decompression crashed") from error
                raise
        if not is_read:
            raise _wrong(path, " ".join(words.decode().split())[:200])
        with np.load(io.BytesIO(words)) as columns:
            return dict(columns)

    def _ask(self, data: bytearray) -> tuple[bool, bytes]:
        if self._process is None or self._owner != os.getpid():
            self._process, self._owner = _started(), os.getpid()
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answered is not None
        asked.write(REQUEST.pack(len(data)) + data)
        asked.flush()
        head = answered.read(ANSWER.size)
        if len(head) < ANSWER.size:
            raise EOFError
        is_read, length = ANSWER.unpack(head)
        return is_read, answered.read(length)

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():  # of the process that forked this one
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what is left to write
                cast(IO[bytes], stream).close()
        process.wait()


def _started() -> subprocess.Popen[bytes]:
    """It ends when its input is closed, at the latest with this process."""
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("laz_worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is this process's affair
    )


_WORKER = _Worker()
atexit.register(_WORKER.end)


def _wrong(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a readable LAS file: {reason}: truncated or damaged")


def _without_extended_records(path: Path, data: bytes) -> tuple[bytearray, bool]:
    """The file without the records after its points, which are irrelevant and may never end.

    Returns:
        Its bytes, and whether its points are compressed.

    Raises:
        DataError: The counts in the header do not fit the size of the file.
    """
    wrong = partial(_wrong, path)
    if len(data) < _SMALLEST_HEADER or not data.startswith(_MAGIC):
        raise wrong("it does not begin as such a file")
    minor = data[25]
    header_bytes, points_at, n_records = struct.unpack_from("<HII", data, 94)
    point_format, point_bytes, n_points = struct.unpack_from("<BHI", data, 104)
    plain = bytearray(data)
    if minor >= 4 and len(data) >= _COUNT_AT + 8:
        n_points = max(n_points, struct.unpack_from("<Q", data, _COUNT_AT)[0])
        plain[_EXTENDED_AT : _EXTENDED_AT + 12] = bytes(12)
    is_packed = point_format & 0xC0 == 0x80
    if minor > 4 or point_format & 0x3F > _LAST_FORMAT:
        raise wrong(f"version 1.{minor}, point format {point_format & 0x3F}; known: 1.4, 10")
    scales_offsets = struct.unpack_from("<6d", data, _SCALES_AT)
    if not all(map(math.isfinite, scales_offsets)) or not all(scales_offsets[:3]):
        raise wrong(f"scales and offsets {', '.join(f'{v:g}' for v in scales_offsets)}")
    if not _SMALLEST_HEADER <= header_bytes <= points_at <= len(data):
        raise wrong(f"{len(data):,} bytes, its points start at {points_at:,}")
    if n_records > min(_MOST_RECORDS, (points_at - header_bytes) // _SMALLEST_RECORD):
        raise wrong(f"{n_records:,} records in {points_at - header_bytes:,} bytes")
    if point_bytes < _SMALLEST_POINT:
        raise wrong(f"{point_bytes} bytes per point")
    wanted = n_points * point_bytes
    if wanted > (_LARGEST_POINTS if is_packed else len(data) - points_at):
        raise wrong(f"{len(data):,} bytes, its header says {n_points:,} points ({wanted:,} bytes)")
    rest = len(data) - points_at - wanted
    may_end_in_records = minor == 3 or (minor > 3 and any(data[_EXTENDED_AT : _EXTENDED_AT + 12]))
    is_cut_off = rest >= point_bytes and not (is_packed or may_end_in_records)
    if is_cut_off and any(plain[points_at + wanted :]):  # the writer puts the number in at its end
        raise wrong(f"{len(data) - points_at:,} bytes follow a header of {n_points:,} points")
    return plain, is_packed
