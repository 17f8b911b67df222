"""CPU time per training sample: the usual loader, our stream, augmentation, voxels, the network.

    python -m bench.bench_loop [--root SEMANTICKITTI] [--samples 12] [--rounds 5] [--network NAME]

All contenders take the same full-size scans with pictures in turn, round by round, in one process;
a figure is the median over rounds of CPU time (all threads of the process) per sample. Without
--root the real scans in ../shared are taken when they are there, else scans of the synthetic world
(preset full). The files are in the page cache for both sides. On our side the parts are counted
separately, as they run on different devices in earnest: "stream" is what the reading threads do;
"augment" and "voxels" run on the training device, here the CPU, one thread. The usual loader gives
what "stream + augment" gives; its voxels are torch's unique over rows, for the five scales.

    python -m bench.bench_loop --mixes [--rounds 9]

What each mix adds to the stream's part, partners included: least and median over the rounds of the
difference to plain augmentation in the same round. Instance CutMix gets a bank of made-up things.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.bench_cache import repeated
from bench.naive_loader import Files, NaiveLoader, voxelized
from pass2d.cache.clouds.instance_bank import InstanceBank
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.models.inputs import PointBatch
from pass2d.models.twodpass.encoder3d import network_scales
from pass2d.models.twodpass.hierarchy import build_levels
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.source import SourceListing
from pass2d.synth.config import preset
from pass2d.synth.generate import generate
from pass2d.train.data.batch import point_batch
from pass2d.train.data.mixes import MIXES
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.recipes.recipe import load_recipe
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.state import RunState, fresh_state
from pass2d.train.run.step import optimizer_step

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real" / "semantickitti"
CPU = torch.device("cpu")
MODES = {
    "none": ("augment.mode=none",),
    "lattice": ("augment.mode=lattice",),
    "full": ("augment.mode=full",),
    "full+mix": ("augment.mode=full", "augment.mixes=[{instance-copy=1}]"),
    **{
        f"full+{name}": ("augment.mode=full", f"augment.mixes=[{{{name}=1}}]")
        for name in MIXES
        if name != "instance-copy"
    },
}
Measured = dict[str, list[tuple[float, float]]]
"""Row -> (CPU, wall) seconds per sample, one per round."""


class Ours:
    """Our side in one mode."""

    def __init__(self, reader: CacheReader, mode: str, recipe: str) -> None:
        # Mixes of a batch need two scans; what is measured is divided by them.
        pairs = any(MIXES[name].partner == "batch" and name in mode for name in MIXES)
        common = (f"batch_size={1 + pairs}", "stream.threads=1", "stream.prefetch=1", "device=cpu")
        settings = load_recipe(recipe, [*common, *MODES[mode]])
        self.batch_size = settings.batch_size
        job = assemble(reader, settings, ProcessGroup(device=CPU), Silent())
        if job.plan.bank is not None and not job.plan.bank.n:
            job = replace(job, plan=replace(job.plan, bank=made_up_bank(reader)))
        self.job: Job = job
        self.job.network.train()
        self.stream = self.new_stream()
        self.state: RunState | None = None

    def new_stream(self) -> BatchStream:
        return BatchStream(self.job.reader, self.job.plan, self.job.recipe.stream, device=CPU)

    def settle(self) -> None:
        """Wait for all reads ahead: between two settled moments as many scans are read as given."""
        for _, _, future in self.stream._pending:
            future.result()

    def take(self) -> None:
        next(self.stream)

    def augment(self) -> PointBatch:
        next(self.stream)
        assert self.stream.last is not None
        return point_batch(
            self.stream.last,
            config=self.job.plan.augment,
            grid=self.job.reader.info.grid,
            device=CPU,
        )

    def voxelize(self) -> None:
        """All five scales: what the usual code's voxels are."""
        network, batch = self.job.network, self.augment()
        scales = network_scales(network.config)
        build_levels(
            batch.points, batch.offsets, grid=network.grid, scales=scales, voxels=batch.voxels
        )

    def prepare(self) -> None:
        """Also the labels of voxels and the links between scales, which the losses need."""
        self.job.network.prepare(self.augment())

    def step(self) -> None:
        """A whole optimizer step of one scan."""
        if self.state is None:
            self.state = fresh_state(self.job)
        self.state.cursor = 0
        optimizer_step(self.job, self.state, self.stream)


def made_up_bank(reader: CacheReader) -> InstanceBank:
    """200 things of 20 to 300 points of each class that is pasted: few real scans have any."""
    rng, classes = np.random.default_rng(0), reader.info.facts.pasted
    sizes = rng.integers(20, 301, 200 * len(classes))
    n = int(sizes.sum())
    return InstanceBank(
        position=np.zeros(len(sizes), np.int32),
        class_id=np.repeat(np.array(classes, np.uint8), 200),
        offsets=np.cumsum([0, *sizes]),
        rows=np.zeros(n, np.int32),
        xyz=rng.uniform((-1, -1, 0), (1, 1, 2), (n, 3)).T.astype(np.float32),
        signal=rng.uniform(0, 1, n).astype(np.float32),
    )


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        listing = source(options.root, Path(folder), options.scans)
        cache_root = Path(folder) / "cache"
        prepare(listing, cache_root / "semkitti", PrepareConfig(workers=0), Silent())
        with CacheReader.open(cache_root) as reader:
            if options.mixes:
                print_mixes(measure_mixes(reader, options))
                return
            measured = measure(reader, listing, options)
    table = rows(measured)
    print_table(table, listing)
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="raw SemanticKITTI folder")
    parser.add_argument("--scans", type=int, default=12, help="the few there are, again and again")
    parser.add_argument("--samples", type=int, default=8, help="per round and contender")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", default="2dpass-small", help="recipe; 'none' for no steps")
    parser.add_argument("--mixes", action="store_true", help="only what each mix adds")
    parser.add_argument("--json", type=Path, help="also write the table as JSON")
    return parser.parse_args()


def source(root: Path | None, folder: Path, count: int) -> SourceListing:
    """Full-size scans with labels and pictures."""
    if root is None and SHARED.is_dir():
        root = SHARED
    if root is None:
        root = folder / "raw"
        generate(root, preset("full", sequences=("00",), scans=4), Silent())
    return repeated(list_semkitti(root), count)


def naive_side(listing: SourceListing, reader: CacheReader) -> dict[str, NaiveLoader]:
    scans = tuple(
        Files(
            points=Path(str(scan.points)),
            labels=Path(str(scan.labels)),
            image=Path(str(scan.images[0])),
            image_from_lidar=np.reshape(scan.image_from_lidar[0], (3, 4)),
        )
        for scan in listing.scans
    )
    known = dict(reader.info.labels.raw_to_training)
    return {
        "none": NaiveLoader(scans=scans, learning_map=known, mode="none"),
        "full": NaiveLoader(scans=scans, learning_map=known),
        "full, labels by table": NaiveLoader(scans=scans, learning_map=known, map_by_table=True),
        "full+mix": NaiveLoader(scans=scans, learning_map=known, mix=True),
    }


def measure(reader: CacheReader, listing: SourceListing, options: argparse.Namespace) -> Measured:
    measured: Measured = {}
    rng = np.random.default_rng(0)
    loaders = naive_side(listing, reader)
    recipe = "2dpass-small" if options.network == "none" else options.network
    sides = {mode: Ours(reader, mode, recipe) for mode in MODES}
    for number in range(options.rounds + 1):
        kept: Measured = {} if number == 0 else measured  # the first round warms up
        for name, loader in loaders.items():
            samples = iter(range(10**9))
            timed(kept, f"usual loader, {name}", options.samples, plain(loader, samples, rng))
        points = loaders["full"].sample(0, rng)["points"]
        timed(kept, "usual voxels, 5 scales", 1, lambda points=points: voxelized(points))
        for mode, side in sides.items():
            for part, work in (
                ("stream", side.take),
                ("stream + augment", side.augment),
                ("stream + augment + voxels", side.voxelize),
                ("all that precedes the network", side.prepare),
            ):
                samples = options.samples // side.batch_size
                timed(
                    kept, f"{part}, {mode}", samples, work, side.settle, batch_size=side.batch_size
                )
            is_due = options.network != "none" and number <= 2
            if is_due:
                timed(
                    kept,
                    f"whole loop, {mode}",
                    1,
                    side.step,
                    side.settle,
                    batch_size=side.batch_size,
                )
    for side in sides.values():
        side.stream.close()
    return measured


def measure_mixes(reader: CacheReader, options: argparse.Namespace) -> Measured:
    """The stream's part of each mode with free augmentation."""
    modes = [mode for mode in MODES if mode.startswith("full")]
    measured: Measured = {}
    sides = {mode: Ours(reader, mode, "2dpass-small") for mode in modes}
    for number in range(options.rounds + 2):
        kept: Measured = {} if number < 2 else measured  # memory grows to what is needed
        for mode, side in sides.items():
            samples = options.samples // side.batch_size
            timed(kept, mode, samples, side.take, side.settle, batch_size=side.batch_size)
        places = itertools.cycle(range(len(reader.scans)))
        timed(kept, "one read", options.samples, lambda p=places: read_partner(reader, next(p)))
    for side in sides.values():
        side.stream.close()
    return measured


def read_partner(reader: CacheReader, position: int) -> None:
    """What a mix reads of another scan."""
    reader.read(position, Fields(label=True))


def print_mixes(measured: Measured) -> None:
    base = [1e3 * cpu for cpu, _ in measured["full"]]
    for name in ("full", "one read"):
        own = [1e3 * cpu for cpu, _ in measured.pop(name)]
        print(f"{name}: least {min(own):.1f}, median {statistics.median(own):.1f} ms per sample")
    for mode, pairs in measured.items():
        added = [1e3 * cpu - plain for (cpu, _), plain in zip(pairs, base, strict=True)]
        least = 1e3 * min(cpu for cpu, _ in pairs) - min(base)
        print(f"{mode:24} adds {statistics.median(added):5.1f}; least to least {least:5.1f}")


def plain(
    loader: NaiveLoader, samples: Any, rng: np.random.Generator
) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: loader.sample(next(samples), rng)


def timed(
    measured: Measured,
    name: str,
    count: int,
    work: Callable[[], object],
    settle: Callable[[], None] = lambda: None,
    *,
    batch_size: int = 1,
) -> None:
    """CPU and wall seconds per scan of ``work``, reads that it starts ahead included."""
    settle()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        work()
    wall = time.perf_counter() - wall
    settle()
    cpu = time.process_time() - cpu
    count *= batch_size
    measured.setdefault(name, []).append((cpu / count, wall / count))


def rows(measured: Measured) -> list[dict[str, Any]]:
    """Medians, and for each row of ours what the usual code takes for the same result."""
    cpu = {name: statistics.median(c for c, _ in pairs) for name, pairs in measured.items()}
    wall = {name: statistics.median(w for _, w in pairs) for name, pairs in measured.items()}
    table = []
    for name in measured:
        part, _, mode = name.partition(", ")
        usual = cpu.get(f"usual loader, {'full' if mode == 'lattice' else mode}")
        ratio = None
        if part.startswith("stream") and usual is not None:
            usual += cpu["usual voxels, 5 scales"] if part.endswith("voxels") else 0.0
            ratio = usual / cpu[name]
        table.append(
            {
                "what": name,
                "cpu_ms": 1000 * cpu[name],
                "wall_ms": 1000 * wall[name],
                "scans_per_s_per_core": 1 / cpu[name],
                "usual_over_ours": ratio,
            }
        )
    return table


def print_table(table: list[dict[str, Any]], listing: SourceListing) -> None:
    print(f"scans: {listing.scans[0].points} and others; torch {torch.__version__}, one thread")
    print(f"{'per sample':42} {'CPU ms':>9} {'wall ms':>9} {'scans/s/core':>13} {'usual/ours':>11}")
    for row in table:
        ratio = "" if row["usual_over_ours"] is None else f"{row['usual_over_ours']:.1f}"
        print(
            f"{row['what']:42} {row['cpu_ms']:9.2f} {row['wall_ms']:9.2f} "
            f"{row['scans_per_s_per_core']:13.1f} {ratio:>11}"
        )


if __name__ == "__main__":
    main()
