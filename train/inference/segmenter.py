"""A checkpoint as a function: points in, a label and a confidence per point out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeGuard, get_args, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pass2d.cache.clouds.likeness import differences
from pass2d.cache.clouds.volume import inside_volume
from pass2d.common.errors import ConfigError, ShapeError
from pass2d.models.network import Network
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_from_checkpoint
from pass2d.train.distributed.process_group import choose_device
from pass2d.train.inference.input_check import expectation
from pass2d.train.inference.logits import Outside, PassSize, nearest_index, pass_size, vote_logits
from pass2d.train.inference.metric import allowed_scores
from pass2d.train.inference.votes import NO_VOTES, VotePlan, parse_votes
from pass2d.train.points.columns import is_transposed

FARTHEST_M = 1000.0
"""No lidar sees farther. A stray larger number would ask for a grid that no key can count."""
LARGEST_PASS = 500_000
"""Points in one pass. A larger file goes through the network in random shares, each of which shows
the whole scene as a sensor would: memory stays bounded, and every point has its own answer."""
TREE_POINTS = 1_000_000
"""Among more, the nearest point is looked for in a random share of these."""
COMPARED_SCANS = 10
"""Scans of a caller whose signal and unit are compared with the training data's."""
LARGEST_BATCH = 32
"""More scans of a large grid have more cells than spconv counts."""


class ScanLabels(NamedTuple):
    """What a scan is made of."""

    labels: NDArray[np.uint8]
    """(N,) training ids, indices into `Segmenter.names`; 0 where there is no answer."""
    scores: NDArray[np.float32]
    """(N,) confidence, 0..1: the softmax probability of the label, of the logits' mean over the
    votes; not calibrated. A point outside the volume has that of the point whose label it took;
    0 where there is no answer."""


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

    @property
    def n_parts(self) -> int:
        """Passes that a scan of so many points is cut into."""
        return max(1, -(-len(self.points) // LARGEST_PASS))


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
        votes: VotePlan | int | str = NO_VOTES,
        outside: Outside = "nearest",
        batch_size: int | None = None,
    ) -> None:
        self.network = network.eval()
        self.card = card
        self.votes = votes if isinstance(votes, VotePlan) else parse_votes(str(votes))
        if outside not in get_args(Outside):
            raise ConfigError(f"outside must be nearest or ignore, got {outside!r}")
        self.outside = outside
        self._device = next(network.parameters()).device
        self.pass_size = _pass_size(self._device, batch_size)
        """How much goes through the network at once."""
        self._raw_ids = np.array(card.info.labels.training_to_raw, np.uint32)
        self._expected = expectation(card)
        self._warned: set[str] = set()
        self._compared = 0

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str | None = None,
        votes: VotePlan | int | str = NO_VOTES,
        outside: Outside = "nearest",
        batch_size: int | None = None,
    ) -> Self:
        """Load a checkpoint; it carries all that is needed.

        Args:
            path: An inference export or a training state.
            device: The GPU if there is one, without. A GPU becomes this thread's current one.
            votes: Test-time augmentation: how many votes, "lattice", or a plan, see `train.tta`.
            outside: Whether points outside the volume take the nearest predicted point's label
                ("nearest") or stay without ("ignore").
            batch_size: Scans per pass through the network; what suits the device without.

        Raises:
            CheckpointError: It cannot be read.
            ConfigError: No such device, votes or ``outside``, or a batch size that is not 1 to
                ``LARGEST_BATCH``.
        """
        network, card = network_from_checkpoint(Path(path), choose_device(device or "auto"))
        return cls(network, card, votes=votes, outside=outside, batch_size=batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        """(C,) of the classes; [0] is the ignored one."""
        return self.card.info.labels.names

    @overload
    def __call__(
        self, points: list[NDArray[Any]] | tuple[NDArray[Any], ...]
    ) -> list[ScanLabels]: ...

    @overload
    def __call__(self, points: ArrayLike) -> ScanLabels: ...

    def __call__(
        self, points: ArrayLike | list[NDArray[Any]] | tuple[NDArray[Any], ...]
    ) -> ScanLabels | list[ScanLabels]:
        """Label a scan, or several.

        Args:
            points: (N, 4 or more) x, y, z in metres in the lidar frame and the signal that the
                network was trained with, of any real type; further columns are not used. N may be
                0. (N, 3): the signal is taken as 0, with a warning. Or a list of such arrays; a
                tensor may lie on any device.

        Returns:
            Labels (training ids) and confidences; a list of them for a list of scans. ``raw_ids``
            turns labels into the data set's own numbers.

        Warns:
            UserWarning: Once each: the signal or the unit seems to be of another scale than the
                training data's; no point of a scan lies in the network's volume.

        Raises:
            ShapeError: Not such an array; of a list its place is named.
        """
        if _are_scans(points):
            scans = [
                self._prepared(scan, name=f"points[{place}]") for place, scan in enumerate(points)
            ]
            return self.segment(scans, names=[str(place) for place in range(len(scans))])
        return self.segment([self._prepared(points, name="points")], names=[""])[0]

    def raw_ids(self, labels: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """The numbers that the data set's files use for training ids."""
        return self._raw_ids[labels]

    def prepare(self, points: ArrayLike) -> PreparedPoints:
        """Cut a scan to what the network takes; touches no GPU, so threads may do it ahead.

        Raises:
            ShapeError: Not (N, 3 or more).
        """
        return self._cut(_four_columns(points, name="points"))

    def _prepared(self, points: ArrayLike, *, name: str) -> PreparedPoints:
        """Prepare a scan that no command has compared with the training data, and say so."""
        array = _four_columns(points, name=name)
        scan = self._cut(array)
        if scan.n and not len(scan.rows):
            self._warn(
                "volume",
                f"{name}: no point lies in the network's volume: all are labelled 0. Metres in "
                "the lidar's frame are expected",
            )
        if self._compared < COMPARED_SCANS and scan.n:
            self._compared += 1
            exact = array[:, :4].T.astype(np.float64)
            for found in differences(exact, self._expected, has_signal=bool(array[:, 3].any())):
                if found.kind in {"signal", "unit"}:
                    self._warn(found.kind, f"{name}: {found.what}: {found.remedy}")
        return scan

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=4)

    def _cut(self, array: NDArray[np.float32]) -> PreparedPoints:
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
            asked = _random_share(len(rows), TREE_POINTS)
            copied_from = asked[nearest_index(xyz[:, rows[asked]], xyz[:, other_rows])]
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
        small = [place for place, scan in enumerate(scans) if scan.n_parts == 1]
        answers: dict[int, Answer] = {}
        logits = self._logits([scans[place].points for place in small], [names[p] for p in small])
        for place, scan_logits in zip(small, logits, strict=True):
            answers[place] = self._answer(scan_logits)
        for place, scan in enumerate(scans):
            if place not in answers:
                answers[place] = self._in_parts(scan, names[place])
        return [_spread(scan, answers[place]) for place, scan in enumerate(scans)]

    def _logits(self, points: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        on_device = [scan.to(self._device) for scan in points]
        votes = [self.votes.of(name) for name in names]
        try:
            return vote_logits(self.network, on_device, votes, size=self.pass_size)
        except torch.cuda.OutOfMemoryError as error:
            most = max(len(scan) for scan in points)
            raise ConfigError(
                f"a scan of up to {most:,} points does not fit the GPU's memory: use device cpu"
            ) from error

    def _answer(self, logits: Tensor) -> Answer:
        scores = allowed_scores(logits / self.votes.count, self.card.info)
        best = scores.softmax(dim=1).max(dim=1)
        return best.indices.to(torch.uint8).cpu().numpy(), best.values.cpu().numpy()

    def _in_parts(self, scan: PreparedPoints, name: str) -> Answer:
        """Label a scan of more points than fit a pass, in random shares."""
        k = len(scan.points)
        labels, scores = np.zeros(k, np.uint8), np.zeros(k, np.float32)
        order = np.random.default_rng(0).permutation(k)
        for part in np.array_split(order, scan.n_parts):
            logits = self._logits([scan.points[torch.from_numpy(part)]], [name])[0]
            labels[part], scores[part] = self._answer(logits)
        return labels, scores


Answer = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""(K,) labels and confidences of the points that the network saw."""


def _are_scans(points: object) -> TypeGuard[list[ArrayLike] | tuple[ArrayLike, ...]]:
    """Whether this is a list of scans, not one scan as a list of rows."""
    if not isinstance(points, (list, tuple)):
        return False
    return not points or any(_n_axes(scan) >= 2 for scan in points)


def _n_axes(scan: object) -> int:
    try:
        return np.ndim(scan)  # type: ignore[arg-type]  # of anything; also of tensors
    except (ValueError, TypeError):  # rows of different lengths
        return 2


def _as_numpy(points: object) -> NDArray[Any]:
    """Any real numbers as an array.

    Raises:
        ValueError, TypeError, RuntimeError: They are none.
    """
    if not isinstance(points, Tensor):
        return np.asarray(points)
    tensor = points.detach().to("cpu").resolve_neg()
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()  # NumPy knows no bfloat16
    return tensor.numpy()


def _four_columns(points: ArrayLike, *, name: str) -> NDArray[np.float32]:
    try:
        given = _as_numpy(points)
    except (ValueError, TypeError, RuntimeError) as error:
        what = f"{type(points).__name__}: {' '.join(str(error).split())[:120]}"
        raise ShapeError(name, expected="(N, 4) real numbers", got=what) from error
    if given.dtype.kind not in "fiub":
        raise ShapeError(name, expected="(N, 4) real numbers", got=f"{str(given.dtype)[:60]}")
    with np.errstate(over="ignore", invalid="ignore"):
        array = given.astype(np.float32, copy=False)
    if is_transposed(array.shape):
        raise ShapeError(name, expected="(N, 4), a point per row", got=array.shape)
    if array.ndim != 2 or array.shape[1] < 3:
        raise ShapeError(name, expected="(N, 4): x, y, z, signal", got=array.shape)
    if array.shape[1] == 3:
        warnings.warn(
            "points are (N, 3): the signal (4th column) is taken as 0; the network was trained "
            "with one",
            stacklevel=5,
        )
        array = np.pad(array, ((0, 0), (0, 1)))
    return array


def _random_share(n: int, most: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(n)[:most] if n > most else np.arange(n)


def _pass_size(device: torch.device, batch_size: int | None) -> PassSize:
    usual = pass_size(device)
    if batch_size is None:
        return usual
    if not 1 <= batch_size <= LARGEST_BATCH:
        raise ConfigError(f"batch_size must be 1 to {LARGEST_BATCH}, got {batch_size}")
    return PassSize(points=batch_size * LARGEST_PASS, scans=batch_size)


def _spread(scan: PreparedPoints, answer: Answer) -> ScanLabels:
    """From the network's points to all points of the scan."""
    labels, scores = np.zeros(scan.n, np.uint8), np.zeros(scan.n, np.float32)
    labels[scan.rows], scores[scan.rows] = answer
    labels[scan.other_rows] = labels[scan.rows[scan.copied_from]]
    scores[scan.other_rows] = scores[scan.rows[scan.copied_from]]
    return ScanLabels(labels=labels, scores=scores)
