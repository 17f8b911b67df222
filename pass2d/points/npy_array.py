"""The array of a `.npy` file, and its columns."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.points.columns import PointColumns, from_matrix, from_structured, unreadable

KIND = "NumPy (.npy)"


def columns_of(path: Path, array: NDArray[Any]) -> PointColumns:
    """The columns of a plain or a structured array."""
    return from_structured(path, array) if array.dtype.names else from_matrix(path, array)


def npy_array(path: Path, data: bytes) -> NDArray[Any]:
    """The array in a file's bytes, of any shape, read-only; its header is checked first.

    Raises:
        DataError: Not such a file, truncated, or of objects.
    """
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote, or that are no Python
            version = npy_format.read_magic(file)
            read = {1: npy_format.read_array_header_1_0}.get(
                version[0], npy_format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read(file)
    except Exception as error:  # its text is parsed as Python: any error of a tokenizer
        raise unreadable(path, KIND, error) from error
    if dtype.hasobject:
        raise DataError(f"{path}: holds Python objects ({str(dtype)[:60]}), not numbers")
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise DataError(
            f"{path}: not a readable {KIND} file: its header says shape {str(shape)[:60]}"
        )
    body = len(data) - file.tell()
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > body or not dtype.itemsize:
        raise DataError(
            f"{path}: not a readable {KIND} file: {body:,} bytes after its header, which says "
            f"{str(shape)[:60]} of {str(dtype)[:60]} ({wanted:.4g} bytes): truncated?"
        )
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")
