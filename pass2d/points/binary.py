"""`.bin`: numbers row by row, without their number per point or their type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.columns import (
    COLUMNS,
    DTYPES,
    HEADER_WORDS,
    PointLayout,
    Verdict,
    find_layout,
    has_header,
    is_as_stated,
    makes_sense,
)
from pass2d.common.errors import ConfigError, DataError
from pass2d.points.packed import file_bytes

SUFFIX = ".bin"
_ASKED, _AGREEING = 8, 3
"""For a file with too few points: number of neighbouring files examined, and number that must
agree."""
_PEEK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class BinaryOptions:
    """What is known of ``.bin`` files before one is opened."""

    usual: int
    """Numbers per point in the training data, float32."""
    columns: int | None = None
    """Numbers per point; None: detected."""
    dtype: str | None = None
    """Key of ``DTYPES``; None: detected."""
    stated_xyz: tuple[int, int, int] | None = None
    """Places of x, y, z where the description of the training data states the usual layout."""
    is_asked: bool = False
    """Whether a person chose ``columns`` or ``dtype``: told where another layout fits instead."""

    def __post_init__(self) -> None:
        if self.columns is not None and self.columns < 3:
            raise ConfigError(f"columns must be at least 3 (x, y, z), got {self.columns}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"`dtype` {self.dtype!r}: one of {', '.join(DTYPES)} is expected")

    @property
    def takes_xyz_first(self) -> bool:
        """Whether a row begins with x, y, z; a description may have another order."""
        return not self.is_described and self.stated_xyz in {None, (0, 1, 2)}

    @property
    def is_described(self) -> bool:
        """Whether a description says the columns, not a person on the command line."""
        return self.columns is not None and not self.is_asked

    @property
    def expected(self) -> PointLayout:
        """The given options, the rest as usual."""
        return PointLayout(columns=self.columns or self.usual, dtype=self.dtype or "float32")


class BinaryPoints(NamedTuple):
    """What a file holds."""

    points: NDArray[np.floating]
    """(N, K)."""
    layout: PointLayout
    """How it was read."""
    note: str
    """A message on how it was read, without the file's name; "" for none."""
    options: str = ""
    """If it was not read as usual, or should not have been as asked: the options that fit it."""


def read_binary(path: Path, options: BinaryOptions) -> BinaryPoints:
    """Read a file of floats.

    Args:
        path: Of any size; empty is legal. ``.gz``: unpacked.
        options: What is known of it.

    Raises:
        DataError: Not readable, truncated, or of a layout that is not clear: the message names
            --columns and --dtype.
    """
    data = file_bytes(path)
    layout, note = _layout(path, data, options)
    if len(data) % layout.point_bytes:
        raise DataError(
            f"{path}: {len(data)} bytes: not a multiple of {layout.point_bytes} ({layout}): "
            f"truncated, or not a point file{_hint(data, layout, options)}"
        )
    if options.takes_xyz_first and has_header(data, layout):
        raise DataError(
            f"{path}: {HEADER_WORDS} Expected {layout} from the first byte on. Cut the header off."
        )
    points = np.frombuffer(data, layout.numpy_type).reshape(-1, layout.columns)
    other = _other_layout(data, layout) if options.is_asked else None
    if other is not None:
        note = f"read as {layout}, as asked for, but its points make sense only as {other}"
        return BinaryPoints(points, layout, note, other.arguments)
    return BinaryPoints(
        points, layout, note, "" if layout == options.expected else layout.arguments
    )


def _layout(path: Path, data: bytes, options: BinaryOptions) -> tuple[PointLayout, str]:
    expected = options.expected
    if not data or (options.columns is not None and options.dtype is not None):
        return expected, ""
    if options.columns is not None:
        return _type_of(data, options.columns), ""
    verdict = find_layout(data, usual=expected)
    stated = options.stated_xyz
    if stated is not None and is_as_stated(data, expected, stated, verdict):
        return expected, ""
    layout, note = verdict.layout, ""
    if layout is None or (options.dtype is not None and layout.dtype != options.dtype):
        layout, note = _from_elsewhere(path, data, verdict, options)
    if layout != expected:
        note = f"read as {layout} ({expected.columns} {expected.dtype} in the training data)"
    return layout, note


def _type_of(data: bytes, columns: int) -> PointLayout:
    """With so many columns: float32, unless only another type makes sense."""
    layouts = [PointLayout(columns=columns, dtype=dtype) for dtype in DTYPES]
    if len(data) % layouts[0].point_bytes == 0 and makes_sense(data, layouts[0]):
        return layouts[0]
    others = [one for one in layouts[1:] if len(data) % one.point_bytes == 0]
    sensible = [one for one in others if makes_sense(data, one)]
    return sensible[0] if len(sensible) == 1 else layouts[0]


def _from_elsewhere(
    path: Path, data: bytes, verdict: Verdict, options: BinaryOptions
) -> tuple[PointLayout, str]:
    """The layout by the size or the neighbours of a file with too few points.

    Raises:
        DataError: They do not determine it either.
    """
    fitting = [
        layout
        for dtype in ([options.dtype] if options.dtype else DTYPES)
        for layout in (PointLayout(columns=columns, dtype=dtype) for columns in COLUMNS)
        if len(data) % layout.point_bytes == 0 and makes_sense(data, layout)
    ]
    if fitting == [options.expected] and verdict.is_few:
        return options.expected, ""
    if not any(len(data) % layout.point_bytes == 0 for layout in _all_layouts(options)):
        raise DataError(
            f"{path}: {len(data)} bytes: not a multiple of {options.expected.point_bytes} "
            f"({options.expected}), nor of any other number of columns that is known: truncated, "
            "or not a point file"
        )
    theirs = _of_neighbours(path, options) if verdict.is_few else None
    if theirs in fitting:
        assert theirs is not None
        return theirs, f"{verdict.doubt}: read as its neighbours, {theirs}; `columns` decides"
    why = verdict.doubt if fitting or not verdict.is_few else "its numbers are no coordinates"
    if verdict.layout is not None:
        why = f"they make sense only as {verdict.layout}, not as {options.dtype}"
    by_size = f"; by its size {' or '.join(map(str, fitting[:4]))}" if verdict.is_few else ""
    remedy = f"Name it: `columns={options.usual}` or another, `dtype=float32` or another"
    if verdict.is_noise or verdict.unusual:
        remedy += (
            ". If they are integers, float16 or of several types (float32 and a uint16 ring), "
            "write them as float32 or as .npy"
        )
    raise DataError(
        f"{path}: the layout of its points is not clear: {why}{by_size if fitting else ''}. "
        f"{remedy}"
    )


def _all_layouts(options: BinaryOptions) -> list[PointLayout]:
    dtypes = [options.dtype] if options.dtype else list(DTYPES)
    return [PointLayout(columns=n, dtype=dtype) for n in COLUMNS for dtype in dtypes]


def _of_neighbours(path: Path, options: BinaryOptions) -> PointLayout | None:
    """The layout of the files beside it, if it is clear and they agree."""
    try:
        names = sorted(one.name for one in path.parent.iterdir() if one.suffix == path.suffix)
    except OSError:
        return None
    place = names.index(path.name) if path.name in names else 0
    near = sorted(range(len(names)), key=lambda i: abs(i - place))[1 : 1 + _ASKED]
    said = []
    for i in near:
        try:
            other = file_bytes(path.parent / names[i], most=_PEEK_BYTES)
        except DataError:
            continue
        layout = find_layout(other, usual=options.expected).layout
        said += [] if layout is None else [layout]
    return said[0] if len(said) >= _AGREEING and len(set(said)) == 1 else None


def _other_layout(data: bytes, layout: PointLayout) -> PointLayout | None:
    """The layout that a file's numbers clearly have instead of this one."""
    clear = find_layout(data, usual=layout).layout
    return None if clear == layout else clear


def _hint(data: bytes, layout: PointLayout, options: BinaryOptions) -> str:
    """What the file contains instead; and the options for it, where there are such."""
    other = _other_layout(data, layout)
    if other is None or len(data) % other.point_bytes:
        return ""
    return f"; it looks like {other}" + ("" if options.is_described else f": {other.arguments}")
