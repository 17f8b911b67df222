# ruff: noqa: E402  # BLAS reads its number of threads when NumPy is loaded
"""Two choices of the cache's format, measured: what is stored, and how it is shuffled.

    python -m bench.bench_choices [--root DATA_SET]... [--scans 8] [--repeats 9]

1. Scale-to-scale weights ("mean by voxel of scale s of a per-voxel feature of scale l" is a
   sparse matrix of point counts, docs/maths.md, section 3). The hierarchy of pieces that 2DPASS
   works with can be computed from the hashes in the cache; or the entries of its four matrices
   (fine voxel, coarse voxel, count) could be stored and read. Bytes and CPU time of both, per
   scan. The links of scale 1 (order of the points, their means, groups of the point branch) are
   computed in either case, so storing saves less than the difference.
2. The `size` profile: bytes and decode time of every field with zstd-3 behind no shuffle, byte
   shuffle and bit shuffle.

Data sets: folders in SemanticKITTI's layout.
"""

from __future__ import annotations

import os

for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import argparse
import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.sample_root import sample_root
from bench.timing import median_ms
from pass2d.cache.codec import CRC_BYTES, Codec, decode_into
from pass2d.cache.fields import FIELDS
from pass2d.cache.schema import VoxelLevel
from pass2d.cache.writing.encode import camera_arrays as encode_camera
from pass2d.cache.writing.encode import lidar_arrays as encode_lidar
from pass2d.cache.writing.encode import voxel_arrays as encode_voxel
from pass2d.models.inputs import Grid, ScaleVoxels
from pass2d.models.twodpass.geometry import build_geometry
from pass2d.models.twodpass.hierarchy import build_levels
from pass2d.pipeline import compose
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table

SPEED = Codec(cname="lz4", clevel=5, shuffle="shuffle")
SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


def scale_weights(levels: tuple[VoxelLevel, ...]) -> list[np.ndarray]:
    """Per pair of neighbouring scales (3, entries) int32: fine voxel, coarse voxel, points."""
    found = []
    for fine, coarse in itertools.pairwise(levels):
        key = fine.inverse.astype(np.int64) * coarse.coord.shape[1] + coarse.inverse
        pair, count = np.unique(key, return_counts=True)
        rows = (*np.divmod(pair, coarse.coord.shape[1]), count)
        found.append(np.stack(rows).astype(np.int32))
    return found


def decode_all(packed: list[bytes], outs: list[np.ndarray]) -> None:
    for data, out in zip(packed, outs, strict=True):
        decode_into(np.frombuffer(data, np.uint8)[:-CRC_BYTES], out)


def compute_links(
    points: torch.Tensor, offsets: torch.Tensor, voxels: tuple[ScaleVoxels, ...], grid: Grid
) -> object:
    scales = tuple(level.scale for level in voxels)
    levels = build_levels(points, offsets, grid=grid, scales=scales, voxels=voxels)
    return build_geometry(
        points, levels=levels, grid=grid, n_scans=1, head_level=min(1, len(scales) - 1)
    )


def _scale_voxels(level: VoxelLevel) -> ScaleVoxels:
    cell = level.coord.astype(np.int32)
    return ScaleVoxels(
        scale=level.scale,
        coords=torch.from_numpy(np.column_stack([np.zeros_like(cell[0]), *cell[::-1]])),
        inverse=torch.from_numpy(level.inverse.astype(np.int64)),
        origin=(0, 0, 0),
        shape=tuple((cell[::-1].max(axis=1) + 1).tolist()),
    )


def weigh_weights(root: Path, n_scans: int, repeats: int) -> None:
    info = semkitti_table().info
    grid = Grid(low=info.grid.low, high=info.grid.high, shape=info.grid.shape)
    rows = []
    for scan in list_semkitti(root).scans[:n_scans]:
        lidar = compose.lidar_record(scan, info)
        levels = compose.voxel_levels(lidar, grid=info.grid)
        weights = scale_weights(levels)
        packed = [SPEED.encode(w) for w in weights]
        holders = [np.empty_like(w) for w in weights]
        arrays = [a for lv in levels for a in (lv.coord, lv.inverse)]
        hash_bytes = sum(len(SPEED.encode(np.ascontiguousarray(a))) for a in arrays)

        read = functools.partial(decode_all, packed, holders)
        points = torch.from_numpy(np.column_stack([lidar.xyz.T, lidar.signal]))
        offsets = torch.tensor([0, len(points)])
        merged = tuple(_scale_voxels(level) for level in levels)

        compute = functools.partial(compute_links, points, offsets, merged, grid)
        finest = functools.partial(compute_links, points, offsets, merged[:1], grid)
        rows.append(
            (
                sum(w.shape[1] for w in weights),
                sum(map(len, packed)),
                hash_bytes,
                median_ms(read, repeats),
                median_ms(compute, repeats),
                median_ms(finest, repeats),
            )
        )
    entries, stored, hashes, read_ms, compute_ms, finest_ms = np.mean(rows, axis=0)
    print(f"{root}: {len(rows)} scans, per scan")
    print(f"  weights: {entries:,.0f} entries, {stored:,.0f} bytes (hashes: {hashes:,.0f} bytes)")
    print(
        f"  decoding them {read_ms:.2f} ms; computing all links from the hashes {compute_ms:.2f} ms"
    )
    print(f"  of which links of scale 1 alone, which would stay: {finest_ms:.2f} ms")


def weigh_shuffles(root: Path, n_scans: int, repeats: int) -> None:
    listing = list_semkitti(root)
    records, pictures, hashes = [], [], []
    for scan in listing.scans[:n_scans]:
        records.append(compose.lidar_record(scan, listing.info))
        pictures.append(compose.camera_views(scan, records[-1], listing.info))
        hashes.append(compose.voxel_levels(records[-1], grid=listing.info.grid))
    plans = [
        *encode_lidar(records, profile="size")[0],
        *encode_camera(pictures, n_cameras=1, profile="size"),
        *encode_voxel(hashes, profile="size"),
    ]
    codecs = {s: Codec(cname="zstd", clevel=3, shuffle=s) for s in SHUFFLES}
    titles = [f"{s:>10} MB     ms" for s in SHUFFLES]
    print(f"{root}: {len(records)} scans, zstd-3, MB in all and ms to decode one scan")
    print(f"  {'field':18}" + "".join(titles))
    totals = dict.fromkeys(SHUFFLES, 0)
    best = 0
    for plan in plans:
        chunks = [np.ascontiguousarray(c) for c in plan.chunks if c is not None]
        if not chunks:
            continue
        cells, sizes = "", {}
        for name, codec in codecs.items():
            packed = [codec.encode(c) for c in chunks]
            outs = [np.empty_like(c) for c in chunks]
            decode = functools.partial(decode_all, packed, outs)
            sizes[name] = sum(map(len, packed))
            totals[name] += sizes[name]
            ms = median_ms(decode, max(3, repeats // 3)) / len(records)
            cells += f"{sizes[name] / 1e6:13.3f} {ms:6.2f}"
        best += min(sizes.values())
        print(f"  {plan.spec.name:18}{cells}   {min(sizes, key=sizes.get)}")
    cells = "".join(f"{totals[name] / 1e6:13.3f} {'':6}" for name in SHUFFLES)
    print(f"  {'all':18}{cells}   best of each {best / 1e6:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, action="append")
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert set(SHUFFLES) >= {spec.size.shuffle for spec in FIELDS.values()}
    with tempfile.TemporaryDirectory() as folder:
        for root in options.root or [sample_root(Path(folder))]:
            weigh_weights(root, options.scans, options.repeats)
            weigh_shuffles(root, options.scans, options.repeats)


if __name__ == "__main__":
    main()
