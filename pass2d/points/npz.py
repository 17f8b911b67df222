"""`.npz`: one array of points among others, or x, y, z in separate arrays."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.common.text import and_more
from pass2d.points.columns import PointColumns
from pass2d.points.npy_array import columns_of, npy_array
from pass2d.points.packed import require_small

ZIP_MAGIC = b"PK"
POINT_NAMES = ("points", "point_cloud", "pointcloud", "pc", "scan", "lidar", "velodyne")
"""An array of such a name is taken among others; in lower case."""
_MOST_SHOWN, _LONGEST_NAME = 8, 40


def read_npz_array(path: Path, data: bytes, names: tuple[str, ...]) -> NDArray[Any]:
    """The only array, or the only one of these names in lower case.

    Raises:
        DataError: Not such a file, or several arrays and none of such a name: they are named.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            chosen = [name for name in members if len(members) == 1 or name.lower() in names]
            if len(chosen) == 1:
                require_small(path, members[chosen[0]].file_size)
                return npy_array(path, archive.read(members[chosen[0]]))
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable .npz file: {error}") from error
    shown = ", ".join(ascii(name[:_LONGEST_NAME])[1:-1] for name in list(members)[:_MOST_SHOWN])
    raise DataError(f"{path}: one array, or one called {names[0]}, is expected; it has {shown}")


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
            found = ", ".join(
                f"{name} {array.dtype} {array.shape}"
                for name, array in arrays.items()
                if name.lower() in {"x", "y", "z"}
            )
            raise DataError(
                f"{path}: x, y and z must be arrays (N,) of the same length; found {found}"
            )
    shown = and_more((ascii(name[:_LONGEST_NAME])[1:-1] for name in members), _MOST_SHOWN)
    raise DataError(
        f"{path}: which array holds the points? It has {shown or 'none'}; one array, one "
        "called points, or x, y and z are expected"
    )
