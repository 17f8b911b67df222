"""Poses and calibrations of an earlier generation, if new ones differ only in the last digits.

They are products of matrices, which another processor or library may round differently, and the key
of a shard depends on every digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from pass2d.cache.fields import CONTAINERS
from pass2d.cache.key_inputs import KeyInputs, parse_inputs
from pass2d.common.json import loads
from pass2d.pipeline.run.jobs import ShardJob
from pass2d.pipeline.run.reasons import EarlierShard
from pass2d.pipeline.source import ScanSource

_ROUNDING = 1e-9
"""Metres, pixels or a share: far below what float32 points tell apart."""

T = TypeVar("T")


def as_before(job: ShardJob, earlier: Mapping[tuple[str, int], EarlierShard]) -> ShardJob:
    """The same scans with the numbers that the earlier shards were made with.

    Args:
        job: scans as they are listed today.
        earlier: the shards of the current generation by container and number.
    """
    found = {
        container: _inputs(container, earlier[container, job.shard])
        for container in CONTAINERS
        if (container, job.shard) in earlier
    }
    before = [
        {scan.scan_id: scan for scan in getattr(found.get(name, KeyInputs()), f"{name}_scans")}
        for name in ("lidar", "camera", "motion")
    ]

    def settled(scan: ScanSource) -> ScanSource:
        lidar, camera, motion = (scans.get(scan.scan_id) for scans in before)
        if lidar is not None and len(lidar.sweeps) == len(scan.sweeps):
            sweeps = tuple(
                replace(sweep, lidar_from_sweep=_near(matrix, sweep.lidar_from_sweep))
                for sweep, (matrix, _) in zip(scan.sweeps, lidar.sweeps, strict=True)
            )
            scan = replace(scan, sweeps=sweeps)
        if camera is not None:
            matrices = _near(camera.image_from_lidar, scan.image_from_lidar)
            scan = replace(scan, image_from_lidar=matrices)
        return scan if motion is None else replace(scan, pose=_near(motion.pose, scan.pose))

    return replace(job, scans=tuple(map(settled, job.scans)))


def _inputs(container: str, earlier: EarlierShard) -> KeyInputs:
    where = "column inputs"
    return parse_inputs(container, loads(earlier.inputs, where=where), where=where)


def _near(before: T, now: T) -> T:
    """The earlier numbers, if they are those of today but for rounding."""
    if before is None or now is None:
        return now
    earlier, wanted = np.asarray(before, np.float64), np.asarray(now, np.float64)
    if earlier.shape != wanted.shape:
        return now
    return before if np.allclose(earlier, wanted, rtol=_ROUNDING, atol=_ROUNDING) else now
