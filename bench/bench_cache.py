# ruff: noqa: E402  # BLAS reads its number of threads when NumPy is loaded
"""The cache's speed goals as ratios, side by side in one run.

    python -m bench.bench_cache [--root SEMANTICKITTI] [--scans 64] [--rounds 15] [--json out.json]

All contenders read the same scans in one process, round by round, each round in another order; a
figure is the median over rounds of the mean CPU time per scan (other work on the machine disturbs
it least; only "cold" and "loop" are wall time). All decode into memory that is used again. BLAS has
one thread: its idle threads spin for a while after a product, and that counts as CPU time of
whoever runs next. The few real scans of ``--root`` are listed again and again under new frame
numbers until there are ``--scans`` of them: the shards are written out in full, so that caches of
the CPU see as many different bytes as with real data.

"read and decode" is the floor: preadv and blosc of the same chunks and nothing else, written
straight down without types, checks or file names. Against "uncompressed" the selection is the same,
too: the very arrays that the reader decodes (a crop's strips, not whole pictures), one file per
field, preadv into memory that is used again. "uncompressed, whole pictures" is what a cache without
chunks would hold. "Cold" reads in a random order after the files have left the page cache.
"""

from __future__ import annotations

import os

for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")  # before NumPy is loaded

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.cache_contenders import (
    CROP_COLUMNS,
    Read,
    Uncompressed,
    plain_decode,
    plain_zarr,
    repeated,
    sample,
    source_files,
    usual_loader,
)
from pass2d.cache.keys import hash_file
from pass2d.cache.reader import CacheReader
from pass2d.cache.writing.encode import camera_arrays as encode_camera
from pass2d.cache.writing.encode import lidar_arrays as encode_lidar
from pass2d.cache.writing.encode import voxel_arrays as encode_voxel
from pass2d.cache.writing.shard import ArrayWriter
from pass2d.common.progress import Silent
from pass2d.pipeline import compose
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.source import ScanSource, SourceListing

SLOW = ("zarr-python", "usual loader (source files)", "our stages (source files)")
COLD_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One row of the table."""

    name: str
    bound: float
    ratio: float
    is_at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.ratio >= self.bound if self.is_at_least else self.ratio <= self.bound


def time_per_scan(
    read: Read, positions: np.ndarray, clock: Callable[[], float] = time.perf_counter
) -> float:
    started = clock()
    for position in positions:
        read(int(position))
    return (clock() - started) / len(positions)


def in_turn(contenders: dict[str, Read], *, n_scans: int, rounds: int) -> dict[str, float]:
    """Median milliseconds per scan of each, in one interleaved run."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    rng = np.random.default_rng(0)
    for round_number in range(rounds + 1):
        for name in rng.permutation(list(contenders)).tolist():
            positions = rng.permutation(n_scans)
            if name in SLOW:
                positions = positions[: max(4, n_scans // 8)]
            contenders[name](0)  # whoever ran before has left the CPU's caches full of other things
            took = time_per_scan(contenders[name], positions, time.process_time)
            if round_number:  # the first round opens files and warms up
                times[name].append(1e3 * took)
    return {name: statistics.median(values) for name, values in times.items()}


def drop_from_page_cache(paths: list[Path]) -> None:
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def cold_ms(contenders: dict[str, tuple[Read, list[Path]]], *, n_scans: int) -> dict[str, float]:
    """Median wall milliseconds per scan from the disk itself, in a random order."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    rng = np.random.default_rng(1)
    for _ in range(COLD_ROUNDS):
        order = rng.permutation(n_scans)
        for name, (read, paths) in contenders.items():
            drop_from_page_cache(paths)
            times[name].append(1e3 * time_per_scan(read, order))
    return {name: statistics.median(values) for name, values in times.items()}


def stages_alone(listing: SourceListing, folder: Path) -> float:
    """CPU seconds of every stage by itself, over all scans: no runner, no manifest."""
    started = time.process_time()
    records, pictures, hashes = [], [], []
    for scan in listing.scans:
        for path in _files(scan):
            hash_file(path)
        lidar = compose.lidar_record(scan, listing.info)
        compose.scan_counts(lidar, listing.info)
        records.append(lidar)
        pictures.append(compose.camera_views(scan, lidar, listing.info))
        hashes.append(compose.voxel_levels(lidar, grid=listing.info.grid))
    for first in range(0, len(records), 64):
        part = slice(first, first + 64)
        plans = [
            *encode_lidar(records[part], profile="speed")[0],
            *encode_camera(pictures[part], n_cameras=1, profile="speed"),
            *encode_voxel(hashes[part], profile="speed"),
        ]
        for plan in plans:
            ArrayWriter(folder / f"alone-{first}", plan.spec).write(plan.chunks)
    return time.process_time() - started


def _files(scan: ScanSource) -> list[Path]:
    return [path for path in (scan.points, scan.labels, *scan.images) if path is not None]


def stream_ratio(reader: CacheReader, rounds: int) -> float:
    """Wall time per scan of a loop over the stream (2 threads) / of the reader alone."""
    from pass2d.train.data.plan import StreamPlan
    from pass2d.train.data.sampling import AugmentConfig
    from pass2d.train.data.stream import BatchStream, StreamConfig

    plan = StreamPlan(
        positions=np.arange(len(reader.scans)),
        batch_size=8,
        seed=0,
        augment=AugmentConfig(crop_hw=(320, CROP_COLUMNS)),
        size_hw=(320, CROP_COLUMNS),
    )
    config = StreamConfig(threads=2)
    read, ratios = sample(reader), []
    for _ in range(rounds):
        alone = time_per_scan(read, np.arange(len(reader.scans)))
        stream = BatchStream(reader, plan, config)
        try:
            for _ in range(2 * config.prefetch + 4):  # every slot has been filled
                next(stream)
            n_batches = 4 * plan.batches_per_epoch
            started = time.perf_counter()
            for _ in range(n_batches):
                next(stream)
            loop = (time.perf_counter() - started) / (n_batches * plan.batch_size)
        finally:
            stream.close()
        ratios.append(loop / alone)
    return statistics.median(ratios)


def measure(
    root: Path, *, n_scans: int, rounds: int, folder: Path
) -> tuple[list[Goal], dict[str, float]]:
    listing = repeated(list_semkitti(root), n_scans)
    out = folder / "semkitti"
    config = PrepareConfig(workers=0)
    prepare(replace(listing, scans=listing.scans[:2]), folder / "warm", config, Silent())
    started = time.process_time()
    summary = prepare(listing, out, config, Silent())
    prepare_seconds = time.process_time() - started
    # The few files are listed again and again: each listing counts.
    source_bytes = sum(file.stat().st_size for scan in listing.scans for file in scan.files())
    alone_seconds = stages_alone(listing, folder)

    with CacheReader.open(out) as checked, CacheReader.open(out, check=False) as unchecked:
        strips = Uncompressed(checked, folder, is_strips=True)
        whole = Uncompressed(checked, folder, is_strips=False)
        ms = in_turn(
            {
                "read and decode": plain_decode(checked, is_complete=False),
                "the same, signal as float, crop joined": plain_decode(checked, is_complete=True),
                "reader without check": sample(unchecked),
                "reader": sample(checked),
                "uncompressed": strips,
                "uncompressed, whole pictures": whole,
                "zarr-python": plain_zarr(out, checked),
                "usual loader (source files)": usual_loader(listing),
                "our stages (source files)": source_files(listing),
            },
            n_scans=n_scans,
            rounds=rounds,
        )
        shards = [p for s in ("lidar", "camera") for p in (out / s).rglob("c/**/0") if p.is_file()]
        cold = cold_ms(
            {
                "reader, cold": (sample(checked), shards),
                "uncompressed, cold": (strips, strips.paths()),
                "uncompressed, whole pictures, cold": (whole, whole.paths()),
            },
            n_scans=n_scans,
        )
        stream = stream_ratio(checked, max(3, rounds // 3))
    reader, unchecked_ms = ms["reader"], ms["reader without check"]
    goals = [
        Goal(name="reader without check / read and decode", bound=1.10,
             ratio=unchecked_ms / ms["read and decode"]),
        Goal(name="with check / without", bound=1.15, ratio=reader / unchecked_ms),
        Goal(name="speed / uncompressed, warm", bound=2.0, ratio=reader / ms["uncompressed"]),
        Goal(name="speed / uncompressed, cold", bound=1.0,
             ratio=cold["reader, cold"] / cold["uncompressed, cold"]),
        Goal(name="plain zarr-python / reader", bound=8.0, ratio=ms["zarr-python"] / reader,
             is_at_least=True),
        Goal(name="usual loader from source files / reader", bound=20.0,
             ratio=ms["usual loader (source files)"] / reader, is_at_least=True),
        Goal(name="loop with stream / reader alone", bound=1.2, ratio=stream),
        Goal(name="bytes / source bytes", bound=1.0,
             ratio=summary.total_bytes / source_bytes),
        Goal(name="prepare, CPU / its stages alone", bound=1.25,
             ratio=prepare_seconds / alone_seconds),
    ]  # fmt: skip
    figures = {f"{name} (ms per scan)": value for name, value in {**ms, **cold}.items()}
    figures["prepare, CPU (ms per scan)"] = 1e3 * prepare_seconds / n_scans
    figures["bytes per scan"] = summary.total_bytes / n_scans
    return goals, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/real/semantickitti"))
    parser.add_argument("--scans", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pass2d-bench-") as folder:
        goals, figures = measure(
            options.root, n_scans=options.scans, rounds=options.rounds, folder=Path(folder)
        )
    print(f"{'goal':45} {'bound':>8} {'measured':>9}")
    for goal in goals:
        sign = ">=" if goal.is_at_least else "<="
        verdict = "" if goal.is_met else "   missed"
        print(f"{goal.name:45} {sign} {goal.bound:5.2f} {goal.ratio:9.2f}{verdict}")
    for name, value in figures.items():
        print(f"{name:50} {value:13.2f}")
    if options.json is not None:
        rows = {g.name: {"bound": g.bound, "ratio": g.ratio, "is_met": g.is_met} for g in goals}
        options.json.write_text(json.dumps({"goals": rows, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
