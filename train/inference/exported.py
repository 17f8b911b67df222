"""Exported networks over scans: NumPy and onnxruntime, no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CheckpointError
from pass2d.common.processes import usable_cores
from pass2d.models.vavit.pillars import INPUTS, pillar_scan
from pass2d.points.columns import error_line
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.onnx_file import OnnxFile, open_onnx
from pass2d.train.inference.labelling import PointLabels, ScanRun
from pass2d.train.inference.metric import mask_forbidden_classes
from pass2d.train.inference.passes import PassSize
from pass2d.train.inference.scans import ScanInput
from pass2d.train.inference.votes import VotePlan


class ExportedNetwork:
    """A network of an ONNX file, on the CPU; what `Segmenter` takes instead of a torch network."""

    uses_volume = False
    point_channels = 4

    def __init__(self, file: OnnxFile, *, source: Path) -> None:
        self._file = file
        self._source = source

    @classmethod
    def load(cls, path: Path) -> ExportedNetwork:
        """Open a file; it computes with `OMP_NUM_THREADS` threads, or one per processor.

        Raises:
            CheckpointError, ConfigError: As `open_onnx`.
        """
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(wanted) if wanted.isdecimal() else usable_cores()
        return cls(open_onnx(path, threads=threads), source=path)

    @property
    def card(self) -> Card:
        """As of the checkpoint."""
        return self._file.card

    def logits(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute one scan.

        Args:
            points: (N, 4) x, y, z in metres, signal; finite.

        Returns:
            (N, C) logits; for a file with probabilities their logarithms, which differ from the
            logits by a constant per point.

        Raises:
            ShapeError: Coordinates that span too many cells.
            CheckpointError: The graph cannot be computed, as when memory runs out.
        """
        if not len(points):
            return np.zeros((0, self.card.info.labels.n_classes), np.float32)
        scan = pillar_scan(points, self._file.preprocessing)
        feed = {name: np.ascontiguousarray(getattr(scan, name)) for name in INPUTS}
        try:
            found: NDArray[np.float32] = self._file.session.run(None, feed)[0]
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            raise CheckpointError(
                f"{self._source}: onnxruntime could not compute a scan of {len(points):,} points: "
                f"{error_line(error)}"
            ) from error
        if self._file.output == "probabilities":
            with np.errstate(divide="ignore"):
                found = np.log(found)
        return found[scan.row_of_point]


@dataclass(frozen=True, kw_only=True)
class ExportedRun(ScanRun):
    """One scan at a time."""

    network: ExportedNetwork
    info: DatasetInfo
    plan: VotePlan
    size: PassSize

    def seen(self, scans: Sequence[ScanInput]) -> list[tuple[PointLabels, ...]]:
        """The answers for the points that the network sees."""
        return [(self._answer(scan),) for scan in scans]

    def _answer(self, scan: ScanInput) -> PointLabels:
        votes = self.plan.of(scan.name)
        logits = self.network.logits(votes[0].apply(scan.points))
        for vote in votes[1:]:
            logits = logits + self.network.logits(vote.apply(scan.points))
        allowed = mask_forbidden_classes(logits, self.info)
        labels = allowed.argmax(axis=1)
        best = np.take_along_axis(allowed, labels[:, None], axis=1)
        scores = 1 / np.exp((allowed - best) / np.float32(len(votes))).sum(axis=1)
        return PointLabels(labels.astype(np.uint8), scores)

    def joined(self, parts: Sequence[PointLabels], places: NDArray[np.int64]) -> PointLabels:
        """See `ScanRun.joined`."""
        labels, scores = (np.concatenate(values)[places] for values in zip(*parts, strict=True))
        return PointLabels(labels, scores)

    def on_all_points(
        self, scan: ScanInput, seen: Sequence[PointLabels]
    ) -> tuple[PointLabels, ...]:
        """From the points that the network saw to all points of the raw scan, per vote plan."""
        assert scan.copied_from is not None
        passes = []
        for answer in seen:
            everywhere = PointLabels(np.zeros(scan.n, np.uint8), np.zeros(scan.n, np.float32))
            for there, values in zip(everywhere, answer, strict=True):
                there[scan.rows] = values
                there[scan.other_rows] = values[scan.copied_from]
            passes.append(everywhere)
        return tuple(passes)
