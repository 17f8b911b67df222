"""`.npy`: an (N, K) array or a structured one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.points.columns import PointColumns, from_matrix, from_structured, unreadable


def read_npy(path: Path) -> PointColumns:
    """Read the columns; nothing in the file is executed (pickled objects are refused).

    Raises:
        DataError: Not such a file, or truncated.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise unreadable(path, "NumPy (.npy)", error) from error
    return from_structured(path, array) if array.dtype.names else from_matrix(path, array)
