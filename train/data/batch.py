"""A batch as stored and as networks take it; augmentation converts one into the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.cache.schema import GridConfig
from pass2d.models.inputs import ImageBatch, PointBatch, ScaleVoxels, TensorRecord
from pass2d.train.data import augment
from pass2d.train.data.lattice import CachedHash, scale_voxels
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import ScanDraw
from pass2d.train.data.thinned import RawThinned


@dataclass(frozen=True, kw_only=True)
class RawBatch(TensorRecord):
    """Scans of a batch end to end, as stored: before augmentation."""

    positions: tuple[int, ...]
    """Rows in the cache's scan table; more than B if a mix has merged scans."""
    draws: tuple[ScanDraw, ...]
    """(B,) random draws of the scans."""
    channels: Tensor
    """(4, N) float32 x, y, z, signal; (5, N) and time, for data with added sweeps."""
    labels: Tensor | None
    """(N,) uint8 training ids."""
    scan_starts: tuple[int, ...]
    """(B + 1,) first row of each scan, then N."""
    segment_starts: tuple[int, ...]
    """(G + 1,) first row of what moves together: a scan, or what was mixed into it; then N."""
    repeated: tuple[tuple[int, int], ...]
    """Rows that also represent dropped points, and the number of points each represents, including
    itself."""
    linear: Tensor
    """(G, 3, 3) float32."""
    shift_m: Tensor
    """(G, 3) float32."""
    images: Tensor | None
    """(I, H, W, 3) uint8; None for networks without a 2D branch."""
    image_scan: tuple[int, ...]
    """(I,) scan of each picture."""
    image_index: Tensor | None
    """(M,) int32 picture of each visible point."""
    pixel_rc: Tensor | None
    """(2, M) int32 row and column in the cropped picture."""
    point_index: Tensor | None
    """(M,) int32 row in `channels`."""
    hashes: tuple[CachedHash, ...] = ()
    """Voxel hashes, when the augmentation keeps them exact."""
    thinned: RawThinned | None = None
    """For networks that take thinned points."""


def point_batch(
    raw: RawBatch, *, config: AugmentConfig, grid: GridConfig, device: torch.device
) -> PointBatch:
    """Augment a batch on its device and hand it to the network.

    Args:
        raw: already on ``device``.
        config: of the augmentation; its random draws are in ``raw.draws``.
        grid: of the cache, for its voxel hashes.
        device: where to work.
    """
    points = augment.move_points(
        raw.channels, raw.segment_starts, linear=raw.linear, shift_m=raw.shift_m
    )
    labels = None if raw.labels is None else raw.labels.to(torch.int64)  # a new tensor
    return PointBatch(
        points=points,
        offsets=torch.tensor(raw.scan_starts),
        labels=labels,
        weights=augment.point_weights(raw.repeated, len(points), device=device),
        images=_image_batch(raw, config=config),
        voxels=_voxels(raw, config=config, grid=grid),
        thinned=None if raw.thinned is None else raw.thinned.points(),
    )


def _voxels(raw: RawBatch, *, config: AugmentConfig, grid: GridConfig) -> tuple[ScaleVoxels, ...]:
    assert config.keeps_hashes or not raw.hashes, "stale hashes"
    return tuple(
        scale_voxels(
            cached,
            scan_starts=raw.scan_starts,
            symmetries=[draw.symmetry for draw in raw.draws],
            grid=grid,
        )
        for cached in raw.hashes
    )


def _image_batch(raw: RawBatch, *, config: AugmentConfig) -> ImageBatch | None:
    if raw.images is None:
        return None
    assert raw.image_index is not None
    assert raw.pixel_rc is not None
    assert raw.point_index is not None
    index, point = raw.image_index.to(torch.int64), raw.point_index.to(torch.int64)
    pixel_rc = raw.pixel_rc.t().to(torch.int64)
    pictures = augment.Pictures(augment.float_pictures(raw.images), index, pixel_rc)
    if len(raw.image_scan):
        draws = [raw.draws[scan] for scan in raw.image_scan]
        if config.resize_hw is not None:
            pictures = augment.resize_pictures(pictures, config.resize_hw)
        augment.jitter_pictures(
            pictures.images,
            factors=[draw.jitter for draw in draws],
            orders=[draw.jitter_order for draw in draws],
        )
        pictures = augment.mirror_pictures(pictures, [draw.is_mirrored for draw in draws])
    return ImageBatch(
        images=augment.normalise_pictures(pictures.images),
        image_index=pictures.image_index,
        pixel_rc=pictures.pixel_rc,
        point_index=point,
    )
