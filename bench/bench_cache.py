"""The cache's speed goals as ratios, side by side in one run.

    PYTHONPATH=. .venv/bin/python bench/bench_cache.py [--root SEMANTICKITTI] [--json out.json]

All contenders read the same scans, one after the other, round by round in turn, in one process; a
figure is the median over rounds of the mean CPU time per scan (other work on the machine disturbs
it least; only "cold" and "loop" are wall time). All decode into memory that is used again. The few
real scans of ``--root`` are listed again and again under new frame numbers until there are
``--scans`` of them: the shards are written out in full, so that caches of the CPU see as many
different bytes as with real data.

"read and decode" is the floor: preadv and blosc of the same chunks, the signal as float32 and the
strips side by side as one crop, written straight down without types, checks or file names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cache.arena import Arena
from cache.codec import CRC_BYTES, decode_into
from cache.encode import camera_arrays as encode_camera
from cache.encode import lidar_arrays as encode_lidar
from cache.encode import voxel_arrays as encode_voxel
from cache.fields import FIELDS
from cache.keys import hash_file
from cache.progress import Silent
from cache.reader import CacheReader, Fields
from cache.shard import ArrayWriter
from pipeline import compose
from pipeline.datasets.semkitti import list_semkitti
from pipeline.prepare import PrepareConfig, prepare
from pipeline.source import ScanSource, SourceListing

TRAINING = Fields(label=True, image=True, pixels=True)
CROP_COLUMNS = 480
TRAINING_ARRAYS = ("xyz", "intensity", "label", "raw_index", "image", "point_index", "pixel")


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


def repeated(listing: SourceListing, count: int) -> SourceListing:
    """Scans with pictures, listed again under new frame numbers until there are ``count``."""
    usable = [s for s in listing.scans if s.image_from_lidar and s.labels and any(s.images)]
    scans = [
        replace(usable[i % len(usable)], frame_index=i, scan_id=f"00/{i:06d}", sequence="00")
        for i in range(count)
    ]
    return replace(listing, scans=tuple(scans), notes=())


class Chunks:
    """The chunks of a training sample: what every reader must read and decode at least."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader

    def of(self, position: int) -> list[tuple[str, int, int, tuple[int, ...], np.dtype]]:
        """(path, offset, length, shape, dtype) of each chunk."""
        found = []
        shard = int(self._reader.scans.shard[position])
        for name in TRAINING_ARRAYS:
            array = self._reader._shards.get(FIELDS[name].stage, shard).arrays[name]
            refs = self._reader._chunks[name].spans(position)
            if name == "image":
                start, stop = crop(self._reader, position)
                refs = refs[start // 128 : -(-stop // 128)]
            found += [(array.path, r.offset, r.length, array.chunk[1:], array.dtype) for r in refs]
        return found


def crop(reader: CacheReader, position: int) -> tuple[int, int]:
    """A window of 480 columns that moves from scan to scan."""
    width = int(reader.scans.image_hw[position, 1])
    start = (position * 97) % (width - CROP_COLUMNS)
    return start, start + CROP_COLUMNS


def time_per_scan(
    read: Callable[[int], object],
    positions: np.ndarray,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    started = clock()
    for position in positions:
        read(int(position))
    return (clock() - started) / len(positions)


def in_turn(
    contenders: dict[str, Callable[[int], object]], *, n_scans: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds per scan of each, in one interleaved run."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    rng = np.random.default_rng(0)
    for round_number in range(rounds + 1):
        for name, read in contenders.items():
            positions = rng.permutation(n_scans)
            if "zarr" in name or "source" in name:
                positions = positions[: max(4, n_scans // 8)]  # the slow ones
            took = time_per_scan(read, positions, time.process_time)
            if round_number:  # the first round opens files and warms up
                times[name].append(1e3 * took)
    return {name: statistics.median(values) for name, values in times.items()}


def plain_decode(chunks: Chunks, reader: CacheReader) -> Callable[[int], object]:
    """preadv and decompress, nothing else: the floor."""
    files: dict[str, int] = {}
    packed = np.empty(1 << 23, np.uint8)
    arena = Arena()
    n_scans = len(reader.scans)
    wanted = [chunks.of(position) for position in range(n_scans)]
    crops = [crop(reader, position) for position in range(n_scans)]
    heights = reader.scans.image_hw[:, 0].tolist()

    def read(position: int) -> None:
        arena.restart()
        start, stop = crops[position]
        picture = arena((heights[position], CROP_COLUMNS, 3), np.dtype(np.uint8))
        left = start - start % 128
        for path, offset, length, shape, dtype in wanted[position]:
            if path not in files:
                files[path] = os.open(path, os.O_RDONLY)
            os.preadv(files[path], [packed[:length].data], offset)
            out = arena(shape, dtype)
            decode_into(packed[: length - CRC_BYTES], out)
            if dtype == np.uint8 and len(shape) == 3:
                a, b = max(start, left), min(stop, left + 128)
                picture[:, a - start : b - start] = out[: len(picture), a - left : b - left]
                left += 128
            elif "/intensity/" in path:
                np.divide(out, np.float32(100), out=arena(shape, np.dtype(np.float32)))

    return read


def uncompressed(chunks: Chunks, reader: CacheReader, folder: Path) -> Callable[[int], object]:
    """The same arrays without compression: one preadv per field into a new array."""
    path = folder / "uncompressed.bin"
    places: list[list[tuple[int, int, tuple[int, ...], np.dtype]]] = []
    offset = 0
    with path.open("wb") as file:
        for position in range(len(reader.scans)):
            places.append([])
            for source, start, length, shape, dtype in chunks.of(position):
                data = np.frombuffer(Path(source).read_bytes()[start : start + length], np.uint8)
                out = np.empty(shape, dtype)
                decode_into(data[:-CRC_BYTES], out)
                file.write(out.tobytes())
                places[-1].append((offset, out.nbytes, shape, dtype))
                offset += out.nbytes
    fd = os.open(path, os.O_RDONLY)

    arena = Arena()

    def read(position: int) -> None:
        arena.restart()
        for start, _, shape, dtype in places[position]:
            os.preadv(fd, [arena(shape, dtype).data], start)

    return read


def plain_zarr(root: Path, reader: CacheReader) -> Callable[[int], object]:
    """What a user of zarr-python writes: open once, index one scan."""
    import zarr

    groups = {
        (stage, shard): zarr.open_group(reader._shards.get(stage, shard).folder, mode="r")
        for stage in ("lidar", "camera")
        for shard in np.unique(reader.scans.shard).tolist()
    }

    def read(position: int) -> None:
        shard, row = int(reader.scans.shard[position]), int(reader.scans.row[position])
        start, stop = crop(reader, position)
        for name in TRAINING_ARRAYS:
            array = groups[FIELDS[name].stage, shard][name]
            array[row] if name != "image" else array[row, :, start:stop]

    return read


def source_files(listing: SourceListing) -> Callable[[int], object]:
    """Our own stages from the raw files."""

    def read(position: int) -> None:
        scan = listing.scans[position]
        lidar = compose.lidar_arrays(scan, listing.info)
        compose.camera_arrays(scan, lidar)

    return read


def usual_loader(listing: SourceListing) -> Callable[[int], object]:
    """What published loaders do: files opened, each label looked up, PNG decoded, projection."""
    label_of = np.vectorize(listing.info.labels.raw_to_training.__getitem__)
    low, high = np.array(listing.info.grid.low), np.array(listing.info.grid.high)

    def read(position: int) -> None:
        scan = listing.scans[position]
        points = np.fromfile(scan.points, np.float32).reshape(-1, 4)
        label = label_of(np.fromfile(scan.labels, np.uint32) & 0xFFFF).astype(np.uint8)
        inside = ((points[:, :3] > low) & (points[:, :3] < high)).all(axis=1)
        points, label = points[inside], label[inside]
        image = np.array(Image.open(scan.images[0]))
        ahead = points[points[:, 0] > 0]
        matrix = np.reshape(scan.image_from_lidar[0], (3, 4))
        u, v, w = matrix @ np.column_stack([ahead[:, :3], np.ones(len(ahead))]).T
        u, v = u / w, v / w
        seen = (u > 0) & (u < image.shape[1]) & (v > 0) & (v < image.shape[0])
        np.column_stack([v, u])[seen].astype(np.int32)

    return read


def drop_from_page_cache(paths: list[Path]) -> None:
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def cold_ratio(reader: CacheReader, plain: Callable[[int], object], folder: Path) -> float:
    """Reader / uncompressed, both from the disk itself."""
    ratios = []
    shards = [p for s in ("lidar", "camera") for p in (reader.root / s).rglob("c/**/0")]
    for _ in range(3):
        drop_from_page_cache([p for p in shards if p.is_file()])
        ours = time_per_scan(lambda p: sample(reader, p), np.arange(len(reader.scans)))
        drop_from_page_cache([folder / "uncompressed.bin"])
        theirs = time_per_scan(plain, np.arange(len(reader.scans)))
        ratios.append(ours / theirs)
    return statistics.median(ratios)


ARENA = Arena()


def sample(reader: CacheReader, position: int) -> object:
    ARENA.restart()
    return reader.read(position, TRAINING, columns=crop(reader, position), allocate=ARENA)


def stages_alone(listing: SourceListing, folder: Path) -> float:
    """CPU seconds of every stage by itself, over all scans: no runner, no manifest."""
    started = time.process_time()
    records, pictures, hashes = [], [], []
    for scan in listing.scans:
        for path in _files(scan):
            hash_file(path)
        lidar = compose.lidar_arrays(scan, listing.info)
        compose.scan_counts(lidar, listing.info)
        records.append(lidar)
        pictures.append(compose.camera_arrays(scan, lidar))
        hashes.append(compose.voxel_arrays(lidar, grid=listing.info.grid))
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
    """Time per scan of a loop over the stream (2 threads) / of the reader alone."""
    from train.draw import AugmentConfig
    from train.stream import BatchStream, StreamConfig, StreamPlan

    plan = StreamPlan(
        positions=np.arange(len(reader.scans)),
        batch_size=8,
        seed=0,
        augment=AugmentConfig(crop_hw=(320, CROP_COLUMNS)),
        size_hw=(320, CROP_COLUMNS),
    )
    ratios = []
    for _ in range(rounds):
        alone = time_per_scan(lambda p: sample(reader, p), np.arange(len(reader.scans)))
        stream = BatchStream(reader, plan, StreamConfig(threads=2))
        try:
            next(stream)
            n_batches = 2 * plan.batches_per_epoch
            started = time.perf_counter()
            for _ in range(n_batches):
                next(stream)
            loop = (time.perf_counter() - started) / (n_batches * plan.batch_size)
        finally:
            stream.close()
        ratios.append(loop / alone)
    return statistics.median(ratios)


def measure(root: Path, *, n_scans: int, rounds: int, folder: Path) -> tuple[list[Goal], dict]:
    listing = repeated(list_semkitti(root), n_scans)
    out = folder / "semkitti"
    config = PrepareConfig(workers=0)
    prepare(replace(listing, scans=listing.scans[:2]), folder / "warm", config, Silent())
    started = time.process_time()
    summary = prepare(listing, out, config, Silent())
    prepare_seconds = time.process_time() - started
    alone_seconds = stages_alone(listing, folder)

    with CacheReader.open(out) as checked, CacheReader.open(out, check=False) as unchecked:
        chunks = Chunks(checked)
        raw = uncompressed(chunks, checked, folder)
        ms = in_turn(
            {
                "read and decode": plain_decode(chunks, checked),
                "reader without check": lambda p: sample(unchecked, p),
                "reader": lambda p: sample(checked, p),
                "uncompressed preadv": raw,
                "zarr-python": plain_zarr(out, checked),
                "usual loader (source files)": usual_loader(listing),
                "our stages (source files)": source_files(listing),
            },
            n_scans=n_scans,
            rounds=rounds,
        )
        cold = cold_ratio(checked, raw, folder)
        stream = stream_ratio(checked, max(3, rounds // 3))
    floor, reader = ms["reader without check"], ms["reader"]
    goals = [
        Goal(name="reader without check / read and decode", bound=1.10,
             ratio=floor / ms["read and decode"]),
        Goal(name="with check / without", bound=1.15, ratio=reader / floor),
        Goal(name="speed / uncompressed preadv, warm", bound=2.0,
             ratio=reader / ms["uncompressed preadv"]),
        Goal(name="speed / uncompressed preadv, cold", bound=1.0, ratio=cold),
        Goal(name="plain zarr-python / reader", bound=8.0, ratio=ms["zarr-python"] / reader,
             is_at_least=True),
        Goal(name="usual loader from source files / reader", bound=20.0,
             ratio=ms["usual loader (source files)"] / reader, is_at_least=True),
        Goal(name="loop with stream / reader alone", bound=1.2, ratio=stream),
        Goal(name="bytes / source bytes", bound=1.0,
             ratio=summary.total_bytes / summary.source_bytes),
        Goal(name="prepare, CPU / its stages alone", bound=1.25,
             ratio=prepare_seconds / alone_seconds),
    ]  # fmt: skip
    figures = {f"{name} (ms per scan)": value for name, value in ms.items()}
    figures["prepare, CPU (ms per scan)"] = 1e3 * prepare_seconds / n_scans
    figures["bytes per scan"] = summary.total_bytes / n_scans
    return goals, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/real/semantickitti"))
    parser.add_argument("--scans", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
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
        print(f"{name:45} {value:18.2f}")
    if options.json is not None:
        rows = {g.name: {"bound": g.bound, "ratio": g.ratio, "is_met": g.is_met} for g in goals}
        options.json.write_text(json.dumps({"goals": rows, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
