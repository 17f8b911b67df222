"""Warnings about readable but suspicious scans and calibrations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.columns import PointLayout, find_layout
from pass2d.cache.clouds.likeness import differences, is_plainly_alike, of_dataset
from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import DatasetInfo, GridConfig, RawFormat
from pass2d.pipeline.problem import Problem, ProblemError
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.camera_sense import AHEAD, Doubt, camera_doubts, pinhole
from pass2d.pipeline.stages.edge_match import clear_turn, match_edges, range_jumps, shows_edges
from pass2d.pipeline.stages.label_order import agreement, is_other_order
from pass2d.points.binary import SUFFIX
from pass2d.points.packed import file_bytes

THOROUGH_EVERY = 64
"""Of a sequence's scans one in so many is compared by its ground and the order of its labels too,
which takes as long as preparing it; the others by unit, place, axis and signal."""
EDGE_PICTURES = 6
"""Of a sequence's scans so many have their edges compared with those of their pictures."""
_DARK = 64
"""Of 255; values of 14 bits in 16 reach 63, lamps of a night 255."""
_AGAIN = "The file is damaged: copy or download it again."
_LEAST_INSIDE = 0.1
"""Share of the points in the volume; real scans have 0.93 to 0.99, of Ouster on a robot 0.8."""


def require_in_volume(points: NDArray[np.float32], *, info: DatasetInfo, file: Path) -> None:
    """Refuse a scan without a point in the volume.

    Args:
        points: (R, 4 or more) of the raw file, finite.
        info: volume and layout of the data set.
        file: where they come from, for the message.

    Raises:
        ProblemError: it is empty, or no point lies in the volume; describes the points.
    """
    if not len(points):
        raise ProblemError.of(file=file, found="an empty file", expected="points", remedy=_AGAIN)
    if inside_volume(np.ascontiguousarray(points[:, :3].T), grid=info.grid).any():
        return
    found = differences(points[:, :4].T, of_dataset(info))
    why = "; ".join(str(one) for one in found if one.kind in {"unit", "recenter", "rotate"})
    raise ProblemError.of(
        file=file,
        found=f"{len(points):,} points, none of them in the volume",
        expected=f"metres in the sensor's frame, {volume_words(info.grid)}",
        remedy=f"{why[:1].upper()}{why[1:]}." if why else "Is it a scan of a lidar on a road?",
    )


def volume_words(grid: GridConfig) -> str:
    """The volume for messages."""
    axes = zip("xyz", grid.low, grid.high, strict=True)
    return ", ".join(f"{axis} {low:g}..{high:g}" for axis, low, high in axes)


def scan_doubts(
    points: NDArray[np.float32], *, info: DatasetInfo, file: Path, is_thorough: bool
) -> list[Problem]:
    """Compare a scan with what its data set's table states.

    Args:
        points: (4, R) of the raw file, without added sweeps.
        info: layout, volume and signal of the data set.
        file: where they come from, for the message.
        is_thorough: look at the ground, too: whether the scan is upside down.

    Returns:
        Warnings: another scale of the signal, another unit, frame or vertical axis, hardly a point
        in the volume.
    """
    expected = of_dataset(info)
    found: list[Problem] = []
    if is_thorough and info.raw_format is not None and info.corruption is None:
        found += _other_columns(file, info.raw_format)
    if is_thorough or not is_plainly_alike(points, expected):
        found += [
            Problem(
                file=file,
                found=f"a scan that differs: {one.what}",
                expected=f"metres in the sensor's frame, a signal of 0..{expected.full_scale:.0f}",
                remedy=f"{one.remedy[0].upper()}{one.remedy[1:]}, or train and predict on such "
                "scans alone.",
                severity="warning",
                kind=one.kind,
            )
            for one in differences(points, expected)
        ]
    inside = float(inside_volume(np.ascontiguousarray(points[:3]), grid=info.grid).mean())
    if inside < _LEAST_INSIDE:
        found.append(
            Problem(
                file=file,
                found=f"{inside:.1%} of the points in the volume",
                expected=f"most of them in {volume_words(info.grid)}",
                remedy="Is the sensor at the origin, and are the numbers metres?",
                severity="warning",
                kind="volume",
            )
        )
    return found


def order_doubts(
    xyz: NDArray[np.float32], label: NDArray[np.uint8], *, rows: NDArray[np.integer], file: Path
) -> Iterator[Problem]:
    """Labels that seem to be of points in another order, or of another scan.

    Args:
        xyz: (3, N) metres, the scan's own points in the volume.
        label: (N,) their training ids.
        rows: (N,) row of each in its file.
        file: of the labels, for the message.
    """
    if is_other_order(agreed := agreement(xyz, label, rows)):
        yield Problem(
            file=file,
            found=f"neighbouring points that rarely share a class (agreement {agreed:.2f})",
            expected="labels in the order of the points (agreement about 0.9; 0 is chance)",
            remedy="Are they labels of another scan, or were points or labels sorted? "
            "Draw them to see it.",
            severity="warning",
            kind="order of labels",
        )


def _other_columns(file: Path, raw: RawFormat) -> Iterator[Problem]:
    """Numbers of a described ``.bin`` that make sense with another number of columns or type."""
    if raw.suffix != SUFFIX:
        return
    expected = PointLayout(columns=raw.columns, dtype=raw.dtype)
    clear = find_layout(file_bytes(file), usual=expected).layout
    if clear is not None and clear != expected:
        yield Problem(
            file=file,
            found=f"numbers that look like {clear}",
            expected=f"{expected}, as the description says",
            remedy="Correct columns and dtype of [points], if the heights look wrong, too.",
            severity="warning",
            kind="columns",
        )


def picture_doubts(
    scan: ScanSource,
    camera: int,
    xyz: NDArray[np.float32],
    *,
    image: NDArray[np.uint8],
    image_hw: tuple[int, int],
    n_visible: int,
) -> list[Problem]:
    """Compare a picture with its calibration and the scan.

    Args:
        scan: calibrated.
        camera: which of its cameras; there is a picture of it.
        xyz: (3, N) the scan's points in the volume.
        image: (H, W, 3) of any size.
        image_hw: height and width of the picture as taken.
        n_visible: points of ``xyz`` in the picture.
    """
    file = scan.images[camera]
    assert scan.image_from_lidar is not None, scan.scan_id
    assert file is not None, scan.scan_id
    doubts = camera_doubts(
        np.array(scan.image_from_lidar[camera], np.float64).reshape(3, 4),
        image_hw=image_hw,
        xyz=xyz,
        n_visible=n_visible,
        ahead=AHEAD if scan.camera_rule == "x_ahead" else None,
    )
    if (brightest := int(image.max(initial=0))) < _DARK:
        doubts.append(
            Doubt(
                "dark",
                f"a picture that is nearly black: no value above {brightest} of 255",
                f"{_DARK} or more somewhere",
                "Has it 10, 12 or 14 bits in a file of 16? Then scale its values to all 16.",
            )
        )
    return [
        Problem(
            file=file,
            found=doubt.found,
            expected=doubt.expected,
            remedy=doubt.remedy,
            severity="warning",
            kind=f"{doubt.kind} {camera}",
        )
        for doubt in doubts
    ]


class EdgeScores(NamedTuple):
    """How well the edges of a picture and its scan fit, for each copy of the calibration."""

    sequence: str
    camera: int
    file: Path
    scores: NDArray[np.float32]


def edge_scores(
    scan: ScanSource, xyz: NDArray[np.float32], images: Sequence[NDArray[np.uint8] | None]
) -> list[EdgeScores]:
    """Compare the edges of a scan with those of its pictures.

    Args:
        scan: any; nothing is compared without a calibration, or where pixels are recorded.
        xyz: (3, N) metres, all its points.
        images: (H, W, 3) RGB per camera as taken; None: not there.

    Returns:
        One per picture that shows enough.
    """
    if scan.image_from_lidar is None or scan.camera_rule == "recorded":
        return []
    is_jump: NDArray[np.bool_] | None = None
    found = []
    for camera, (file, image) in enumerate(zip(scan.images, images, strict=True)):
        seen_by = pinhole(np.array(scan.image_from_lidar[camera], np.float64).reshape(3, 4))
        if file is None or image is None or seen_by is None or not shows_edges(seen_by):
            continue
        if is_jump is None:
            is_jump = range_jumps(xyz)
        scores = match_edges(xyz, is_jump, camera=seen_by, image=image)
        if scores is not None:
            found.append(EdgeScores(scan.sequence, camera, file, scores))
    return found


def edge_doubts(scores: Iterable[EdgeScores]) -> Iterator[Problem]:
    """Calibrations, each of a sequence and camera, whose pictures fit a rotated copy better."""
    groups: dict[tuple[str, int], list[EdgeScores]] = {}
    for one in scores:
        groups.setdefault((one.sequence, one.camera), []).append(one)
    for group in groups.values():
        if turn := clear_turn([one.scores for one in group]):
            many = f"{len(group)} pictures" if len(group) > 1 else "the picture"
            yield Problem(
                file=group[0].file,
                found=f"points {turn}, judged by the edges in {many}",
                expected="edges of objects at the same place in scan and picture",
                remedy="Is the rotation of the calibration right, and is it of this camera? "
                "Draw the points on the picture to see it.",
                severity="warning",
                kind=f"edges {group[0].camera}",
            )


def edge_sample(scans: Iterable[ScanSource], most: int = EDGE_PICTURES) -> set[str]:
    """Ids of the scans whose edges are compared: evenly over those of a sequence with pictures."""
    groups: dict[str, list[str]] = {}
    for scan in scans:
        if any(scan.images) and scan.image_from_lidar is not None:
            groups.setdefault(scan.sequence, []).append(scan.scan_id)
    return {
        ids[place * len(ids) // min(most, len(ids))]
        for ids in groups.values()
        for place in range(min(most, len(ids)))
    }


def thorough(scans: Iterable[ScanSource]) -> set[str]:
    """Ids of the scans that are compared thoroughly: each sequence's first, ..."""
    seen: dict[str, int] = {}
    chosen = set()
    for scan in scans:
        place = seen.get(scan.sequence, 0)
        seen[scan.sequence] = place + 1
        if place % THOROUGH_EVERY == 0:
            chosen.add(scan.scan_id)
    return chosen


def odd_sizes(
    pictures: Sequence[tuple[Path, tuple[int, int]]],
) -> Iterator[Problem]:
    """Pictures of another size than most of their sequence and camera.

    Args:
        pictures: file, height and width of those of one sequence and camera; at least one.
    """
    common, _ = Counter(size for _, size in pictures).most_common(1)[0]
    for file, (height, width) in pictures:
        if (height, width) != common:
            yield Problem(
                file=file,
                found=f"a picture of {width}x{height} pixels",
                expected=f"{common[1]}x{common[0]}, as most pictures of the sequence",
                remedy="Is it of another sequence or camera? One calib.txt fits one size only.",
                severity="warning",
                kind="odd size",
            )
