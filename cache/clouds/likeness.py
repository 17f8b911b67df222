"""Whether scans look like a network's training data, or as a data set's table says.

The only implementation of that comparison: `prepare` and `--check` compare raw scans with the data
set, training compares a cache with it, and `eval`, `predict`, `view` and `Segmenter` compare with
the checkpoint's card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.frame_guess import UNITS, UP, Guess, guess, is_ground
from pass2d.cache.clouds.ground import some_rows
from pass2d.cache.clouds.statistics import PERCENTILES, ChannelStatistics
from pass2d.cache.schema import DatasetInfo

FEWEST_POINTS = 1000
"""Below this only the number of points is compared."""
HEIGHT_M = 0.9
"""Ground heights of real KITTI, nuScenes and PandaSet scans differ by up to 0.64."""
RANGE_TIMES = 2.6
"""Ranges of the same scans differ by up to 2.1 times."""
NO_UNIT_TIMES = 30.0
"""If ranges still differ by this factor after a change of unit, the unit is not the reason."""
DENSITY_TIMES = 3.5
"""Points per scan of the same scans, within a benchmark's layout, differ by up to 3.1 times."""
FULL_SCALES = (1 / 255, 1.0, 255.0, 4095.0, 65535.0)
"""Largest signals of common sensor formats; the first is that of bytes divided by 255 twice."""
TYPICAL_RANGE_M = (18.0, 40.0)
"""75th and 95th percentile of the range of a lidar on a road: real KITTI, PandaSet and nuScenes
scans have 9 to 25 and 26 to 62. Enough to tell metres from centimetres and kilometres."""
_ABOVE_1 = 2.0
"""Calibrated remissions slightly above 1 are still of the scale 0..1."""
_GLANCE, _PLAIN_TIMES = 2000, 5.0
_MOST_AT_ZERO = 0.01
"""Share of points at 0, 0, 0; real scans have none, organised clouds one per lost return."""
_UNIT_WORDS = {UNITS["mm"]: "millimetres", UNITS["cm"]: "centimetres", UNITS["ft"]: "feet"}
_UNIT_WORDS |= {UNITS["1000"]: "kilometres"}


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What scans should look like; None where it is unknown."""

    whose: str
    """For messages: "the training data"."""
    full_scale: float
    """Largest signal, one of ``FULL_SCALES``."""
    range_m: tuple[float, float] | None = None
    """75th and 95th percentile of the range."""
    ground_z: float | None = None
    """Metres."""
    points: float | None = None
    """Of a scan, the median."""
    is_rough: bool = False
    """Whether this describes a data set rather than one sensor: ranges and heights may then differ,
    but not unit, frame or scale."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One way in which a scan differs from what is expected."""

    kind: str
    """"density", "zeros", "no_signal", "negative", "signal", "recenter", "unit", "range", "rotate"
    or "z_offset"."""
    what: str
    """The fact, e.g. "the signal looks like 0..255, the training data's is 0..1"."""
    amount: float = 0.0
    """"signal", "unit": factor that corrects it; "z_offset": metres to add."""
    up: str = "z"
    """"rotate": the axis that points up, a key of ``cache.frame_guess.UP``."""
    is_after_others: bool = False
    """"z_offset": the amount holds after the other changes."""

    @property
    def remedy(self) -> str:
        """What to do with the points themselves, in a few words."""
        after = " after that" if self.is_after_others else ""
        angles = UP[self.up][0]
        remedies = {
            "signal": f"multiply the signal by {self.amount:.3g}",
            "unit": f"multiply x, y and z by {self.amount:g}: metres are expected",
            "recenter": "transform the points into the sensor's frame: x forward, y left, z up",
            "rotate": f"rotate the points by yaw, pitch, roll {angles} degrees: z must point up",
            "z_offset": f"add {self.amount:.2f} m to z{after}",
            "negative": "give an intensity or remission on a linear scale from 0 on",
            "zeros": "leave them out, with their labels",
            "no_signal": "give the sensor's intensity or remission if there is one",
        }
        return remedies.get(self.kind, "expect worse labels, nothing corrects it")

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def of_dataset(info: DatasetInfo) -> Expectation:
    """What a data set's files should contain: metres, the sensor's frame, a scale of the signal."""
    return Expectation(
        whose=f"the layout of {info.layout}",
        full_scale=info.facts.full_scale,
        range_m=TYPICAL_RANGE_M,
        is_rough=True,
    )


def of_statistics(
    statistics: Mapping[str, ChannelStatistics] | None, info: DatasetInfo
) -> Expectation:
    """What a network was trained with.

    Args:
        statistics: of `cache.cloud_statistics`, from its card; imported and old ones have none.
        info: of the data set that it was trained on.
    """
    known = statistics or {}
    reach = _percentiles(known.get("range"), 75, 95)
    ground = _percentiles(known.get("ground_z"), 50)
    points = _percentiles(known.get("points_per_scan"), 50)
    signal = _percentiles(known.get("signal"), 99)
    return Expectation(
        whose="the training data",
        full_scale=info.facts.full_scale if signal is None else _full_scale(signal[0]),
        range_m=None if reach is None or min(reach) <= 0 else (reach[0], reach[1]),
        ground_z=None if ground is None else ground[0],
        points=None if points is None else points[0],
    )


def differences(
    points: NDArray[np.floating],
    expected: Expectation,
    *,
    has_signal: bool = True,
    z_offset: float = 0.0,
    is_recentred: bool = False,
) -> list[Difference]:
    """Compare one scan.

    Args:
        points: (4, N) x, y, z, supposedly in metres, and signal; a sample of them is used.
        expected: what they should look like.
        has_signal: whether the fourth row was measured.
        z_offset: metres that have been added to z already.
        is_recentred: whether the scan's middle has been moved to x = y = 0.

    Returns:
        At most one of a kind; their corrections belong together.
    """
    found = list(_density(points.shape[1], expected))
    sample = points[:, some_rows(points.shape[1])].astype(np.float64, copy=False)
    sample = sample[:, np.isfinite(sample[:3]).all(axis=0)]
    if not is_recentred and sample.shape[1] >= FEWEST_POINTS:
        is_zero = _at_zero(sample - np.array([[0.0], [0.0], [z_offset], [0.0]]))
        n_zero, n = int(np.count_nonzero(is_zero)), len(is_zero)
        if n_zero > _MOST_AT_ZERO * n:
            what = f"{n_zero / n:.0%} of the points lie at 0, 0, 0, as if nothing came back"
            found.append(Difference(kind="zeros", what=what))
            sample = sample[:, ~is_zero]
    if sample.shape[1] < FEWEST_POINTS:
        return found
    if has_signal:
        found += _signal(sample[3], expected)
    if expected.range_m is not None or expected.ground_z is not None:
        found += _places(sample[:3], expected, z_offset=z_offset, is_recentred=is_recentred)
    return found


def is_plainly_alike(points: NDArray[np.floating], expected: Expectation) -> bool:
    """Quickly check that a scan shows no difference of unit, origin, axis or signal.

    Takes a hundredth of the time of `differences`, but cannot see heights, or scans that are upside
    down.

    Args:
        points: (4, N) as there.
        expected: with a range.
    """
    glance = points[:, some_rows(points.shape[1], most=_GLANCE)].astype(np.float64, copy=False)
    if not np.isfinite(glance).all() or points.shape[1] < FEWEST_POINTS or not glance[3].any():
        return points.shape[1] < FEWEST_POINTS
    xyz, middle = glance[:3], np.median(glance[:3], axis=1)
    reach = float(np.percentile(np.linalg.norm(xyz, axis=0), 75))
    low, high = np.percentile(xyz, (5, 95), axis=1)
    spread = high - low
    usual = 0.0 if expected.range_m is None else expected.range_m[0]
    return bool(
        _full_scale(float(np.percentile(glance[3], 99.9))) == expected.full_scale
        and not _is_negative(glance[3])
        and np.count_nonzero(_at_zero(glance)) <= _MOST_AT_ZERO * glance.shape[1]
        and np.linalg.norm(middle) < reach
        and usual / _PLAIN_TIMES < reach < usual * _PLAIN_TIMES
        and spread.min() == spread[2]
    )


def _at_zero(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) which of (3 or more, N) points lie at the sensor, where none can be."""
    return np.asarray(~points[:3].any(axis=0))


def _density(n: int, expected: Expectation) -> Iterator[Difference]:
    if expected.points is None or not n:
        return
    times = n / expected.points
    if 1 / DENSITY_TIMES <= times <= DENSITY_TIMES:
        return
    word = "more" if times > 1 else "fewer"
    why = "several revolutions in one file?" if times > 1 else "another sensor, or a part?"
    yield Difference(
        kind="density",
        what=f"far {word} points per scan than in {expected.whose} ({n:,}, there "
        f"{expected.points:,.0f}): {why}",
    )


def _signal(signal: NDArray[np.float64], expected: Expectation) -> Iterator[Difference]:
    finite = signal[np.isfinite(signal)]
    if not finite.any():
        yield Difference(kind="no_signal", what="the signal (intensity, remission) is 0 everywhere")
        return
    if _is_negative(finite):
        low, high = np.percentile(finite, (1, 99))
        yield Difference(
            kind="negative",
            what=f"most signals are below 0 ({low:.3g}..{high:.3g}: decibels?), "
            f"{expected.whose} has 0..{_scale_word(expected.full_scale)}",
        )
        return
    here = _full_scale(float(np.percentile(finite, 99.9)))
    if here != expected.full_scale:
        whose = f"{expected.whose} has" if expected.is_rough else f"{expected.whose}'s is"
        found, usual = _scale_word(here), _scale_word(expected.full_scale)
        yield Difference(
            kind="signal",
            what=f"the signal looks like 0..{found}, {whose} 0..{usual}",
            amount=expected.full_scale / here,
        )


def _places(
    xyz: NDArray[np.float64], expected: Expectation, *, z_offset: float, is_recentred: bool
) -> list[Difference]:
    found = guess(
        xyz - np.array([[0.0], [0.0], [z_offset]]),
        range_m=expected.range_m,
        ground_z=expected.ground_z,
    )
    return [
        *_recenter(found),
        *_unit(found, expected, is_recentred=is_recentred),
        *_rotate(found),
        *_height(found, expected, z_offset=z_offset),
    ]


def _recenter(found: Guess) -> Iterator[Difference]:
    if not found.is_centred:
        yield Difference(
            kind="recenter", what="the coordinates are not relative to the sensor (a map?)"
        )


def _unit(found: Guess, expected: Expectation, *, is_recentred: bool) -> Iterator[Difference]:
    is_map = not found.is_centred or is_recentred
    times = found.range_ratio
    is_far_off = not math.isnan(times) and not 1 / NO_UNIT_TIMES <= times <= NO_UNIT_TIMES
    is_foot = found.unit_m == UNITS["ft"]
    if is_far_off or found.unit_m == 1.0 or (is_foot and (is_map or expected.is_rough)):
        times = found.range_ratio / found.unit_m
        is_alike = math.isnan(times) or 1 / RANGE_TIMES <= times <= RANGE_TIMES
        if not (is_map or is_alike or (expected.is_rough and not is_far_off)):
            yield Difference(
                kind="range",
                what=_apart(times, expected),
            )
        return
    times = found.range_ratio / found.unit_m
    word = _UNIT_WORDS.get(found.unit_m, "another unit")
    what = (
        f"the points look like {word}, not metres" if expected.is_rough else _apart(times, expected)
    )
    yield Difference(kind="unit", what=what, amount=found.unit_m)


def _apart(times: float, expected: Expectation) -> str:
    return f"the points lie {float(f'{times:.2g}'):g} times as far away as in {expected.whose}"


def _rotate(found: Guess) -> Iterator[Difference]:
    if found.up != "z":
        yield Difference(kind="rotate", what=f"{found.up} points up, z should", up=found.up)


def _height(found: Guess, expected: Expectation, *, z_offset: float) -> Iterator[Difference]:
    if expected.ground_z is None or not is_ground(found.ground):
        return
    if not found.is_centred:  # moving the middle to x = y = 0 puts the ground at 0
        lies_at, amount = z_offset, expected.ground_z
    else:
        lies_at = found.ground.z + z_offset
        amount = expected.ground_z - found.ground.z
    if abs(lies_at - expected.ground_z) <= HEIGHT_M:
        return
    is_after = not (found.is_centred and found.up == "z" and found.unit_m == 1.0)
    after = ", after the changes above," if is_after else ""
    yield Difference(
        kind="z_offset",
        what=f"the ground lies{after} at z = {lies_at:.2f} m, {expected.whose}'s at "
        f"{expected.ground_z:.2f}",
        amount=amount,
        is_after_others=is_after,
    )


def _is_negative(signal: NDArray[np.float64]) -> bool:
    """Whether most signals that are not 0 are below it."""
    return bool(2 * np.count_nonzero(signal < 0) > np.count_nonzero(signal))


def _full_scale(value: float) -> float:
    if value <= 0 or FULL_SCALES[0] < value <= _ABOVE_1:  # 0: none at all says nothing
        return 1.0
    return next((scale for scale in FULL_SCALES if value <= scale), FULL_SCALES[-1])


def _scale_word(scale: float) -> str:
    return f"{scale:.0f}" if scale >= 1 else f"{scale:.2g}"


def _percentiles(channel: ChannelStatistics | None, *which: int) -> tuple[float, ...] | None:
    if channel is None or len(channel.percentiles) != len(PERCENTILES):
        return None
    values = tuple(channel.percentiles[PERCENTILES.index(one)] for one in which)
    return values if all(map(math.isfinite, values)) else None
