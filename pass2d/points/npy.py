"""`.npy`: an (N, K) array, a range image (H, W, K), or a structured array."""

from __future__ import annotations

from pathlib import Path

from pass2d.points.columns import PointColumns
from pass2d.points.npy_array import columns_of, npy_array
from pass2d.points.npz import ZIP_MAGIC, read_npz


def read_npy(path: Path, data: bytes) -> PointColumns:
    """Read the columns; nothing in the file is executed (pickled objects are refused).

    Raises:
        DataError: Not such a file, or truncated.
    """
    if data.startswith(ZIP_MAGIC):  # an .npz of another name
        return read_npz(path, data)
    return columns_of(path, npy_array(path, data))
