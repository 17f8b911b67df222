"""Reads a point file of any format that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.points.binary import SUFFIX, BinaryOptions, read_binary
from pass2d.points.columns import PointColumns, from_matrix
from pass2d.points.mapping import InputMapping
from pass2d.points.packed import PACKED
from pass2d.points.registry import READERS, point_suffix, read_columns

FORMATS = (SUFFIX, *READERS)
"""What can be read, in lower case; each also packed by gzip."""
SUFFIXES = tuple(f"{suffix}{packed}" for packed in ("", PACKED) for suffix in FORMATS)
FORMAT_WORDS = f"{', '.join(FORMATS)}, also packed ({PACKED})"


def read_columns_of(path: Path, binary: BinaryOptions) -> tuple[PointColumns, str]:
    """Read a file of points.

    Args:
        path: Of a known format.
        binary: What is known of ``.bin`` files.

    Returns:
        Its columns in the order of the file; and, if it was not read as usual, or should not have
        been as asked, the options that fit it, else "".

    Raises:
        ConfigError: The package that reads the format is not installed.
        DataError: Missing, not readable, or truncated.
    """
    if point_suffix(path.name) != SUFFIX:
        return read_columns(path), ""
    found = read_binary(path, binary)
    columns = replace(from_matrix(path, found.points), note=found.note)
    return columns, found.options


def read_scan_file(
    path: Path, mapping: InputMapping, binary: BinaryOptions
) -> tuple[NDArray[np.float32], str]:
    """Read a file of points and bring them into the network's frame and units.

    Args:
        path: Of a known format.
        mapping: Which column is which, units, place, rotation.
        binary: What is known of ``.bin`` files.

    Returns:
        (N, 4) x, y, z in metres, signal, in the order of the file; and a message on how it was
        read, or "".

    Raises:
        ConfigError: The package that reads the format is not installed.
        DataError: Missing, not readable, truncated, or a column is missing.
    """
    found, _ = read_columns_of(path, binary)
    return mapping.apply(found, where=str(path)), found.note
