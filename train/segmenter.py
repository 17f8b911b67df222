"""A checkpoint as a function: points in, a label and a confidence per point out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cache.errors import ShapeError
from cache.volume import inside_volume
from pass2d_models.network import Network
from train.card import Card
from train.checkpoint import network_from_checkpoint
from train.eval_scans import Outside
from train.evaluate import NO_VOTES, default_device
from train.infer import nearest_index, pass_size, vote_logits
from train.metric import allowed_scores
from train.tta import VotePlan

FARTHEST_M = 1000.0
"""No lidar sees farther. A stray larger number would ask for a grid that no key can count."""


class ScanLabels(NamedTuple):
    """What a scan is made of."""

    labels: NDArray[np.uint8]
    """(N,) training ids, indices into `Segmenter.names`; 0 where there is no answer."""
    scores: NDArray[np.float32]
    """(N,) 0..1: how sure the network is; 0 where there is no answer."""


@dataclass(frozen=True, kw_only=True)
class PreparedPoints:
    """A scan cut to what the network takes, with the way back to all its points."""

    n: int
    """Points of the input."""
    points: Tensor
    """(K, 4) float32: x, y, z in metres, signal; finite."""
    rows: NDArray[np.int64]
    """(K,) their rows in the input."""
    other_rows: NDArray[np.int64]
    """(O,) rows of points that take another's answer."""
    copied_from: NDArray[np.int64]
    """(O,) place in ``rows`` of the point whose answer each of them takes."""
    n_not_finite: int
    """Points without an answer: a coordinate is NaN, infinite or beyond ``FARTHEST_M``."""
    n_bad_signal: int
    """Points whose signal is NaN or infinite; it was taken as 0."""


class Segmenter:
    """Labels scans with a trained network.

    Example::

        segmenter = Segmenter.load("best.safetensors")
        labels, scores = segmenter(points)  # (N, 4): x, y, z in metres, signal
        print([segmenter.names[i] for i in labels[:5]])
    """

    def __init__(
        self,
        network: Network,
        card: Card,
        *,
        votes: VotePlan = NO_VOTES,
        outside: Outside = "nearest",
    ) -> None:
        self.network = network.eval()
        self.card = card
        self.votes = votes
        self.outside = outside
        self._device = next(network.parameters()).device
        self._raw_ids = np.array(card.info.labels.training_to_raw, np.uint32)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str | None = None,
        votes: VotePlan = NO_VOTES,
        outside: Outside = "nearest",
    ) -> Self:
        """Load a checkpoint; it carries all that is needed.

        Args:
            path: An inference export or a training state.
            device: The GPU if there is one, without.
            votes: Test-time augmentation, see `train.tta`.
            outside: Whether points outside the volume take the nearest predicted point's label
                ("nearest") or stay without ("ignore").

        Raises:
            CheckpointError: It cannot be read.
        """
        target = default_device() if device is None else torch.device(device)
        network, card = network_from_checkpoint(Path(path), target)
        return cls(network, card, votes=votes, outside=outside)

    @property
    def names(self) -> tuple[str, ...]:
        """(C,) of the classes; [0] is the ignored one."""
        return self.card.info.labels.names

    def __call__(self, points: ArrayLike) -> ScanLabels:
        """Label a scan.

        Args:
            points: (N, 4 or more) x, y, z in metres in the lidar frame and the signal that the
                network was trained with; further columns are not used. N may be 0.

        Raises:
            ShapeError: Not such an array.
        """
        return self.segment([self.prepare(points)], names=[""])[0]

    def raw_ids(self, labels: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """The numbers that the data set's files use for training ids."""
        return self._raw_ids[labels]

    def prepare(self, points: ArrayLike) -> PreparedPoints:
        """Cut a scan to what the network takes; touches no GPU, so threads may do it ahead.

        Raises:
            ShapeError: Not (N, 4 or more).
        """
        array = np.asarray(points, np.float32)
        if array.ndim != 2 or array.shape[1] < 4:
            raise ShapeError("points", expected="(N, 4): x, y, z, signal", got=array.shape)
        xyz = array[:, :3].T
        with np.errstate(invalid="ignore"):
            is_plausible = (np.abs(xyz) <= FARTHEST_M).all(axis=0)
        is_seen = is_plausible
        if self.network.uses_volume:
            is_seen = inside_volume(xyz, grid=self.card.info.grid)
        rows, other_rows = np.flatnonzero(is_seen), np.flatnonzero(is_plausible & ~is_seen)
        if self.outside == "ignore" or not len(rows):
            other_rows = other_rows[:0]
        copied_from = np.zeros(0, np.int64)
        if len(other_rows):
            copied_from = nearest_index(xyz[:, rows], xyz[:, other_rows])
        seen = array[rows, :4]
        is_bad = ~np.isfinite(seen[:, 3])
        seen[is_bad, 3] = 0
        # A network that knows added sweeps is given a scan alone: nothing was measured before it.
        seen = np.pad(seen, ((0, 0), (0, self.network.point_channels - seen.shape[1])))
        return PreparedPoints(
            n=len(array),
            points=torch.from_numpy(np.ascontiguousarray(seen)),
            rows=rows,
            other_rows=other_rows,
            copied_from=copied_from,
            n_not_finite=len(array) - int(np.count_nonzero(is_plausible)),
            n_bad_signal=int(np.count_nonzero(is_bad)),
        )

    def segment(self, scans: Sequence[PreparedPoints], *, names: Sequence[str]) -> list[ScanLabels]:
        """Label prepared scans together.

        Args:
            scans: Of ``prepare``.
            names: One per scan: random votes are drawn by it, so that a scan's answer does not
                depend on what is labelled beside it.
        """
        points = [scan.points.to(self._device) for scan in scans]
        votes = [self.votes.of(name) for name in names]
        logits = vote_logits(self.network, points, votes, size=pass_size(self._device))
        return [
            _spread(scan, allowed_scores(scan_logits / self.votes.count, self.card.info))
            for scan, scan_logits in zip(scans, logits, strict=True)
        ]


def _spread(scan: PreparedPoints, logits: Tensor) -> ScanLabels:
    """From the network's points to all points of the scan."""
    labels, scores = np.zeros(scan.n, np.uint8), np.zeros(scan.n, np.float32)
    best = logits.softmax(dim=1).max(dim=1)
    labels[scan.rows] = best.indices.to(torch.uint8).cpu().numpy()
    scores[scan.rows] = best.values.cpu().numpy()
    labels[scan.other_rows] = labels[scan.rows[scan.copied_from]]
    scores[scan.other_rows] = scores[scan.rows[scan.copied_from]]
    return ScanLabels(labels=labels, scores=scores)
