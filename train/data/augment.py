"""Augmentation of a batch on its device (docs/maths.md, 2.4 and 2.5); draws: sampling.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pass2d.models.inputs import host_values

_MEAN_RGB = (0.485, 0.456, 0.406)
_STD_RGB = (0.229, 0.224, 0.225)
_GREY_RGB = (0.2989, 0.587, 0.114)
"""Weights of a pixel's grey value: those of ITU-R BT.601 as rounded by torchvision."""


class Pictures(NamedTuple):
    """Pictures and the pixels of the points visible in them."""

    images: Tensor
    """(I, 3, H, W) float32."""
    image_index: Tensor
    """(M,) int64 picture."""
    pixel_rc: Tensor
    """(M, 2) int64 row, column."""


def point_weights(
    repeated: Sequence[tuple[int, int]], n: int, *, device: torch.device
) -> Tensor | None:
    """How many points each row stands for; never waits for the device.

    Args:
        repeated: rows, and the points that each stands for; all others stand for one.
        n: rows.
        device: of the weights.

    Returns:
        (N,) float32; None: one each.
    """
    if not repeated:
        return None
    rows, counts = zip(*repeated, strict=True)
    return torch.ones(n, device=device).index_copy_(
        0, host_values(rows, device), host_values(counts, device, dtype=torch.float32)
    )


def move_points(
    channels: Tensor, segment_starts: Sequence[int], *, linear: Tensor, shift_m: Tensor
) -> Tensor:
    """Apply one affine map per segment and put each point's channels into a row.

    Args:
        channels: (4 or 5, N) float32 x, y, z, signal, time.
        segment_starts: (G + 1,) rows where segments begin, then N.
        linear: (G, 3, 3) float32, for row vectors.
        shift_m: (G, 3) float32.

    Returns:
        (N, 4 or 5) float32 x, y, z after the map, and the rest as it was.
    """
    moved = torch.empty_like(channels[:3])
    for index, (start, stop) in enumerate(pairwise(segment_starts)):
        part = slice(start, stop)
        # No matrix product, which a GPU may compute in TF32, with errors of centimetres.
        from_x, from_y, from_z = linear[index, :, :, None]
        x, y, z = channels[:3, None, part]
        torch.addcmul(shift_m[index, :, None], from_x, x, out=moved[:, part])
        moved[:, part].addcmul_(from_y, y).addcmul_(from_z, z)
    points = channels.new_empty((channels.shape[1], len(channels)))
    for column, channel in enumerate((*moved, *channels[3:])):  # faster than .t().contiguous()
        points[:, column] = channel
    return points


def float_pictures(images: Tensor) -> Tensor:
    """(I, H, W, 3) uint8 to (I, 3, H, W) float32 in 0..1."""
    return (
        images.permute(0, 3, 1, 2)
        .to(torch.float32, memory_format=torch.contiguous_format)
        .div_(255)
    )


def jitter_pictures(
    images: Tensor,
    *,
    factors: Sequence[tuple[float, float, float]],
    orders: Sequence[tuple[int, ...]],
) -> Tensor:
    """Change brightness, contrast and saturation of each picture, in its own order, in place.

    A picture is blended with black (brightness), its mean grey (contrast), or the grey of each
    pixel (saturation), and clipped to 0..1: factor * picture + (1 - factor) * that.

    Args:
        images: (I, 3, H, W) float32 in 0..1.
        factors: per picture, of brightness, contrast, saturation; 1 changes nothing.
        orders: per picture a permutation of 0, 1, 2.

    Returns:
        ``images``.
    """
    for turn in range(3):
        which = [order[turn] for order in orders]
        factor = [chosen[kind] for chosen, kind in zip(factors, which, strict=True)]
        if any(value != 1 for value in factor):
            _blend(images, factor, which)
    return images


def _blend(images: Tensor, factors: Sequence[float], which: Sequence[int]) -> None:
    """One change per picture: 0 brightness, 1 contrast, 2 saturation."""
    aims = None
    if any(which):
        red, green, blue = _GREY_RGB
        grey = images[:, :1] * red
        grey.add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)
        mean = grey.mean((1, 2, 3), keepdim=True)
        rest = [
            ((1 - factor) * (kind == 2), (1 - factor) * (kind == 1))
            for factor, kind in zip(factors, which, strict=True)
        ]
        of_pixel, of_mean = host_values(rest, images.device, dtype=images.dtype).t()[
            :, :, None, None, None
        ]
        aims = grey.mul_(of_pixel).add_(mean.mul_(of_mean))
    images.mul_(host_values(factors, images.device, dtype=images.dtype)[:, None, None, None])
    if aims is not None:
        images.add_(aims)
    images.clamp_(0, 1)


def mirror_pictures(pictures: Pictures, is_mirrored: Sequence[bool]) -> Pictures:
    """Flip some pictures left to right, in place; pixels move along.

    Args:
        pictures: any.
        is_mirrored: (I,) per picture.
    """
    images, index, pixel_rc = pictures
    if not any(is_mirrored):
        return pictures
    for image, flag in zip(images, is_mirrored, strict=True):
        if flag:
            image.copy_(image.flip(-1))
    flags = host_values(is_mirrored, index.device)
    column = pixel_rc[:, 1]
    column = torch.where(flags[index], images.shape[-1] - 1 - column, column)
    return Pictures(images, index, torch.stack([pixel_rc[:, 0], column], 1))


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
    """(I, 3, H, W) in 0..1, minus the ImageNet mean, divided by its deviation; in place."""
    mean = host_values(_MEAN_RGB, images.device, dtype=images.dtype)[:, None, None]
    std = host_values(_STD_RGB, images.device, dtype=images.dtype)[:, None, None]
    return images.sub_(mean).div_(std)
