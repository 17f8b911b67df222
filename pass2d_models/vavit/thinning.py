"""VaViT's view of a scan: one point per cell, its neighbours, its pillar.

Sources: recorded values of the published network (docs/maths.md, "VaViT").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pass2d.common.errors import ShapeError
from pass2d.common.nearest import nearest_by_tree
from pass2d.common.thinning import ThinningConfig, tree_of, tree_rows
from pass2d.models.inputs import ThinnedPoints
from pass2d.models.nearest import nearest_by_distance
from pass2d.models.voxel_keys import KeyPacking, batch_of_rows, count_rows, first_of_each

_MAX_EXACT_FLOAT32 = 2**24
_DISTANCES = 1 << 26
"""Between points of one scan that a device computes at once: 256 MiB."""


def thinned_points(
    points: Tensor,
    offsets: Tensor,
    sizes: Sequence[int],
    *,
    config: ThinningConfig,
    order: Tensor | None = None,
) -> ThinnedPoints:
    """Thin a batch and find neighbours; `common.thinning.thinned_scan` for whole batches.

    Args:
        points: (N, 3 or more) as of `thin`.
        offsets: (B + 1,) as of `thin`.
        sizes: Points of each scan.
        config: Sizes.
        order: As for `thin`. If given, all points of a cell take the logits of its thinned point;
            otherwise those of the nearest thinned point.
    """
    rows, answers = thin(points, offsets, cell_m=config.cell_m, order=order)
    scan = batch_of_rows(offsets, n_rows=len(points), device=points.device)[rows]
    xyz = points[rows, :3]
    nearby = [Nearby(part) for part in xyz.split(count_rows(scan, n=len(sizes)).tolist())]
    if order is None:
        answers = nearest_rows(nearby, points[:, :3], sizes, near=answers)
    return ThinnedPoints(
        config=config,
        rows=rows,
        neighbours=nearest_neighbours(nearby, k=config.neighbours),
        answers=answers,
    )


def thin(
    points: Tensor, offsets: Tensor, *, cell_m: float, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keep one point of each occupied cell; cells are counted from each scan's smallest x, y, z.

    Args:
        points: (N, 3 or more) float32: x, y, z in metres, then anything.
        offsets: (B + 1,) int64: scan b owns rows offsets[b]:offsets[b + 1].
        cell_m: Side of a cell, in metres.
        order: (N,) int64 permutation: the first point of a cell in this order is kept; None: the
            first row.

    Returns:
        (K,) int64 rows that are kept, by scan and within it by cell (x, y, z), and (N,) int64 the
        index among them of each point's cell.

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


def pillars_of(columns: Tensor, scan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the occupied pillars, by one number per point: `torch.unique` of rows is far slower.

    Args:
        columns: (K, 2) int64 x and y of each point's pillar.
        scan: (K,) int64.

    Returns:
        (P,) scan, (P, 2) x and y of each pillar, sorted by scan, x, y; (K,) pillar of each point.
    """
    if not len(columns):
        return scan, columns, scan
    low = columns.amin(0)
    size_x, size_y = (columns.amax(0) - low + 1).unbind()  # on the device: nothing waits
    x, y = (columns - low).unbind(1)
    keys, place = torch.unique((scan * size_x + x) * size_y + y, return_inverse=True)
    of_scan = torch.div(keys, size_x * size_y, rounding_mode="floor")
    of_x = torch.div(keys, size_y, rounding_mode="floor") % size_x
    return of_scan, torch.stack([of_x, keys % size_y], 1) + low, place


class Nearby:
    """Finds points of one scan by distance: by a tree on a CPU, by all distances elsewhere."""

    def __init__(self, xyz: Tensor) -> None:
        self.xyz = xyz
        is_on_cpu = xyz.device.type == "cpu" and len(xyz) > 0
        self._tree = tree_of(xyz.numpy()) if is_on_cpu else None

    def nearest(self, queries: Tensor, *, near: Tensor) -> Tensor:
        """(Q,) row of the nearest point; among equally near ones, the lowest.

        Args:
            queries: (Q, 3) metres.
            near: (Q,) rows of nearby points: the nearer these are, the fewer points a GPU examines.
        """
        if self._tree is not None:
            return torch.from_numpy(nearest_by_tree(self._tree, queries.numpy()))
        within = (queries.double() - self.xyz[near].double()).norm(dim=1)
        return nearest_by_distance(self.xyz, queries, within=within)

    def rows(self, queries: Tensor, *, k: int) -> Tensor:
        """(Q, k) rows of the nearest points, nearest first; the last repeats if there are fewer."""
        if self._tree is not None:
            return torch.from_numpy(tree_rows(self._tree, queries.numpy(), k=k))
        there = min(k, len(self.xyz))
        step = max(1, _DISTANCES // max(1, len(self.xyz)))
        parts = [by_distance(self.xyz, part, k=there) for part in queries.split(step)]
        found = torch.cat(parts)
        if there < k:
            found = torch.cat([found, found[:, -1:].expand(-1, k - there)], 1)
        return found


def nearest_neighbours(scans: Sequence[Nearby], *, k: int) -> Tensor:
    """Find the nearest neighbours of each point within its scan, the point itself excluded.

    Args:
        scans: The scans of a batch; K points together.
        k: Neighbours. A scan of fewer other points repeats its farthest, a lone point itself.

    Returns:
        (K, k) int64 rows of all scans' points end to end, the nearest first. Of points at the same
        position, which one counts as "itself" is undefined, as in the published code.
    """
    return _in_all(
        scans,
        [scan.rows(scan.xyz, k=k + 1)[:, 1:] if len(scan.xyz) else None for scan in scans],
        (k,),
    )


def nearest_rows(
    scans: Sequence[Nearby], queries: Tensor, lengths: Sequence[int], *, near: Tensor
) -> Tensor:
    """Find, scan by scan, the point that is nearest to each query.

    Args:
        scans: The scans of a batch; one with queries has points.
        queries: (N, 3) metres, scans end to end.
        lengths: Queries of each scan.
        near: (N,) rows, as those to be found, of points of the same scans that lie near.

    Returns:
        (N,) int64 rows of all scans' points end to end.
    """
    found: list[Tensor | None] = []
    start, sizes = 0, list(lengths)
    for scan, part, rows in zip(scans, queries.split(sizes), near.split(sizes), strict=True):
        found.append(scan.nearest(part, near=rows - start) if len(part) else None)
        start += len(scan.xyz)
    return _in_all(scans, found, ())


def _in_all(
    scans: Sequence[Nearby], rows: Sequence[Tensor | None], shape: tuple[int, ...]
) -> Tensor:
    """Rows of single scans as rows of all of them end to end; None where nothing was asked."""
    device = scans[0].xyz.device if scans else None
    found, start = [torch.zeros((0, *shape), dtype=torch.int64, device=device)], 0
    for scan, part in zip(scans, rows, strict=True):
        if part is not None:
            found.append(part + start)
        start += len(scan.xyz)
    return torch.cat(found)


def by_distance(points: Tensor, queries: Tensor, *, k: int) -> Tensor:
    """(Q, k) rows of the nearest of (N, 3) points for (Q, 3) queries, by all distances."""
    # Not by |a|^2 - 2ab + |b|^2, which loses centimetres at 80 m.
    distance = torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(k, dim=1, largest=False).indices
