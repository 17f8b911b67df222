"""CPU time of every stage on one full-size scan, next to its plain formulation, in one run; and of
every corruption.

    python -m bench.bench_stages [--root SEMANTICKITTI] [--repeats 15]

Without --root the real scans in ../shared are taken when they are there, else a random scan. Both
sides of a row run alternately, so other work on the machine meets them alike; trust the ratios.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from bench.timing import spent_ms
from pass2d.cache.schema import SCALES, DatasetInfo, ScanRecord
from pass2d.corruptions.cloud import Cloud
from pass2d.corruptions.registry import (
    CORRUPTIONS,
    Variant,
    corrupt,
    corruption_table,
    scan_generator,
)
from pass2d.pipeline.compose import lidar_record, scan_counts
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table
from pass2d.pipeline.stages.images import decode_rgb
from pass2d.pipeline.stages.labels import instance_ids, map_labels
from pass2d.pipeline.stages.projection import project_points
from pass2d.pipeline.stages.raw_file import read_file
from pass2d.pipeline.stages.read import decode_points, require_finite
from pass2d.pipeline.stages.volume import split_volume
from pass2d.pipeline.stages.voxels import cells_per_axis, voxelize

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real" / "semantickitti"
RANDOM = Path("random")


class Inputs:
    """One scan's bytes and arrays."""

    def __init__(self, root: Path | None) -> None:
        self.info: DatasetInfo = semkitti_table().info
        if root is None:
            self._random()
        else:
            scan = list_semkitti(root).scans[0]
            self.origin = str(scan.points)
            self.points_bytes = read_file(scan.points)
            self.image_bytes = read_file(scan.images[0])
            self.matrix = np.reshape(scan.image_from_lidar[0], (3, 4))
            self.raw_labels = np.frombuffer(read_file(scan.labels), "<u4")
            self.lidar = lidar_record(scan, self.info)
        self.points = decode_points(self.points_bytes, columns=4, file=RANDOM)
        self.raw_xyz = np.ascontiguousarray(self.points[:, :3].T)
        self.image_hw = decode_rgb(self.image_bytes, file=RANDOM).shape[:2]

    def _random(self) -> None:
        rng = np.random.default_rng(0)
        self.origin = "a random scan"
        range_m, yaw = rng.exponential(12, 124_000) + 2, rng.uniform(-np.pi, np.pi, 124_000)
        xyz = [range_m * np.cos(yaw), range_m * np.sin(yaw), rng.uniform(-4.2, 2.2, 124_000)]
        points = np.stack([*xyz, rng.random(124_000)], axis=1).astype("<f4")
        self.points_bytes = points.tobytes()
        ids = np.array(list(self.info.labels.raw_to_training), "<u4")
        self.raw_labels = rng.choice(ids, 124_000)
        buffer = BytesIO()
        smooth = rng.integers(0, 256, (24, 78, 3), np.uint8)
        Image.fromarray(smooth).resize((1241, 376)).save(buffer, "png")
        self.image_bytes = buffer.getvalue()
        self.matrix = np.array([[600, -720, 0, 0], [180, 0, -720, 0], [1, 0, 0, -0.27]], float)
        rows = split_volume(np.ascontiguousarray(points[:, :3].T), grid=self.info.grid)
        kept = points.T.take(rows.inside, axis=1)
        label = map_labels(self.raw_labels, table=self.info.labels, file=RANDOM)
        self.lidar = ScanRecord(
            scan_id="random",
            n_raw=len(points),
            xyz=kept[:3],
            signal=kept[3],
            raw_index=rows.inside,
            label=label[rows.inside],
        )


def plain_volume(inputs: Inputs) -> object:
    """Compare rows, then cut rows."""
    low, high = np.array(inputs.info.grid.low), np.array(inputs.info.grid.high)
    xyz = inputs.points[:, :3]
    mask = ((xyz > low) & (xyz < high)).all(axis=1)
    return inputs.points[mask], np.arange(len(xyz))[mask]


def plain_labels(inputs: Inputs) -> object:
    """A dict lookup per point, as np.vectorize does it."""
    table = inputs.info.labels.raw_to_training
    return np.vectorize(table.__getitem__)(inputs.raw_labels & 0xFFFF)


def plain_projection(inputs: Inputs) -> object:
    """Homogeneous rows of all points, then masks."""
    xyz = inputs.lidar.xyz.T
    rows = np.concatenate([xyz, np.ones((len(xyz), 1))], axis=1) @ inputs.matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = rows[:, :2] / rows[:, 2:]
    height, width = inputs.image_hw
    seen = (xyz[:, 0] > 0) & (uv > 0).all(axis=1) & (uv < [width, height]).all(axis=1)
    return np.floor(uv[seen][:, ::-1]).astype(np.int64), np.flatnonzero(seen)


def plain_voxels(inputs: Inputs) -> object:
    """A unique over rows and a full table of votes at every scale."""
    grid, xyz, label = inputs.info.grid, inputs.lidar.xyz.T, inputs.lidar.label
    low, high = np.float32(grid.low), np.float32(grid.high)
    levels = []
    for scale in SCALES:
        n = np.float32(cells_per_axis(grid, scale))
        cells = (n * (xyz - low) / (high - low)).astype(np.int32)
        coord, inverse = np.unique(cells, axis=0, return_inverse=True)
        votes = np.zeros((len(coord), 20), np.int64)
        np.add.at(votes, (inverse, label), 1)
        levels.append((coord, inverse, votes.argmax(axis=1)))
    return levels


def plain_ranges(inputs: Inputs) -> object:
    """Distances as a norm of rows, bins by search."""
    range_m = np.linalg.norm(inputs.points[:, :3], axis=1)
    return np.histogram(range_m, bins=[*range(0, 101, 2), np.inf])


def stages(inputs: Inputs) -> list[tuple[str, Callable[[], object], Callable[[], object] | None]]:
    """Name, the stage, its plain formulation (None where there is only one)."""
    info, lidar = inputs.info, inputs.lidar

    def read() -> object:
        points = decode_points(inputs.points_bytes, columns=4, file=RANDOM)
        require_finite(points, file=RANDOM)
        return np.ascontiguousarray(points.T)

    def volume() -> object:
        rows = split_volume(inputs.raw_xyz, grid=info.grid)
        return inputs.raw_xyz.take(rows.inside, axis=1)

    def project() -> object:
        return project_points(lidar.xyz, image_from_lidar=inputs.matrix, image_hw=inputs.image_hw)

    return [
        ("read", read, None),
        ("volume", volume, lambda: plain_volume(inputs)),
        (
            "labels",
            lambda: map_labels(inputs.raw_labels, table=info.labels, file=RANDOM),
            lambda: plain_labels(inputs),
        ),
        ("images", lambda: decode_rgb(inputs.image_bytes, file=RANDOM), None),
        ("projection", project, lambda: plain_projection(inputs)),
        (
            "voxels",
            lambda: voxelize(lidar.xyz, lidar.label, grid=info.grid, scales=SCALES),
            lambda: plain_voxels(inputs),
        ),
        ("counts", lambda: scan_counts(lidar, info), lambda: plain_ranges(inputs)),
    ]


def corruptions(inputs: Inputs) -> list[tuple[str, Callable[[], object]]]:
    """Each corruption at its heaviest, on all points of the scan."""
    table = corruption_table(inputs.info.layout)
    cloud = Cloud(
        xyz=inputs.raw_xyz,
        signal=inputs.points[:, 3].copy(),
        label=map_labels(inputs.raw_labels, table=inputs.info.labels, file=RANDOM),
        instance=instance_ids(inputs.raw_labels),
        sensor=table.sensor,
    )

    def work(variant: Variant) -> object:
        rng = scan_generator(variant, sequence="00", frame_index=0)
        return corrupt(cloud, variant, table=table, rng=rng)

    heavy = [Variant(name=name, severity="heavy") for name in CORRUPTIONS]
    return [(variant.name, functools.partial(work, variant)) for variant in heavy]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=SHARED if SHARED.is_dir() else None)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    inputs = Inputs(options.root)
    print(f"{inputs.origin}: {inputs.lidar.n_raw} points, {inputs.lidar.n} kept")
    print(f"{'stage':12}{'CPU ms':>8}{'plain ms':>10}{'ratio':>7}")
    total = 0.0
    for name, stage, plain in stages(inputs):
        pairs = [(spent_ms(stage), spent_ms(plain or stage)) for _ in range(options.repeats)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        total += ours
        right = f"{theirs:10.2f}{theirs / ours:7.1f}" if plain else ""
        print(f"{name:12}{ours:8.2f}{right}")
    print(f"{'all':12}{total:8.2f}\n\n{'corruption':16}{'CPU ms':>8}")
    for name, work in corruptions(inputs):
        ours = statistics.median(spent_ms(work) for _ in range(options.repeats))
        print(f"{name:16}{ours:8.2f}")


if __name__ == "__main__":
    main()
