"""What VaViT sees of a scan: one point per cell, its neighbours, its pillar.

Sources: recorded values of the published network (docs/maths.md, "VaViT").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy ships no types
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.models.sparse_unets.quantize import batch_of_rows, first_of_each
from pass2d.models.voxel_keys import KeyPacking

_MAX_EXACT_FLOAT32 = 2**24
_DISTANCES = 1 << 26
"""Between points of one scan that a device computes at once: 256 MiB."""


def thin(
    points: Tensor, offsets: Tensor, *, cell_m: float, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keep one point of each occupied cell; cells count from each scan's smallest x, y, z.

    Args:
        points: (N, 3 or more) float32: x, y, z in metres, then anything.
        offsets: (B + 1,) int64: scan b owns rows offsets[b]:offsets[b + 1].
        cell_m: Side of a cell, in metres.
        order: (N,) int64 permutation: of a cell's points the first in this order stays; None: the
            first row.

    Returns:
        (K,) int64 rows that stay, by scan and within it by cell (x, y, z), and (N,) int64 the place
        among them of each point's cell.

    Raises:
        ShapeError: Coordinates that are not finite or span too many cells.

    Waits for the device: call it before the forward pass.
    """
    batch = batch_of_rows(offsets, n_rows=len(points), device=points.device)
    xyz = points[:, :3]
    lowest = xyz.new_zeros((len(offsets) - 1, 3)).scatter_reduce(
        0, batch[:, None].expand(-1, 3), xyz, "amin", include_self=False
    )
    # A tensor as divisor: CUDA turns division by a number into a product, which rounds elsewhere.
    cells = (xyz - lowest[batch]) / xyz.new_full((1,), cell_m)
    reach = float(cells.amax()) if len(cells) else 0.0
    if not reach < _MAX_EXACT_FLOAT32:
        raise ShapeError(
            "x, y, z of the points",
            expected=f"finite metres, less than {_MAX_EXACT_FLOAT32 * cell_m:.0f} apart",
            got=f"a distance of {reach * cell_m}",
        )
    cells = cells.long()
    extent = (cells.amax(0) + 1).tolist() if len(cells) else [1, 1, 1]
    packing = KeyPacking(extent=(extent[0], extent[1], extent[2]), batch_size=len(offsets) - 1)
    keys = packing.pack(torch.cat([batch[:, None], cells], 1))
    if order is None:
        return first_of_each(keys)
    first, place_in_order = first_of_each(keys[order])
    place = torch.empty_like(place_in_order)
    place[order] = place_in_order
    return order[first], place


def nearest_neighbours(xyz: Tensor, lengths: Sequence[int], *, k: int) -> Tensor:
    """Find the nearest points of each point within its scan, the point itself left out.

    Args:
        xyz: (K, 3) metres, scans end to end.
        lengths: Points of each scan.
        k: Neighbours. A scan of fewer other points repeats its farthest, a lone point itself.

    Returns:
        (K, k) int64 rows of ``xyz``, the nearest first. Of points at one place, which of them
        counts as "itself" is chance, as in the published code.
    """
    found, start = [], 0
    for part in xyz.split(list(lengths)):
        if len(part):
            found.append(_nearest(part, part, k=k + 1)[:, 1:] + start)
        start += len(part)
    return torch.cat(found) if found else torch.zeros((0, k), dtype=torch.int64, device=xyz.device)


def nearest_rows(xyz: Tensor, queries: Tensor, lengths: Sequence[tuple[int, int]]) -> Tensor:
    """Find, scan by scan, the point of ``xyz`` that is nearest to each query.

    Args:
        xyz: (K, 3) metres, scans end to end.
        queries: (N, 3) metres, scans end to end.
        lengths: Points and queries of each scan; a scan with queries has points.

    Returns:
        (N,) int64 rows of ``xyz``.
    """
    found, start = [], 0
    points = xyz.split([n for n, _ in lengths])
    for part, asked in zip(points, queries.split([n for _, n in lengths]), strict=True):
        if len(asked):
            found.append(_nearest(part, asked, k=1)[:, 0] + start)
        start += len(part)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=xyz.device)


def _nearest(points: Tensor, queries: Tensor, *, k: int) -> Tensor:
    """(Q, k) rows of the nearest points, nearest first; the farthest repeats if there are few."""
    there = min(k, len(points))
    if points.device.type == "cpu":
        # Neighbours of each other are asked for together: the tree is read from the cache.
        tree = cKDTree(points.numpy(), balanced_tree=False)
        rows = np.asarray(tree.query(queries.numpy(), k=np.arange(1, there + 1))[1], np.int64)
        found = torch.from_numpy(rows)
    else:
        step = max(1, _DISTANCES // max(1, len(points)))
        found = torch.cat(
            [_by_distance(points, part, k=there) for part in queries.float().split(step)]
        )
    if there < k:
        found = torch.cat([found, found[:, -1:].expand(-1, k - there)], 1)
    return found


def _by_distance(points: Tensor, queries: Tensor, *, k: int) -> Tensor:
    """By all distances; not by |a|^2 - 2ab + |b|^2, which loses centimetres at 80 m."""
    distance = torch.cdist(queries, points.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(k, dim=1, largest=False).indices
