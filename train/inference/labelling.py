"""Labels scans: reads ahead, packs them, and returns a label per point. No torch."""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import Pass2DError
from pass2d.common.prefetch import prefetch
from pass2d.train.inference.passes import PassSize, packed
from pass2d.train.inference.scans import ScanInput


class HasScan(Protocol):
    """An item with a scan for a network, or None if there is nothing to label."""

    @property
    def scan(self) -> ScanInput | None:
        """For the network."""


T = TypeVar("T")
S = TypeVar("S", bound=HasScan)


class PointLabels(NamedTuple):
    """A network's predictions for points: tensors on its device, or arrays."""

    labels: Any
    """(N,) uint8 training ids; 0 without a prediction."""
    scores: Any
    """(N,) float32 0..1: the softmax probability of the label; None unless requested."""


@dataclass(frozen=True, kw_only=True)
class Labelled(Generic[S]):
    """The result of one item."""

    item: S
    passes: tuple[PointLabels, ...] = ()
    """One per vote plan, of all N points of the raw scan, in its order; () without a scan."""
    error: Exception | None = None
    """Why it could not be labelled."""


class ScanRun(abc.ABC):
    """A network and how it is run over scans."""

    size: PassSize
    """How much goes through the network at once."""

    @abc.abstractmethod
    def seen(self, scans: Sequence[ScanInput]) -> list[tuple[PointLabels, ...]]:
        """Per scan and vote plan, the answers for the points that the network sees."""

    @abc.abstractmethod
    def joined(self, parts: Sequence[PointLabels], places: NDArray[np.int64]) -> PointLabels:
        """Concatenate the labels of a scan's shares, in the scan's order.

        Args:
            parts: Labels and confidences of each share.
            places: (N,) for each point of the scan, its row in the concatenated shares.

        Returns:
            (N,) labels and confidences.
        """

    @abc.abstractmethod
    def on_all_points(
        self, scan: ScanInput, seen: Sequence[PointLabels]
    ) -> tuple[PointLabels, ...]:
        """From the points that the network saw to all points of the raw scan, per vote plan."""

    def pack(self, items: list[S]) -> list[Labelled[S]]:
        """Label what goes through the network together."""
        whole = [
            item.scan
            for item in items
            if item.scan is not None and self.size.parts(len(item.scan.points)) == 1
        ]
        together = iter(self.seen(whole))
        labelled = []
        for item in items:
            scan = item.scan
            if scan is None:
                labelled.append(Labelled(item=item))
                continue
            is_whole = self.size.parts(len(scan.points)) == 1
            seen = next(together) if is_whole else self._in_parts(scan)
            passes = self.on_all_points(scan, [_own(answer, scan) for answer in seen])
            labelled.append(Labelled(item=item, passes=passes))
        return labelled

    def _in_parts(self, scan: ScanInput) -> tuple[PointLabels, ...]:
        """As `seen`, for a scan that goes through the network in random shares."""
        k = len(scan.points)
        order = np.random.default_rng(0).permutation(k)
        shares = np.array_split(order, self.size.parts(k))
        parts = [
            self.seen([replace(scan, points=scan.points[share], hashes=None, thinned=None)])[0]
            for share in shares
        ]
        return tuple(
            self.joined(answers, np.argsort(order)) for answers in zip(*parts, strict=True)
        )


def _own(seen: PointLabels, scan: ScanInput) -> PointLabels:
    """Without the points of past scans, which follow the scan's own."""
    n = len(scan.rows)
    return PointLabels(seen.labels[:n], None if seen.scores is None else seen.scores[:n])


def label_in_packs(
    run: ScanRun,
    items: Iterable[T],
    load: Callable[[T], S],
    *,
    keep_going: bool,
    threads: int,
) -> Generator[Labelled[S], None, None]:
    """Label scans: see `train.inference.labels.label_scans`."""
    loaded = prefetch(load, items, threads=threads)
    for pack in packed(loaded, run.size, points=_n_points):
        yield from _tried(pack, run.pack, keep_going=keep_going)


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
