"""The one function that runs a network over scans."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import ConfigError, Pass2DError
from pass2d.common.prefetch import prefetch
from pass2d.models.network import Network
from pass2d.train.inference.logits import CachedVotes, PassSize, packed, pass_size, vote_logits
from pass2d.train.inference.metric import mask_forbidden_classes
from pass2d.train.inference.scans import ScanInput
from pass2d.train.inference.votes import SINGLE_PASS, Vote, VotePlan


class HasScan(Protocol):
    """Something with a scan for a network, or None when there is nothing to label."""

    @property
    def scan(self) -> ScanInput | None:
        """For the network."""


T = TypeVar("T")
S = TypeVar("S", bound=HasScan)


class PointLabels(NamedTuple):
    """A network's answer for points, on its device."""

    labels: Tensor
    """(N,) uint8 training ids; 0 without an answer."""
    scores: Tensor | None
    """(N,) float32 0..1: the softmax probability of the label; None when not asked for."""


@dataclass(frozen=True, kw_only=True)
class Labelled(Generic[S]):
    """What became of one item."""

    item: S
    passes: tuple[PointLabels, ...] = ()
    """One per vote plan, of all N points of the raw scan, in its order; () without a scan."""
    error: Exception | None = None
    """Why it could not be labelled."""


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
    """Label scans: read ahead, put together up to a size, vote, give every raw point its answer.

    Args:
        network: On its device; evaluated in eval mode and given back in the mode it was in.
        items: Whatever names a scan: a place in a cache, a file. A ``Pause`` among them, or one
            that ``load`` returns, is handed on as soon as all before it is labelled.
        load: Reads an item; called in threads, ahead of time.
        info: Of the data set: its grid, and which answers its benchmark forbids.
        plans: How each scan is moved before each pass; several are evaluated at once.
        size: How much goes through the network at once; by default what suits its device.
        with_scores: Whether to compute confidences.
        allow_ignored: Whether class 0 may be answered, where the benchmark does not forbid it.
        keep_going: Whether an item that cannot be labelled is reported in ``Labelled.error`` while
            the others go on; else its error is raised.
        threads: How many load at once; 0 loads here.

    Yields:
        All items, in their order.

    Raises:
        ConfigError: A scan does not fit the memory of the GPU.
    """
    device = next(network.parameters()).device
    run = _Run(network, info, plans, size or pass_size(device), with_scores, allow_ignored)
    was_training = network.training
    network.eval()
    try:
        loaded = prefetch(load, items, threads=threads)
        for pack in packed(loaded, run.size, points=_n_points):
            yield from _tried(pack, run.pack, keep_going=keep_going)
    finally:
        network.train(was_training)


def _n_points(item: HasScan) -> int:
    return 0 if item.scan is None else len(item.scan.points)


def _tried(
    pack: list[S], label: Callable[[list[S]], list[Labelled[S]]], *, keep_going: bool
) -> Iterator[Labelled[S]]:
    """Label a pack; if that fails, its items one by one, to find the one that is to blame."""
    try:
        labelled = label(pack)
    except (Pass2DError, RuntimeError, MemoryError) as error:
        if not keep_going:
            raise
        if len(pack) == 1:
            labelled = [Labelled(item=pack[0], error=error)]
        else:
            labelled = [one for item in pack for one in _tried([item], label, keep_going=True)]
    yield from labelled


@dataclass(frozen=True)
class _Run:
    """A network and how it is run."""

    network: Network
    info: DatasetInfo
    plans: Sequence[VotePlan]
    size: PassSize
    with_scores: bool
    allow_ignored: bool

    def pack(self, items: list[S]) -> list[Labelled[S]]:
        """Label what goes through the network together."""
        whole = [
            item.scan
            for item in items
            if item.scan is not None and self.size.parts(len(item.scan.points)) == 1
        ]
        together = iter(self._seen(whole))
        labelled = []
        for item in items:
            scan = item.scan
            if scan is None:
                labelled.append(Labelled(item=item))
                continue
            is_whole = self.size.parts(len(scan.points)) == 1
            seen = next(together) if is_whole else self._in_parts(scan)
            passes = tuple(_on_all_points(scan, answer) for answer in seen)
            labelled.append(Labelled(item=item, passes=passes))
        return labelled

    def _seen(self, scans: Sequence[ScanInput]) -> list[tuple[PointLabels, ...]]:
        """Per scan and plan, the answers for the points that the network sees."""
        device = next(self.network.parameters()).device
        points = [scan.points.to(device, non_blocking=True) for scan in scans]
        hashes = CachedVotes(
            grid=self.info.grid,
            scans=[s.hashes and tuple(level.to(device) for level in s.hashes) for s in scans],
        )
        found: list[list[PointLabels]] = [[] for _ in scans]
        for plan in self.plans:
            votes = [plan.of(scan.name) for scan in scans]
            for answers, logits in zip(found, self._logits(points, votes, hashes), strict=True):
                answers.append(self._answer(logits, plan))
        return [tuple(answers) for answers in found]

    def _logits(
        self, points: Sequence[Tensor], votes: Sequence[Sequence[Vote]], hashes: CachedVotes
    ) -> list[Tensor]:
        try:
            return vote_logits(self.network, points, votes, size=self.size, hashes=hashes)
        except torch.cuda.OutOfMemoryError as error:
            most = max(map(len, points))
            raise ConfigError(
                f"a scan of up to {most:,} points does not fit the GPU's memory: use device cpu"
            ) from error

    def _answer(self, logits: Tensor, plan: VotePlan) -> PointLabels:
        allowed = mask_forbidden_classes(logits, self.info, allow_ignored=self.allow_ignored)
        if not self.with_scores:
            return PointLabels(allowed.argmax(dim=1).to(torch.uint8), None)
        best = (allowed / plan.count).softmax(dim=1).max(dim=1)
        return PointLabels(best.indices.to(torch.uint8), best.values)

    def _in_parts(self, scan: ScanInput) -> tuple[PointLabels, ...]:
        """As `_seen`, for a scan that goes through the network in random shares."""
        k = len(scan.points)
        order = torch.from_numpy(np.random.default_rng(0).permutation(k))
        shares = torch.tensor_split(order, self.size.parts(k))
        parts = [
            self._seen([replace(scan, points=scan.points[share], hashes=None)])[0]
            for share in shares
        ]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(k)
        return tuple(_joined(answers, inverse) for answers in zip(*parts, strict=True))


def _joined(parts: Sequence[PointLabels], inverse: Tensor) -> PointLabels:
    """The answers of shares, end to end, in the order of the scan."""
    places = inverse.to(parts[0].labels.device)
    scores = [part.scores for part in parts if part.scores is not None]
    return PointLabels(
        torch.cat([part.labels for part in parts])[places],
        torch.cat(scores)[places] if scores else None,
    )


def _on_all_points(scan: ScanInput, seen: PointLabels) -> PointLabels:
    """From the points that the network saw to all points of the raw scan."""
    device = seen.labels.device
    rows, others, sources = (
        torch.from_numpy(rows).to(device) for rows in (scan.rows, scan.other_rows, scan.copied_from)
    )

    def spread(values: Tensor) -> Tensor:
        everywhere = values.new_zeros(scan.n)
        everywhere[rows] = values
        everywhere[others] = values[sources]
        return everywhere

    return PointLabels(spread(seen.labels), None if seen.scores is None else spread(seen.scores))
