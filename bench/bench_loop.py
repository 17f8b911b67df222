"""Scans per second of the training loop: the stream alone, with augmentation, with the network.

Run: python bench/bench_loop.py --cache CACHE [--batches 20] [--recipe NAME] [--set KEY=VALUE]
The naive loader (files, label map, PNG, projection, augmentation, one scan at a time) stands beside
it when --root names the raw SemanticKITTI folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cache.progress import Silent
from cache.reader import CacheReader
from train.assemble import Job, assemble
from train.batch import point_batch
from train.recipe import load_recipe
from train.state import fresh_state
from train.step import optimizer_step
from train.stream import BatchStream
from train.team import Team, choose_device


def main() -> None:
    """Print a table: milliseconds of wall and CPU time per scan."""
    options = parse()
    recipe = load_recipe(options.recipe, [*options.set, "log.tensorboard=false"])
    device = choose_device(recipe.device)
    reader = CacheReader.open(options.cache)
    print(f"{'what':34} {'wall ms/scan':>13} {'CPU ms/scan':>12} {'scans/s':>9}")
    for mode in ("full", "lattice", "none"):
        changed = load_recipe(options.recipe, [*options.set, f"augment.mode={mode}"])
        job = assemble(reader, changed, Team(device=device), Silent())
        report(f"stream, {mode}", job, lambda job, stream: None, options.batches)
        report(f"stream + augment, {mode}", job, augment_only, options.batches)
    job = assemble(reader, recipe, Team(device=device), Silent())
    state = fresh_state(job)

    def train(job: Job, stream: BatchStream) -> None:
        state.cursor = 0
        optimizer_step(job, state, stream)

    train_steps = max(2, options.batches // 5)
    report("stream + augment + network", job, train, train_steps, is_pulling=True)
    if options.root is not None:
        naive(options.root, options.batches)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--root", type=Path, help="raw SemanticKITTI folder, for the naive loader")
    parser.add_argument("--recipe", default="2dpass-small")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--set", action="append", default=[])
    return parser.parse_args()


def augment_only(job: Job, stream: BatchStream) -> None:
    """Upload and augment the batch that the stream has just given."""
    assert stream.last is not None
    device = job.team.device
    point_batch(
        stream.last.to(device, non_blocking=True),
        config=job.plan.augment,
        grid=job.reader.info.grid,
        device=device,
    )


def report(
    name: str,
    job: Job,
    work: Callable[[Job, BatchStream], None],
    batches: int,
    *,
    is_pulling: bool = False,
) -> None:
    """Time ``batches`` batches after two to warm up."""
    stream = BatchStream(job.reader, job.plan, job.recipe.stream, device=job.team.device)

    def rounds(count: int) -> None:
        for _ in range(count):
            if not is_pulling:
                next(stream)
            work(job, stream)
        if job.team.device.type == "cuda":
            torch.cuda.synchronize()

    rounds(2)
    scans = batches * job.plan.batch_size
    wall, cpu = time.perf_counter(), time.process_time()
    rounds(batches)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stream.close()
    print_row(name, wall, cpu, scans)


def print_row(name: str, wall_s: float, cpu_s: float, scans: int) -> None:
    per_scan = 1000 / scans
    print(f"{name:34} {wall_s * per_scan:13.2f} {cpu_s * per_scan:12.2f} {scans / wall_s:9.1f}")


def naive(root: Path, count: int) -> None:
    """The usual loader, per scan: files, element-wise label map, PNG, projection, augmentation."""
    sequence = sorted(path for path in (root / "sequences").iterdir() if path.name < "08")[0]
    calibration = dict(
        line.split(":", 1) for line in (sequence / "calib.txt").read_text().splitlines() if line
    )
    p2 = np.array(calibration["P2"].split(), float).reshape(3, 4)
    tr = np.vstack([np.array(calibration["Tr"].split(), float).reshape(3, 4), [0, 0, 0, 1]])
    known = {raw: raw % 20 for raw in range(300)}
    files = sorted((sequence / "velodyne").glob("*.bin"))
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        naive_scan(files[index % len(files)], image_from_lidar=p2 @ tr, known=known)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print_row("naive loader, one scan at a time", wall, cpu, count)


def naive_scan(
    file: Path, *, image_from_lidar: np.ndarray, known: dict[int, int]
) -> tuple[np.ndarray, ...]:
    chance = np.random.default_rng()
    points = np.fromfile(file, np.float32).reshape(-1, 4)
    raw = np.fromfile(str(file).replace("velodyne", "labels")[:-3] + "label", np.uint32)
    labels = np.vectorize(known.__getitem__)(raw & 0xFFFF)
    inside = (np.abs(points[:, :2]) < 50).all(1) & (points[:, 2] > -4) & (points[:, 2] < 2)
    points, labels = points[inside], labels[inside]
    image = np.asarray(Image.open(str(file).replace("velodyne", "image_2")[:-3] + "png"))
    ahead = points[:, 0] > 0
    homogeneous = np.column_stack([points[ahead, :3], np.ones(ahead.sum())])
    u, v, w = image_from_lidar @ homogeneous.T
    visible = (u / w > 0) & (u / w < image.shape[1]) & (v / w > 0) & (v / w < image.shape[0])
    angle = chance.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    points[:, :2] = points[:, :2] @ np.array([[c, s], [-s, c]])
    picture = (image.astype(np.float32) / 255 - 0.45) / 0.225
    cell = ((points[:, :3] - [-50, -50, -4]) / [0.1, 0.1, 0.1]).astype(np.int32)
    voxels, inverse = np.unique(cell, axis=0, return_inverse=True)
    return points, labels, picture, visible, voxels, inverse


if __name__ == "__main__":
    main()
