"""What single entries of a submission zip hold; an entry is streamed, nothing is unpacked."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.common.files import read_whole
from pass2d.train.submission.benchmark import Benchmark
from pass2d.train.submission.label_files import LabelFiles

MAX_POINTS = 20_000_000
"""No lidar measures more per scan: a larger entry cannot be a prediction and is not read."""
MAX_TEXT_BYTES = 1 << 20
"""Of the description and of submission.json."""
_CHUNK = 1 << 20
_FEW_POINTS = 16
"""Of fewer, every second one may happen to have no class."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def read_text(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """The text of an entry.

    Raises:
        ValueError: Too long, damaged or no UTF-8.
    """
    if info.file_size > MAX_TEXT_BYTES:
        raise ValueError(f"{info.file_size:,} bytes, at most {MAX_TEXT_BYTES:,} are allowed")
    try:
        return archive.read(info).decode("utf-8")
    except _UNREADABLE as error:
        raise ValueError(str(error)) from error


def read_description(path: Path) -> bytes:
    """The text for `description.txt`.

    Raises:
        DataError: No such file, not a text, or too long.
    """
    try:
        data = read_whole(path)
        data.decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: the description cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the description is not UTF-8 text") from error
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(f"{path}: the description has {len(data)} bytes, at most 1 MiB is allowed")
    return data


def count_points(info: zipfile.ZipInfo, benchmark: Benchmark) -> int:
    """Points that a prediction entry says it has.

    Raises:
        ValueError: It is not a file of predictions that a server reads.
    """
    width = benchmark.dtype.itemsize
    if info.file_size % width or not info.file_size:
        raise ValueError(f"{info.file_size} bytes, expected {width} per point")
    require_readable(info, width)
    return info.file_size // width


def require_readable(info: zipfile.ZipInfo, width: int) -> None:
    """Refuse an entry that is too large for ``width`` bytes per point, encrypted or packed oddly.

    Raises:
        ValueError: Says which.
    """
    points = info.file_size // width
    if points > MAX_POINTS:
        raise ValueError(f"would unpack to {points:,} points; no scan has so many")
    if info.flag_bits & 1:
        raise ValueError("encrypted")
    if info.compress_type not in _METHODS:
        raise ValueError("compressed in a way that servers may not support; use deflate")


def read_raw_ids(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, files: LabelFiles
) -> NDArray[np.int64]:
    """(N,) raw ids of a described data set's label file.

    Raises:
        ValueError: It is damaged, or no such file.
    """
    require_readable(info, files.dtype.itemsize)
    try:
        return files.decode(info.filename, archive.read(info))
    except _UNREADABLE as error:
        raise ValueError(f"damaged ({error})") from error
    except DataError as error:
        raise ValueError(str(error).removeprefix(f"{info.filename}: ")) from error


def check_predictions(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    benchmark: Benchmark,
    *,
    allowed: NDArray[np.bool_],
    legal: str,
) -> NDArray[np.bool_]:
    """Read every number of a prediction entry, and its checksum.

    Args:
        archive: The zip.
        info: An entry that `count_points` takes.
        benchmark: Whose rules hold.
        allowed: Of ``benchmark.is_allowed``.
        legal: Says what is allowed.

    Returns:
        (65536,) which numbers it holds, in their low 16 bits.

    Raises:
        ValueError: It is damaged, or holds a number that may not stand there.
    """
    try:
        with archive.open(info) as file:
            nbytes, held, foreign = _read_through(file, benchmark.dtype)
    except _UNREADABLE as error:
        raise ValueError(f"damaged ({error})") from error
    if nbytes != info.file_size:
        raise ValueError(f"damaged ({nbytes:,} bytes where {info.file_size:,} are announced)")
    if foreign:
        raise ValueError(f"looks like {foreign} numbers, expected {benchmark.dtype.name}")
    bad = np.flatnonzero(held & ~allowed)
    if len(bad):
        raise ValueError(f"holds {bad[0]}, {legal}")
    return held


def _read_through(
    file: IO[bytes], dtype: np.dtype[np.unsignedinteger]
) -> tuple[int, NDArray[np.bool_], str]:
    """Bytes of the whole entry, which numbers stand there, and their type if it is another."""
    nbytes, held = 0, np.zeros(1 << 16, np.bool_)
    has_high = has_odd = False
    while data := file.read(_CHUNK):
        nbytes += len(data)
        values = np.frombuffer(data[: len(data) - len(data) % dtype.itemsize], dtype)
        # The high half of a uint32 is an instance id, which the server cuts off.
        low = values if dtype.itemsize == 1 else values & 0xFFFF
        held[low] = True
        has_high |= len(values) > 0 and int(values.max()) > 0xFFFF
        has_odd |= bool(values[1::2].any())
    if has_high and not held[1:].any():
        return nbytes, held, "float32 or big-endian"
    if dtype.itemsize == 4 and held[1:].any() and not has_odd and nbytes >= 4 * _FEW_POINTS:
        return nbytes, held, "int64"
    return nbytes, held, ""
