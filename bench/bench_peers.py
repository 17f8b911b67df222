"""Other ways to store the same training samples: bytes on disk, CPU time per sample.

    pip install 'pass2d[peers]'
    python -m bench.bench_peers [--root SEMANTICKITTI] [--scans 64] [--rounds 5] [--json out.json]

Every contender stores what a training sample needs (points, signal, label, raw index, the picture,
the points it shows and their pixels) and ends with the same arrays in memory that is used again, as
a batch wants them, the picture cut to the same 480 columns; the first sample of each is compared
with ours. All are read in this process, one thread, in turn, round by round; a figure is the median
over rounds of the mean CPU time per sample ("all fields" of ours, voxel hashes and so on, are not
read and not counted in its bytes). Peers that read in random order get the same random order as
ours; WebDataset reads its tar in sequence, as it is made to. Without --root the scans are generated
(bench/many_scans.py, 120,000 points); the real ones of ``../shared`` are taken when they are there.

"cold": wall time of one pass whose files were dropped from the page cache before (a store that maps
its files into memory may keep some). "raw": pictures as arrays. "png": pictures as PNG, smaller and
slower. "zip": arrays compressed, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.bench_cache import drop_from_page_cache
from bench.cache_contenders import repeated
from bench.many_scans import ManyScans, write_many
from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.cache.schema import ScanRecord
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real" / "semantickitti"
FIELDS = Fields(label=True, image=True, pixels=True)
COLUMNS = 480
OURS = "pass2d, checksums compared"
OURS_RAW = {
    "pass2d raw, checksums compared": True,
    "pass2d raw, checksums not compared": False,
}
"""Profile `raw`, and whether checksums are compared."""
STORED = ("xyz", "intensity", "label", "raw_index", "image", "point_index", "pixel")
Sample = dict[str, np.ndarray]
Read = Callable[[int], Sample]
"""Gives the sample at a position, whole."""
Deliver = Callable[[int], Sample]
"""Gives it cut, in memory that is used again."""


def samples(reader: CacheReader) -> Iterator[Sample]:
    """The scans with whole pictures."""
    for position in range(len(reader.scans)):
        yield as_sample(reader.read(position, FIELDS))


def delivered(read: Read, starts: np.ndarray) -> Deliver:
    """What a peer gives, cut and copied to where a batch wants it; ours is decoded there."""
    arena = Arena()

    def deliver(position: int) -> Sample:
        arena.restart()
        sample = dict(read(position))
        start = int(starts[position])
        sample["image"] = sample["image"][:, start : start + COLUMNS]
        for name, array in sample.items():
            place = arena(array.shape, array.dtype)
            np.copyto(place, array)
            sample[name] = place
        return sample

    return deliver


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def unpng(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Contender:
    """One way of storing; ``write`` once, then ``read`` any position or the next one."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, source: Iterator[Sample]) -> None:
        raise NotImplementedError

    def open(self) -> Read:
        raise NotImplementedError


class Npz(Contender):
    """One .npz per sample."""

    def write(self, source: Iterator[Sample]) -> None:
        for number, sample in enumerate(source):
            path = self.folder / f"{number:06d}.npz"
            arrays = dict(sample)
            if "png" in self.name:
                arrays["image"] = np.frombuffer(png(sample["image"]), np.uint8)
            (np.savez_compressed if "zip" in self.name else np.savez)(path, **arrays)

    def open(self) -> Read:
        def read(position: int) -> Sample:
            with np.load(self.folder / f"{position:06d}.npz") as stored:
                sample = {name: stored[name] for name in stored.files}
            if "png" in self.name:
                sample["image"] = unpng(sample["image"].tobytes())
            return sample

        return read


class Mds(Contender):
    """MosaicML streaming, read by index in this process."""

    def write(self, source: Iterator[Sample]) -> None:
        from streaming import MDSWriter

        kinds = {
            "xyz": "ndarray:float32",
            "signal": "ndarray:float32",
            "label": "ndarray:uint8",
            "raw_index": "ndarray:int32",
            "image": "png" if "png" in self.name else "ndarray:uint8",
            "point_index": "ndarray:int32",
            "pixel": "ndarray:uint16",
        }
        with MDSWriter(out=str(self.folder), columns=kinds, progress_bar=False) as out:
            for sample in source:
                arrays: dict[str, Any] = {k: np.ascontiguousarray(v) for k, v in sample.items()}
                if "png" in self.name:
                    arrays["image"] = Image.fromarray(sample["image"])
                out.write(arrays)

    def open(self) -> Read:
        from streaming import StreamingDataset

        dataset = StreamingDataset(local=str(self.folder), batch_size=1)

        def read(position: int) -> Sample:
            return {name: np.asarray(value) for name, value in dataset[position].items()}

        return read


class WebDataset(Contender):
    """One tar of .npy (and .png) files, read in sequence."""

    def write(self, source: Iterator[Sample]) -> None:
        import webdataset

        with webdataset.TarWriter(str(self.folder / "scans.tar")) as out:
            for number, sample in enumerate(source):
                record: dict[str, Any] = {f"{name}.npy": data for name, data in sample.items()}
                if "png" in self.name:
                    del record["image.npy"]
                    record["image.png"] = png(sample["image"])
                out.write({"__key__": f"{number:06d}", **record})

    def open(self) -> Read:
        import webdataset

        def endless() -> Iterator[dict[str, Any]]:
            while True:
                yield from webdataset.WebDataset(
                    str(self.folder / "scans.tar"), shardshuffle=False, empty_check=False
                )

        stored = endless()

        def read(_position: int) -> Sample:
            sample = {}
            for name, data in next(stored).items():
                if name.endswith(".npy"):
                    sample[name[:-4]] = np.load(io.BytesIO(data))
                elif name.endswith(".png"):
                    sample["image"] = unpng(data)
            return sample

        return read


class LitData(Contender):
    """LitData's chunks, read by index in this process."""

    def write(self, source: Iterator[Sample]) -> None:
        from litdata.streaming import Cache

        store = Cache(str(self.folder), chunk_bytes="64MB")
        for number, sample in enumerate(source):
            arrays: dict[str, Any] = dict(sample)
            if "png" in self.name:
                arrays["image"] = png(sample["image"])
            store[number] = arrays
        store.done()
        store.merge()

    def open(self) -> Read:
        from litdata import StreamingDataset

        dataset = StreamingDataset(str(self.folder))

        def read(position: int) -> Sample:
            sample = dict(dataset[position])
            if "png" in self.name:
                sample["image"] = unpng(sample["image"])
            return sample

        return read


PEERS: tuple[tuple[str, str, type[Contender]], ...] = (
    ("npz, raw", "numpy", Npz),
    ("npz, zip and png", "numpy", Npz),
    ("MosaicML MDS, raw", "streaming", Mds),
    ("MosaicML MDS, png", "streaming", Mds),
    ("WebDataset, raw", "webdataset", WebDataset),
    ("WebDataset, png", "webdataset", WebDataset),
    ("LitData, raw", "litdata", LitData),
    ("LitData, png", "litdata", LitData),
)


def in_turn(
    reads: dict[str, Deliver], *, scans: int, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median CPU and wall milliseconds per sample."""
    cpu: dict[str, list[float]] = {name: [] for name in reads}
    wall: dict[str, list[float]] = {name: [] for name in reads}
    rng = np.random.default_rng(0)
    for round_number in range(rounds + 1):
        order = rng.permutation(scans).tolist()
        for name, read in reads.items():
            begin, begin_wall = time.process_time(), time.perf_counter()
            for position in order:
                read(position)
            if round_number:  # the first one opens files
                cpu[name].append(1e3 * (time.process_time() - begin) / len(order))
                wall[name].append(1e3 * (time.perf_counter() - begin_wall) / len(order))
    return (
        {name: statistics.median(values) for name, values in cpu.items()},
        {name: statistics.median(values) for name, values in wall.items()},
    )


def cold(folder: Path, deliver: Deliver, *, scans: int) -> float:
    """Wall milliseconds per sample when nothing of the store lies in memory."""
    drop_from_page_cache([path for path in folder.rglob("*") if path.is_file()])
    order = np.random.default_rng(1).permutation(scans).tolist()
    started = time.perf_counter()
    for position in order:
        deliver(position)
    return 1e3 * (time.perf_counter() - started) / scans


def ours(reader: CacheReader, starts: np.ndarray) -> Deliver:
    """The cache's reader: it reads only the strips of the crop."""
    arena = Arena()

    def deliver(position: int) -> Sample:
        arena.restart()
        start = int(starts[position])
        scan = reader.read(position, FIELDS, columns=(start, start + COLUMNS), allocate=arena)
        return as_sample(scan)

    return deliver


def as_sample(scan: ScanRecord) -> Sample:
    view = scan.cameras[0]
    assert scan.label is not None
    assert view.image is not None
    return {
        "xyz": scan.xyz,
        "signal": scan.signal,
        "label": scan.label,
        "raw_index": scan.raw_index,
        "image": view.image,
        "point_index": view.point_index,
        "pixel": view.pixel_rc,
    }


def our_bytes(reader: CacheReader) -> int:
    """Bytes of the containers' files that hold the sample's fields."""
    total = 0
    for stage in ("lidar", "camera"):
        for path in (reader.root / stage).rglob("*"):
            if path.is_file() and set(path.relative_to(reader.root).parts) & set(STORED):
                total += path.stat().st_size
    return total


def require_equal(stored: Sample, source: Sample, *, name: str) -> None:
    for field, expected in source.items():
        if not np.array_equal(stored[field], expected):
            raise RuntimeError(f"{name}: {field} came back different")


def measure(
    root: Path | None, *, scans: int, rounds: int, folder: Path, only: list[str] | None = None
) -> list[dict[str, Any]]:
    if root is None:
        root = folder / "raw"
        write_many(root, ManyScans(scans=scans, points=120_000, image_hw=(376, 1241)))
    listing = repeated(list_semkitti(root), scans)
    prepare(listing, folder / "cache" / "semkitti", PrepareConfig(workers=0), Silent())
    raw = folder / "cache-raw" / "semkitti"
    prepare(listing, raw, PrepareConfig(workers=0, profile="raw"), Silent())
    with CacheReader.open(folder / "cache") as reader, ExitStack() as raw_readers:
        width = int(reader.scans.image_hw[:, 1].min())
        starts = (np.arange(scans) * 97) % (width - COLUMNS)
        reads = {OURS: ours(reader, starts)}
        sizes, places = {OURS: our_bytes(reader)}, {OURS: reader.root}
        for name, is_checked in OURS_RAW.items():
            raw_reader = raw_readers.enter_context(CacheReader.open(raw, check=is_checked))
            reads[name] = ours(raw_reader, starts)
            require_equal(reads[name](0), reads[OURS](0), name=name)
            sizes[name], places[name] = our_bytes(raw_reader), raw_reader.root
        for name, module, kind in PEERS:
            if only is not None and not any(part in name for part in only):
                continue
            if importlib.util.find_spec(module) is None:
                print(f"{name}: {module} is not installed (pip install 'pass2d[peers]')")
                continue
            contender = kind(name, folder / name.replace(" ", "-").replace(",", ""))
            contender.write(samples(reader))
            reads[name] = delivered(contender.open(), starts)
            require_equal(reads[name](0), reads[OURS](0), name=name)
            sizes[name], places[name] = folder_bytes(contender.folder), contender.folder
        cold_ms = {name: cold(places[name], reads[name], scans=scans) for name in reads}
        cpu, wall = in_turn(reads, scans=scans, rounds=rounds)
    return [
        {
            "name": name,
            "mb_per_sample": sizes[name] / scans / 1e6,
            "cpu_ms": cpu[name],
            "wall_ms": wall[name],
            "cold_ms": cold_ms[name],
            "by_ours": cpu[name] / cpu[OURS],
        }
        for name in reads
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=SHARED if SHARED.is_dir() else None)
    parser.add_argument("--scans", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="PART", help="peers whose name has a part")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="pass2d-peers-") as name:
        rows = measure(
            options.root,
            scans=options.scans,
            rounds=options.rounds,
            folder=Path(name),
            only=options.only,
        )
    print(
        f"{'store':34} {'MB/sample':>10} {'CPU ms':>8} {'wall ms':>8} {'CPU by ours':>12} "
        f"{'cold ms':>8}"
    )
    for row in rows:
        print(
            f"{row['name']:34} {row['mb_per_sample']:10.2f} {row['cpu_ms']:8.2f} "
            f"{row['wall_ms']:8.2f} {row['by_ours']:12.2f} {row['cold_ms']:8.2f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
