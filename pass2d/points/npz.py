"""`.npz`: one array of points among others, or x, y, z in arrays of their own."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns
from pass2d.points.npy_array import columns_of, npy_array
from pass2d.points.packed import require_small

ZIP_MAGIC = b"PK"
POINT_NAMES = ("points", "point_cloud", "pointcloud", "pc", "scan", "lidar", "velodyne")
"""An array of such a name is taken among others; in lower case."""
_MOST_SHOWN, _LONGEST_NAME = 8, 40


def read_npz(path: Path, data: bytes) -> PointColumns:
    """Read the columns of the only array, of one called "points", or x, y, z, ... as columns.

    Raises:
        DataError: Not such a file, or several arrays and none of such a name: they are named.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}

        def read(name: str) -> bytes:
            require_small(path, members[name].file_size)
            return archive.read(members[name])

        names = [name for name in members if name.lower() in POINT_NAMES]
        chosen = list(members) if len(members) == 1 else names
        if len(chosen) == 1:
            return columns_of(path, npy_array(path, read(chosen[0])))
        if {"x", "y", "z"} <= {name.lower() for name in members}:
            require_small(path, sum(one.file_size for one in members.values()))
            arrays = {name: npy_array(path, read(name)) for name in members}
            n = next(array.shape for name, array in arrays.items() if name.lower() == "x")
            columns = {
                name: array
                for name, array in arrays.items()
                if array.shape == n and array.dtype.kind in "fiub"
            }
            if len(n) == 1 and {"x", "y", "z"} <= {name.lower() for name in columns}:
                return PointColumns(names=tuple(columns), values=tuple(columns.values()))
    shown = ", ".join(ascii(name[:_LONGEST_NAME])[1:-1] for name in list(members)[:_MOST_SHOWN])
    more = f" and {len(members) - _MOST_SHOWN} more" if len(members) > _MOST_SHOWN else ""
    raise DataError(
        f"{path}: which array holds the points? It has {shown or 'none'}{more}; one array, one "
        "called points, or x, y and z are expected"
    )
