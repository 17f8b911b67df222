"""Augmentation of a whole batch on its device (SPEC, sections 2.3 to 2.5); chance is in draw.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as picture  # type: ignore[import-untyped]

_MEAN_RGB = (0.485, 0.456, 0.406)
_STD_RGB = (0.229, 0.224, 0.225)


class Pictures(NamedTuple):
    """Pictures and the places in them that points see."""

    images: Tensor
    """(I, 3, H, W) float32."""
    image_index: Tensor
    """(M,) int64 picture."""
    pixel_rc: Tensor
    """(M, 2) int64 row, column."""


def dropped_points(
    scan_starts: Sequence[int],
    *,
    drop_counts: Sequence[int],
    ratios: Sequence[float],
    seeds: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Decide which points are dropped.

    Args:
        scan_starts: (B + 1,) rows where scans begin, then N.
        drop_counts: (B,) points of the scan itself, its first ones; only they are dropped.
        ratios: (B,) probability per scan.
        seeds: (B,) of the generators, so that a scan's points do not depend on its neighbours.
        device: where the answer shall lie.

    Returns:
        (N,) bool.
    """
    is_dropped = torch.zeros(scan_starts[-1], dtype=torch.bool, device=device)
    generator = torch.Generator(device)
    for start, count, ratio, seed in zip(scan_starts[:-1], drop_counts, ratios, seeds, strict=True):
        if ratio > 0:
            generator.manual_seed(seed)
            chance = torch.rand(count, generator=generator, device=device)
            is_dropped[start : start + count] = chance < ratio
    return is_dropped


def source_of_point(is_dropped: Tensor, scan_starts: Sequence[int]) -> Tensor:
    """(N,) int64: the row that each point becomes a copy of: point 0 of its scan, or itself.

    As published: N stays, and only the voxel of point 0 gains points.
    """
    source = torch.arange(len(is_dropped), device=is_dropped.device)
    for start, stop in pairwise(scan_starts):
        part = slice(start, stop)
        source[part] = source[part].masked_fill(is_dropped[part], start)
    return source


def move_points(
    channels: Tensor, segment_starts: Sequence[int], *, linear: Tensor, shift_m: Tensor
) -> Tensor:
    """Apply one affine map per segment and lay the channels of a point side by side.

    Args:
        channels: (4 or 5, N) float32 x, y, z, signal, time.
        segment_starts: (G + 1,) rows where segments begin, then N.
        linear: (G, 3, 3) float32, for row vectors.
        shift_m: (G, 3) float32.

    Returns:
        (N, 4 or 5) float32 x, y, z after the map, and the rest as it was.
    """
    points = channels.t().contiguous()
    for index, (start, stop) in enumerate(pairwise(segment_starts)):
        part = points[start:stop]
        part[:, :3] = torch.addmm(shift_m[index], part[:, :3], linear[index])
    return points


def float_pictures(images: Tensor) -> Tensor:
    """(I, H, W, 3) uint8 to (I, 3, H, W) float32 in 0..1."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 255


def jitter_pictures(
    images: Tensor,
    *,
    factors: Sequence[tuple[float, float, float]],
    orders: Sequence[tuple[int, ...]],
) -> Tensor:
    """Change brightness, contrast and saturation of each picture, in an order of its own.

    Args:
        images: (I, 3, H, W) float32 in 0..1.
        factors: per picture, of brightness, contrast, saturation; 1 changes nothing.
        orders: per picture a permutation of 0, 1, 2.
    """
    adjust = (picture.adjust_brightness, picture.adjust_contrast, picture.adjust_saturation)
    done = []
    for image, factor, order in zip(images, factors, orders, strict=True):
        changed = image
        for index in order:
            if factor[index] != 1:
                changed = adjust[index](changed, factor[index])
        done.append(changed)
    return torch.stack(done)


def mirror_pictures(pictures: Pictures, is_mirrored: Tensor) -> Pictures:
    """Flip some pictures left to right; pixels move along.

    Args:
        pictures: any.
        is_mirrored: (I,) bool on their device.
    """
    images, index, pixel_rc = pictures
    flipped = torch.where(is_mirrored[:, None, None, None], images.flip(-1), images)
    column = pixel_rc[:, 1]
    column = torch.where(is_mirrored[index], images.shape[-1] - 1 - column, column)
    return Pictures(flipped, index, torch.stack([pixel_rc[:, 0], column], 1))


def resize_pictures(pictures: Pictures, size_hw: tuple[int, int]) -> Pictures:
    """Resize bilinearly; a pixel becomes trunc(pixel * new / old), as published for nuScenes."""
    images, index, pixel_rc = pictures
    old_hw = images.shape[-2:]
    small = functional.interpolate(
        images, size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    rows = pixel_rc[:, 0] * size_hw[0] // old_hw[0]
    columns = pixel_rc[:, 1] * size_hw[1] // old_hw[1]
    return Pictures(small, index, torch.stack([rows, columns], 1))


def normalise_pictures(images: Tensor) -> Tensor:
    """(I, 3, H, W) in 0..1, minus the ImageNet mean, divided by its deviation."""
    mean = images.new_tensor(_MEAN_RGB)[:, None, None]
    std = images.new_tensor(_STD_RGB)[:, None, None]
    return (images - mean) / std
