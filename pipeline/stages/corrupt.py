"""Corrupts a scan as by bad weather, a fault or another sensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pass2d.corruptions.cloud import Cloud
from pass2d.corruptions.registry import CorruptionTable, Variant, corrupt, scan_generator

_BEAM_COLUMN = 4


class CorruptedPoints(NamedTuple):
    """A raw scan after corruption, which then replaces the file."""

    points: NDArray[np.float32]
    """(4, M) x, y, z in metres, lidar frame, and signal."""
    label: NDArray[np.uint8] | None
    """(M,) training ids; 0, ignored, for points that were added."""
    instance: NDArray[np.uint32] | None
    """(M,) instance ids; 0 for points that were added."""
    source: NDArray[np.int64]
    """(M,) row of each point in the raw scan; -1 for points that were added."""


def corrupt_points(
    points: NDArray[np.float32],
    *,
    label: NDArray[np.uint8] | None,
    instance: NDArray[np.uint32] | None,
    variant: Variant,
    table: CorruptionTable,
    sequence: str,
    frame_index: int,
    part: int = 0,
) -> CorruptedPoints:
    """Corrupt every point of a raw scan, before it is cropped to the volume.

    Args:
        points: (R, 4 or 5) x, y, z, signal and, in files of nuScenes, the beam.
        label: (R,) training ids, or None.
        instance: (R,) instance ids, or None.
        variant: which corruption, how severe.
        table: of the data set: severities, sensor.
        sequence: of the scan; with the next two and the variant it decides all that chance decides.
        frame_index: of the scan.
        part: 0 for the scan itself, 1, 2... for added sweeps.

    Raises:
        DataError: the corruption needs labels.
    """
    beam = None
    if points.shape[1] > _BEAM_COLUMN:
        beam = points[:, _BEAM_COLUMN].clip(-1, 1 << 16).astype(np.int32)
    cloud = Cloud(
        xyz=np.ascontiguousarray(points[:, :3].T),
        signal=np.ascontiguousarray(points[:, 3]),
        beam=beam,
        label=label,
        instance=instance,
        sensor=table.sensor,
    )
    rng = scan_generator(variant, sequence=sequence, frame_index=frame_index, part=part)
    after = corrupt(cloud, variant, table=table, rng=rng)
    return CorruptedPoints(
        points=np.concatenate([after.xyz, after.signal[None]]),
        label=None if label is None else after.carried(label),
        instance=None if instance is None else after.carried(instance),
        source=after.source,
    )
