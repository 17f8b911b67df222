"""`.pcd` of the Point Cloud Library: ascii, binary, binary_compressed."""

from __future__ import annotations

import io
import re
import struct
import warnings
from pathlib import Path

import numpy as np

from cache.errors import DataError
from train.points.columns import PointColumns, from_structured, reader_package, unreadable

_PER_FIELD = ("FIELDS", "SIZE", "TYPE", "COUNT")
_HEADER_LINES, _LONGEST_LINE = 200, 1 << 16
"""Comments included; no longer header is looked for in what may be no PCD file at all."""


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
            cloud = pypcd4.PointCloud.from_fileobj(_in_plain_form(path))
        array = np.atleast_1d(cloud.pc_data)
        expected = int(cloud.metadata.points)
    except TypeError as error:  # pypcd4 takes what its decompressor returns for whole
        raise DataError(f"{path}: no readable PCD file: the compressed data is damaged") from error
    except (ValueError, KeyError, IndexError, RuntimeError, struct.error) as error:
        # Pydantic's errors are lines of advice for programmers.
        text = re.sub(r"(\[type=[^]]*\]|For further information visit \S+)\s*", "", str(error))
        raise unreadable(path, "PCD", ValueError(text)) from error
    if len(array) != expected:
        raise DataError(f"{path}: {len(array)} points, its header says {expected}: truncated?")
    return from_structured(path, array)


def _in_plain_form(path: Path) -> io.BytesIO:
    """The file as pypcd4 takes it: every key once, no comments, one space between numbers."""
    with path.open("rb") as file:
        header = _header(file)
        body = file.read()
    if header["DATA"] == "ascii":
        rows = (b" ".join(row.split()) for row in body.split(b"\n"))
        body = b"\n".join(row for row in rows if row)
    lines = "".join(f"{key} {value}\n" for key, value in header.items())
    return io.BytesIO(lines.encode() + body)


def _header(file: io.BufferedReader) -> dict[str, str]:
    """The header's keys in the order of the format, with what older writers leave out.

    Raises:
        ValueError: A key is missing, or the keys do not fit each other.
    """
    found: dict[str, str] = {}
    for _ in range(_HEADER_LINES):
        line = file.readline(_LONGEST_LINE)
        words = line.decode("utf-8", "replace").split()
        if words and not words[0].startswith("#"):
            found[words[0].upper()] = " ".join(words[1:])
        if not line or "DATA" in found:
            break
    n_fields = len(found.get("FIELDS", "").split())
    found.setdefault("COUNT", " ".join(["1"] * n_fields))
    found.setdefault("HEIGHT", "1")
    if "WIDTH" in found:
        found.setdefault("POINTS", str(int(found["WIDTH"]) * int(found["HEIGHT"])))
    missing = [key for key in (*_PER_FIELD, "WIDTH", "DATA") if not found.get(key)]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    for key in _PER_FIELD:
        if len(found[key].split()) != n_fields:
            raise ValueError(f"{key} {found[key]}: {n_fields} values are expected, one per field")
    keys = (*_PER_FIELD, "WIDTH", "HEIGHT", "POINTS")
    return {"VERSION": "0.7", **{key: found[key] for key in keys}, "DATA": found["DATA"].lower()}
