"""The typed batch that networks take and the typed result that they return.

Scans of a batch are concatenated, with offsets: no padding, no list of tensors, no dict. Every
object is frozen; `to` returns a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from pass2d.common.thinning import ThinningConfig

T = TypeVar("T", bound="TensorRecord")


def host_values(
    values: Sequence[Any], device: torch.device, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Copy a few numbers from the host to a device, as a 1-D tensor, without waiting for it.

    `torch.tensor(values, device=device)` waits until the GPU has finished all queued work.
    """
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """Base of frozen records of tensors: moves all of them at once."""

    def to(self: T, device: torch.device | str, *, non_blocking: bool = False) -> T:
        """The same record on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def each(self, function: Callable[[Tensor], object]) -> None:
        """Apply a function to every tensor; the result is a new record."""

        def called(tensor: Tensor) -> Tensor:
            function(tensor)
            return tensor

        self._map(called)

    def _map(self: T, function: Callable[[Tensor], Tensor]) -> T:
        def convert(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, TensorRecord):
                return value._map(function)
            if isinstance(value, tuple):
                return tuple(convert(item) for item in value)
            return value

        return type(self)(**{f.name: convert(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Volume and finest voxel grid, as in the cache's manifest (docs/maths.md, section 3)."""

    low: tuple[float, float, float]
    """x, y, z in metres."""
    high: tuple[float, float, float]
    """x, y, z in metres."""
    shape: tuple[int, int, int]
    """Cells along x, y, z at scale 1."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch(TensorRecord):
    """Pictures of a batch and the points visible in them. M counts the points of all pictures."""

    images: Tensor
    """(I, 3, H, W) float32, normalised with the ImageNet mean and deviation; multiples of 16."""
    image_index: Tensor
    """(M,) int64: picture of each visible point."""
    pixel_rc: Tensor
    """(M, 2) int64: row, column in that picture."""
    point_index: Tensor
    """(M,) int64: row of that point in PointBatch.points."""


@dataclass(frozen=True, kw_only=True)
class ScaleVoxels(TensorRecord):
    """The voxels of a batch at one scale."""

    scale: int
    coords: Tensor
    """(V, 4) int32: batch, z, y, x counted from `origin`; sorted by (batch, x, y, z)."""
    inverse: Tensor
    """(N,) int64: voxel of each point."""
    origin: tuple[int, int, int]
    """x, y, z cell that `coords` counts from: even numbers, 0 unless points left the volume."""
    shape: tuple[int, int, int]
    """z, y, x: spatial shape that holds all coords."""
    label: Tensor | None = None
    """(V,) int64 majority label, if already known (from the cache)."""


@dataclass(frozen=True, kw_only=True)
class ThinnedPoints(TensorRecord):
    """The thinned points of a batch, and their neighbours."""

    config: ThinningConfig
    """The settings with which they were found."""
    rows: Tensor
    """(K,) int64 rows of `PointBatch.points`, by scan and within it by cell (x, y, z)."""
    neighbours: Tensor
    """(K, k) int64 indices among the K, the nearest first; of the same scan."""
    answers: Tensor
    """(N,) int64 index among the K of the thinned point whose logits each point takes."""


@dataclass(frozen=True, kw_only=True)
class PointBatch(TensorRecord):
    """Points of B scans, laid end to end."""

    points: Tensor
    """(N, 4) float32: x, y, z in metres (lidar frame, after augmentation), signal. (N, 5) for data
    with added sweeps: and seconds since the point was measured, 0 for points that have a label."""
    offsets: Tensor
    """(B + 1,) int64, on the CPU or the device: scan b owns rows offsets[b]:offsets[b + 1]."""
    labels: Tensor | None = None
    """(N,) int64 training ids; 0 is ignored. None in prediction."""
    weights: Tensor | None = None
    """(N,) float32 whole numbers: how many identical points a row represents; None: one each. Point
    dropout makes dropped points copies of their scan's first one."""
    images: ImageBatch | None = None
    """Pictures, for networks with a 2D branch; None without."""
    voxels: tuple[ScaleVoxels, ...] = ()
    """Hashes read from the cache, if they are exact for these points; else empty."""
    thinned: ThinnedPoints | None = None
    """For these points, if the stream or the cache supplies it; None: the network computes it."""
