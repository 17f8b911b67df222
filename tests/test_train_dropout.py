"""Point dropout: which points go, and that a weight stands for the copies of the first one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_samples import sample_info
from numpy.typing import NDArray

from pass2d.cache.schema import CameraView, GridConfig, ScanRecord
from pass2d.models.inputs import PointBatch
from pass2d.train.data.batch import RawBatch, point_batch
from pass2d.train.data.collate import collate, place_crop
from pass2d.train.data.dropout import KeptPoints, kept_points
from pass2d.train.data.sampling import AugmentConfig, draw_scan
from pass2d.train.data.scan import LoadedScan

CPU = torch.device("cpu")
GRID = GridConfig(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
HW, CROP_HW = (370, 1226), (320, 480)
STILL = AugmentConfig(rotate=False, flip=False, scale=0, translate_m=0, jitter=0, mirror=0)


def test_the_share_of_dropped_points_is_the_drawn_ratio_and_the_first_point_stays() -> None:
    n = 100_000
    for ratio in (0.03, 0.2):
        kept = kept_points(n, ratio=ratio, seed=1, kind="copy")
        assert kept.rows is not None
        assert kept.copies / n == pytest.approx(ratio, rel=0.05)
        assert kept.count + kept.copies == n
        assert kept.rows[0] == 0
        assert np.all(np.diff(kept.rows) > 0)
    seeds = [kept_points(50, ratio=0.5, seed=seed, kind="copy").rows for seed in range(200)]
    shares = np.bincount(np.concatenate([r for r in seeds if r is not None]), minlength=50) / 200
    assert shares[0] == 1
    assert np.abs(shares[1:] - 0.5).max() < 0.15  # four deviations


def test_removed_points_have_no_copy() -> None:
    copied, removed = (
        kept_points(1000, ratio=0.4, seed=3, kind=kind) for kind in ("copy", "remove")
    )
    assert copied.rows is not None
    assert removed.rows is not None
    np.testing.assert_array_equal(copied.rows, removed.rows)
    assert copied.copies == 1000 - len(copied.rows)
    assert removed.copies == 0


@pytest.mark.parametrize("kind", ["copy", "remove"])
def test_a_scan_keeps_a_point_if_it_has_any(kind: str) -> None:
    assert kept_points(0, ratio=0.9, seed=0, kind=kind) == KeptPoints(n=0)  # type: ignore[arg-type]
    only = kept_points(1, ratio=0.99, seed=0, kind=kind)  # type: ignore[arg-type]
    assert (only.count, only.copies) == (1, 0)


def project(
    xyz: NDArray[np.float64], image_from_lidar: NDArray[np.float64], hw: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(M,) visible points and their (M, 2) pixels, by the formula."""
    homogeneous = np.column_stack([xyz, np.ones(len(xyz))]) @ image_from_lidar.T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = (homogeneous[:, :2] / homogeneous[:, 2:]).T
    is_seen = (xyz[:, 0] > 0) & (u > 0) & (u < hw[1]) & (v > 0) & (v < hw[0])
    seen = np.flatnonzero(is_seen)
    return seen, np.floor(np.column_stack([v, u])[seen]).astype(np.int64)


LOOKING_AHEAD = np.array([[620, -700, 0, 0], [180, 0, -700, 0], [1.0, 0, 0, 0]])
"""u = 620 - 700 y / x, v = 180 - 700 z / x."""


def street(seed: int, *, n: int = 4000) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points all around, the first of them in the picture unless the seed is odd."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((-40, -20, -3), (40, 20, 1), (n, 3)).astype(np.float32)
    xyz[0] = (10, 1 + seed, -1) if seed % 2 == 0 else (-5, 1, -1)
    return xyz, rng.integers(0, 6, n).astype(np.uint8)


def record_of(
    xyz: NDArray[np.float32],
    label: NDArray[np.uint8],
    image_from_lidar: NDArray[np.float64],
    hw: tuple[int, int],
) -> ScanRecord:
    seen, pixels = project(xyz.astype(np.float64), image_from_lidar, hw)
    view = CameraView(
        image=np.zeros((*hw, 3), np.uint8),
        point_index=seen.astype(np.int32),
        pixel_rc=pixels.T.astype(np.uint16),
    )
    return ScanRecord(
        scan_id="00/000000",
        n_raw=len(xyz),
        xyz=np.ascontiguousarray(xyz.T),
        signal=np.arange(len(xyz), dtype=np.float32),
        raw_index=np.arange(len(xyz), dtype=np.int32),
        label=label,
        cameras=(view,),
    )


def loaded(record: ScanRecord, config: AugmentConfig, *, scan: int, epoch: int = 0) -> LoadedScan:
    draw = draw_scan(config, seed=5, epoch=epoch, scan=scan, grid=GRID)
    image = record.cameras[0].image
    assert image is not None
    crop = place_crop(CROP_HW, image_hw=image.shape[:2], share=draw.crop_share)
    cut = replace(record.cameras[0], image=image[:, slice(*crop.columns)])
    return LoadedScan(
        position=scan,
        info=sample_info(),
        record=replace(record, cameras=(cut,)),
        draw=draw,
        crop=crop,
    )


Row = tuple[float, ...]


def slow_points(scan: LoadedScan, config: AugmentConfig) -> NDArray[np.int64]:
    """The raw row that each of the scan's points holds after dropout, before anything else."""
    n = scan.record.n
    source = np.arange(n)
    if scan.draw.drop_ratio > 0:
        is_dropped = np.random.default_rng(scan.draw.point_seed).random(n) < scan.draw.drop_ratio
        is_dropped[0] = False
        if config.dropout == "remove":
            return source[~is_dropped]
        source[is_dropped] = 0
    return source


def slow_rows(
    scan: LoadedScan,
    config: AugmentConfig,
    image_from_lidar: NDArray[np.float64],
    hw: tuple[int, int],
) -> tuple[Counter[Row], Counter[Row]]:
    """All points, and all visible ones with their pixel: drop in the raw arrays, project, crop."""
    source = slow_points(scan, config)
    xyz, label = scan.record.xyz.T[source], scan.record.label
    assert label is not None
    assert scan.crop is not None
    signal, label = scan.record.signal[source], label[source]
    seen, pixel = project(xyz.astype(np.float64), image_from_lidar, hw)
    pixel -= [scan.crop.top, scan.crop.left]
    stays = np.all((pixel >= 0) & (pixel < CROP_HW), axis=1)
    seen, pixel = seen[stays], pixel[stays]
    points = Counter(
        (*p, s, c) for p, s, c in zip(xyz.tolist(), signal.tolist(), label.tolist(), strict=True)
    )
    visible = Counter(
        (*xyz[p].tolist(), float(signal[p]), int(label[p]), *rc)
        for p, rc in zip(seen.tolist(), pixel.tolist(), strict=True)
    )
    return points, visible


def fast_rows(batch: PointBatch, raw: RawBatch, scan: int) -> tuple[Counter[Row], Counter[Row]]:
    """The same from a batch, each row as often as its weight says."""
    assert batch.labels is not None
    assert batch.images is not None
    weights = torch.ones(len(batch.points)) if batch.weights is None else batch.weights
    begin, end = raw.scan_starts[scan : scan + 2]
    rows = [
        (*point, label)
        for point, label in zip(batch.points.tolist(), batch.labels.tolist(), strict=True)
    ]
    points: Counter[Row] = Counter()
    for row in range(begin, end):
        points[rows[row]] += int(weights[row])
    visible: Counter[Row] = Counter()
    for picture, point, pixel in zip(
        batch.images.image_index.tolist(),
        batch.images.point_index.tolist(),
        batch.images.pixel_rc.tolist(),
        strict=True,
    ):
        if picture == scan:
            visible[(*rows[point], *pixel)] += int(weights[point])
    return points, visible


@pytest.mark.parametrize(
    "config",
    [
        STILL,
        replace(STILL, dropout_ratio=0.9),
        replace(STILL, dropout="remove"),
        replace(STILL, dropout_ratio=0),
        AugmentConfig(mode="none"),
    ],
    ids=lambda c: f"{c.mode}-{c.dropout}-{c.dropout_ratio}",
)
def test_weighted_points_and_pixels_are_those_of_dropping_before_projecting(
    config: AugmentConfig,
) -> None:
    seen_first = 0
    for epoch in range(3):
        scans = [
            loaded(record_of(*street(k), LOOKING_AHEAD, HW), config, scan=k, epoch=epoch)
            for k in range(4)
        ]
        raw = collate(scans, with_images=True, size_hw=CROP_HW, dropout=config.dropout)
        batch = point_batch(raw, config=config, grid=GRID, device=CPU)
        for number, scan in enumerate(scans):
            points, visible = slow_rows(scan, config, LOOKING_AHEAD, HW)
            ours = fast_rows(batch, raw, number)
            assert ours[0] == points
            assert ours[1] == visible
            seen_first += max(visible.values()) > 50
    if config.mode == "full" and config.dropout == "copy" and config.dropout_ratio:
        assert 1 < seen_first < 12  # in some crops, not in all
    else:
        assert seen_first == 0


def test_copies_in_the_picture_of_a_real_scan(real_semkitti: Path) -> None:
    """Few draws of what 2,000 showed: twice as many visible points, scattered ten times as far."""
    folder = real_semkitti / "sequences" / "00"
    points = np.fromfile(folder / "velodyne/000000.bin", "<f4").reshape(-1, 4)
    xyz = points[:, :3]
    xyz = xyz[np.all((xyz > GRID.low) & (xyz < GRID.high), axis=1)]
    lines = (folder / "calib.txt").read_text().splitlines()
    calib = {
        name: np.array(text.split(), np.float64).reshape(3, 4)
        for name, _, text in (line.partition(":") for line in lines if line)
    }
    matrix = calib["P2"] @ np.vstack([calib["Tr"], [0, 0, 0, 1]])
    hw = (376, 1241)
    record = record_of(xyz, np.ones(len(xyz), np.uint8), matrix, hw)
    counts: dict[str, list[int]] = {"copy": [], "remove": []}
    for kind, found in counts.items():
        config = replace(STILL, dropout=kind)  # type: ignore[arg-type]
        for epoch in range(40):
            one = loaded(record, config, scan=0, epoch=epoch)
            raw = collate([one], with_images=True, size_hw=CROP_HW, dropout=config.dropout)
            assert raw.point_index is not None
            extra = sum(
                (count - 1) * int((raw.point_index == row).sum()) for row, count in raw.repeated
            )
            found.append(len(raw.point_index) + extra)
            if epoch < 2:
                _, visible = slow_rows(one, config, matrix, hw)
                assert found[-1] == sum(visible.values())
    copied, removed = np.array(counts["copy"]), np.array(counts["remove"])
    assert removed.std() < 1000
    assert copied.std() > 4000
    assert 1.5 < copied.mean() / removed.mean() < 2.5
