"""`.bin`: float32 row by row, with nothing that says how many numbers a point has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.columns import CLEAR, FEW_POINTS, unlikeness
from cache.errors import DataError

USUAL_COLUMNS = (4, 5)


class BinaryPoints(NamedTuple):
    """What a file holds."""

    points: NDArray[np.float32]
    """(N, K)."""
    note: str
    """What a person should know of how it was read; "" for nothing."""


def read_binary(path: Path, *, columns: int | None, usual: int) -> BinaryPoints:
    """Read a file of float32, little endian.

    Args:
        path: Of any size; empty is legal.
        columns: Numbers per point; None: find out.
        usual: Those of the checkpoint's data set: taken when nothing speaks against it.

    Raises:
        DataError: Not readable, truncated, or of no number of columns that makes sense.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    if columns is not None:
        if len(data) % (4 * columns):
            raise DataError(_no_multiple(path, data, columns) + _hint(data, columns))
        return BinaryPoints(np.frombuffer(data, "<f4").reshape(-1, columns), "")
    fitting = [n for n in dict.fromkeys((usual, *USUAL_COLUMNS)) if len(data) % (4 * n) == 0]
    if not fitting:
        raise DataError(_no_multiple(path, data, usual))
    values = np.frombuffer(data, "<f4")
    chosen, note = _choose(path, values, fitting, usual)
    return BinaryPoints(values.reshape(-1, chosen), note)


def _choose(
    path: Path, values: NDArray[np.float32], fitting: list[int], usual: int
) -> tuple[int, str]:
    if not len(values):
        return usual, ""
    best = fitting[0]
    if len(values) // max(fitting) >= FEW_POINTS:
        score = {n: unlikeness(values, n) for n in fitting}
        best = max(fitting, key=score.__getitem__)
        if score[best] < CLEAR and usual not in fitting:
            raise DataError(_no_multiple(path, values.tobytes(), usual))
        if score[best] < CLEAR:
            return usual, (
                f"{path}: no column differs from the others as those of points do: read as {usual} "
                "float32 per point; --columns says otherwise"
            )
        others = [n for n in fitting if n != best and score[n] >= CLEAR]
        if others:
            best = usual if usual in fitting else best
            return best, f"{path}: {fitting} columns would fit; read as {best}: --columns decides"
    elif len(fitting) > 1:
        return best, (
            f"{path}: too few points to tell {fitting[0]} from {fitting[1]} columns: "
            f"read as {best}; --columns decides"
        )
    if best != usual:
        return best, f"{path}: read as {best} float32 per point ({usual} in the training data)"
    return best, ""


def _no_multiple(path: Path, data: bytes, columns: int) -> str:
    return (
        f"{path}: {len(data)} bytes is no multiple of {4 * columns} "
        f"({columns} float32 per point), or no other number of columns makes sense: truncated, "
        "or no point file"
    )


def _hint(data: bytes, columns: int) -> str:
    fitting = [n for n in USUAL_COLUMNS if n != columns and len(data) % (4 * n) == 0]
    return f"; {fitting[0]} columns would fit: --columns {fitting[0]}" if fitting else ""
