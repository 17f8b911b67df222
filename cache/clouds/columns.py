"""Detects the layout of a ``.bin`` file, which the file itself does not state, from its numbers.

The only implementation of that rule: `pipeline` uses it to refuse files that it would misread,
`train` to choose a layout.

Read with the right number of columns, each column has its own distribution (z near the ground, the
signal above 0); read with a wrong one, each takes x, y, z and signal in turn, and all look alike.
Their difference is measured in bits: how much a number's position in its row tells about its value.
The type follows from the values themselves: float64 read as float32, or in the wrong byte order,
has random exponents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DTYPES = {"float32": "<f4", "float64": "<f8", "float32be": ">f4", "float64be": ">f8"}
"""What --dtype may say; "be": big endian."""
COLUMNS = range(3, 9)
"""Recognised layouts: x, y, z, and up to five more columns. Others are read if they are given
explicitly."""
FEW_POINTS = 64
"""Below this the columns' distributions can only confirm what is expected."""
_FEW_WORDS = f"fewer than {FEW_POINTS} points are too few to tell"
CLEAR_BITS = 0.15
"""How much columns must differ. Real scans: 0.86 to 1.24 bits if read correctly, below 0.01 with a
number of columns that shares no factor with the right one, and up to 0.45 with one that does."""
LEAST_BITS, OTHER_BITS = 0.4, 0.7
"""Shares of the best's bits that a smaller number of columns needs: to be asked whether it says the
same, and to be in doubt. (Rings that count up say more with every multiple of the right one.)"""
ALIKE, UNLIKE = 0.12, 0.3
"""Kolmogorov-Smirnov distance of two columns: of the same quantity in two neighbouring rows, or of
two quantities. Between the two it is undecided."""
FOLLOWS, FOLLOWING = 0.8, 0.45
"""Rank correlation of the same coordinate of neighbouring points in a scan as it was measured, and
the distance that it then excuses: beams that fire in turn look near and far."""
ONE_LENGTH = 0.02
"""Normals are all of one length."""
_MOST_COLUMNS = 24
"""More are looked for than are read, so that 12 are not taken for 6."""
_SAMPLE, _SAMPLE_ROWS = 8192, 2048
_BINS, _FEWEST_BINS, _BIN_NUMBERS = 32, 4, 8
FEW_SIGMAS = 5.0
"""How far above chance the bits of few points must be."""
FEW_MULTIPLE, FEW_OTHER = 1.05, 0.7
"""Times the bits of the expected layout: few points that say so much for another are in doubt."""
_LARGEST, _FAR, _TINY = 1e10, 1e4, 1e-6
"""Coordinates: the largest in any unit; times their usual size that few are above, or below."""
_LEAST_REACH = 1e-3
_FEW, _FEWEST_NUMBERS = 0.02, 0.02
HEADER_WORDS = "whole numbers in place of the first point: a header?"
_SIGNAL = (1e-30, 1e30)
"""A fourth column outside these is no float: an integer, or half of another number."""


@dataclass(frozen=True, kw_only=True)
class PointLayout:
    """The layout of one point in a ``.bin`` file."""

    columns: int
    """Numbers per point."""
    dtype: str = "float32"
    """Key of ``DTYPES``."""

    @property
    def numpy_type(self) -> np.dtype[np.floating]:
        """Of one number."""
        return np.dtype(DTYPES[self.dtype])

    @property
    def point_bytes(self) -> int:
        """Of one point."""
        return self.columns * self.numpy_type.itemsize

    @property
    def arguments(self) -> str:
        """The arguments that select this layout."""
        dtype = "" if self.dtype == "float32" else f" `dtype={self.dtype}`"
        return f"`columns={self.columns}`{dtype}"

    def __str__(self) -> str:
        return f"{self.columns} {self.dtype} per point"


class Verdict(NamedTuple):
    """What the numbers of a file indicate."""

    layout: PointLayout | None
    """None if it is not clear."""
    doubt: str
    """Why it is not clear; "" if it is."""
    is_noise: bool = False
    """Whether the numbers cannot be coordinates in any type."""
    is_few: bool = False
    """Whether there are too few numbers to tell."""
    unusual: PointLayout | None = None
    """What they clearly are, where its number of columns is none of ``COLUMNS``."""


def find_layout(data: bytes | memoryview, *, usual: PointLayout) -> Verdict:
    """Detect the layout of a file's points from a sample of its numbers (a few milliseconds).

    The size of the file is ignored, so that truncated files are recognised too.

    Args:
        data: The whole file.
        usual: The expected layout, which is tried first.

    Returns:
        A clear layout, or why there is none.
    """
    if len(data) < usual.point_bytes * FEW_POINTS:
        return _of_few(data, usual)
    found: dict[str, Verdict] = {}
    for dtype in dict.fromkeys((usual.dtype, *DTYPES)):
        found[dtype] = _of_type(data, dtype)
        if found[dtype].layout == usual:
            return found[dtype]
    clear = [verdict for verdict in found.values() if verdict.layout is not None]
    if len(clear) == 1:
        return clear[0]
    if clear:
        words = " and ".join(str(verdict.layout) for verdict in clear)
        return Verdict(None, f"{words} make sense")
    sensible = [verdict for verdict in found.values() if not verdict.is_noise]
    return sensible[0] if sensible else found[usual.dtype]


def other_content(data: bytes | memoryview, expected: PointLayout) -> str:
    """What a file clearly contains instead of points of this layout; "" if it may be this."""
    verdict = find_layout(data, usual=expected)
    if verdict.layout == expected and has_header(data, expected):
        return HEADER_WORDS
    if verdict.unusual and verdict.unusual.point_bytes % expected.point_bytes:
        return f"rows of {verdict.unusual.point_bytes} bytes, or of half or a quarter of it"
    if verdict.layout is None:
        return "numbers that are not coordinates of points" if verdict.is_noise else ""
    is_other = verdict.layout != expected
    return f"points that make sense only as {verdict.layout}" if is_other else ""


def has_header(data: bytes | memoryview, layout: PointLayout) -> bool:
    """Whether whole numbers, such as a count, are in place of the first point's coordinates.

    Not where most of the rows after it have such numbers, too: a counter or a time before x, y, z.
    """
    n_rows = min(FEW_POINTS, len(data) // layout.point_bytes)
    rows = np.frombuffer(data, layout.numpy_type, count=n_rows * layout.columns)
    first = np.abs(rows.reshape(n_rows, layout.columns)[:, :3])
    is_odd: NDArray[np.bool_] = np.any((first > 0) & (first < _SIGNAL[0]), axis=1)
    return bool(is_odd[:1].any() and is_odd.mean() < 0.5)


def _of_few(data: bytes | memoryview, usual: PointLayout) -> Verdict:
    """The expected layout, if few numbers fit it best of all that the file size allows."""
    kind = usual.numpy_type
    values = np.frombuffer(data, kind, count=len(data) // kind.itemsize)
    doubt = Verdict(None, _FEW_WORDS, is_few=True)
    if len(values) % usual.columns or not makes_sense(data, usual):
        return doubt
    bits = column_bits(values)
    n_codes = min(_BINS, max(_FEWEST_BINS, len(values) // _BIN_NUMBERS))
    by_chance = np.sqrt(2 * (n_codes - 1) * (usual.columns - 1)) / (2 * len(values) * np.log(2))
    here = bits[usual.columns]
    if here < max(CLEAR_BITS, FEW_SIGMAS * by_chance):
        return doubt
    for columns in COLUMNS:
        if columns == usual.columns or len(values) % columns:
            continue
        times = FEW_MULTIPLE if columns % usual.columns == 0 else FEW_OTHER
        if bits[columns] > times * here:
            return doubt
    return Verdict(usual, "")


def makes_sense(data: bytes | memoryview, layout: PointLayout) -> bool:
    """Whether the first three numbers of a point may be coordinates, and the fourth a float."""
    kind = layout.numpy_type
    values = np.frombuffer(data, kind, count=len(data) // kind.itemsize)
    return len(values) >= layout.columns and _are_points(_rows(values, layout.columns))


def is_as_stated(
    data: bytes | memoryview, stated: PointLayout, xyz: tuple[int, int, int], verdict: Verdict
) -> bool:
    """Whether a file may be of the layout that a description states, where columns have any order.

    Args:
        data: The whole file.
        stated: What the description says.
        xyz: Places of the coordinates in a row of it.
        verdict: Of ``find_layout`` with the stated layout as the usual one.

    Returns:
        Whether its size fits, the coordinates are plausible, and no other layout fits clearly
        better, except those with two or three times as many columns.
    """
    other = verdict.layout
    if len(data) % stated.point_bytes or not len(data):
        return False
    if other and (other.dtype != stated.dtype or other.columns % stated.columns):
        return False
    values = np.frombuffer(data, stated.numpy_type)
    if not _are_coordinates(_rows(values, stated.columns)[:, xyz]):
        return False
    bits = column_bits(values)
    is_known = stated.columns in bits and not verdict.is_few
    return not is_known or bits[stated.columns] >= LEAST_BITS * max(bits.values())


def _of_type(data: bytes | memoryview, dtype: str) -> Verdict:
    """What the numbers indicate if they are of this type."""
    kind = np.dtype(DTYPES[dtype])
    values = np.frombuffer(data, kind, count=len(data) // kind.itemsize)
    bits = column_bits(values)
    best = max(bits, key=bits.__getitem__)
    if bits[best] < CLEAR_BITS:
        columns, doubt = 0, "the columns do not differ as those of points do"
        is_noise = not _are_coordinates(_rows(values, 1))
    else:
        columns, doubt = _least(values, bits, best)
        is_noise = not _are_points(_rows(values, columns or best))
    if is_noise:
        return Verdict(None, f"the numbers cannot be coordinates as {dtype}", is_noise=True)
    if doubt:
        return Verdict(None, doubt)
    layout = PointLayout(columns=columns, dtype=dtype)
    if columns not in COLUMNS:
        return Verdict(None, f"it looks like {layout}", unusual=layout)
    if len(values) < FEW_POINTS * columns:
        return Verdict(None, _FEW_WORDS, is_few=True)
    return Verdict(layout, "")


def column_bits(values: NDArray[np.floating]) -> dict[int, float]:
    """How much the columns differ, for every possible number of columns.

    Args:
        values: In file order; any type.

    Returns:
        Number of columns to bits: the mutual information of a number's column and its value (in 32
        classes of equal size), less what chance alone would give.
    """
    place = np.arange(len(values))
    if len(values) > _SAMPLE:  # by chance: any stride would favour some phase
        place = np.random.default_rng(0).integers(0, len(values), _SAMPLE)
    with np.errstate(invalid="ignore", over="ignore"):
        sample = values[place].astype(np.float64)
    is_number = np.isfinite(sample)
    if not is_number.any():
        return dict.fromkeys(range(2, _MOST_COLUMNS + 1), 0.0)
    in_order = np.sort(sample[is_number])
    bins = min(_BINS, max(_FEWEST_BINS, len(sample) // _BIN_NUMBERS))
    edges = np.unique(in_order[np.linspace(0, len(in_order) - 1, bins + 1).astype(int)])
    code: NDArray[np.integer]
    code = (edges[:, None] <= sample).sum(axis=0, dtype=np.uint8)  # few edges: faster than a search
    code[~is_number] = len(edges) + 1
    is_used = np.bincount(code) > 0
    code = (np.cumsum(is_used) - 1)[code]
    n_codes = int(np.count_nonzero(is_used))
    tables: dict[int, NDArray[np.int64]] = {}
    for columns in range(_MOST_COLUMNS, 1, -1):
        twice = tables.get(2 * columns)
        if twice is None:  # else places are known modulo a multiple: nothing is counted again
            count = np.bincount(place % columns * n_codes + code, minlength=columns * n_codes)
            tables[columns] = count.reshape(columns, n_codes)
        else:
            tables[columns] = twice[:columns] + twice[columns:]
    share = np.bincount(code) / len(code)
    bits = {}
    for columns in range(2, _MOST_COLUMNS + 1):
        table = tables[columns]
        expected = table.sum(axis=1, keepdims=True) * share
        seen = table > 0
        excess = 2 * (table[seen] * np.log(table[seen] / expected[seen])).sum()
        by_chance = (n_codes - 1) * (columns - 1)
        bits[columns] = float(excess - by_chance) / (2 * len(code) * np.log(2))
    return bits


def _least(values: NDArray[np.floating], bits: dict[int, float], best: int) -> tuple[int, str]:
    """The smallest number of columns that scores as high as the best, or 0 and a reason for doubt.

    Twice the right number scores the same, or slightly more if neighbouring rows differ, as with
    sensors whose beams fire in turn.
    """
    for fewer in range(2, best):
        if best % fewer or bits[fewer] < max(CLEAR_BITS, LEAST_BITS * bits[best]):
            continue
        same = _same_quantities(values, fewer)
        if same:
            return fewer, ""
        if same is None and bits[fewer] >= OTHER_BITS * bits[best]:
            return 0, f"{fewer} and {2 * fewer} numbers per point are both plausible"
    return best, ""


def _same_quantities(values: NDArray[np.floating], columns: int) -> bool | None:
    """Whether neighbouring rows of so many columns contain the same quantities; None if unknown."""
    rows = _rows(values, 2 * columns)
    first, second = rows[:, : min(columns, 3)].T, rows[:, columns : columns + min(columns, 3)].T
    distances = [_distance(a, b) for a, b in zip(first, second, strict=True)]
    if max(distances) <= ALIKE:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(second, axis=0)
    length = length[length < _LARGEST]
    if columns >= 3 and length.size and length.std() <= ONE_LENGTH * length.mean():
        return False  # normals
    follow = [_correlation(a, b) for a, b in zip(first, second, strict=True)]
    if min(follow[:2]) >= FOLLOWS:
        return True if max(distances[:2]) <= FOLLOWING else None
    return False if min(sorted(distances)[1:]) > UNLIKE else None


def _rows(values: NDArray[np.floating], columns: int) -> NDArray[np.float64]:
    """A random sample of rows."""
    rows = values[: len(values) // columns * columns].reshape(-1, columns)
    if len(rows) > _SAMPLE_ROWS:
        rows = rows[np.random.default_rng(1).integers(0, len(rows), _SAMPLE_ROWS)]
    with np.errstate(invalid="ignore", over="ignore"):
        return rows.astype(np.float64)


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    a, b = np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)])
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    at = np.concatenate([a, b])
    gap = np.searchsorted(a, at, side="right") / len(a)
    return float(np.abs(gap - np.searchsorted(b, at, side="right") / len(b)).max())


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of the ranks."""
    both = np.isfinite(a) & np.isfinite(b)
    ranks = [column[both].argsort().argsort() for column in (a, b)]
    if both.sum() < FEW_POINTS // 2 or any(len(np.unique(c[both])) < 2 for c in (a, b)):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _are_points(rows: NDArray[np.float64]) -> bool:
    """Whether the first three columns may be coordinates, and the fourth a float."""
    if rows.shape[1] < 3 or not _are_coordinates(rows[:, :3]):
        return False
    there = np.isfinite(rows[:, :3]).all(axis=1)
    if any(
        np.count_nonzero(column) < _FEWEST_NUMBERS * len(column) for column in rows[there, :3].T
    ):
        return False
    if rows.shape[1] == 3:
        return True
    signal = np.abs(rows[there, 3])
    signal = signal[np.isfinite(signal) & (signal > 0)]
    odd = (signal < _SIGNAL[0]) | (signal > _SIGNAL[1])
    return bool(np.count_nonzero(odd) <= _FEW * np.count_nonzero(there))


def _are_coordinates(numbers: NDArray[np.float64]) -> bool:
    """Whether these can be magnitudes of lengths in one unit."""
    size = np.abs(numbers[np.isfinite(numbers)])
    size = size[size > 0]
    if len(size) < _FEWEST_NUMBERS * numbers.size:
        return False
    usual = float(np.quantile(size, 0.75))
    if not _LEAST_REACH <= usual <= _LARGEST:
        return False
    odd = np.count_nonzero((size > _FAR * usual) | (size < _TINY * usual))
    return bool(odd <= 1 + _FEW * len(size))  # one may be the sine of pi
