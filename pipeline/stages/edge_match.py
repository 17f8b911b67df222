"""Whether edges of objects in a scan and in its picture coincide.

The calibration is compared with rotated copies of itself: for each copy, how much stronger the
picture's edges are at range discontinuities than at the scan's other points. A correct calibration
scores higher than all its copies. The score alone is meaningless, as it depends on the sensor, the
street and the light. The copies are whole cells of the picture's angles apart, so that one
correlation scores them all.

Source: the idea of Levinson and Thrun, "Automatic Online Calibration of Cameras and Lasers", 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pass2d.pipeline.stages.camera_sense import Pinhole

_CELL_DEG = 0.25
_FARTHEST = (20, 32)
"""Cells by which the copies are rotated up and down, left and right: 5 and 8 degrees."""
_ROLLS_DEG = (-6.0, -4.0, -2.5, 2.5, 4.0, 6.0)
_STEPS = np.array([-2, 0, 2])
_SAME_DEG, _OTHER_DEG = 0.75, 1.5
"""Copies turned by less are the calibration itself, those turned by more another one. A camera
that is triggered a little late in a bend, or by another clock, is between the two at most."""
_JUMP_M, _JUMP = 0.5, 0.1
"""Metres, and share of the range, that a point lies before what is beside it."""
_BESIDE = 3
"""Cells: beams of nuScenes are a third of a degree from shot to shot."""
_CLOSEST_M = 2.0
"""Closer points lie on the vehicle."""
_MOST_OTHERS = 8000
"""Points of a scan, about: a mean of so many is sure enough."""
_FEWEST = 40
"""Points at edges in a picture, and others."""
_PARTS = (0, 0), (0, 1), (0, 2), (1, 1), (1, 2)
_COARSEST_DEG = 0.5
"""Pixels of a picture that shows enough."""
_FAST = 32
"""Multiples of it are fast to transform."""
_LOCAL_DEG = 4.0
"""Edges count against those around them: grass is full of them and the sky has none."""
_CLEARLY, _PLAINLY = 2.0, 5.0
"""A copy's lead over the calibration and its height over all copies, in their usual scatter. The
copies of 26 right calibrations, of one real picture each, lead by 0.7 at most. Where picture and
scan have nothing in common, the highest of all copies is 3 high, and of 330 such pairs 5.0 once."""


class Turn(NamedTuple):
    """A copy of the calibration that fits better than it."""

    right_deg: float
    """The scan's points lie so far to the right of where they should, seen by the camera."""
    down_deg: float
    clockwise_deg: float

    def __str__(self) -> str:
        parts = (
            (self.right_deg, "to the right", "to the left"),
            (self.down_deg, "too low", "too high"),
            (self.clockwise_deg, "turned clockwise", "turned counterclockwise"),
        )
        return " and ".join(
            f"{abs(degrees):.1f} degrees {more if degrees > 0 else less}"
            for degrees, more, less in parts
            if abs(degrees) >= _SAME_DEG
        )


def range_jumps(xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Points in front of something at the same elevation to their left or right.

    Args:
        xyz: (3, N) metres, lidar frame, in any order.

    Returns:
        (N,).
    """
    distance = np.sqrt((xyz * xyz).sum(axis=0))
    level = np.hypot(xyz[0], xyz[1])
    # Farthest range by elevation and azimuth, then of the cells around.
    columns = round(360 / _CELL_DEG)
    column = (np.arctan2(xyz[1], xyz[0]) * (columns / (2 * np.pi))).astype(np.int64) % columns
    row = np.floor(np.degrees(np.arctan2(xyz[2], level)) / _CELL_DEG).astype(np.int64)
    row -= row.min(initial=0)
    farthest = np.zeros((row.max(initial=0) + 1, columns), np.float32)
    np.maximum.at(farthest, (row, column), distance)
    around = [np.roll(farthest, step, axis=1) for step in range(-_BESIDE, _BESIDE + 1)]
    beside = np.maximum.reduce(around)[row, column]
    return np.asarray(beside - distance > np.maximum(_JUMP_M, _JUMP * distance))


def shows_edges(camera: Pinhole) -> bool:
    """Whether a picture's pixels are small enough."""
    return bool(np.degrees(1 / camera.intrinsics[0, 0]) <= _COARSEST_DEG)


def match_edges(
    xyz: NDArray[np.float32],
    is_jump: NDArray[np.bool_],
    *,
    camera: Pinhole,
    image: NDArray[np.uint8],
) -> NDArray[np.float32] | None:
    """Score a calibration and its rotated copies by one picture.

    Args:
        xyz: (3, N) metres, lidar frame.
        is_jump: (N,) of ``range_jumps``.
        camera: the calibration, with the intrinsics of this picture, which ``shows_edges``.
        image: (H, W, 3) RGB.

    Returns:
        (K,) one score per copy, for ``clear_turn``; NaN where a copy sees too little. None where
        scan or picture show too little.
    """
    view = _view(image.shape[:2], camera.intrinsics)
    seen = camera.rotation @ (xyz - camera.centre_m[:, None].astype(np.float32))
    ahead = np.flatnonzero((seen[2] > _CLOSEST_M) & (seen[2] > 0.2 * np.sqrt((seen**2).sum(0))))
    at_jumps, elsewhere = ahead[is_jump[ahead]], ahead[~is_jump[ahead]]
    some = slice(None, None, max(1, len(elsewhere) // _MOST_OTHERS))
    jumps, others = seen[:, at_jumps], seen[:, elsewhere[some]]
    own = [np.count_nonzero(view.inside.take(_cells(view, points))) for points in (jumps, others)]
    if min(own) < _FEWEST:
        return None
    edges = _picture_edges(image, view)
    scores = _scores(edges, jumps, others)
    rolled = [
        _scores_nearby(edges, *(_rolled(points, roll) for points in (jumps, others)))
        for roll in _ROLLS_DEG
    ]
    return np.concatenate([scores, *rolled]).astype(np.float32)


def clear_turn(scores: Sequence[NDArray[np.float32]]) -> Turn | None:
    """The copy that fits clearly better than the calibration; None if there is none.

    Args:
        scores: (K,) of ``match_edges``, of pictures with one calibration.
    """
    heights = edge_heights(scores)
    if heights is None or heights.best < _PLAINLY or heights.best - heights.own < _CLEARLY:
        return None
    right, down, clockwise = _COPIES[heights.copy]
    return Turn(float(right), float(down), float(clockwise))


class Heights(NamedTuple):
    """Scores over those of all copies, in their usual scatter."""

    own: float
    """Of the calibration."""
    best: float
    """Of the best other copy."""
    copy: int
    """Which one that is."""


def edge_heights(scores: Sequence[NDArray[np.float32]]) -> Heights | None:
    """Compare a calibration with the best of its copies; None if all fit equally well.

    Args:
        scores: (K,) of ``match_edges``, of pictures with one calibration.
    """
    if not scores:
        return None
    pooled = np.stack(scores).sum(axis=0, dtype=np.float64)
    off = pooled - float(np.nanmedian(pooled[:_N_TURNED]))
    # The usual distance from the middle, as a standard deviation.
    scatter = 1.4826 * float(np.nanmedian(np.abs(off[:_N_TURNED])))
    if not scatter > 0:
        return None
    height = np.asarray(off / scatter)
    others = np.where(_IS_OTHER & np.isfinite(height), height, -np.inf)
    best = int(others.argmax())
    return Heights(float(np.nanmax(height[_SAME])), float(others[best]), best)


class _View(NamedTuple):
    """A picture by the angles from its camera's axis, in cells, with a rim of ``_FARTHEST``."""

    row: NDArray[np.float64]
    """(h, w) where each cell lies in the picture, pixels."""
    column: NDArray[np.float64]
    inside: NDArray[np.bool_]
    """(h, w) whether that is in the picture."""
    first: NDArray[np.int64]
    """(2,) cells from the axis to the first one, down and to the right."""
    focal_px: float


class _Edges(NamedTuple):
    """The edges of a picture."""

    view: _View
    strength: NDArray[np.float32]
    """(h, w) rank of the gradient to the side, against the cells around; 0 outside the picture."""


class _Sums(NamedTuple):
    """Of a picture's edges at some points, by copy."""

    strength: NDArray[np.floating]
    number: NDArray[np.floating]
    """Of points in the picture."""


def _view(image_hw: tuple[int, int], intrinsics: NDArray[np.float64]) -> _View:
    height, width = image_hw
    fx, skew, cx, fy, cy = (float(intrinsics[at]) for at in _PARTS)
    corners = np.array([[-cy / fy, -cx / fx], [(height - cy) / fy, (width - cx) / fx]])
    cells: NDArray[np.float64] = np.arctan(corners) / np.radians(_CELL_DEG)
    first, last = np.floor(cells[0]) - _FARTHEST, np.ceil(cells[1]) + _FARTHEST
    down, right = (
        (np.arange(a, b) + 0.5) * np.radians(_CELL_DEG) for a, b in zip(first, last, strict=True)
    )
    # Where each cell lies in the picture: rows of equal angle bend towards its sides.
    x, y = np.tan(right), np.tan(down)[:, None] / np.cos(right)
    column, row = fx * x + skew * y + cx, fy * y + cy
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return _View(row, column, inside, first.astype(np.int64), fx)


def _picture_edges(image: NDArray[np.uint8], view: _View) -> _Edges:
    # Grey, from a picture whose pixels are a little smaller than a cell.
    shrink = max(1, int(view.focal_px * np.radians(_CELL_DEG) / 1.3))
    grey = np.asarray(Image.fromarray(image).convert("L").reduce(shrink), np.float32)
    there = _between_pixels(grey, view.row / shrink - 0.5, view.column / shrink - 0.5)
    inside = view.inside
    # A jump to the side is an edge that runs up and down.
    slope = _smoothed(np.abs(np.gradient(_smoothed(there, _bell(0.7)), axis=1)), _bell(1.0))
    ordered = np.sort(slope[inside])
    ranks = np.searchsorted(ordered, slope) / max(1, len(ordered))
    size = round(_LOCAL_DEG / _CELL_DEG) | 1
    even = np.full(size, 1 / size, np.float32)
    share = _smoothed(inside.astype(np.float32), even)
    around = _smoothed((ranks * inside).astype(np.float32), even) / np.maximum(share, 1e-3)
    strength = np.where(inside, ranks - around, 0).astype(np.float32)
    return _Edges(view, strength)


def _between_pixels(
    grey: NDArray[np.float32], row: NDArray[np.float64], column: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Grey between the middles of pixels; beyond the picture that of its rim."""
    row, column = (np.clip(at, 0, n - 1) for at, n in zip((row, column), grey.shape, strict=True))
    top, left = row.astype(np.int64), column.astype(np.int64)
    below, beside = np.ceil(row).astype(np.int64), np.ceil(column).astype(np.int64)
    down, right = row - top, column - left
    upper = grey[top, left] * (1 - right) + grey[top, beside] * right
    lower = grey[below, left] * (1 - right) + grey[below, beside] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _bell(sigma: float) -> NDArray[np.float32]:
    """Weights of a Gaussian, to four times its width, in cells."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def _smoothed(cells: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted means along both axes; beyond the rim the cells come mirrored."""
    radius = len(weights) // 2
    for _ in range(2):
        wide = np.pad(cells, ((radius, radius), (0, 0)), mode="symmetric")
        shifted = (wide[start : start + len(cells)] for start in range(len(weights)))
        cells = sum(w * part for w, part in zip(weights, shifted, strict=True)).T
    return cells


def _scores(
    edges: _Edges, jumps: NDArray[np.floating], others: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Of all copies that are turned up, down and to the sides, row by row.

    Args:
        edges: of the picture.
        jumps: (3, J) right, down and ahead of the camera.
        others: (3, O).
    """
    shape = edges.strength.shape
    size = tuple(-(-n // _FAST) * _FAST for n in shape)
    parts = edges.strength, edges.view.inside.astype(np.float32)
    pictures = [np.conj(np.fft.rfft2(part, size)) for part in parts]
    down, right = (np.arange(-most, most + 1) for most in _FARTHEST)

    def sums(points: NDArray[np.floating]) -> _Sums:
        count = np.bincount(_cells(edges.view, points), minlength=shape[0] * shape[1])
        spectrum = np.fft.rfft2(count.reshape(shape).astype(np.float32), size)
        strength, inside = (np.fft.irfft2(spectrum * part, size) for part in pictures)
        shifts = np.ix_(down, right)
        return _Sums(strength[shifts].ravel(), np.round(inside[shifts].ravel()))

    at_jumps, at_others = sums(jumps), sums(others)
    own = len(at_jumps.number) // 2
    scores = _difference(edges, at_jumps, at_others, most=float(at_jumps.number[own]))
    few = (at_jumps.number < at_jumps.number[own] / 2) | (at_others.number < _FEWEST)
    return np.where(few, np.nan, scores)


def _scores_nearby(
    edges: _Edges, jumps: NDArray[np.floating], others: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Of the copies ``_NEARBY``."""
    down, right = np.divmod(_NEARBY, 2 * _FARTHEST[1] + 1)
    shifts = (down - _FARTHEST[0]) * edges.strength.shape[1] + right - _FARTHEST[1]

    def sums(points: NDArray[np.floating]) -> _Sums:
        # Few enough shifts to look each point up; the rim is wider than any of them.
        places = _cells(edges.view, points)[None] - shifts[:, None]
        fields = edges.strength, edges.view.inside
        parts = (field.take(places, mode="clip") for field in fields)
        return _Sums(*(part.sum(axis=1) for part in parts))

    at_jumps, at_others = sums(jumps), sums(others)
    return _difference(edges, at_jumps, at_others, most=float(at_jumps.number.max(initial=0)))


def _difference(edges: _Edges, jumps: _Sums, others: _Sums, *, most: float) -> NDArray[np.floating]:
    """Mean strength at jumps less that at other points, in units of its chance."""
    usual = np.sqrt((edges.strength**2).sum() / max(1.0, float(edges.view.inside.sum())))
    means = [part.strength / np.maximum(part.number, 1) for part in (jumps, others)]
    chance = np.sqrt(np.minimum(jumps.number, most)) / np.maximum(usual, 1e-6)
    return np.asarray((means[0] - means[1]) * chance)


def _cells(view: _View, points: NDArray[np.floating]) -> NDArray[np.int64]:
    """Flat places of points (3, M) in the camera's frame; those beyond the rim are left out."""
    x, y, z = points
    angles = np.degrees([np.arctan2(y, np.hypot(x, z)), np.arctan2(x, z)])
    cell = np.floor(angles / _CELL_DEG).astype(np.int64) - view.first[:, None]
    shape = np.array(view.inside.shape)[:, None]
    cell = cell[:, ((cell >= 0) & (cell < shape)).all(axis=0)]
    return np.asarray(cell[0] * view.inside.shape[1] + cell[1])


def _rolled(seen: NDArray[np.floating], degrees: float) -> NDArray[np.floating]:
    """(3, M) points of the camera's frame, turned clockwise about its axis."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y, z = seen
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z])


def _all_copies() -> NDArray[np.float64]:
    """(K, 3) degrees that each score's points are to be moved back: right, down, clockwise."""
    up, left = _FARTHEST
    down, right = np.mgrid[-up : up + 1, -left : left + 1] * _CELL_DEG
    turned = np.stack([right, down, np.zeros_like(right)], axis=-1).reshape(-1, 3)
    nearby = turned[_NEARBY]
    rolled = [nearby + np.array([0, 0, -roll]) for roll in _ROLLS_DEG]
    return np.concatenate([turned, *rolled])


_N_TURNED = (2 * _FARTHEST[0] + 1) * (2 * _FARTHEST[1] + 1)
"""Copies that are not rolled: the first ones."""
_NEARBY = _N_TURNED // 2 + np.add.outer((2 * _FARTHEST[1] + 1) * _STEPS, _STEPS).ravel()
"""Those of them that are rolled, too: turned by half a degree at most."""
_COPIES = _all_copies()
_SAME = np.flatnonzero(np.abs(_COPIES[:_N_TURNED]).max(axis=1) <= _SAME_DEG)
"""Those of them that are the calibration itself."""
_IS_OTHER = np.abs(_COPIES).max(axis=1) >= _OTHER_DEG
