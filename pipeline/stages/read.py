"""Bytes of a scan's files to arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.columns import PointLayout, find_layout
from pass2d.cache.clouds.nowhere import NOWHERE
from pass2d.pipeline.problem import Problem, ProblemError


def decode_points(data: bytes, *, columns: int, file: Path) -> NDArray[np.float32]:
    """Read a point file: float32, little endian, row by row.

    Args:
        data: the whole file.
        columns: numbers per point, 4 (KITTI: x, y, z, remission) or 5 (nuScenes: and ring).
        file: where the bytes come from, for the message.

    Returns:
        (N, columns), read-only; N = 0 for an empty file.

    Raises:
        ProblemError: the size is no multiple of a point's bytes: a truncated or foreign file.
    """
    point_bytes = 4 * columns
    if len(data) % point_bytes:
        raise ProblemError(
            Problem(
                file=file,
                found=f"{len(data)} bytes",
                expected=f"a multiple of {point_bytes} (float32, {columns} per point)",
                remedy="The file is truncated or no point file: copy or download it again.",
            )
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
    verdict = find_layout(data, usual=expected)
    if verdict.layout is None:
        if not verdict.is_noise:
            return
        found = "numbers that are no coordinates of points"
    elif verdict.layout == expected:
        return
    else:
        found = f"points that make sense only as {verdict.layout}"
    raise ProblemError(
        Problem(
            file=file,
            found=found,
            expected=f"{expected}, the fourth the signal",
            remedy=(
                "Is it of another data set, or no point file? Write the first "
                f"{columns} columns as little-endian float32."
            ),
        )
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
        ProblemError: the size is no multiple of a label's bytes.
    """
    if len(data) % label_bytes:
        raise ProblemError(
            Problem(
                file=file,
                found=f"{len(data)} bytes",
                expected=f"a multiple of {label_bytes} (one label per point)",
                remedy="The file is truncated or no label file: copy or download it again.",
            )
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
        raise ProblemError(
            Problem(
                file=labels_file,
                found=f"{n_labels} labels",
                expected=f"{n_points}, one per point of {points_file}",
                remedy="One of the two is truncated or of another scan: download both again.",
            )
        )


def require_finite(points: NDArray[np.float32], *, file: Path) -> None:
    """Refuse NaN and infinity: one such point would make every loss of its batch NaN.

    Organised clouds have them in every row of a beam that saw nothing; ``drop_invalid`` takes them.

    Args:
        points: (N, 4 or more) x, y, z, signal and what else the file has.
        file: where the points come from, for the message.

    Raises:
        ProblemError: with the number of such points and the first of them.
    """
    finite = np.isfinite(points)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        raise ProblemError(
            Problem(
                file=file,
                found=f"{len(rows)} of {len(points)} points with NaN or infinity, first {rows[0]}",
                expected="finite numbers",
                remedy=(
                    "--drop-invalid drops them (organised clouds have such rows); else the file "
                    "is damaged: download it again."
                ),
            )
        )


def drop_invalid(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Put points with NaN or infinity where no volume is: they stay rows of the raw file.

    Args:
        points: (N, 4 or more) x, y, z, signal and what else the file has.

    Returns:
        The points, such rows at ``NOWHERE`` and 0 behind it; (N,) which rows those are.
    """
    is_invalid: NDArray[np.bool_] = np.asarray(~np.isfinite(points).all(axis=1))
    if is_invalid.any():
        points = points.copy()
        points[is_invalid] = 0
        points[is_invalid, :3] = NOWHERE
    return points, is_invalid
