"""Counts of a check for each split: a table that shows whether a description is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.likeness import TYPICAL_RANGE_M
from pass2d.cache.schema import UNKNOWN_LABEL, DatasetInfo
from pass2d.common.text import and_more
from pass2d.pipeline.problem import Problem
from pass2d.pipeline.source import ScanSource

_SAMPLE = 500
"""Points of a scan that the quantiles are taken from."""
_MOST_SAMPLED = 2_000_000
QUANTILES = (1, 50, 99)
"""Percent."""
_MOST_OUTSIDE, _MOST_NOTHING, _LEAST_SEEN = 0.3, 0.7, 0.005


@dataclass(frozen=True, kw_only=True)
class ScanCount:
    """The counts of one scan."""

    points: int = 0
    outside: int = 0
    """Of them, beyond the volume."""
    labelled: int = 0
    """Labels that could be read."""
    nothing: int = 0
    """Of them, of the ignored class."""
    unnamed: Counter[int] = field(default_factory=Counter)
    """Raw ids that no class names, and their points."""
    pictured: int = 0
    """Points in the volume of scans with a picture."""
    seen: int = 0
    """Of them, in some picture."""
    sample: NDArray[np.float32] = field(default_factory=lambda: np.zeros((3, 0), np.float32))
    """(3, S) range, height, signal of some points."""


def sampled(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, S) range and height in metres, and the signal, of points (4, R) at equal distances."""
    some = points[:, :: max(1, points.shape[1] // _SAMPLE)]
    return np.stack([np.linalg.norm(some[:3], axis=0), some[2], some[3]]).astype(np.float32)


def unnamed_ids(raw_labels: NDArray[np.uint32], info: DatasetInfo) -> Counter[int]:
    """Raw ids among (N,) labels that the label table lacks, and their numbers of points."""
    raw_ids = raw_labels.astype(np.uint16)
    lost = raw_ids[info.labels.training_lookup()[raw_ids] == UNKNOWN_LABEL]
    ids, counts = np.unique(lost, return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


@dataclass(kw_only=True)
class SplitTally:
    """The sums of a split."""

    split: str
    scans: int = 0
    with_labels: int = 0
    with_pictures: int = 0
    points: int = 0
    outside: int = 0
    labelled: int = 0
    nothing: int = 0
    pictured: int = 0
    seen: int = 0
    unnamed: Counter[int] = field(default_factory=Counter)
    unnamed_scans: Counter[int] = field(default_factory=Counter)
    first_unnamed: dict[int, Path] = field(default_factory=dict)
    class_counts: NDArray[np.int64] | None = None
    """(C,) points per training id."""
    samples: list[NDArray[np.float32]] = field(default_factory=list)

    def add(
        self, scan: ScanSource, count: ScanCount, class_counts: NDArray[np.int64] | None
    ) -> None:
        """Add a scan; ``class_counts`` are its (C,) points per training id."""
        self.scans += 1
        self.with_labels += scan.labels is not None
        self.with_pictures += any(scan.images)
        for name in ("points", "outside", "labelled", "nothing", "pictured", "seen"):
            setattr(self, name, getattr(self, name) + getattr(count, name))
        for raw_id, points in count.unnamed.items():
            self.unnamed[raw_id] += points
            self.unnamed_scans[raw_id] += 1
            self.first_unnamed.setdefault(raw_id, scan.labels or scan.points)
        if class_counts is not None:
            known = 0 if self.class_counts is None else self.class_counts
            self.class_counts = known + class_counts
        if len(self.samples) * _SAMPLE < _MOST_SAMPLED:
            self.samples.append(count.sample)

    def quantiles(self) -> dict[str, tuple[float, ...]]:
        """Of range, height and signal, at ``QUANTILES``; empty without a scan that can be read."""
        values = np.concatenate([np.zeros((3, 0), np.float32), *self.samples], axis=1)
        if not values.shape[1]:
            return {}
        found = np.percentile(values, QUANTILES, axis=1).T.tolist()
        return dict(zip(("range", "height", "signal"), map(tuple, found), strict=True))


@dataclass(kw_only=True)
class Tally:
    """The splits of a check."""

    splits: dict[str, SplitTally] = field(default_factory=dict)

    def add(
        self, scan: ScanSource, count: ScanCount, class_counts: NDArray[np.int64] | None
    ) -> None:
        """Add a scan; ``class_counts`` are its (C,) points per training id."""
        split = self.splits.setdefault(scan.split, SplitTally(split=scan.split))
        split.add(scan, count, class_counts)

    def problems(self, info: DatasetInfo, root: Path) -> Iterator[Problem]:
        """Problems that only the sums show."""
        for split in self.splits.values():
            yield from _unnamed(split, info)
            yield from _shares(split, info, root)
        train, val = self.splits.get("train"), self.splits.get("val")
        if train is not None and train.class_counts is not None:
            lost = [
                info.labels.names[training]
                for training in range(1, info.labels.n_classes)
                if not train.class_counts[training]
            ]
            if lost:
                yield _warning(
                    root,
                    found=f"no point of {', '.join(lost[:12])} in split train",
                    expected="points of every class",
                    remedy="Leave the class out, or give train scans that have it; are its raw ids "
                    "right?",
                )
        if info.facts.movable and train is not None and not info.facts.has_instances:
            yield Problem(
                file=root,
                found="objects, but no instance ids",
                expected="instance of [labels]",
                remedy="Allowed; mixes that paste single objects refuse this data set.",
                severity="note",
            )
        for part in (train, val):
            if part is not None and part.scans and not part.labelled:
                yield Problem(
                    file=root,
                    found=f"no labels that can be read in split {part.split}",
                    expected="labels, for training and evaluation",
                    remedy="Correct [labels] of the description; scans without labels belong to "
                    "test.",
                )


def _unnamed(split: SplitTally, info: DatasetInfo) -> Iterator[Problem]:
    for raw_id, points in split.unnamed.most_common(20):
        signed = f" ({raw_id - (1 << 16)} as a signed number)" if raw_id >= 1 << 15 else ""
        yield Problem(
            file=split.first_unnamed[raw_id],
            found=f"raw id {raw_id}{signed}, at {points:,} points of "
            f"{split.unnamed_scans[raw_id]:,} scans of split {split.split}",
            expected=f"ids of the description: {_ids(info)}",
            remedy='Add it to a [[class]] or to [ignored], or set unnamed = "ignore" in [labels]. '
            "Is the mask right?",
        )
    if len(split.unnamed) > 20:
        yield Problem(
            file=next(iter(split.first_unnamed.values())),
            found=f"{len(split.unnamed) - 20} more raw ids without a name in split {split.split}",
            expected="a few raw ids",
            remedy="Is it the right dtype, shift and mask of [labels]?",
        )


def _ids(info: DatasetInfo) -> str:
    known = sorted(info.labels.raw_to_training)
    return and_more(map(str, known), 12)


def _shares(split: SplitTally, info: DatasetInfo, root: Path) -> Iterator[Problem]:
    if split.points and split.outside > _MOST_OUTSIDE * split.points:
        yield _warning(
            root,
            found=f"{split.outside / split.points:.0%} of the points of split {split.split} "
            "outside the volume",
            expected=f"at most {_MOST_OUTSIDE:.0%}",
            remedy="Enlarge [volume] of the description.",
        )
    if split.labelled and split.nothing > _MOST_NOTHING * split.labelled:
        yield _warning(
            root,
            found=f"{split.nothing / split.labelled:.0%} of the labels of split {split.split} are "
            f"ignored ({info.labels.names[0]})",
            expected=f"at most {_MOST_NOTHING:.0%}",
            remedy="Legal for sparse labels; else look at [ignored], and at unnamed of [labels].",
        )
    if split.pictured and split.seen < _LEAST_SEEN * split.pictured:
        yield _warning(
            root,
            found=f"pictures of split {split.split} see {split.seen / split.pictured:.2%} of the "
            "points",
            expected="10 % and more",
            remedy="Correct the calibration; is T_is inverted?",
        )


def _warning(file: Path, *, found: str, expected: str, remedy: str) -> Problem:
    return Problem(
        file=file, found=found, expected=expected, remedy=remedy, severity="warning", kind=found
    )


def tally_lines(splits: Sequence[SplitTally], info: DatasetInfo) -> Iterator[str]:
    """A table of the splits, then their quantiles and classes."""
    heads = ("split", "scans", "labels", "pictures", "points", "no class", "outside", "in pictures")
    rows = [
        (
            split.split,
            f"{split.scans:,}",
            f"{split.with_labels:,}",
            f"{split.with_pictures:,}",
            f"{split.points:,}",
            _share(split.nothing, split.labelled),
            _share(split.outside, split.points),
            _share(split.seen, split.pictured),
        )
        for split in splits
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        yield "  ".join(
            word.ljust(width) if place == 0 else word.rjust(width)
            for place, (word, width) in enumerate(zip(row, widths, strict=True))
        )
    for split in splits:
        for name, values in split.quantiles().items():
            yield (
                f"{split.split}: {name} of 1, 50, 99 % of the points: "
                f"{', '.join(f'{value:.3g}' for value in values)}{_usual(name, info)}"
            )
    for split in splits:
        if split.class_counts is not None and split.class_counts.any():
            total = int(split.class_counts.sum())
            shares = ", ".join(
                f"{name} {count / total:.2%}"
                for name, count in zip(info.labels.names, split.class_counts.tolist(), strict=True)
            )
            yield f"{split.split}: {shares}"


def _usual(name: str, info: DatasetInfo) -> str:
    """What is expected."""
    return {
        "range": f" m (of a lidar on a road: 75 % below about {TYPICAL_RANGE_M[0]:.0f})",
        "height": " m (the ground about 1.7 below the sensor of a car)",
        "signal": f" (the description says 0 to {info.facts.full_scale:g})",
    }[name]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
