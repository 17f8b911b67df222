"""`.pcd` of the Point Cloud Library: ascii, binary, binary_compressed."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np

from cache.errors import DataError
from train.points.columns import PointColumns, from_structured, reader_package, unreadable


def read_pcd(path: Path) -> PointColumns:
    """Read the columns; organised clouds row by row, as they are stored.

    The header's VIEWPOINT (where the sensor was) is not applied: writers do not agree on whether
    the points are in its frame already. ``--rotate`` and ``--z-offset`` move points.

    Raises:
        ConfigError: pypcd4 is not installed.
        DataError: Not such a file, or truncated.
    """
    pypcd4 = reader_package("pypcd4", path, needs="pypcd4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty ascii body: counted below
            with path.open("rb") as file:
                cloud = pypcd4.PointCloud.from_fileobj(_with_single_spaces(file))
        array = np.atleast_1d(cloud.pc_data)
        expected = int(cloud.metadata.points)
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, struct.error) as error:
        raise unreadable(path, "PCD", error) from error
    if len(array) != expected:
        raise DataError(f"{path}: {len(array)} points, its header says {expected}: truncated?")
    return from_structured(path, array)


def _with_single_spaces(file: io.BufferedReader) -> io.BufferedReader | io.BytesIO:
    """An ascii file as pypcd4 reads it: one space between numbers; any other as it is."""
    header: list[bytes] = []
    for line in file:
        header.append(line)
        if line.split()[:1] == [b"DATA"]:
            if line.split()[1:] != [b"ascii"]:
                break
            rows = (b" ".join(row.split()) for row in file)
            return io.BytesIO(b"".join(header) + b"\n".join(row for row in rows if row))
        if len(header) > _HEADER_LINES:
            break
    file.seek(0)
    return file


_HEADER_LINES = 200
"""Comments included; no longer header is looked for in what may be no PCD file at all."""
