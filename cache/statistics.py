"""What a prepared data set contains, counted: the class weights of training and `pass2d stats`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pass2d.cache.schema import DatasetInfo, LabelTable
from pass2d.common.errors import ShapeError

RANGE_EDGES_M = tuple(range(0, 101, 5))
"""Lower edges of the range histogram's R = 21 bins in metres; the last one is all from 100 m on."""
LEAST_WITH_CLASS = 1e-4
"""Share of classified points below which labels are useless. Real sets have 0.4 to 0.99."""
FEW_POINTS = 1000
"""With fewer classified points, only a few classes may occur."""
LEAST_SHARE = 1e-6
"""Share of the classified points below which a class's weight no longer grows: static motorcyclists
in SemanticKITTI's 25 classes, one point in 2e8, would weigh 400 times as much as a common class."""
SPLITS = ("train", "val", "test")
"""The splits in the order of tables."""
NEEDED_BY = {"train": "training", "val": "the score after each epoch"}
"""Called with a split's useless labels (`lacks_classes`)."""


class ScanColumns(Protocol):
    """The columns of the scan table that statistics need; S scans (see ``cache.reader``)."""

    @property
    def split(self) -> NDArray[np.str_]:
        """(S,) "train", "val" or "test"."""

    @property
    def sequence(self) -> NDArray[np.str_]:
        """(S,) e.g. "08"."""

    @property
    def n_raw(self) -> NDArray[np.int64]:
        """(S,) points of the raw file."""

    @property
    def n(self) -> NDArray[np.int64]:
        """(S,) points inside the volume."""

    @property
    def m(self) -> NDArray[np.int64]:
        """(S,) or (S, cameras) points that the pictures see."""

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """(S,) whether there are labels."""

    @property
    def has_image(self) -> NDArray[np.bool_]:
        """(S,) or (S, cameras) whether there is a picture."""

    @property
    def label_histogram(self) -> NDArray[np.int64]:
        """(S, C) kept points per training id."""

    @property
    def range_histogram(self) -> NDArray[np.int64]:
        """(S, R) points of the raw file per bin of ``RANGE_EDGES_M``."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number varies over scans; all zero when there are no scans."""

    low: float
    median: float
    high: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """The statistics of one split."""

    split: str
    scans: int
    scans_per_sequence: tuple[tuple[str, int], ...]
    """Sequence and its number of scans, in the order of sequences."""
    points_raw: Spread
    """Points of the raw files, per scan."""
    points_kept: Spread
    """Points inside the volume, per scan."""
    total_raw: int
    total_kept: int
    visible_share: float | None
    """Points that a picture sees, of the kept points of scans with a picture; None without any.
    With several cameras a point that two of them see counts twice."""
    scans_without_label: int
    scans_without_image: int
    sequences_without_label: tuple[str, ...]
    """Those of which no scan has labels."""
    sequences_without_image: tuple[str, ...]
    """Those of which no scan has a picture."""
    class_counts: NDArray[np.int64]
    """(C,) kept points of the scans with labels, per training id."""
    class_shares: NDArray[np.float64]
    """(C,) of all points of those scans, the ignored ones included; zeros without labels."""
    class_weights: NDArray[np.float32]
    """(C,) see ``class_weights``."""
    rare: tuple[str, ...]
    """Names of the classes with a share below ``LEAST_SHARE``: their weight is limited."""
    absent: tuple[str, ...]
    """Names of the classes that never occur; empty when the split has no labels at all."""
    range_histogram: NDArray[np.int64]
    """(R,) points of the raw files per bin of ``RANGE_EDGES_M``."""


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """The statistics of a prepared data set."""

    info: DatasetInfo
    splits: tuple[SplitStatistics, ...]
    """Those that have scans, in the order train, val, test."""


def lacks_classes(class_counts: ArrayLike) -> str | None:
    """What is wrong with labels of which (nearly) no point has a class; None if nothing is.

    Fewer than one point in 10,000 is too little to learn from or to score: an error for training
    and evaluation. (Published sets for weak supervision label one in 1,000 points or 10,000.)

    Args:
        class_counts: (C,) points per training id, the ignored class first.

    Returns:
        The fact in a few words.
    """
    counts = _checked_counts(class_counts)
    total, with_class = int(counts.sum()), int(counts[1:].sum())
    if total and with_class < LEAST_WITH_CLASS * total:
        few = f"{with_class:,} of" if with_class else "none of"
        return f"{few} {total:,} labelled points has a class: all others are ignored ones"
    return None


def seem_training_ids(class_counts: ArrayLike, labels: LabelTable) -> list[int]:
    """Whether label files may hold training ids where raw ids are expected.

    Read as raw ids, training ids never reach the classes whose raw ids are all larger. No real
    split lacks them all where they are half of the classes or more, the road among them.

    Args:
        class_counts: (C,) points per training id, the ignored class first.
        labels: the data set's.

    Returns:
        The classes that would be lost; empty if there is no sign of it.
    """
    counts = _checked_counts(class_counts)
    smallest = {c: raw for raw, c in sorted(labels.raw_to_training.items(), reverse=True)}
    large = [c for c in range(1, labels.n_classes) if smallest.get(c, 0) >= labels.n_classes]
    if int(counts[1:].sum()) < FEW_POINTS or 2 * len(large) < labels.n_classes - 1:
        return []
    return [] if counts[large].any() else large


def class_weights(counts: ArrayLike) -> NDArray[np.float32]:
    """Weigh classes by how rare they are: w_c = (max f / f_c)^(1/3).

    Args:
        counts: (C,) points per training id; [0], the ignored class, is not used.

    Returns:
        (C,) 1 for the most frequent class, 0 for the ignored one. A class of a share below
        ``LEAST_SHARE`` counts as if it had that. A class that never occurs gets
        the largest weight of those that do (1 when none does), never an infinity; name such
        classes to the user with ``absent_classes``.

    Raises:
        ShapeError: ``counts`` is not (C,) with non-negative numbers.

    Source: docs/maths.md, section 5.
    """
    shares = _checked_counts(counts).astype(np.float64)
    shares[0] = 0
    occurs = shares > 0
    weights = np.ones(len(shares), np.float64)
    if occurs.any():
        shares = np.maximum(shares, LEAST_SHARE * shares.sum())
        weights[occurs] = (shares.max() / shares[occurs]) ** (1 / 3)
        weights[~occurs] = weights[occurs].max()
    weights[0] = 0
    return weights.astype(np.float32)


def absent_classes(counts: ArrayLike) -> tuple[int, ...]:
    """Training ids without a point, the ignored one excepted."""
    checked = _checked_counts(counts)
    return tuple(int(c) for c in np.flatnonzero(checked == 0) if c != 0)


def rare_classes(counts: ArrayLike) -> tuple[int, ...]:
    """Training ids that occur with a share below ``LEAST_SHARE``, the ignored one excepted."""
    checked = _checked_counts(counts)
    limit = LEAST_SHARE * checked[1:].sum()
    return tuple(int(c) for c in np.flatnonzero((checked > 0) & (checked < limit)) if c != 0)


def _checked_counts(counts: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(counts)
    if array.ndim != 1 or len(array) == 0 or (array < 0).any():
        raise ShapeError("counts", expected="(C,) non-negative", got=array)
    return array.astype(np.int64)


def dataset_statistics(scans: ScanColumns, info: DatasetInfo) -> DatasetStatistics:
    """Sum up a cache's scan table (``reader.scans``, ``reader.info``), split by split."""
    present = [split for split in SPLITS if (scans.split == split).any()]
    others = sorted(set(map(str, scans.split)) - set(SPLITS))
    return DatasetStatistics(
        info=info, splits=tuple(_split_statistics(scans, info, split) for split in present + others)
    )


def _split_statistics(scans: ScanColumns, info: DatasetInfo, split: str) -> SplitStatistics:
    rows = np.flatnonzero(scans.split == split)
    sequence, n_raw, n = scans.sequence[rows], scans.n_raw[rows], scans.n[rows]
    has_label, has_image = scans.has_label[rows], _per_scan_any(scans.has_image[rows])
    seen = scans.m[rows].reshape(len(rows), -1).sum(axis=1)
    counts = scans.label_histogram[rows][has_label].sum(axis=0, dtype=np.int64)
    absent = absent_classes(counts) if has_label.any() else ()
    return SplitStatistics(
        split=split,
        scans=len(rows),
        scans_per_sequence=_count_sequences(sequence),
        points_raw=_spread(n_raw),
        points_kept=_spread(n),
        total_raw=int(n_raw.sum()),
        total_kept=int(n.sum()),
        visible_share=_share(int(seen[has_image].sum()), int(n[has_image].sum())),
        scans_without_label=int((~has_label).sum()),
        scans_without_image=int((~has_image).sum()),
        sequences_without_label=_lacking(sequence, has_label),
        sequences_without_image=_lacking(sequence, has_image),
        class_counts=counts,
        class_shares=counts / max(1, int(counts.sum())),
        class_weights=class_weights(counts),
        rare=tuple(info.labels.names[c] for c in rare_classes(counts)),
        absent=tuple(info.labels.names[c] for c in absent),
        range_histogram=scans.range_histogram[rows].sum(axis=0, dtype=np.int64),
    )


def _per_scan_any(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_or.reduce(flags.reshape(len(flags), -1), axis=1)


def _count_sequences(sequence: NDArray[np.str_]) -> tuple[tuple[str, int], ...]:
    names, counts = np.unique(sequence, return_counts=True)
    return tuple((str(name), int(count)) for name, count in zip(names, counts, strict=True))


def _lacking(sequence: NDArray[np.str_], has: NDArray[np.bool_]) -> tuple[str, ...]:
    with_it: Sequence[str] = np.unique(sequence[has]).tolist()
    return tuple(str(name) for name in np.unique(sequence) if name not in with_it)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _spread(values: NDArray[np.int64]) -> Spread:
    if not len(values):
        return Spread(low=0, median=0, high=0, mean=0)
    return Spread(
        low=float(values.min()),
        median=float(np.median(values)),
        high=float(values.max()),
        mean=float(values.mean()),
    )
