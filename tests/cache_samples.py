"""A small valid cache of made-up scans, for tests that need one and no raw files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.keys import shard_key
from pass2d.cache.layout import Layout, shard_number
from pass2d.cache.manifest import publish_generation, publishing
from pass2d.cache.rows import LidarEntry, ScanSources, ShardHeader, ShardRow, SourceFile
from pass2d.cache.schema import (
    SCALES,
    CameraView,
    DatasetInfo,
    GridConfig,
    LabelTable,
    ScanRecord,
    VoxelLevel,
)
from pass2d.cache.statistics import RANGE_EDGES_M
from pass2d.cache.tables import build_tables, merge_tables
from pass2d.cache.writing.writer import write_camera_shard, write_lidar_shard, write_voxel_shard

SPLIT_OF = {"08": "val", "11": "test"}


def sample_info(*, n_cameras: int = 1, grid_shape: tuple[int, int, int] = (1000, 1000, 60)):
    """SemanticKITTI-like, with 5 classes."""
    names = ("unlabeled", "road", "car", "building", "tree")
    return DatasetInfo(
        name="semkitti",
        layout="semantickitti",
        labels=LabelTable(
            raw_to_training={0: 0, 40: 1, 10: 2, 50: 3, 70: 4},
            training_to_raw=(0, 40, 10, 50, 70),
            names=names,
            colors_rgb=tuple((50 * i, 255 - 50 * i, 90) for i in range(5)),
        ),
        grid=GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=grid_shape),
        n_cameras=n_cameras,
        has_class_weights=True,
        signal_name="remission",
        raw_columns=4,
    )


def made_up_scan(
    rng: np.random.Generator,
    *,
    scan_id: str,
    info: DatasetInfo,
    n_points: int = 1500,
    image_hw: tuple[int, int] | None = (48, 200),
    has_label: bool = True,
) -> ScanRecord:
    """Points whose label depends on their place, so that a network can learn it."""
    n_raw = n_points + int(rng.integers(20, 200))
    inside = np.sort(rng.permutation(n_raw)[: n_points - int(rng.integers(0, 100))])
    n, n_outside = len(inside), n_raw - len(inside)
    low, high = np.array(info.grid.low), np.array(info.grid.high)
    xyz = (low + (high - low) * rng.uniform(0.01, 0.99, (n, 3))).T.astype(np.float32)
    label = np.where(xyz[2] < -2, 1, np.where(xyz[2] > 0.5, 4, np.where(xyz[1] > 0, 2, 3)))
    label[rng.uniform(size=n) < 0.05] = 0
    instance = np.where(label == 2, rng.integers(1, 9, n), 0)
    return ScanRecord(
        scan_id=scan_id,
        n_raw=n_raw,
        xyz=xyz,
        signal=(rng.integers(0, 100, n) / 100).astype(np.float32),
        raw_index=inside.astype(np.int32),
        label=label.astype(np.uint8) if has_label else None,
        instance=instance.astype(np.uint32) if has_label else None,
        cameras=tuple(made_up_view(rng, n, image_hw) for _ in range(info.n_cameras))
        if image_hw
        else (),
        voxels=plain_voxels(xyz, label.astype(np.uint8) if has_label else None, info.grid),
        outside_xyz=rng.uniform(60, 80, (3, n_outside)).astype(np.float32),
        outside_signal=(rng.integers(0, 100, n_outside) / 100).astype(np.float32),
        outside_label=np.ones(n_outside, np.uint8) if has_label else None,
    )


def made_up_view(rng: np.random.Generator, n: int, image_hw: tuple[int, int]) -> CameraView:
    """A picture of noise blocks and random visible points."""
    height, width = image_hw
    point_index = np.sort(rng.permutation(n)[: n // 4]).astype(np.int32)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(blocks, 8, 0), 8, 1)[:height, :width]
    pixel = [rng.integers(0, size, len(point_index)) for size in image_hw]
    return CameraView(
        image=np.ascontiguousarray(image),
        point_index=point_index,
        pixel_rc=np.array(pixel, np.uint16).reshape(2, -1),
    )


def plain_voxels(
    xyz: NDArray[np.float32], label: NDArray[np.uint8] | None, grid: GridConfig
) -> tuple[VoxelLevel, ...]:
    """The hash of every scale by `numpy.unique` over rows: slow and plain."""
    return tuple(_plain_level(xyz, label, grid, scale) for scale in SCALES)


def _plain_level(xyz, label, grid: GridConfig, scale: int) -> VoxelLevel:
    low, high = np.array(grid.low, np.float32), np.array(grid.high, np.float32)
    shape = np.ceil(np.array(grid.shape) / scale).astype(np.float32)
    cell = (shape * (xyz.T - low) / (high - low)).astype(np.int16)
    coord, inverse = np.unique(cell, axis=0, return_inverse=True)
    votes = None
    if label is not None:
        votes = np.zeros((len(coord), int(label.max(initial=0)) + 1), np.int64)
        np.add.at(votes, (inverse.ravel(), label), 1)
        votes = votes.argmax(axis=1).astype(np.uint8)
    return VoxelLevel(
        scale=scale,
        coord=np.ascontiguousarray(coord.T),
        label=votes,
        inverse=inverse.ravel().astype(np.int32),
    )


def write_sample_cache(
    cache_root: Path,
    *,
    n_scans: int = 6,
    sequences: Sequence[str] = ("00", "08"),
    info: DatasetInfo | None = None,
    n_points: int = 1500,
    image_hw: tuple[int, int] | None = (48, 200),
    unlabelled: Sequence[str] = ("11",),
    without_image: Sequence[str] = (),
    shard_scans: int = 4,
    profile: str = "speed",
    seed: int = 0,
    extra: Callable[[str, int], dict[str, NDArray[Any]]] = lambda _id, _n: {},
    change: Callable[[ScanRecord], ScanRecord] = lambda scan: scan,
) -> dict[str, ScanRecord]:
    """Prepare made-up scans below ``cache_root``; ``n_scans`` in each sequence.

    Sequence "08" is validation, "11" test (and without labels), all others are training.
    ``extra`` gives fields without an attribute, by scan id and number of points; ``change`` what is
    stored in place of a scan.

    Returns:
        The scans by scan id, as they went in.
    """
    info = info or sample_info()
    layout = Layout(root=cache_root / info.name)
    rng = np.random.default_rng(seed)
    written: dict[str, ScanRecord] = {}
    shards = []
    for sequence in sequences:
        scans = [
            made_up_scan(
                rng,
                scan_id=f"{sequence}/{frame:06d}",
                info=info,
                n_points=n_points,
                image_hw=None if sequence in without_image else image_hw,
                has_label=sequence not in unlabelled,
            )
            for frame in range(n_scans)
        ]
        scans = [change(replace(scan, extra=extra(scan.scan_id, scan.n))) for scan in scans]
        written.update({scan.scan_id: scan for scan in scans})
        for block, first in enumerate(range(0, n_scans, shard_scans)):
            shards.append(
                write_sample_shard(
                    layout,
                    scans[first : first + shard_scans],
                    info=info,
                    sequence=sequence,
                    block=block,
                    first=first,
                    profile=profile,
                )
            )
    with publishing(layout):
        tables = merge_tables([build_tables(shards, n_cameras=info.n_cameras)])
        publish_generation(layout, info, tables)
    return written


def write_sample_shard(
    layout: Layout,
    scans: Sequence[ScanRecord],
    *,
    info: DatasetInfo,
    sequence: str,
    block: int = 0,
    first: int = 0,
    profile: str = "speed",
) -> dict[str, ShardRow]:
    """One shard in all three containers."""
    shard = shard_number(sequence, block)
    ids = [scan.scan_id for scan in scans]
    sources = [
        ScanSources(
            scan_id=scan_id,
            files=(
                SourceFile(
                    role="points", path=f"/nowhere/{scan_id}.bin", nbytes=1, mtime_ns=1, xxh3="0"
                ),
            ),
        )
        for scan_id in ids
    ]
    split = SPLIT_OF.get(sequence, "train")
    described = [
        [scan_id, split, first + i, "", [["points", 1, "0"]]] for i, scan_id in enumerate(ids)
    ]
    lidar_header = _header("lidar", profile, {"sequence": sequence, "scans": described})
    lidar = write_lidar_shard(
        layout,
        shard=shard,
        header=lidar_header,
        records=scans,
        entries=[
            _entry(scan, info, sequence=sequence, frame_index=first + i)
            for i, scan in enumerate(scans)
        ],
        sources=sources,
    )
    voxel_inputs = {"lidar": lidar_header.key}
    inputs = {**voxel_inputs, "scans": [[scan_id, [], None] for scan_id in ids]}
    camera = write_camera_shard(
        layout,
        shard=shard,
        header=_header("camera", profile, inputs),
        scan_ids=ids,
        pictures=[scan.cameras for scan in scans],
        image_from_lidar=[None] * len(scans),
        n_cameras=info.n_cameras,
        sources=(),
    )
    voxel = write_voxel_shard(
        layout,
        shard=shard,
        header=_header("voxel", profile, voxel_inputs),
        scan_ids=ids,
        hashes=[scan.voxels for scan in scans],
    )
    return {"lidar": lidar, "camera": camera, "voxel": voxel}


def _header(container: str, profile: str, inputs) -> ShardHeader:
    key = shard_key(container, code_version=1, profile=profile, parameters={}, inputs=inputs)
    return ShardHeader(
        container=container, key=key, code_version=1, profile=profile, parameters={}, inputs=inputs
    )


def _entry(scan: ScanRecord, info: DatasetInfo, *, sequence: str, frame_index: int) -> LidarEntry:
    n_classes, n_bins = info.labels.n_classes, len(RANGE_EDGES_M)
    histogram = np.zeros(n_classes, int)
    if scan.label is not None:
        histogram = np.bincount(scan.label, minlength=n_classes)
    distance = np.linalg.norm(np.nan_to_num(np.hstack([scan.xyz, scan.outside_xyz])), axis=0)
    ranges = np.bincount(np.minimum(distance // 5, n_bins - 1).astype(int), minlength=n_bins)
    return LidarEntry(
        scan_id=scan.scan_id,
        split=SPLIT_OF.get(sequence, "train"),
        sequence=sequence,
        frame_index=frame_index,
        token="",
        n_raw=scan.n_raw,
        n=scan.n,
        has_label=scan.label is not None,
        label_histogram=tuple(histogram.tolist()),
        range_histogram=tuple(ranges.tolist()),
    )
