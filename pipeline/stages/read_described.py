"""From files of a described data set to the input of stages: points in metres, raw ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import UNKNOWN_LABEL, DatasetInfo, RawFormat
from pass2d.common.errors import ConfigError, DataError
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.raw_file import NO_FILE, read_file
from pass2d.points.binary import BinaryOptions
from pass2d.points.columns import PointColumns
from pass2d.points.npy_array import npy_array
from pass2d.points.npz import read_npz_array
from pass2d.points.raw_format import mapping_of
from pass2d.points.registry import point_suffix
from pass2d.points.scan_file import read_columns_of

LOWEST_ID, HIGHEST_ID = -(1 << 15), (1 << 16) - 1
"""Raw ids that can be; negative ones are kept as 16 bits: -1 is 65535."""
LABEL_NAMES = ("labels", "label", "semantic", "data")
"""Of an array in an `.npz` with others."""
_AGAIN = "Is it damaged, or of another format than the description says?"


def described_points(file: Path, raw: RawFormat) -> NDArray[np.float32]:
    """Read a point file.

    Args:
        file: of a format that is known by its suffix.
        raw: columns, units, offset.

    Returns:
        (R, 4) x, y, z in metres (lidar frame), signal, in the order of the file.

    Raises:
        ProblemError: it cannot be read, or lacks a column.
        OSError: reading failed in a way that may pass.
    """
    columns = _columns(file, raw)
    try:
        return mapping_of(raw).apply(columns, where=str(file))
    except DataError as error:
        raise _problem(file, error, "the columns of the description") from error


def described_labels(
    file: Path, info: DatasetInfo, raw: RawFormat, *, is_dropped: NDArray[np.bool_] | None = None
) -> NDArray[np.uint32]:
    """Read the labels of a scan.

    Args:
        file: the label file, or the point file where labels are one of its columns.
        info: its label table, for ids that are ignored.
        raw: type, mask and shifts.
        is_dropped: (R,) where the value may be anything: it is taken as 0.

    Returns:
        (R,) raw id in the low 16 bits, instance id in the high ones.

    Raises:
        ProblemError: it cannot be read, or holds ids that no table can.
        OSError: reading failed in a way that may pass.
    """
    values = _label_values(file, raw, is_dropped)
    ids = values >> raw.label_shift
    if raw.label_mask is not None:
        ids = ids & raw.label_mask
    odd = (ids < LOWEST_ID) | (ids > HIGHEST_ID)
    if odd.any():
        raise ProblemError.of(
            file=file,
            found=f"raw id {ids[odd][0]} at {np.count_nonzero(odd):,} points",
            expected=f"ids of {LOWEST_ID} to {HIGHEST_ID}",
            remedy="Give the description a mask (0xFFFF keeps the low 16 bits) or another "
            "dtype of [labels].",
        )
    ids = ids & HIGHEST_ID
    if raw.ignores_unnamed:
        known = info.labels.training_lookup() != UNKNOWN_LABEL
        ids = np.where(known[ids], ids, info.labels.training_to_raw[0])
    if raw.instance_shift is not None:
        instance = values >> raw.instance_shift
        mask = HIGHEST_ID if raw.instance_mask is None else raw.instance_mask & HIGHEST_ID
        ids = ids | ((instance & mask) << 16)
    return ids.astype(np.uint32)


def table_columns(file: Path) -> PointColumns:
    """Read a file that names its columns.

    Raises:
        ProblemError: it cannot be read.
        OSError: reading failed in a way that may pass.
    """
    return _columns(file, RawFormat())


def _columns(file: Path, raw: RawFormat) -> PointColumns:
    binary = BinaryOptions(usual=raw.columns, columns=raw.columns, dtype=raw.dtype)
    try:
        columns, _ = read_columns_of(file, binary)
    except ConfigError as error:  # a package that is not installed
        raise ProblemError.of(
            file=file,
            found="a format whose reader is missing",
            expected="its package",
            remedy=f"{error}.",
        ) from error
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno not in {None, *NO_FILE}:
            raise cause from error
        raise _problem(file, error, "a point file that can be read") from error
    return columns


def _label_values(
    file: Path, raw: RawFormat, is_dropped: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """(R,) as they are in the file."""
    if raw.label_column:
        columns = _columns(file, raw)
        name = raw.label_column
        if name not in columns.names:
            raise ProblemError.of(
                file=file,
                found=f"columns {', '.join(columns.names)}",
                expected=f"a column {name!r} of labels",
                remedy="Correct column of [labels] in the description.",
            )
        return _whole(file, columns.values[columns.names.index(name)], is_dropped)

    data = read_file(file)
    suffix = point_suffix(file.name)
    if suffix in (".npy", ".npz"):
        try:
            array = label_array(file, data)
        except DataError as error:
            raise _problem(file, error, "an array of labels") from error
        return _whole(file, array.reshape(-1), is_dropped)
    kind = np.dtype(raw.label_dtype)
    if len(data) % kind.itemsize:
        raise ProblemError.of(
            file=file,
            found=f"{len(data)} bytes",
            expected=f"a multiple of {kind.itemsize} ({kind.name}, one label per point)",
            remedy="Is it cut off, or is dtype of [labels] another?",
        )
    return _whole(file, np.frombuffer(data, kind), is_dropped)


def label_array(file: Path, data: bytes) -> NDArray[Any]:
    """The labels, of any shape, in the bytes of an `.npy` or `.npz`.

    Raises:
        DataError: not such a file, or several arrays and none of a usual name.
    """
    if point_suffix(file.name) == ".npy":
        return npy_array(file, data)
    return read_npz_array(file, data, LABEL_NAMES)


def _whole(
    file: Path, values: NDArray[Any], is_dropped: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Labels of any type as whole numbers."""
    if is_dropped is not None and is_dropped.shape == values.shape:
        values = np.where(is_dropped, np.zeros_like(values), values)
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    if values.dtype.kind == "u" and values.dtype.itemsize == 8:
        return values.view(np.int64) if values.dtype.isnative else values.astype("u8").view("i8")
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            is_whole = np.isfinite(values) & (values == np.floor(values)) & (abs(values) < 2**53)
        if is_whole.all():
            return values.astype(np.int64)
        found = f"label {values[~is_whole][0]}"
    else:
        found = f"values of type {values.dtype}"
    raise ProblemError.of(
        file=file,
        found=found,
        expected="whole numbers",
        remedy="Is it the file, the column or the dtype of the labels?",
    )


def _problem(file: Path, error: DataError, expected: str) -> ProblemError:
    found = str(error).removeprefix(f"{file}: ").rstrip(".")
    return ProblemError.of(file=file, found=found, expected=expected, remedy=_AGAIN)
