"""From the columns of a scan to the network's input, with remarks for the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.points.columns import PointColumns
from pass2d.points.mapping import InputMapping
from pass2d.points.raw_format import own_mapping
from pass2d.train.inference.input_check import InputCheck, InputWarning
from pass2d.train.inference.segmenter import PastPoints, PreparedPoints, Segmenter


@dataclass(frozen=True, kw_only=True)
class TakenScan:
    """A scan as the network takes it."""

    points: NDArray[np.float32]
    """(N, 4) x, y, z in metres, signal, in the order of the file."""
    prepared: PreparedPoints
    notes: tuple[str, ...]
    """How it was read, with its name."""
    warnings: tuple[InputWarning, ...]
    """How it differs from the training data."""

    @property
    def is_nowhere(self) -> bool:
        """Whether it has points, and none that the network could label."""
        scan = self.prepared.scan
        return scan.n > 0 and (self._is_unmeasured or not len(scan.rows))

    @property
    def _is_unmeasured(self) -> bool:
        """Whether no point has coordinates that a lidar could measure."""
        return self.prepared.n_not_finite == self.prepared.scan.n

    def nowhere(self, remedy: str) -> str:
        """What to say of such a scan, without its name.

        Args:
            remedy: Where nothing better is known.
        """
        advice = " ".join(one.option for one in self.warnings if one.kind in {"unit", "recenter"})
        lacks = (
            "has coordinates that a lidar could measure (within 1 km)"
            if self._is_unmeasured
            else "lies in the network's volume"
        )
        return f"none of {self.prepared.scan.n} points {lacks}: {advice or remedy}"


class Intake:
    """Prepares scans and compares them with the training data; thread-safe."""

    def __init__(self, segmenter: Segmenter, mapping: InputMapping | None) -> None:
        """Remember the network.

        Args:
            segmenter: Of the network.
            mapping: Which column is which, units, place; None: as the network's data set says.
        """
        self._segmenter = segmenter
        self._mapping = mapping
        self._check = InputCheck(segmenter.card, self.mapping(""))

    def mapping(self, file: str) -> InputMapping:
        """Which column is which in a file of such a name."""
        return self._mapping or own_mapping(self._segmenter.card.info, file)

    def take(
        self,
        found: PointColumns,
        *,
        file: str,
        where: str,
        name: str,
        past: Sequence[PastPoints] = (),
    ) -> TakenScan:
        """Prepare a scan.

        Args:
            found: Its columns.
            file: The file's name, which may say how its columns are to be taken.
            where: The scan, for messages.
            name: Random votes are drawn by it.
            past: The scans before it, the latest first.

        Raises:
            DataError: A column is missing.
            ConfigError: Something of the past scans is needed and not known.
        """
        mapping = self.mapping(file)
        exact = mapping.metres(found, where=where)
        warnings = self._check.look(
            exact, where=where, columns=found.names, has_signal=mapping.has_signal(found)
        )
        with np.errstate(over="ignore", invalid="ignore"):
            points = exact.T.astype(np.float32)
        prepared = self._segmenter.prepare(points, name=name, past=past)
        notes = [f"{where}: {found.note}"] if found.note else []
        return TakenScan(
            points=points,
            prepared=prepared,
            notes=(*notes, *self._notes(where, prepared)),
            warnings=tuple(warnings),
        )

    def _notes(self, where: str, prepared: PreparedPoints) -> list[str]:
        notes, scan = [], prepared.scan
        if not scan.n:
            notes.append(f"{where}: no points. Is the copy complete?")
        if prepared.n_not_finite:
            is_much = 4 * prepared.n_not_finite > scan.n
            doubt = "; are unit, columns and number type right?" if is_much else ""
            notes.append(
                f"{where}: {prepared.n_not_finite} of {scan.n} points have no finite coordinates "
                f"or lie beyond 1 km: labelled 0{doubt}"
            )
        if prepared.n_bad_signal:
            notes.append(
                f"{where}: the signal of {prepared.n_bad_signal} points is not finite: taken as 0"
            )
        n_parts = self._segmenter.pass_size.parts(len(scan.points))
        if n_parts > 1:
            notes.append(
                f"{where}: {scan.n:,} points, more than one pass takes: labelled in {n_parts} "
                "parts, each a random share of all points"
            )
        return notes
