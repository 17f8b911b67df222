"""Whether edges of depth on edges of the picture tell a right calibration from a wrong one.

    python -m bench.bench_calibration_edges [ROOT ...]

ROOT: folders of SemanticKITTI's layout or of nuScenes' (if none, a sample). The score of a picture
is how often its gradient is stronger at points where a beam jumps in range than at its other points
(AUC, 0.5 is chance), for the calibration as it is, turned, and of another folder. No score below
the right ones means that a limit could tell them apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, sobel
from scipy.stats import rankdata

from bench.sample_root import sample_root
from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.compose import read_picture
from pass2d.pipeline.datasets.raw_scans import list_raw
from pass2d.pipeline.source import ScanSource
from pass2d.pipeline.stages.projection import project_points_by_depth
from pass2d.pipeline.stages.read import read_point_file

TURNS_DEG = (0.0, 1.0, 2.0, 5.0)
JUMP_M = 1.0
FEWEST = 30
"""Edges in a picture that is counted."""


def turned(matrix: NDArray[np.float64], *, axis: int, degrees: float) -> NDArray[np.float64]:
    """`image_from_lidar` (3, 4) of a lidar that is turned about one of its axes."""
    a, b = [i for i in range(3) if i != axis]
    turn, angle = np.eye(4), np.deg2rad(degrees)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return matrix @ turn


def jumps(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) points that lie more than `JUMP_M` before a neighbour of their beam.

    Args:
        points: (N, 4 or more) in the order of the file; with a fifth column, beam by beam.
    """
    order = np.argsort(points[:, 4], kind="stable") if points.shape[1] > 4 else slice(None)
    xyz = points[order, :3].T.astype(float)
    distance = np.linalg.norm(xyz, axis=0)
    direction = xyz / np.maximum(distance, 1e-6)
    is_near = (direction[:, 1:] * direction[:, :-1]).sum(axis=0) > np.cos(np.deg2rad(1.0))
    step = np.where(is_near, np.diff(distance), 0)
    before = np.pad(step > JUMP_M, (0, 1)) | np.pad(step < -JUMP_M, (1, 0))
    found = np.zeros(len(points), np.bool_)
    found[order] = before
    return found


def gradient(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W) strength of the picture's edges, a pixel and a half wide."""
    grey = gaussian_filter(picture.mean(axis=2), 1.0)
    return np.asarray(gaussian_filter(np.hypot(sobel(grey, 0), sobel(grey, 1)), 1.5))


def score(
    points: NDArray[np.float32], edges: NDArray[np.float64], matrix: NDArray[np.float64]
) -> float:
    """How often the gradient is stronger at a jump than elsewhere; NaN with too few jumps."""
    xyz = np.ascontiguousarray(points[:, :3].T)
    seen = project_points_by_depth(xyz, image_from_lidar=matrix, image_hw=edges.shape)
    is_jump = jumps(points)[seen.point_index]
    n, n_jumps = len(is_jump), int(np.count_nonzero(is_jump))
    if min(n_jumps, n - n_jumps) < FEWEST:
        return float("nan")
    rows, cols = seen.pixel_rc
    ranks = rankdata(edges[rows, cols])[is_jump].sum()
    return float((ranks - n_jumps * (n_jumps + 1) / 2) / (n_jumps * (n - n_jumps)))


def pictures(
    scan: ScanSource, info: DatasetInfo
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Gradient and `image_from_lidar` (3, 4) of each of a scan's pictures."""
    for camera, file in enumerate(scan.images):
        if file is not None and scan.image_from_lidar is not None:
            matrix = np.array(scan.image_from_lidar[camera], np.float64).reshape(3, 4)
            yield gradient(read_picture(scan, camera, info)), matrix


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="*", type=Path)
    roots = parser.parse_args().roots
    with TemporaryDirectory() as folder:
        compare(roots or [sample_root(Path(folder))])


def compare(roots: list[Path]) -> None:
    """Print the scores of all pictures below some folders."""
    found = {root: raw for root in roots if (raw := list_raw(root)) is not None}
    matrices = {
        root: next(m for scan in raw.scans for _, m in pictures(scan, raw.info))
        for root, raw in found.items()
    }
    scores: dict[str, list[float]] = {}
    for root, raw in found.items():
        for scan in raw.scans:
            points = read_point_file(scan.points, raw.info, scan_id=scan.scan_id)
            for edges, matrix in pictures(scan, raw.info):
                for degrees in TURNS_DEG:
                    turns = [(axis, sign * degrees) for axis in range(3) for sign in (1, -1)]
                    for axis, angle in turns if degrees else turns[:1]:
                        there = turned(matrix, axis=axis, degrees=angle)
                        name = f"turned by {degrees:g} degrees" if degrees else "as it is"
                        scores.setdefault(name, []).append(score(points, edges, there))
                for other, there in matrices.items():
                    if other != root:
                        name = "of another folder"
                        scores.setdefault(name, []).append(score(points, edges, there))
    right = np.array(scores["as it is"])
    print(f"{np.isfinite(right).sum()} pictures")
    for name, values in scores.items():
        known = np.array(values)[np.isfinite(values)]
        low, middle, high = np.percentile(known, (5, 50, 95))
        # Chance that a wrong one scores below a right one: 1 tells them apart, 0.5 does not.
        told = (known[:, None] < right[np.isfinite(right)]).mean()
        print(f"{name:24} {low:.2f} {middle:.2f} {high:.2f}  below a right one: {told:.2f}")


if __name__ == "__main__":
    main()
