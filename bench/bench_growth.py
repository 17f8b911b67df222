"""How time, memory and files grow with the number of scans, and what would break first.

    python -m bench.bench_growth [--sizes 100 1000 10000] [--full 16] [--json out.json]

Every size is generated (bench/many_scans.py), prepared, prepared again without a change, opened and
read, each in a process of its own, whose peak memory is the operating system's figure. Scans are
small (2,000 points), so that what grows with their number is not hidden behind the work per point,
but their manifest rows are as large as real ones. ``--full`` scans of real size (120,000 points,
1241 x 376) give the time and bytes of a real scan. From both, lines are drawn to all of
SemanticKITTI (43,552 scans) and to a hundred times that. A second manifest of 43,552 rows
(tests/large_manifest.py) checks the first line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.many_scans import ManyScans, write_many
from pass2d.cache.fields import Fields
from pass2d.cache.layout import _BLOCKS
from pass2d.cache.reader import CacheReader
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare

PROJECT = Path(__file__).resolve().parents[1]
SEMANTICKITTI = 43_552
READS = 300
CONFIG = PrepareConfig(workers=0)
DRIVER_BYTES = 16 << 30
"""Memory of a small training machine."""
PATIENCE_S = 60.0
"""How long a person waits for a command that changes nothing."""
Figures = dict[str, float]


def rss_bytes() -> int:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prepare_once(folder: Path) -> Figures:
    """A first run: CPU seconds, peak memory, bytes and files of the cache."""
    started, wall = time.process_time(), time.perf_counter()
    listing = list_semkitti(folder / "raw")
    listed = time.process_time() - started
    summary = prepare(listing, folder / "cache" / "semkitti", CONFIG, Silent())
    files = sum(len(names) for _, _, names in os.walk(folder / "cache"))
    return {
        "cpu_s": time.process_time() - started,
        "wall_s": time.perf_counter() - wall,
        "list_s": listed,
        "peak_bytes": peak_bytes(),
        "cache_bytes": summary.total_bytes,
        "files": files,
        "manifest_bytes": sum(
            path.stat().st_size for path in (folder / "cache").rglob("*.parquet")
        ),
    }


def prepare_again(folder: Path) -> Figures:
    """A run that finds nothing to do."""
    started = time.process_time()
    listing = list_semkitti(folder / "raw")
    summary = prepare(listing, folder / "cache" / "semkitti", CONFIG, Silent())
    if summary.written_shards:
        raise RuntimeError(f"{summary.written_shards} shards written, expected none")
    return {"cpu_s": time.process_time() - started, "peak_bytes": peak_bytes()}


def open_and_read(folder: Path) -> Figures:
    """Manifest load and random reads, one thread; memory before and after."""
    before, started = rss_bytes(), time.process_time()
    fields = Fields(label=True, image=True, pixels=True)
    with CacheReader.open(folder / "cache") as reader:
        opened, opened_bytes = time.process_time() - started, rss_bytes() - before
        positions = np.random.default_rng(0).integers(0, len(reader.scans), READS)
        for position in positions[:50].tolist():
            reader.read(position, fields)
        started = time.process_time()
        for position in positions.tolist():
            reader.read(position, fields)
        read = (time.process_time() - started) / READS
    return {"open_s": opened, "open_bytes": opened_bytes, "read_s": read}


def make_large(folder: Path) -> Figures:
    """Write the manifest of all of SemanticKITTI: rows of real size, no data."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from large_manifest import many_scans, publish_many

    from pass2d.pipeline.datasets.semkitti import semkitti_table

    counts = {f"{i:02d}": 1980 for i in range(22)}
    counts["21"] += SEMANTICKITTI - sum(counts.values())
    listing = many_scans(folder / "raw", semkitti_table().info, sequences=counts)
    publish_many(listing, folder / "cache" / "semkitti")
    return {}


def open_only(folder: Path) -> Figures:
    before, started = rss_bytes(), time.process_time()
    with CacheReader.open(folder / "cache") as reader:
        return {
            "open_s": time.process_time() - started,
            "open_bytes": rss_bytes() - before,
            "scans": len(reader.scans),
        }


STEPS: dict[str, Callable[[Path], Figures]] = {
    "prepare": prepare_once,
    "again": prepare_again,
    "read": open_and_read,
    "make-large": make_large,
    "open": open_only,
}


def step(name: str, folder: Path) -> Figures:
    """Run a step in a process of its own."""
    command = [sys.executable, "-m", "bench.bench_growth", "--step", name, "--folder", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(config: ManyScans, folder: Path) -> dict[str, Figures]:
    write_many(folder / "raw", config)
    return {name: step(name, folder) for name in ("prepare", "again", "read")}


def line(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """Offset and slope through the two largest sizes: small ones are mostly start-up."""
    (a, b), (u, v) = sizes[-2:], values[-2:]
    slope = max(0.0, (v - u) / (b - a))
    return max(0.0, v - slope * b), slope


def project(
    by_size: dict[int, dict[str, Figures]], full: dict[str, Figures], n_full: int
) -> dict[str, dict[int, float]]:
    """Figures at all of SemanticKITTI and at 100 times that."""
    sizes = sorted(by_size)

    def at(name: str, key: str, count: int) -> float:
        offset, slope = line(sizes, [by_size[size][name][key] for size in sizes])
        return offset + slope * count

    rows: dict[str, dict[int, float]] = {}
    for count in (SEMANTICKITTI, 100 * SEMANTICKITTI):
        figures = {
            "prepare, CPU hours": full["prepare"]["cpu_s"] / n_full * count / 3600,
            "cache, GB": full["prepare"]["cache_bytes"] / n_full * count / 1e9,
            "files": at("prepare", "files", count),
            "manifest, MB": at("prepare", "manifest_bytes", count) / 1e6,
            "run without changes, CPU s": at("again", "cpu_s", count),
            "driver's peak memory, GB": max(
                at("prepare", "peak_bytes", count), at("again", "peak_bytes", count)
            )
            / 1e9,
            "open the cache, CPU s": at("read", "open_s", count),
            "open cache in memory, GB": at("read", "open_bytes", count) / 1e9,
        }
        for name, value in figures.items():
            rows.setdefault(name, {})[count] = value
    return rows


def limits(by_size: dict[int, dict[str, Figures]]) -> list[tuple[float, str]]:
    """Number of scans at which something gives way, smallest first."""
    sizes = sorted(by_size)

    def reach(name: str, key: str, bound: float) -> float:
        offset, slope = line(sizes, [by_size[size][name][key] for size in sizes])
        return (bound - offset) / slope if slope else float("inf")

    return sorted(
        [
            (
                _BLOCKS * 64,
                "scans in ONE sequence: shard numbers leave room for 1,000 shards of 64",
            ),
            (reach("again", "cpu_s", PATIENCE_S), "a run without changes takes a minute"),
            (reach("read", "open_s", PATIENCE_S), "opening the cache takes a minute"),
            (reach("prepare", "peak_bytes", DRIVER_BYTES), "prepare's driver needs 16 GiB"),
            (reach("again", "peak_bytes", DRIVER_BYTES), "a run without changes needs 16 GiB"),
            (reach("read", "open_bytes", DRIVER_BYTES), "each training process needs 16 GiB"),
        ]
    )


def report(
    by_size: dict[int, dict[str, Figures]], projection: dict[str, dict[int, float]], large: Figures
) -> None:
    print(
        f"{'scans':>7} {'prepare':>13} {'its peak':>9} {'unchanged':>13} {'its peak':>9} "
        f"{'open':>9} {'open':>8} {'read':>9}"
    )
    print(
        f"{'':7} {'CPU ms/scan':>13} {'MiB':>9} {'CPU ms/scan':>13} {'MiB':>9} {'CPU s':>9} "
        f"{'MiB':>8} {'CPU ms':>9}"
    )
    for size, found in by_size.items():
        first, again, read = found["prepare"], found["again"], found["read"]
        print(
            f"{size:7,} {1e3 * first['cpu_s'] / size:13.2f} {first['peak_bytes'] / 2**20:9.0f} "
            f"{1e3 * again['cpu_s'] / size:13.3f} {again['peak_bytes'] / 2**20:9.0f} "
            f"{read['open_s']:9.2f} {read['open_bytes'] / 2**20:8.0f} {1e3 * read['read_s']:9.2f}"
        )
    print(
        f"\nmanifest of {large['scans']:,} scans, loaded: {large['open_s']:.2f} CPU s, "
        f"{large['open_bytes'] / 2**20:.0f} MiB"
    )
    print(f"\n{'projection':32} {SEMANTICKITTI:>14,} {100 * SEMANTICKITTI:>14,} scans")
    for name, values in projection.items():
        print(f"{name:32} " + " ".join(f"{value:14,.1f}" for value in values.values()))
    print("\nwhat gives way, in order:")
    for count, what in limits(by_size):
        print(f"{count:14,.0f} {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--full", type=int, default=16, help="scans of real size")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step is not None:
        print(json.dumps(STEPS[options.step](options.folder)))
        return
    by_size = {}
    for size in sorted(options.sizes):
        with tempfile.TemporaryDirectory(prefix="pass2d-growth-") as folder:
            by_size[size] = measure(ManyScans(scans=size), Path(folder))
    with tempfile.TemporaryDirectory(prefix="pass2d-growth-") as folder:
        config = ManyScans(scans=options.full, points=120_000, image_hw=(376, 1241))
        full = measure(config, Path(folder))
    with tempfile.TemporaryDirectory(prefix="pass2d-growth-") as folder:
        step("make-large", Path(folder))
        large = step("open", Path(folder))
    projection = project(by_size, full, options.full)
    report(by_size, projection, large)
    if options.json is not None:
        figures = {"sizes": by_size, "full": full, "large": large, "projection": projection}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
