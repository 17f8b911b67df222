# ruff: noqa: E402  # BLAS reads its number of threads when NumPy is loaded
"""`prepare`: CPU per scan by stage, scaling over Ray workers, their memory, bytes through Ray.

    python -m bench.bench_prepare [--scans 256] [--workers 1 2 4] [--json out.json]

The scans are of real size (bench/many_scans.py: 120,000 points, 1241 x 376 pictures); a few are
written and listed again and again under new frame numbers, so that the files come from the page
cache and the shards are written out in full, 64 scans each. "Alone" is a stage's own work in this
process, without runner, commit records and manifest: hashing and reading files, computing, encoding
and writing the arrays. In `prepare` the stages camera and voxel also read the points back from the
shard that the stage lidar wrote: that is part of the price of tasks that can be redone one by one.
It is measured before and after the inline run; the mean counts.

Ray is started, and its workers have prepared a few scans, before the clock runs: starting takes a
few seconds whatever the number of scans. Efficiency: time of one worker / (time of n workers x n),
n at most the number of CPUs. A worker's memory is its high-water mark (VmHWM), once when a quarter
of the scans is done and once at the end. Bytes through the object store: all that was put there
during the run, as Ray counts it.
"""

from __future__ import annotations

import os

for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")  # as in Ray's workers

import argparse
import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.cache_contenders import repeated
from bench.many_scans import ManyScans, write_many
from pass2d.cache.fields import CONTAINERS
from pass2d.cache.keys import hash_file
from pass2d.cache.writing.encode import camera_arrays as encode_camera
from pass2d.cache.writing.encode import lidar_arrays as encode_lidar
from pass2d.cache.writing.encode import voxel_arrays as encode_voxel
from pass2d.cache.writing.shard import ArrayWriter
from pass2d.common.processes import usable_cores
from pass2d.common.progress import Silent
from pass2d.pipeline import compose
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.source import SourceListing

WRITTEN_SCANS = 24
SHARD_SCANS = 64


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of `prepare`."""

    workers: int
    seconds: float
    stage_ms: dict[str, float]
    """CPU per scan of each stage's tasks."""
    driver_ms: float
    """CPU per scan of this process (inline: without the stages)."""
    peak_bytes: tuple[int, ...] = ()
    """Per worker, at the end."""
    early_peak_bytes: tuple[int, ...] = ()
    """Per worker, when a quarter of the scans was done."""
    stored_objects: int = 0
    stored_bytes: int = 0
    """Put into Ray's object store during the run, by anyone."""


class Watch(Silent):
    """Looks at the workers' memory when a quarter of the scans is done."""

    def __init__(self, total: int) -> None:
        self.early: tuple[int, ...] = ()
        self._left = total // 4

    def advance(self, count: int = 1, *, nbytes: int = 0) -> None:
        self._left -= count
        if self._left <= 0 and not self.early:
            self.early = worker_peaks()


def stages_alone(listing: SourceListing, folder: Path) -> dict[str, float]:
    """CPU milliseconds per scan of every stage's own work."""
    spent = dict.fromkeys(CONTAINERS, 0.0)
    for first in range(0, len(listing.scans), SHARD_SCANS):
        scans = listing.scans[first : first + SHARD_SCANS]
        out = folder / f"alone-{first}"

        begin = time.process_time()
        records = []
        for scan in scans:
            hash_all(scan.points, scan.labels)
            records.append(compose.lidar_record(scan, listing.info))
            compose.scan_counts(records[-1], listing.info)
        write(encode_lidar(records, profile="speed")[0], out)
        spent["lidar"] += time.process_time() - begin

        begin = time.process_time()
        pictures = []
        for scan, record in zip(scans, records, strict=True):
            hash_all(*scan.images)
            pictures.append(compose.camera_views(scan, record, listing.info))
        write(encode_camera(pictures, n_cameras=1, profile="speed"), out)
        spent["camera"] += time.process_time() - begin

        begin = time.process_time()
        hashes = [compose.voxel_levels(record, grid=listing.info.grid) for record in records]
        write(encode_voxel(hashes, profile="speed"), out)
        spent["voxel"] += time.process_time() - begin
        shutil.rmtree(out)
    return {stage: 1e3 * seconds / len(listing.scans) for stage, seconds in spent.items()}


def hash_all(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            hash_file(path)


def write(plans: Any, folder: Path) -> None:
    for plan in plans:
        ArrayWriter(folder, plan.spec).write(plan.chunks)


def run(listing: SourceListing, folder: Path, workers: int) -> Run:
    """Prepare once with so many workers; 0: in this process."""
    config = PrepareConfig(workers=workers, shard_scans=SHARD_SCANS)
    if workers == 0:
        return _prepare(listing, folder, config)
    import ray

    # In this process, so that its object store can be asked; `prepare` joins it.
    ray.init(address="local", num_cpus=workers, include_dashboard=False)
    try:
        few = [replace(s, frame_index=64 * i) for i, s in enumerate(listing.scans[: 4 * workers])]
        warm_up = replace(listing, scans=tuple(few))
        prepare(warm_up, folder / "warm", replace(config, shard_scans=1), Silent())
        objects, nbytes = object_store(ray)
        result = _prepare(listing, folder, config)
        objects_after, nbytes_after = object_store(ray)
        return replace(
            result,
            peak_bytes=worker_peaks(),
            stored_objects=objects_after - objects,
            stored_bytes=nbytes_after - nbytes,
        )
    finally:
        ray.shutdown()


def _prepare(listing: SourceListing, folder: Path, config: PrepareConfig) -> Run:
    out = folder / "semkitti"
    watch = Watch(len(listing.scans))
    begin, cpu_begin = time.perf_counter(), time.process_time()
    summary = prepare(listing, out, config, watch)
    seconds, driver = time.perf_counter() - begin, time.process_time() - cpu_begin
    assert not summary.failed, summary.failed[0]
    shutil.rmtree(folder)
    count = len(listing.scans)
    stage_ms = {
        s.container: 1e3 * (s.compute + s.write) / count for s in summary.seconds_by_container
    }
    inline = sum(stage_ms.values()) if config.workers == 0 else 0.0
    return Run(
        workers=config.workers or 0,
        seconds=seconds,
        stage_ms=stage_ms,
        driver_ms=1e3 * driver / count - inline,
        early_peak_bytes=watch.early,
    )


def worker_peaks() -> tuple[int, ...]:
    """High-water mark in bytes of every Ray worker that this process has started, largest first."""
    parents, peaks = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "status").read_text()
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        pid = int(place.name)
        parents[pid] = int(re.search(r"PPid:\s+(\d+)", status)[1])
        if command.startswith(b"ray::") and (found := re.search(r"VmHWM:\s+(\d+) kB", status)):
            peaks[pid] = 1024 * int(found[1])
    ours = [peaks[pid] for pid in peaks if _descends(pid, parents)]
    return tuple(sorted(ours, reverse=True))


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def object_store(ray: Any) -> tuple[int, int]:
    """Objects and bytes that were put into Ray's object store so far."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    address = ray.get_runtime_context().gcs_address
    store = get_memory_info_reply(get_state_from_address(address)).store_stats
    return int(store.cumulative_created_objects), int(store.cumulative_created_bytes)


def report(alone: dict[str, float], runs: list[Run], count: int) -> tuple[list[str], dict]:
    """The tables as lines, and the figures."""
    cpus = usable_cores()
    lines = [
        f"{'CPU, ms per scan':24}" + "".join(f"{s:>9}" for s in CONTAINERS) + "   stages   driver"
    ]
    total = sum(alone.values())
    lines.append(f"{'stages alone':24}" + "".join(f"{alone[s]:9.2f}" for s in CONTAINERS)
                 + f"{total:9.2f}")  # fmt: skip
    for one in runs:
        name = f"prepare, {one.workers} workers" if one.workers else "prepare, inline"
        own = sum(one.stage_ms.values())
        cells = "".join(f"{one.stage_ms[s]:9.2f}" for s in CONTAINERS)
        ratio = (own + max(0.0, one.driver_ms)) / total
        lines.append(f"{name:24}{cells}{own:9.2f}{one.driver_ms:9.2f}   all / alone {ratio:.2f}")
    first = next((one for one in runs if one.workers == 1), None)
    lines.append("")
    lines.append(
        f"{'':24}{'seconds':>9}{'scans/s':>9}{'efficiency':>11}  worker peak MB (1/4 done)"
    )
    figures: dict[str, Any] = {"cpus": cpus, "scans": count, "alone_ms": alone, "runs": []}
    for one in runs:
        n = min(one.workers, cpus)
        efficiency = first.seconds / (one.seconds * n) if first and n else None
        peaks = ", ".join(
            f"{late / 1e6:.0f} ({early / 1e6:.0f})"
            for late, early in zip(one.peak_bytes, one.early_peak_bytes, strict=False)
        )
        name = f"prepare, {one.workers} workers" if one.workers else "prepare, inline"
        shown = "" if efficiency is None else f"{efficiency:.2f}"
        rate = count / one.seconds
        lines.append(f"{name:24}{one.seconds:9.2f}{rate:9.1f}{shown:>11}  {peaks}")
        figures["runs"].append({**vars(one), "efficiency": efficiency})
    lines.append("")
    stored = ", ".join(
        f"{one.stored_bytes:,} bytes in {one.stored_objects} objects" for one in runs if one.workers
    )
    lines.append(f"{cpus} CPUs. Through Ray's object store: {stored}")
    return lines, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pass2d-bench-") as name:
        folder = Path(name)
        many = ManyScans(scans=WRITTEN_SCANS, points=120_000, image_hw=(376, 1241))
        write_many(folder / "raw", many)
        listing = repeated(list_semkitti(folder / "raw"), options.scans)
        one_shard = replace(listing, scans=listing.scans[:SHARD_SCANS])
        stages_alone(replace(listing, scans=listing.scans[:2]), folder / "first")  # imports, pages
        before = stages_alone(one_shard, folder / "alone")
        runs = [run(listing, folder / "out", 0)]
        after = stages_alone(one_shard, folder / "alone")
        alone = {stage: (before[stage] + after[stage]) / 2 for stage in CONTAINERS}
        runs += [run(listing, folder / "out", n) for n in options.workers]
    lines, figures = report(alone, runs, options.scans)
    print("\n".join(lines))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
