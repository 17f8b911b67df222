"""What several scans together cost: reading a sample of 1, 3, 5 and 10 scans.

    python -m bench.bench_stacks [--rounds 9]

Copies of one full-size scan with the poses of a straight drive. Figures are medians of CPU time per
sample in one process: in training every scan of a stack is read; one after the other, as in
evaluation, neighbours share what was read.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.sample_root import sample_root
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.data.load import load_scan
from pass2d.train.data.plan import StreamPlan
from pass2d.train.data.sampling import AugmentConfig
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


def median_ms(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - started))
    return statistics.median(times[1:])


def measure(cache: Path, *, n_scans: int, rounds: int) -> tuple[float, float]:
    """(ms per sample of training, ms per sample in a row); the current scan included."""
    stack = StackConfig(past=n_scans - 1, time="lag")
    plan = StreamPlan(
        positions=np.arange(FRAMES),
        batch_size=1,
        seed=0,
        augment=AugmentConfig(mode="none"),
        size_hw=None,
        with_outside=True,
        stack=stack,
    )
    with CacheReader.open(cache) as reader:
        alone = plan if n_scans == 1 else StreamPlan(**{**vars(plan), "stack": StackConfig()})
        drawn = median_ms(lambda: load_scan(reader, plan, FRAMES - 1, epoch=0), rounds)
        single = median_ms(lambda: load_scan(reader, alone, FRAMES - 1, epoch=0), rounds)
        xyz = load_scan(reader, alone, FRAMES - 1, epoch=0).xyz
        past = CachedPast(reader, stack, volume=None)
        in_row = median_ms(lambda: past.points(FRAMES - 1, xyz), rounds)
    return drawn, single + in_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "raw"
        make_drive(root, sample_root(Path(scratch)) / "sequences/00")
        cache = Path(scratch) / "semkitti"
        prepare(list_semkitti(root), cache, PrepareConfig(workers=0), Silent())
        write = sys.stdout.write
        write("| scans | ms per sample, training | per scan | ms per sample, in a row |\n")
        for n_scans in SCANS:
            drawn, in_row = measure(cache, n_scans=n_scans, rounds=options.rounds)
            write(f"| {n_scans} | {drawn:.1f} | {drawn / n_scans:.1f} | {in_row:.1f} |\n")


if __name__ == "__main__":
    main()
