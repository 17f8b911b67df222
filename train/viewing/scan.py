"""A scan for viewing, with everything that is known about its points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.likeness import Expectation, differences
from pass2d.cache.clouds.nowhere import is_measured
from pass2d.cache.schema import LabelTable, ScanRecord
from pass2d.common.errors import DataError
from pass2d.train.drawing.legend import outcomes
from pass2d.train.inference.segmenter import PastPoints
from pass2d.train.stacks.config import StackConfig


@dataclass(frozen=True, kw_only=True)
class ViewCamera:
    """One picture and the points visible in it."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    pixel_rc: NDArray[np.uint16]
    """(2, M) row and column."""
    point_index: NDArray[np.int64]
    """(M,) rows of the view's points."""


@dataclass(frozen=True, kw_only=True)
class ViewScan:
    """One scan with whatever is known of its points, in the raw file's order."""

    name: str
    """E.g. "08/000123"."""
    frame_index: int
    time_s: float | None
    """Seconds on the sequence's clock; None if unknown."""
    xyz: NDArray[np.float32]
    """(3, N) metres, lidar frame."""
    signal: NDArray[np.float32]
    """(N,)."""
    truth: NDArray[np.uint8] | None = None
    """(N,) training ids."""
    predicted: NDArray[np.uint8] | None = None
    """(N,) training ids."""
    confidence: NDArray[np.float32] | None = None
    """(N,) 0..1."""
    extra: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(N,) by name: the cache's further fields of points, NaN outside the volume."""
    cameras: tuple[ViewCamera, ...] = ()
    note: str = ""
    """How its file was read, if not as usual, as readable text."""

    @property
    def n(self) -> int:
        """N."""
        return self.xyz.shape[1]

    @property
    def error(self) -> NDArray[np.uint8] | None:
        """(N,) indices into ``train.legend.ERRORS``; None without labels or predictions."""
        if self.truth is None or self.predicted is None:
            return None
        return outcomes(self.predicted, self.truth)

    @property
    def points(self) -> NDArray[np.float32]:
        """(N, 4) x, y, z, signal: what a network takes."""
        return np.ascontiguousarray(np.concatenate([self.xyz, self.signal[None]]).T)


def no_past(_stack: StackConfig) -> tuple[PastPoints, ...]:
    """Where nothing is known of earlier scans."""
    return ()


@dataclass(frozen=True, kw_only=True)
class ViewItem:
    """A scan that can be loaded."""

    name: str
    sequence: str
    frame_index: int
    token: str
    """nuScenes sample_data token; empty elsewhere."""
    points: Path | None
    """The raw file; None where only a cache is known."""
    load: Callable[[], ViewScan]
    past: Callable[[StackConfig], tuple[PastPoints, ...]] = no_past
    """The scans before it, for networks of several scans."""


@dataclass(frozen=True, kw_only=True)
class ViewSet:
    """Scans that belong together."""

    title: str
    table: LabelTable
    signal_name: str
    n_cameras: int
    """Pictures that a scan may have."""
    items: tuple[ViewItem, ...]
    forward_axis: str = "x"
    """Of the lidar frame: "x" or "y"; see `train.drawing.render.facing_ahead`."""
    notes: tuple[str, ...] = ()
    """What is missing or damaged, for people."""
    expected: Expectation | None = None
    """What points that nobody has compared yet should look like."""

    def doubts(self, scan: ViewScan) -> str:
        """In what a scan's points differ from it in unit, frame or axis; "" for nothing."""
        if self.expected is None:
            return ""
        points = np.concatenate([scan.xyz, scan.signal[None]])
        found = differences(points, self.expected)
        return "; ".join(str(one) for one in found if one.kind in {"unit", "recenter", "rotate"})


def view_scan(record: ScanRecord, *, frame_index: int, time_s: float | None) -> ViewScan:
    """Make a view of a prepared scan: all points of the raw file, those of added sweeps left out.

    Args:
        record: Read with the points outside the volume and, for a camera, pictures and pixels.
        frame_index: Place in the sequence.
        time_s: See ``ViewScan``.
    """
    raw = record.raw()
    # Points of added sweeps have neither labels nor pixels.
    points, truth = raw.points[: raw.n_own], raw.label
    points[~is_measured(points.T), :3] = np.nan
    return ViewScan(
        name=record.scan_id,
        frame_index=frame_index,
        time_s=time_s,
        xyz=np.ascontiguousarray(points[:, :3].T),
        signal=points[:, 3].copy(),
        truth=None if truth is None else truth[: raw.n_own],
        extra={
            name: _in_raw_order(record, values)[: raw.n_own]
            for name, values in record.extra.items()
        },
        cameras=tuple(
            ViewCamera(
                image=view.image,
                pixel_rc=view.pixel_rc,
                point_index=record.raw_index[view.point_index].astype(np.int64),
            )
            for view in record.cameras
            if view.image is not None
        ),
    )


def _in_raw_order(record: ScanRecord, values: NDArray[np.generic]) -> NDArray[np.float32]:
    whole = np.full(record.n_raw, np.nan, np.float32)
    whole[record.raw_index] = values
    return whole


Labeller = Callable[[Iterable[ViewItem]], Iterator[ViewScan]]
"""Loads scans, ahead of time and in their order, and adds predictions to them."""


def with_prediction(
    scan: ViewScan, predicted: NDArray[np.uint8], confidence: NDArray[np.float32] | None
) -> ViewScan:
    """The scan with a network's (N,) training ids and (N,) confidences.

    Raises:
        DataError: not as many as points.
    """
    for values in (predicted, confidence):
        if values is not None and len(values) != scan.n:
            raise DataError(
                f"scan {scan.name} has {scan.n:,} points, its prediction {len(values):,} values. "
                "Are the predictions of other scans, or of a cache with added sweeps?"
            )
    return replace(scan, predicted=predicted, confidence=confidence)


def choose_items(
    items: Sequence[ViewItem], *, scan: str | None, scans: str | None, default: int
) -> tuple[ViewItem, ...]:
    """Pick scans.

    Args:
        items: To choose from.
        scan: A name, token or file name; "8/12" stands for "08/000012".
        scans: "10", "0:50" or "0:50:5": places among the items, as in Python.
        default: So many from the start when neither is given.

    Raises:
        DataError: No such scan, or no place in that range.
    """
    if not items:
        raise DataError("no scan to show. Choose another split or sequence.")
    if scan is not None:
        return (_named(items, scan),)
    if scans is None:
        return tuple(items[:default])
    try:
        numbers = [int(word) if word.strip() else None for word in scans.split(":")]
        single = numbers[0] if len(numbers) == 1 else None
        chosen = items[single:][:1] if single is not None else items[slice(*numbers)]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"`scans` {scans!r}: an index or a range is expected, e.g. 7, 0:50 or 0:50:5"
        ) from error
    if not chosen:
        raise DataError(
            f"`scans` {scans!r}: none of the {len(items):,} scans (0 to {len(items) - 1})"
        )
    return tuple(chosen)


def one_sequence(items: Sequence[ViewItem]) -> tuple[ViewItem, ...]:
    """The scans of the first sequence: a timeline is a sequence's."""
    return tuple(item for item in items if item.sequence == items[0].sequence)


def _named(items: Sequence[ViewItem], wanted: str) -> ViewItem:
    for item in items:
        if wanted in (item.name, item.token):
            return item
    sequence, _, frame = wanted.rpartition("/")
    if frame.isdecimal():
        for item in items:
            is_sequence = not sequence or item.sequence.lstrip("0") == sequence.lstrip("0")
            if is_sequence and item.frame_index == int(frame):
                return item
    for item in items:
        if (
            item.points is not None
            and item.points.name.split(".")[0] == wanted.split(".", maxsplit=1)[0]
        ):
            return item
    raise DataError(
        f"no scan {wanted!r} among the {len(items):,} from {items[0].name} to {items[-1].name}"
    )
