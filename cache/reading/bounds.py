"""Values of a cache that lead elsewhere: rows, pixels and voxels that do not exist.

Checksums find damage. They do not find what another program wrote with checksums that fit; such
numbers would otherwise end in another point's label, or in memory of somebody else on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import GridConfig
from pass2d.common.errors import CacheError


def require_places(
    values: NDArray[Any], end: int | NDArray[np.integer[Any]], *, where: str
) -> None:
    """Refuse integers that are no places among ``end``.

    Args:
        values: (N,), or (R, N) of any integer type.
        end: Number of places; (R,) for that of each row.
        where: Cache, field and scan, for the message.

    Raises:
        CacheError: One is below 0 or not below ``end``.
    """
    rows = np.atleast_2d(values)
    if not rows.size:
        return
    for row, most in zip(rows, np.broadcast_to(end, len(rows)).tolist(), strict=True):
        # One pass: below 0 is very large without a sign.
        if int(row.view(f"u{row.itemsize}").max()) >= most:
            raise _refused(where, f"{row.min()}..{row.max()}", f"0..{most - 1}")


def require_rows(values: NDArray[np.int32], end: int, *, where: str) -> None:
    """Refuse (N,) rows that do not ascend from 0 or more to less than ``end``.

    Raises:
        CacheError: They do not.
    """
    require_places(values, end, where=where)
    if not (values[1:] > values[:-1]).all():
        raise _refused(where, "rows that do not ascend", "the raw file's rows in increasing order")


def require_inside(xyz: NDArray[np.float32], grid: GridConfig, *, where: str) -> None:
    """Refuse (3, N) coordinates that are not numbers or lie outside the volume.

    Raises:
        CacheError: One is NaN or not in the volume.
    """
    if not xyz.size:
        return
    for axis, values in enumerate(xyz):
        low, high = values.min(), values.max()  # NaN if one of them is
        if not (grid.low[axis] <= low and high <= grid.high[axis]):
            limits = f"{grid.low[axis]:g}..{grid.high[axis]:g}"
            raise _refused(where, f"{low:g}..{high:g} m", f"{limits} m, the volume")


def _refused(where: str, found: str, expected: str) -> CacheError:
    return CacheError(
        f"{where}: found {found}, expected {expected}, although the checksums fit: another program "
        "wrote this. Delete this cache and run `prepare` again."
    )
