"""What several scans together cost: reading a sample of 1, 3, 5 and 10 scans.

    python -m bench.bench_stacks [--rounds 9]

Copies of one full-size scan with the poses of a straight drive, all points or those in the volume.
Figures are CPU time per sample in one process, least and median of the rounds: in training every
scan of a stack is read, into memory that is used again, as the stream does; one after the other, as
in evaluation, neighbours share what was read. No batch is laid together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.sample_root import sample_root
from bench.timing import spent_ms
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.common.memory import keep_freed_memory
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
from pass2d.train.data.scan import LoadedScan
from pass2d.train.stacks.cached import CachedPast
from pass2d.train.stacks.config import StackConfig

SCANS = (1, 3, 5, 10)
FRAMES = 14


def make_drive(root: Path, source: Path) -> None:
    """Copies of a real scan along a straight road."""
    folder = root / "sequences/00"
    for name, suffix in (("velodyne", "bin"), ("labels", "label")):
        (folder / name).mkdir(parents=True)
        data = (source / name / f"000000.{suffix}").read_bytes()
        for frame in range(FRAMES):
            (folder / name / f"{frame:06d}.{suffix}").write_bytes(data)
    (folder / "calib.txt").write_bytes((source / "calib.txt").read_bytes())
    lines = (f"1 0 0 0 0 1 0 0 0 0 1 {frame}\n" for frame in range(FRAMES))
    (folder / "poses.txt").write_text("".join(lines))


class Measured(NamedTuple):
    """CPU ms per sample."""

    least: float
    median: float


def measured_ms(work: Callable[[], object], rounds: int) -> Measured:
    work()
    times = [spent_ms(work) for _ in range(rounds)]
    return Measured(min(times), statistics.median(times))


def measure(
    cache: Path, *, n_scans: int, rounds: int, with_outside: bool
) -> tuple[Measured, Measured]:
    """Per sample of training, and per sample in a row; the current scan included."""
    stack = StackConfig(past=n_scans - 1, time="lag")
    plan = StreamPlan(
        positions=np.arange(FRAMES),
        batch_size=1,
        seed=0,
        augment=AugmentConfig(mode="none"),
        size_hw=None,
        with_outside=with_outside,
        stack=stack,
    )
    with CacheReader.open(cache) as reader:
        alone = plan if n_scans == 1 else StreamPlan(**{**vars(plan), "stack": StackConfig()})
        arena = Arena()

        def load(which: StreamPlan) -> LoadedScan:
            arena.restart()
            return load_scan(reader, which, FRAMES - 1, epoch=0, allocate=arena)

        drawn = measured_ms(lambda: load(plan), rounds)
        single = measured_ms(lambda: load(alone), rounds)
        xyz = load(alone).xyz
        past = CachedPast(reader, stack, volume=None if with_outside else reader.info.grid)
        in_row = measured_ms(lambda: past.points(FRAMES - 1, xyz), rounds)
    return drawn, Measured(single.least + in_row.least, single.median + in_row.median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()  # as the stream does
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "raw"
        make_drive(root, sample_root(Path(scratch)) / "sequences/00")
        cache = Path(scratch) / "semkitti"
        prepare(list_semkitti(root), cache, PrepareConfig(workers=0), Silent())
        write = sys.stdout.write
        write(
            "| scans | points | training, ms (median) | per past scan | in a row, ms (median) |\n"
        )
        for with_outside in (True, False):
            single = 0.0
            for n_scans in SCANS:
                drawn, in_row = measure(
                    cache, n_scans=n_scans, rounds=options.rounds, with_outside=with_outside
                )
                single = single or drawn.least
                past = (drawn.least - single) / max(n_scans - 1, 1)
                points = "all" if with_outside else "of the volume"
                write(f"| {n_scans} | {points} | {drawn.least:.1f} ({drawn.median:.1f}) ")
                write(f"| {past:.1f} | {in_row.least:.1f} ({in_row.median:.1f}) |\n")


if __name__ == "__main__":
    main()
