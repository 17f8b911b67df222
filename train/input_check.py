"""Whether an input looks like what a network was trained with, and which option would mend it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from train.card import Card, ChannelStatistics
from train.input_statistics import PERCENTILES
from train.points.ground import some_rows
from train.points.guess import UNITS, UP, Guess, guess, is_ground
from train.points.mapping import UNITS_M, InputMapping, rotation_angles

FEWEST_POINTS = 1000
"""Below this only the number of points is compared."""
HEIGHT_M = 0.9
"""Ground heights of real KITTI, nuScenes and PandaSet scans differ by up to 0.64."""
RANGE_TIMES = 2.6
"""Ranges of the same scans differ by up to 2.1 times."""
NO_UNIT_TIMES = 30.0
"""When the points still lie so many times as far after a change of unit, the unit is no reason."""
DENSITY_TIMES = 3.5
"""Points per scan of the same scans, within a benchmark's layout, differ by up to 3.1 times."""
FULL_SCALES = (1.0, 255.0, 4095.0, 65535.0)
"""Largest signal that sensors' formats can say."""
_ABOVE_1 = 2.0
"""Calibrated remissions slightly above 1 are still of the scale 0..1."""


@dataclass(frozen=True, kw_only=True)
class InputWarning:
    """One way in which an input differs from the training data."""

    kind: str
    """"recenter", "unit", "rotate", "z_offset", "signal", "range", "density", "no_signal" or
    "no_statistics"."""
    option: str
    """What would mend it, e.g. "--unit mm"; "" for nothing."""
    message: str
    """One line; names the file and the option."""
    scans: int = 1
    """How many show it."""


class InputCheck:
    """Compares scans with the training data of one checkpoint; may be used by many threads."""

    def __init__(self, card: Card, mapping: InputMapping) -> None:
        self._mapping = mapping
        statistics = card.input_statistics or {}
        self.has_statistics = bool(statistics)
        """Imported and old checkpoints have none."""
        reach = _percentiles(statistics.get("range"), 75, 95)
        self._range = None if reach is None else (reach[0], reach[1])
        self._ground = _percentiles(statistics.get("ground_z"), 50)
        self._points = _percentiles(statistics.get("points_per_scan"), 50)
        signal = _percentiles(statistics.get("signal"), 99)
        self._full_scale = 255.0 if card.info.signal_name == "intensity" else 1.0
        if signal is not None:
            self._full_scale = _full_scale(signal[0])

    def look(
        self, points: NDArray[np.float64], *, where: str, columns: Sequence[str], has_signal: bool
    ) -> list[InputWarning]:
        """Compare one scan.

        Args:
            points: (4, N) as ``InputMapping.metres`` gives them.
            where: The file, for messages.
            columns: The file's names of its columns, for messages.
            has_signal: Whether one of them is the signal.

        Returns:
            At most one warning of a kind; their options belong together.
        """
        found = self._look_at_count(points.shape[1], where)
        if not has_signal:
            found.append(
                self._no_signal(
                    f"{where}: no column of the signal among {', '.join(columns)}: taken as 0"
                )
            )
        sample = points[:, some_rows(points.shape[1])]
        sample = sample[:, np.isfinite(sample[:3]).all(axis=0)]
        if sample.shape[1] >= FEWEST_POINTS:
            found += self._look_at_signal(sample[3], where) if has_signal else []
            if self.has_statistics:
                found += self._look_at_places(sample[:3], where)
        return found

    def _look_at_count(self, n: int, where: str) -> list[InputWarning]:
        if self._points is None or not n:
            return []
        times = n / self._points[0]
        if 1 / DENSITY_TIMES <= times <= DENSITY_TIMES:
            return []
        word = "more" if times > 1 else "fewer"
        why = "several revolutions in one file?" if times > 1 else "another sensor, or a part?"
        return [
            InputWarning(
                kind="density",
                option="",
                message=f"{where}: far {word} points per scan than in the training data ({n:,}, "
                f"there {self._points[0]:,.0f}): {why} Expect worse labels; no option mends it",
            )
        ]

    def _no_signal(self, what: str) -> InputWarning:
        return InputWarning(
            kind="no_signal",
            option="--map signal=NAME",
            message=f"{what}; the training data's is 0..{self._full_scale:.0f}. Name its column if "
            "there is one: --map signal=NAME",
        )

    def _look_at_signal(self, signal: NDArray[np.float64], where: str) -> list[InputWarning]:
        finite = signal[np.isfinite(signal)]
        if not finite.any():
            return [self._no_signal(f"{where}: the signal (intensity, remission) is 0 everywhere")]
        here = _full_scale(float(np.percentile(finite, 99.9)))
        if here == self._full_scale:
            return []
        option = f"--signal-scale {self._mapping.signal_scale * self._full_scale / here:.3g}"
        return [
            InputWarning(
                kind="signal",
                option=option,
                message=f"{where}: the signal looks like 0..{here:.0f}, the training data's is "
                f"0..{self._full_scale:.0f}: {option}",
            )
        ]

    def _look_at_places(self, xyz: NDArray[np.float64], where: str) -> list[InputWarning]:
        raised = xyz - np.array([[0.0], [0.0], [self._mapping.z_offset]])
        train_ground = None if self._ground is None else self._ground[0]
        found = guess(raised, range_m=self._range, ground_z=train_ground)
        return [
            warning
            for warning in (
                self._recenter(found, where),
                self._unit(found, where),
                self._rotate(found, where),
                self._height(found, where),
            )
            if warning is not None
        ]

    def _recenter(self, found: Guess, where: str) -> InputWarning | None:
        if found.is_centred:
            return None
        return InputWarning(
            kind="recenter",
            option="--recenter",
            message=f"{where}: the coordinates do not start at the sensor (of a map?): "
            "--recenter moves each scan's middle to x = y = 0, its ground to z = 0",
        )

    def _unit(self, found: Guess, where: str) -> InputWarning | None:
        is_map = not found.is_centred or self._mapping.recenter
        times = found.range_ratio
        is_far_off = not math.isnan(times) and not 1 / NO_UNIT_TIMES <= times <= NO_UNIT_TIMES
        if is_far_off or found.unit_m == 1.0 or (is_map and found.unit_m == UNITS["ft"]):
            times = found.range_ratio / found.unit_m
            if is_map or math.isnan(times) or 1 / RANGE_TIMES <= times <= RANGE_TIMES:
                return None
            return InputWarning(
                kind="range",
                option="",
                message=f"{where}: the points lie {times:.2g} times as far as in the training "
                "data: is --unit right? Another sensor or place may also be the reason",
            )
        option = f"--unit {_unit_word(self._mapping.unit_m * found.unit_m)}"
        return InputWarning(
            kind="unit",
            option=option,
            message=f"{where}: the points lie {found.range_ratio / found.unit_m:.2g} times as far "
            f"as in the training data: {option}",
        )

    def _rotate(self, found: Guess, where: str) -> InputWarning | None:
        if found.up == "z":
            return None
        angles, matrix = UP[found.up]
        if self._mapping.rotation is not None:
            angles = rotation_angles(np.array(matrix) @ np.array(self._mapping.rotation))
        option = f"--rotate {angles}"
        return InputWarning(
            kind="rotate",
            option=option,
            message=f"{where}: {found.up} points up, z should: {option}. (Which way is ahead "
            "cannot be told from points: the first number turns about z)",
        )

    def _height(self, found: Guess, where: str) -> InputWarning | None:
        if self._ground is None or not is_ground(found.ground):
            return None
        is_placed = found.is_centred and found.up == "z" and found.unit_m == 1.0
        offset = self._mapping.z_offset
        if not found.is_centred:
            lies_at = offset  # --recenter puts the ground at 0
            wanted = self._ground[0]
        else:
            lies_at = found.ground.z + offset
            wanted = self._ground[0] - found.ground.z
        if abs(lies_at - self._ground[0]) <= HEIGHT_M:
            return None
        option = f"--z-offset {wanted:.2f}"
        after = "" if is_placed else ", after the options above,"
        return InputWarning(
            kind="z_offset",
            option=option,
            message=f"{where}: the ground lies{after} at z = {lies_at:.2f} m, the training data's "
            f"at {self._ground[0]:.2f}: {option}",
        )


class WarningLog:
    """The first warning of each difference, and how many scans show it.

    Another unit, axis or scale of the signal is another difference; heights vary from scan to scan.
    """

    def __init__(self) -> None:
        self._warnings: dict[tuple[str, str], InputWarning] = {}

    def add(self, warning: InputWarning) -> bool:
        """Count a warning. Returns whether it is the first of its difference."""
        key = warning.kind, "" if warning.kind == "z_offset" else warning.option
        known = self._warnings.get(key)
        if known is not None:
            warning = replace(known, scans=known.scans + 1)
        self._warnings[key] = warning
        return known is None

    def all(self) -> tuple[InputWarning, ...]:
        """In the order in which they came up."""
        return tuple(self._warnings.values())


def no_statistics() -> InputWarning:
    """Said once for checkpoints whose training data is unknown."""
    return InputWarning(
        kind="no_statistics",
        option="",
        message="this checkpoint carries no statistics of its training data (imported, or of an "
        "older pass2d): range, height and density of the input are not compared with it",
        scans=0,
    )


def _percentiles(channel: ChannelStatistics | None, *which: int) -> tuple[float, ...] | None:
    if channel is None or len(channel.percentiles) != len(PERCENTILES):
        return None
    values = tuple(channel.percentiles[PERCENTILES.index(one)] for one in which)
    return values if all(map(math.isfinite, values)) else None


def _full_scale(value: float) -> float:
    if value <= _ABOVE_1:
        return 1.0
    return next((scale for scale in FULL_SCALES if value <= scale), FULL_SCALES[-1])


def _unit_word(unit_m: float) -> str:
    for word, metres in UNITS_M.items():
        if math.isclose(unit_m, metres, rel_tol=1e-6):
            return word
    return f"{unit_m:g}"
