"""Poses of a described data set, for earlier sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.pipeline.datasets.described.description import PosesPart
from pass2d.pipeline.problem import ProblemError
from pass2d.pipeline.source import ScanSource, SweepSource
from pass2d.pipeline.stages.poses import require_drive
from pass2d.pipeline.stages.raw_file import read_file


def read_poses(file: Path) -> NDArray[np.float64]:
    """(L, 4, 4) of a file with 12 numbers (3x4, row by row) a line.

    Raises:
        ProblemError: it is missing, or a line holds something else.
    """
    rows = []
    text = read_file(file).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != 12 or not np.isfinite(row).all():
            raise ProblemError.of(
                file=file,
                found=f"line {number}: {line[:60]!r}",
                expected="12 finite numbers, 3x4 row by row",
                remedy="Is it a file of poses as KITTI has it?",
            )
        rows.append(row)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = np.array(rows, np.float64).reshape(-1, 3, 4)
    return poses


def with_poses(
    scans: Sequence[ScanSource],
    world_from_sensor: NDArray[np.float64],
    *,
    part: PosesPart,
    sensor_from_lidar: NDArray[np.float64],
    file: Path,
) -> list[ScanSource]:
    """Give each scan of a sequence its pose and time.

    Args:
        scans: of one sequence, all of them, in frame order.
        world_from_sensor: (L, 4, 4) one per line of the file: of the scan with that frame number
            from 0, or, with as many lines as scans, of the scan at that place.
        part: of the description.
        sensor_from_lidar: (4, 4) from the points as the stages have them.
        file: of the poses, for messages.

    Raises:
        ProblemError: fewer poses than scans, or poses that cannot be (`require_drive`).
    """
    indices = [scan.frame_index for scan in scans]
    if len(world_from_sensor) == len(scans):
        indices = list(range(len(scans)))
    if max(indices, default=0) >= len(world_from_sensor):
        raise ProblemError.of(
            file=file,
            found=f"{len(world_from_sensor)} poses",
            expected=f"one per scan: {len(scans)}, or one per frame number up to {max(indices)}",
            remedy="Is it the file of this sequence?",
        )
    require_drive(
        world_from_sensor[indices, :3],
        lines=np.asarray(indices, np.int64) + 1,
        times_s=np.asarray(indices) / part.hz,
        file=file,
        remedy="Correct the file: rotations, and translations in metres.",
    )
    poses = (world_from_sensor[indices] @ sensor_from_lidar)[:, :3].reshape(-1, 12).tolist()
    return [
        replace(scan, pose=tuple(pose), time_s=index / part.hz)
        for scan, pose, index in zip(scans, poses, indices, strict=True)
    ]


def with_sweeps(scans: Sequence[ScanSource], *, most: int) -> list[ScanSource]:
    """Add the scans before it to each scan of a sequence.

    Args:
        scans: of one sequence, all of them, in frame order, with poses and times.
        most: sweeps per scan.
    """
    whole = [_whole(scan.pose) for scan in scans]
    found = []
    for place, scan in enumerate(scans):
        lidar_from_world = np.linalg.inv(whole[place])
        sweeps = tuple(
            SweepSource(
                points=scans[other].points,
                lidar_from_sweep=tuple((lidar_from_world @ whole[other])[:3].ravel().tolist()),
                time_s=(scan.time_s or 0.0) - (scans[other].time_s or 0.0),
            )
            for other in range(place - 1, max(-1, place - 1 - most), -1)
        )
        found.append(replace(scan, sweeps=sweeps))
    return found


def _whole(pose: tuple[float, ...] | None) -> NDArray[np.float64]:
    assert pose is not None
    return np.vstack([np.array(pose).reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])
