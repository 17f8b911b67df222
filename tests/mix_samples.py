"""Scans in memory for tests of mixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import CameraView, ScanRecord
from pass2d.pipeline.datasets.table import load_table
from pass2d.train.data.scan import LoadedScan, ScanDraw

TABLES = Path(__file__).resolve().parents[1] / "pipeline" / "datasets"
DRAW = ScanDraw(
    drop_ratio=0.0,
    point_seed=0,
    linear=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    shift_m=(0.0, 0.0, 0.0),
    symmetry=0,
    camera_share=0.0,
    crop_share=0.0,
    jitter=(1.0, 1.0, 1.0),
    jitter_order=(0, 1, 2),
    is_mirrored=False,
    partner_share=0.0,
)


def loaded(
    points: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    name: str = "semkitti",
    cameras: tuple[CameraView, ...] = (),
    instance: NDArray[np.uint32] | None = None,
) -> LoadedScan:
    """(N, 4) points and (N,) training ids as the stream hands them to a mix."""
    record = ScanRecord(
        scan_id="00/000000",
        n_raw=len(points),
        xyz=np.ascontiguousarray(points[:, :3].T),
        signal=np.ascontiguousarray(points[:, 3]),
        raw_index=np.arange(len(points), dtype=np.int32),
        label=labels.astype(np.uint8),
        instance=instance,
        cameras=cameras,
    )
    info = load_table(TABLES / f"{name}.toml").info
    return LoadedScan(position=0, info=info, record=record, draw=DRAW, crop=None)
