"""The one function that runs a torch network over scans."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError
from pass2d.common.memory import keep_freed_memory
from pass2d.common.thinning import ThinnedScan
from pass2d.models.nearest import nearest_by_distance
from pass2d.models.network import Network
from pass2d.train.inference.labelling import Labelled, PointLabels, S, ScanRun, T, label_in_packs
from pass2d.train.inference.logits import CachedVotes, RowLogits, vote_logits
from pass2d.train.inference.metric import mask_forbidden_classes
from pass2d.train.inference.passes import PassSize, pass_size
from pass2d.train.inference.scans import ScanInput, nearest_seen
from pass2d.train.inference.votes import SINGLE_PASS, Vote, VotePlan


def label_scans(
    network: Network,
    items: Iterable[T],
    load: Callable[[T], S],
    *,
    info: DatasetInfo,
    plans: Sequence[VotePlan] = (SINGLE_PASS,),
    size: PassSize | None = None,
    with_scores: bool = False,
    allow_ignored: bool = True,
    keep_going: bool = False,
    threads: int = 2,
) -> Generator[Labelled[S], None, None]:
    """Label scans: read ahead, pack up to a size, vote, label every raw point.

    Args:
        network: On its device; evaluated in eval mode and given back in the mode it was in.
        items: Anything that identifies a scan: a position in a cache, a file. A ``Pause`` among
            them, or one that ``load`` returns, is passed on as soon as everything before it is
            labelled.
        load: Reads an item; called in threads, ahead of time.
        info: Of the data set: its grid, and the classes that its benchmark forbids.
        plans: How each scan is moved before each pass; several are evaluated at once.
        size: How much goes through the network at once; by default what suits its device.
        with_scores: Whether to compute confidences.
        allow_ignored: Whether class 0 may be predicted, if the benchmark does not forbid it.
        keep_going: Whether an item that cannot be labelled is reported in ``Labelled.error`` while
            the others continue; else its error is raised.
        threads: How many load at once; 0 loads here.

    Yields:
        All items, in their order.

    Raises:
        ConfigError: A scan does not fit the memory of the GPU.
    """
    device = next(network.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    run = _Run(network, info, plans, size or pass_size(device), with_scores, allow_ignored)
    was_training = network.training
    network.eval()
    try:
        yield from label_in_packs(run, items, load, keep_going=keep_going, threads=threads)
    finally:
        network.train(was_training)


@dataclass(frozen=True)
class _Run(ScanRun):
    """On the network's device."""

    network: Network
    info: DatasetInfo
    plans: Sequence[VotePlan]
    size: PassSize
    with_scores: bool
    allow_ignored: bool

    def seen(self, scans: Sequence[ScanInput]) -> list[tuple[PointLabels, ...]]:
        """Per scan and plan, the answers for the points that the network sees."""
        device = next(self.network.parameters()).device
        points = [torch.from_numpy(scan.points).to(device, non_blocking=True) for scan in scans]
        hashes = CachedVotes(
            grid=self.info.grid,
            scans=[s.hashes and tuple(level.to(device) for level in s.hashes) for s in scans],
        )
        thinned = [scan.thinned for scan in scans]
        found: list[list[PointLabels]] = [[] for _ in scans]
        for plan in self.plans:
            votes = [plan.of(scan.name) for scan in scans]
            logits_of = self._logits(points, votes, hashes, thinned)
            of_rows = {id(one.rows): one.rows for one in logits_of}  # scans of a pass share them
            answer_of = {key: self._answer(rows, plan) for key, rows in of_rows.items()}
            for answers, logits in zip(found, logits_of, strict=True):
                answers.append(_at(answer_of[id(logits.rows)], logits.row_of_point))
        return [tuple(answers) for answers in found]

    def _logits(
        self,
        points: Sequence[Tensor],
        votes: Sequence[Sequence[Vote]],
        hashes: CachedVotes,
        thinned: Sequence[ThinnedScan | None],
    ) -> list[RowLogits]:
        try:
            return vote_logits(
                self.network, points, votes, size=self.size, hashes=hashes, thinned=thinned
            )
        except torch.cuda.OutOfMemoryError as error:
            most = max(map(len, points))
            raise ConfigError(
                f"a scan of up to {most:,} points does not fit the GPU's memory: use device cpu"
            ) from error

    def _answer(self, logits: Tensor, plan: VotePlan) -> PointLabels:
        allowed = mask_forbidden_classes(logits, self.info, allow_ignored=self.allow_ignored)
        if not self.with_scores:
            return PointLabels(allowed.max(dim=1).indices.to(torch.uint8), None)
        best = (allowed / plan.count).softmax(dim=1).max(dim=1)
        return PointLabels(best.indices.to(torch.uint8), best.values)

    def joined(self, parts: Sequence[PointLabels], places: NDArray[np.int64]) -> PointLabels:
        """The answers of shares in the order of the scan."""
        scores = [part.scores for part in parts if part.scores is not None]
        together = PointLabels(
            torch.cat([part.labels for part in parts]), torch.cat(scores) if scores else None
        )
        return _at(together, torch.from_numpy(places).to(together.labels.device))

    def on_all_points(
        self, scan: ScanInput, seen: Sequence[PointLabels]
    ) -> tuple[PointLabels, ...]:
        """From the points that the network saw to all points of the raw scan, per vote plan."""
        device = next(self.network.parameters()).device
        nearest = scan.copied_from
        if nearest is None:
            own = scan.points[: len(scan.rows), :3]
            nearest = nearest_seen(own.T, scan.other_xyz.T, partial(_nearest_on, device))
        rows, others, sources = (
            torch.from_numpy(rows).to(device) for rows in (scan.rows, scan.other_rows, nearest)
        )

        def spread(values: Tensor) -> Tensor:
            everywhere = values.new_zeros(scan.n)
            everywhere[rows] = values
            everywhere[others] = values[sources]
            return everywhere

        return tuple(
            PointLabels(spread(one.labels), None if one.scores is None else spread(one.scores))
            for one in seen
        )


def _at(answers: PointLabels, rows: Tensor | None) -> PointLabels:
    """The answers of rows; None: of all, as they are."""
    if rows is None:
        return answers
    scores = None if answers.scores is None else answers.scores.index_select(0, rows)
    return PointLabels(answers.labels.index_select(0, rows), scores)


def _nearest_on(
    device: torch.device, points: NDArray[np.float32], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    """`passes.nearest_index`, computed on a device."""
    known, asked = (torch.from_numpy(xyz.copy()).to(device).T for xyz in (points, queries))
    return nearest_by_distance(known, asked).cpu().numpy()
