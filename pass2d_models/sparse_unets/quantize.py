"""Voxels of the sparse U-Nets: rounded, shifted, first point wins (docs/maths.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.inputs import TensorRecord
from pass2d.models.voxel_keys import KeyPacking, batch_of_rows, first_of_each

_MAX_EXACT_FLOAT32 = 2**24


@dataclass(frozen=True, kw_only=True)
class QuantizedPoints(TensorRecord):
    """The occupied cells of a batch, and which point is in which cell."""

    coords: Tensor
    """(M, 4) int32: batch, x, y, z; sorted in that order; each sample's smallest x, y, z is 0."""
    first: Tensor
    """(M,) int64: the first point, in scan order, of each cell."""
    inverse: Tensor
    """(N,) int64: cell of each point."""
    extent: tuple[int, int, int]
    """Cells along x, y, z that hold all samples."""
    batch_size: int
    """B, samples; one without points has no cell."""


def quantize(points: Tensor, offsets: Tensor, *, voxel_m: float) -> QuantizedPoints:
    """Find the occupied cells of a batch of scans.

    Args:
        points: (N, 3 or more) float32: x, y, z in metres, then anything.
        offsets: (B + 1,) int64: scan b owns rows offsets[b]:offsets[b + 1].
        voxel_m: side of a cell, in metres.

    Returns:
        The cells round(xyz / voxel_m), half to even, in float32, shifted per sample.

    Raises:
        ShapeError: too few columns, coordinates that are not finite or so large that float32 cannot
            count their cells.

    Waits for the device: call it before the forward pass.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise ShapeError("points", expected="(N, 4): x, y, z, signal", got=tuple(points.shape))
    batch_size = len(offsets) - 1
    if len(points) == 0:
        return _no_cells(batch_size, device=points.device)
    # A tensor as divisor: CUDA turns division by a number into a product, which rounds elsewhere.
    cells = torch.round(points[:, :3].float() / points.new_full((1,), voxel_m, dtype=torch.float32))
    reach = float(cells.abs().max())
    if not reach < _MAX_EXACT_FLOAT32:
        raise ShapeError(
            "x, y, z of the points",
            expected=f"finite metres, below {_MAX_EXACT_FLOAT32 * voxel_m:.0f}",
            got=f"an x, y or z of {reach * voxel_m}",
        )
    batch = batch_of_rows(offsets, n_rows=len(points), device=points.device)
    cells = cells.long()
    lowest = cells.new_zeros((batch_size, 3)).scatter_reduce(
        0, batch[:, None].expand(-1, 3), cells, "amin", include_self=False
    )
    coords = torch.cat([batch[:, None], cells - lowest[batch]], 1)
    extent_x, extent_y, extent_z = (coords[:, 1:].amax(0) + 1).tolist()
    packing = KeyPacking(extent=(extent_x, extent_y, extent_z), batch_size=batch_size)
    first, inverse = first_of_each(packing.pack(coords))
    return QuantizedPoints(
        coords=coords[first].int(),
        first=first,
        inverse=inverse,
        extent=packing.extent,
        batch_size=batch_size,
    )


def _no_cells(batch_size: int, *, device: torch.device) -> QuantizedPoints:
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return QuantizedPoints(
        coords=torch.zeros((0, 4), dtype=torch.int32, device=device),
        first=nothing,
        inverse=nothing,
        extent=(1, 1, 1),
        batch_size=batch_size,
    )
