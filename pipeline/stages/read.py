"""From a scan's files to arrays: points, labels, instance ids."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.columns import PointLayout, other_content
from pass2d.cache.clouds.nowhere import FARTHEST_M, NOWHERE, plausible_points
from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.stages.label_types import require_label_type
from pass2d.pipeline.stages.labels import instance_ids, map_labels
from pass2d.pipeline.stages.panoptic import read_panoptic
from pass2d.pipeline.stages.raw_file import read_file
from pass2d.pipeline.stages.scan_formats import scan_format

_MANY_FAR = 0.25
"""Share of a scan's points beyond ``FARTHEST_M`` above which its unit or frame is another."""


class ScanArrays(NamedTuple):
    """A scan's points, all rows of the file in its order, and the contents of its label file."""

    points: NDArray[np.float32]
    """(R, columns) as in the file; dropped rows of NaN are moved to ``NOWHERE``."""
    label: NDArray[np.uint8] | None
    """(R,) training ids; None for scans without labels."""
    instance: NDArray[np.uint32] | None
    """(R,) instance ids."""


class Attempt(NamedTuple):
    """A scan's files as far as they can be read."""

    points: NDArray[np.float32] | None
    """(R, columns); None if the file cannot be read, or holds NaN that is not to be dropped."""
    label: NDArray[np.uint8] | None
    """(R,) training ids; None without labels that can be read."""
    instance: NDArray[np.uint32] | None
    raw_labels: NDArray[np.uint32] | None
    """(R,) as in the file."""
    errors: tuple[tuple[Path, ProblemError | OSError], ...]
    """The errors of files; an OSError may be temporary."""


def read_scan(
    points_file: Path,
    labels_file: Path | None,
    info: DatasetInfo,
    *,
    panoptic_file: Path | None = None,
    scan_id: str = "",
) -> ScanArrays:
    """Read and check the files of a scan.

    Args:
        points_file: of the scan.
        labels_file: None for scans without labels.
        info: label table and layout of the data set; whether rows of NaN are dropped.
        panoptic_file: instance ids beside the labels; None where there is no such file.
        scan_id: which scan, where the files hold many.

    Raises:
        ProblemError: a file is missing, truncated or of another type, they do not belong together,
            a label is unknown, or NaN is not to be dropped.
        OSError: reading failed in a way that may pass.
    """
    found = attempt_scan(
        points_file, labels_file, info, panoptic_file=panoptic_file, scan_id=scan_id
    )
    for _, error in found.errors:
        raise error
    assert found.points is not None, points_file
    return ScanArrays(found.points, found.label, found.instance)


def attempt_scan(
    points_file: Path,
    labels_file: Path | None,
    info: DatasetInfo,
    *,
    panoptic_file: Path | None = None,
    scan_id: str = "",
) -> Attempt:
    """As `read_scan`, but continue after an error: `--check` reports all of them."""
    errors: list[tuple[Path, ProblemError | OSError]] = []
    points = raw_labels = label = instance = None
    n_points = is_dropped = None
    try:
        points = read_point_file(points_file, info, scan_id=scan_id)
        n_points = len(points)
        is_dropped = dropped_rows(points, info, file=points_file)
    except (ProblemError, OSError) as error:
        errors.append((points_file, error))
        points = None
    if labels_file is not None:
        try:
            raw_labels = read_label_file(
                labels_file, info, n_points=n_points, scan_id=scan_id, is_dropped=is_dropped
            )
            if n_points is not None:
                require_same_length(
                    n_points=n_points,
                    n_labels=len(raw_labels),
                    points_file=points_file,
                    labels_file=labels_file,
                )
        except (ProblemError, OSError) as error:
            errors.append((labels_file, error))
    if raw_labels is not None and labels_file is not None:
        try:
            label = map_labels(raw_labels, table=info.labels, file=labels_file)
            has_ids = info.facts.has_instances
            instance = instance_ids(raw_labels) if has_ids else np.zeros_like(raw_labels)
        except ProblemError as error:
            errors.append((labels_file, error))
    if panoptic_file is not None:
        try:
            instance = read_panoptic(
                panoptic_file, table=info.labels, n_points=n_points, raw_labels=raw_labels
            )
        except (ProblemError, OSError) as error:
            errors.append((panoptic_file, error))
    if points is not None and info.drops_invalid:
        if errors:
            points, _ = drop_invalid(points)
        else:
            points, label, instance = _without_invalid(points, label, instance, info)
    return Attempt(points, label, instance, raw_labels, tuple(errors))


def read_sweep(file: Path, info: DatasetInfo) -> NDArray[np.float32]:
    """Read the points of an added sweep, (R, columns); rows of NaN leave if they are dropped.

    Raises:
        ProblemError: as `read_scan`.
    """
    points = read_point_file(file, info)
    if info.drops_invalid:
        return points[~invalid_rows(points)]
    require_finite(points, file=file)
    return points


def read_point_file(file: Path, info: DatasetInfo, *, scan_id: str = "") -> NDArray[np.float32]:
    """Read a point file as it is, (R, columns), read-only; that of a described data set in metres.

    Of a file that holds many scans, ``scan_id`` names one.

    Raises:
        ProblemError: it is missing, truncated, or clearly of another number of columns.
    """
    if (form := scan_format(info)) is not None:
        return form.points(file, scan_id)
    if info.raw_format is not None:
        from pass2d.pipeline.stages.read_described import described_points

        return described_points(file, info.raw_format)
    data = read_file(file)
    require_layout(data, columns=info.raw_columns, file=file)
    return decode_points(data, columns=info.raw_columns, file=file)


def read_label_file(
    file: Path,
    info: DatasetInfo,
    *,
    n_points: int | None = None,
    scan_id: str = "",
    is_dropped: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Read a label file as it is, (R,); that of a described data set with its ids in the low bits.

    Of a file that holds many scans, ``scan_id`` names one. Where ``is_dropped`` (R,) says that the
    point is dropped, the label may be anything (NaN in an organised cloud) and is an ignored one.

    Raises:
        ProblemError: it is missing, truncated, or seems to be of another type; where the number of
            the scan's points is known, sizes of other types are known, too.
    """
    if (form := scan_format(info)) is not None:
        labels = form.labels(file, scan_id)
    elif info.raw_format is not None:
        from pass2d.pipeline.stages.read_described import described_labels

        labels = described_labels(file, info, info.raw_format, is_dropped=is_dropped)
    else:
        data = read_file(file)
        label_bytes = info.facts.label_bytes
        require_label_type(
            data, n_points=n_points, label_bytes=label_bytes, table=info.labels, file=file
        )
        labels = decode_raw_labels(data, label_bytes=label_bytes, file=file)
    if is_dropped is None or len(is_dropped) != len(labels) or not is_dropped.any():
        return labels
    table = info.labels.raw_to_training
    return np.where(is_dropped, np.uint32(min(table, key=table.__getitem__)), labels)


def _without_invalid(
    points: NDArray[np.float32],
    label: NDArray[np.uint8] | None,
    instance: NDArray[np.uint32] | None,
    info: DatasetInfo,
) -> ScanArrays:
    """Points that were measured; the labels of other rows are ignored.

    A corrupted scan has rows of its own: there they leave.
    """
    points, is_invalid = drop_invalid(points)
    if not is_invalid.any():
        return ScanArrays(points, label, instance)
    if info.corruption is not None:
        points = points[~is_invalid]
        label = None if label is None else label[~is_invalid]
        instance = None if instance is None else instance[~is_invalid]
    elif label is not None and instance is not None:
        label, instance = label.copy(), instance.copy()
        label[is_invalid], instance[is_invalid] = 0, 0
    return ScanArrays(points, label, instance)


def decode_points(data: bytes, *, columns: int, file: Path) -> NDArray[np.float32]:
    """Read a point file: float32, little endian, row by row.

    Args:
        data: the whole file.
        columns: numbers per point, 4 (KITTI: x, y, z, remission) or 5 (nuScenes: and ring).
        file: where the bytes come from, for the message.

    Returns:
        (N, columns), read-only; N = 0 for an empty file.

    Raises:
        ProblemError: the size is not a multiple of a point's bytes: a truncated or foreign file.
    """
    point_bytes = 4 * columns
    if len(data) % point_bytes:
        raise ProblemError.of(
            file=file,
            found=f"{len(data)} bytes",
            expected=f"a multiple of {point_bytes} (float32, {columns} per point)",
            remedy="The file is truncated, or not a point file: copy or download it again.",
        )
    return np.frombuffer(data, "<f4").reshape(-1, columns)


def require_layout(data: bytes, *, columns: int, file: Path) -> None:
    """Refuse a point file that clearly holds another number of columns, or another type.

    Args:
        data: the whole file.
        columns: numbers per point that the data set's layout has, all float32.
        file: where the bytes come from, for the message.

    Raises:
        ProblemError: its numbers make sense only in another layout, or are no coordinates at all.
    """
    expected = PointLayout(columns=columns)
    found = other_content(data, expected)
    if not found:
        return
    raise ProblemError.of(
        file=file,
        found=found,
        expected=f"{expected}, the fourth the signal",
        remedy=(
            "Is it from another data set, or not a point file? Write the first "
            f"{columns} columns as little-endian float32."
        ),
    )


def decode_raw_labels(data: bytes, *, label_bytes: int, file: Path) -> NDArray[np.uint32]:
    """Read a label file: one unsigned number per point, little endian.

    Args:
        data: the whole file.
        label_bytes: 4 (KITTI: raw id and instance) or 1 (nuScenes: raw id).
        file: where the bytes come from, for the message.

    Returns:
        (N,) uint32.

    Raises:
        ProblemError: the size is not a multiple of a label's bytes.
    """
    if len(data) % label_bytes:
        raise ProblemError.of(
            file=file,
            found=f"{len(data)} bytes",
            expected=f"a multiple of {label_bytes} (one label per point)",
            remedy="The file is truncated, or not a label file: copy or download it again.",
        )
    return np.frombuffer(data, f"<u{label_bytes}").astype(np.uint32, copy=False)


def require_same_length(
    *, n_points: int, n_labels: int, points_file: Path, labels_file: Path
) -> None:
    """Refuse labels that belong to another scan or to a part of it.

    Raises:
        ProblemError: naming both files and both counts.
    """
    if n_points != n_labels:
        raise ProblemError.of(
            file=labels_file,
            found=f"{n_labels} labels",
            expected=f"{n_points}, one per point of {points_file}",
            remedy="One of the two is truncated or of another scan: download both again.",
        )


def dropped_rows(
    points: NDArray[np.float32], info: DatasetInfo, *, file: Path
) -> NDArray[np.bool_] | None:
    """(R,) which points are dropped; None where none is to be.

    Raises:
        ProblemError: as `require_finite`.
    """
    if info.drops_invalid:
        return invalid_rows(points)
    require_finite(points, file=file)
    return None


def invalid_rows(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(R,) which rows hold NaN or infinity, or lie farther than any lidar measures.

    Where many lie farther, the points are of another unit or frame, which `doubts` names.
    """
    if points.size and points.min() >= -FARTHEST_M and points.max() <= FARTHEST_M:
        return np.zeros(len(points), np.bool_)  # of nearly every scan: no look at single points
    is_finite = np.isfinite(points).all(axis=1)
    is_far = is_finite & ~plausible_points(points[:, :3].T)
    if np.count_nonzero(is_far) > _MANY_FAR * np.count_nonzero(is_finite):
        return np.asarray(~is_finite)
    return np.asarray(~is_finite | is_far)


def require_finite(points: NDArray[np.float32], *, file: Path) -> None:
    """Refuse NaN and infinity: one such point would make every loss of its batch NaN.

    Organised clouds have them in every row without a return; ``drop_invalid`` accepts them. Single
    points beyond ``FARTHEST_M`` are refused, too: no grid of voxels has room for some of them.

    Args:
        points: (N, 4 or more) x, y, z, signal and what else the file has.
        file: where the points come from, for the message.

    Raises:
        ProblemError: with the number of such points and the first of them.
    """
    rows = np.flatnonzero(invalid_rows(points))
    if len(rows):
        is_finite = np.isfinite(points).all()
        what = f"beyond {FARTHEST_M:.0f} m" if is_finite else "with NaN or infinity"
        raise ProblemError.of(
            file=file,
            found=f"{len(rows)} of {len(points)} points {what}, first {rows[0]}",
            expected="metres that a lidar measures",
            remedy=(
                "`drop_invalid` drops them (organised clouds have such rows); else the file "
                "is damaged: download it again."
            ),
        )


def drop_invalid(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move points that were not measured outside every volume; they remain rows of the raw file.

    Args:
        points: (N, 4 or more) x, y, z, signal and what else the file has.

    Returns:
        The points, such rows at ``NOWHERE`` and 0 behind it; (N,) which rows those are.
    """
    is_invalid = invalid_rows(points)
    if is_invalid.any():
        points = points.copy()
        points[is_invalid] = 0
        points[is_invalid, :3] = NOWHERE
    return points, is_invalid
