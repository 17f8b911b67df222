"""Whether an input looks like the training data, and which option would fix it if not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.frame_guess import UP
from pass2d.cache.clouds.likeness import Difference, Expectation, differences, of_statistics
from pass2d.points.mapping import UNITS_M, InputMapping, rotation_angles
from pass2d.train.checkpoints.card import Card


@dataclass(frozen=True, kw_only=True)
class InputWarning:
    """One way in which an input differs from the training data."""

    kind: str
    """Of `cache.likeness.Difference`, or "no_statistics"."""
    option: str
    """The option that corrects it, e.g. "--unit mm"; "" if there is none."""
    message: str
    """One line; names the file and the option."""
    scans: int = 1
    """Number of scans with this difference."""


class InputCheck:
    """Compares scans with the training data of one checkpoint; thread-safe."""

    def __init__(self, card: Card, mapping: InputMapping) -> None:
        self._mapping = mapping
        self._expected = expectation(card)

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
        found = differences(
            points,
            self._expected,
            has_signal=has_signal,
            z_offset=self._mapping.z_offset,
            is_recentred=self._mapping.recenter,
        )
        if any(one.kind == "unit" and not self._is_exact(one.amount) for one in found):
            found = [one for one in found if one.kind != "z_offset"]  # told in another unit
        if not has_signal:
            what = f"no column of the signal among {', '.join(columns)}: taken as 0"
            is_density = bool(found) and found[0].kind == "density"
            found.insert(int(is_density), Difference(kind="no_signal", what=what))
        return [self._warning(difference, where) for difference in found]

    def _warning(self, difference: Difference, where: str) -> InputWarning:
        option = self._option(difference)
        return InputWarning(
            kind=difference.kind,
            option=option,
            message=f"{where}: {difference.what}{self._advice(difference, option)}",
        )

    def _option(self, difference: Difference) -> str:
        mapping, amount = self._mapping, difference.amount
        if difference.kind == "signal":
            return f"`signal_scale={mapping.signal_scale * amount:.3g}`"
        if difference.kind == "unit":
            return f"`unit={_unit_word(self._likely_unit(amount))}`"
        if difference.kind == "rotate":
            angles, matrix = UP[difference.up]
            if mapping.rotation is not None:
                angles = rotation_angles(np.array(matrix) @ np.array(mapping.rotation))
            return f"`rotate={angles}`"
        if difference.kind == "z_offset":
            return f"`z_offset={amount:.2f}`"
        return {"recenter": "`recenter`", "no_signal": "`map=signal=NAME`"}.get(difference.kind, "")

    def _likely_unit(self, amount: float) -> float:
        """The nearest of the known units: that of the file, where another was given by mistake."""
        unit_m = self._mapping.unit_m * amount
        return min((1000.0, *UNITS_M.values()), key=lambda known: abs(math.log(unit_m / known)))

    def _is_exact(self, amount: float) -> bool:
        return math.isclose(self._likely_unit(amount), self._mapping.unit_m * amount, rel_tol=1e-6)

    def _advice(self, difference: Difference, option: str) -> str:
        full = self._expected.full_scale
        known = {
            "density": " Expect worse labels; no option can fix it",
            "no_signal": f"; the training data's is 0..{full:.0f}. Name its column if there is "
            f"one: {option}",
            "zeros": f": {difference.remedy}",
            "negative": f": {difference.remedy}, or name its column: `map=signal=NAME`",
            "range": ": is `unit` right? Another sensor or place may also explain it",
            "recenter": f": {option} moves each scan's middle to x = y = 0, its ground to z = 0",
            "rotate": f": {option}. (The points do not show which way is forward: the first number "
            "rotates about z)",
        }
        return known.get(difference.kind, f": {option}")


def expectation(card: Card) -> Expectation:
    """What a checkpoint's training data looked like."""
    return of_statistics(card.input_statistics, card.info)


class WarningLog:
    """The first warning about each difference, and how many scans show it.

    Another unit, axis or scale of the signal is another difference; heights vary from scan to scan.
    """

    def __init__(self) -> None:
        self._warnings: dict[tuple[str, str], InputWarning] = {}

    def add(self, warning: InputWarning) -> bool:
        """Count a warning; returns whether it is the first of its kind."""
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
        "older pass2d): range, height and density of the input are not checked",
        scans=0,
    )


def _unit_word(unit_m: float) -> str:
    for word, metres in UNITS_M.items():
        if math.isclose(unit_m, metres, rel_tol=1e-6):
            return word
    return f"{unit_m:g}"
