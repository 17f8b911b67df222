"""VaViT: its inputs looked for or read from a cache, and the exported network beside torch.

    OMP_NUM_THREADS=1 python -m bench.bench_vavit [--repeats 3] [--json FILE] [--only inputs forms]

On the scans of ``../shared`` or of a generated world, prepared without and with `--neighbours`.

``inputs``: CPU milliseconds of one scan: thinning, the tree, the 16 neighbours of each thinned
point by one and by two threads, the nearest thinned point of each raw point.
``forms``: bytes of the neighbours in several forms, milliseconds to decode them.
``cache``: bytes per scan that `--neighbours` adds; CPU milliseconds per scan of reading with and
without them, of what a stream's thread does for a training sample (stored, found, none), and of the
network's `prepare` with what the stream gave it and without; the reader beside reading and decoding
the same chunks, and a loop over the stream beside the reader.
``evaluation``: CPU and wall seconds per scan of the small network, from both caches in turn.
``steps``: wall seconds of a training step of one scan, neighbours found in the stream's threads or
in `prepare`, in turn.
``predictions``: whole predictions (`Segmenter`) by the small network, by torch and by onnxruntime
in turn, with the same threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from bench.sample_root import sample_root
from bench.timing import spent_ms
from pass2d.cache.codec import CRC_BYTES, Codec, decode_into
from pass2d.cache.fields import FIELDS, Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.arena import Arena
from pass2d.common.nearest import nearest_by_tree
from pass2d.common.progress import Silent
from pass2d.common.thinning import thin_rows, tree_of, tree_rows
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.data.batch import RawBatch
from pass2d.train.data.collate import collate
from pass2d.train.data.load import load_batch
from pass2d.train.data.memory import heap
from pass2d.train.data.plan import StreamPlan, batch_at
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.evaluation.evaluate import evaluate_network
from pass2d.train.exporting.export import export_onnx
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.recipes.recipe import load_recipe
from pass2d.train.run.ahead import prepared_batch
from pass2d.train.run.assemble import Job, assemble
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import optimizer_step

CPU = torch.device("cpu")
PARTS = ("inputs", "forms", "cache", "evaluation", "steps", "predictions")
SMALL = {
    **{"point_width": 32, "point_layers": 3, "width": 96, "depth": 4, "heads": 4},
    **{"head_width": 32, "head_out": 48},
}
"""As `vavit-small`."""


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of this thread, median."""
    return median(spent_ms(work, time.thread_time) for _ in range(repeats))


def wall_ms(work: Callable[[], object], repeats: int) -> float:
    """Wall-clock milliseconds, median."""
    return median(spent_ms(work, time.perf_counter) for _ in range(repeats))


def inputs(points: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """What finding VaViT's inputs costs."""
    xyz = np.ascontiguousarray(points[:, :3])
    near = xyz[thin_rows(xyz, cell_m=0.1)]
    tree = tree_of(near)
    return {
        "raw_points": len(xyz),
        "thinned_points": len(near),
        "thin_ms": cpu_ms(lambda: thin_rows(xyz, cell_m=0.1), repeats),
        "tree_ms": cpu_ms(lambda: tree_of(near), repeats),
        "neighbours_ms": cpu_ms(lambda: tree_rows(tree, near, k=17), repeats),
        "neighbours_wall_ms": wall_ms(lambda: tree_rows(tree, near, k=17), repeats),
        "neighbours_2_threads_wall_ms": wall_ms(
            lambda: tree_rows(tree, near, k=17, workers=2), repeats
        ),
        "nearest_of_raw_ms": cpu_ms(lambda: nearest_by_tree(tree, xyz), repeats),
    }


def forms(points: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """Stored bytes of 16 neighbours in several forms, and milliseconds to decode them."""
    xyz = np.ascontiguousarray(points[:, :3])
    near = xyz[thin_rows(xyz, cell_m=0.1)]
    places = tree_rows(tree_of(near), near, k=17)[:, 1:].T
    apart = places - np.arange(len(near))
    values = {
        "places uint16": np.ascontiguousarray(places, np.uint16),
        "differences int16": np.ascontiguousarray(apart, np.int16),
        "differences int32": np.ascontiguousarray(apart, np.int32),
    }
    codecs = [
        Codec(cname=cname, clevel=level, shuffle=shuffle)
        for cname, level in (("lz4", 5), ("zstd", 3))
        for shuffle in ("shuffle", "bitshuffle")
    ]
    found: dict[str, float] = {}
    for (name, array), codec in itertools.product(values.items(), codecs):
        packed, out = np.frombuffer(codec.encode(array), np.uint8), np.empty_like(array)
        title = f"{name}, {codec.cname}-{codec.clevel} {codec.shuffle}"
        found[f"{title}, bytes"] = len(packed)
        found[f"{title}, ms"] = cpu_ms(
            lambda packed=packed, out=out: decode_into(packed[:-CRC_BYTES], out), 3 * repeats
        )
    return found


def caches(root: Path, folder: Path) -> tuple[Path, Path]:
    """The scans prepared without and with neighbours."""
    listing = list_semkitti(root)
    asked = replace(listing, info=replace(listing.info, has_thinned=True))
    for name, one in (("plain", listing), ("stored", asked)):
        prepare(one, folder / name / "semkitti", PrepareConfig(workers=0), Silent())
    return folder / "plain", folder / "stored"


def job_of(reader: CacheReader, *overrides: str) -> Job:
    recipe = load_recipe("vavit-small", ["batch_size=1", *overrides])
    return assemble(reader, recipe, ProcessGroup(device=CPU), Silent())


def of_cache(stored: Path, repeats: int) -> dict[str, float]:
    """What stored neighbours take and give, per scan."""
    with CacheReader.open(stored) as reader:
        job = job_of(reader, "network.settings.thinning=first")
        thinning = job.plan.thinning
        assert thinning is not None
        assert thinning.is_stored
        n_scans = len(reader.scans)
        sizes = {name: int(reader.chunk_lengths(name)[0].sum()) / n_scans for name in FIELDS}
        added = {name: size for name, size in sizes.items() if FIELDS[name].container == "thinned"}
        position = int(job.plan.positions[0])
        plain, asked = Fields(outside=True), Fields(outside=True, thinned=True)
        arena = Arena()

        def read(fields: Fields) -> None:
            arena.restart()
            reader.read(position, fields, allocate=arena)

        floor = plain_decode(reader, position, asked)
        plans = {
            "stored": job.plan,
            "found_first": replace(job.plan, thinning=replace(thinning, is_stored=False)),
            "found_random": replace(
                job.plan, thinning=replace(thinning, is_stored=False, is_random=True)
            ),
            "none": replace(job.plan, thinning=None),
        }

        def sample(plan: StreamPlan) -> RawBatch:
            arena.restart()
            scans = load_batch(reader, plan, batch_at(plan, 0), allocate=arena)
            assert scans is not None
            return collate(
                scans, with_images=False, size_hw=(0, 0), thinning=plan.thinning, allocate=heap
            )

        raws = {name: sample(plan) for name, plan in plans.items()}
        job.network.train()
        times: dict[str, list[float]] = {
            name: [] for name in ("read", "read_with", "floor", *plans)
        }
        prepares: dict[str, list[float]] = {"stored": [], "none": []}
        for _ in range(repeats):
            times["read"].append(cpu_ms(lambda: read(plain), 9))
            times["read_with"].append(cpu_ms(lambda: read(asked), 9))
            times["floor"].append(cpu_ms(floor, 9))
            for name, plan in plans.items():
                times[name].append(cpu_ms(lambda plan=plan: sample(plan), 3))
            for name, found in prepares.items():
                found.append(cpu_ms(lambda raw=raws[name]: prepared_batch(job, raw, seed=0), 1))
    return {
        **{f"{name}_bytes": size for name, size in added.items()},
        "added_bytes": sum(added.values()),
        "other_bytes": sum(sizes.values()) - sum(added.values()),
        **{f"{name}_ms": median(found) for name, found in times.items()},
        **{f"prepare_{name}_ms": median(found) for name, found in prepares.items()},
        "loop_over_reader": loop_over_reader(stored, repeats),
        "loop_over_reader_without": loop_over_reader(stored, repeats, is_stored=False),
    }


def plain_decode(reader: CacheReader, position: int, fields: Fields) -> Callable[[], None]:
    """preadv and blosc of the chunks that a read needs, no checksum: the floor."""
    names = [name for name, spec in FIELDS.items() if fields.asks_for(spec)]
    chunks = [chunk for name in names for chunk in reader.stored_chunks(position, name)]
    files = {chunk.array.path: os.open(chunk.array.path, os.O_RDONLY) for chunk in chunks}
    packed, arena = np.empty(1 << 23, np.uint8), Arena()

    def read() -> None:
        arena.restart()
        for chunk in chunks:
            length = chunk.span.length
            os.preadv(files[chunk.array.path], [packed[:length].data], chunk.span.offset)
            decode_into(
                packed[: length - CRC_BYTES], arena(chunk.array.chunk[1:], chunk.array.dtype)
            )

    return read


def loop_over_reader(stored: Path, repeats: int, *, is_stored: bool = True) -> float:
    """Wall time per scan of a loop over the stream (2 threads) / of the reader alone.

    Not ``is_stored``: both without neighbours, as for networks that take none.
    """
    ratios = []
    with CacheReader.open(stored) as reader:
        job = job_of(reader, "network.settings.thinning=first", "batch_size=2")
        plan = job.plan if is_stored else replace(job.plan, thinning=None)
        arena, asked = Arena(), Fields(outside=True, thinned=is_stored)
        for _ in range(repeats):
            start = time.perf_counter()
            for place in range(100):
                arena.restart()
                position = int(job.plan.positions[place % len(job.plan.positions)])
                reader.read(position, asked, allocate=arena)
            alone = time.perf_counter() - start
            stream = BatchStream(reader, plan, job.recipe.stream)
            try:
                for _ in range(12):  # every slot has been filled
                    next(stream)
                start = time.perf_counter()
                for _ in range(50):
                    next(stream)
                ratios.append((time.perf_counter() - start) / alone)
            finally:
                stream.close()
    return median(ratios)


def evaluations(plain: Path, stored: Path, repeats: int) -> dict[str, float]:
    """Seconds per scan of counting, from both caches in turn."""
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "stored": []}
    with CacheReader.open(plain) as one, CacheReader.open(stored) as other:
        network = job_of(one).network.eval()
        positions = np.flatnonzero(one.scans.has_label)
        for _ in range(repeats):
            for name, reader in (("plain", one), ("stored", other)):
                cpu, wall = time.process_time(), time.perf_counter()
                evaluate_network(network, reader, positions)
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                found[name].append((cpu / len(positions), wall / len(positions)))
    return {
        f"{name}_{kind}_s": median(values)
        for name, pairs in found.items()
        for kind, values in zip(("cpu", "wall"), zip(*pairs, strict=True), strict=True)
    }


def steps(plain: Path, repeats: int) -> dict[str, float]:
    """Wall seconds of a step of one scan, neighbours found by the stream or by the network."""
    found: dict[str, list[float]] = {"in_stream": [], "in_prepare": []}
    with CacheReader.open(plain) as reader:
        job = job_of(reader)
        state = fresh_state(job)
        plans = {"in_stream": job.plan, "in_prepare": replace(job.plan, thinning=None)}
        streams = {
            name: BatchStream(reader, plan, job.recipe.stream) for name, plan in plans.items()
        }
        try:
            for number in range(repeats + 1):
                for name, stream in streams.items():
                    start = time.perf_counter()
                    optimizer_step(job, state, stream)
                    if number:
                        found[name].append(time.perf_counter() - start)
        finally:
            for stream in streams.values():
                stream.close()
    ratios = [b / a for a, b in zip(found["in_stream"], found["in_prepare"], strict=True)]
    return {
        **{f"{name}_s": median(values) for name, values in found.items()},
        "in_prepare_over_in_stream": median(ratios),
    }


def predictions(points: NDArray[np.float32], repeats: int, folder: Path) -> dict[str, float]:
    """Wall-clock milliseconds of whole predictions, each by both in turn."""
    info = DATASETS.infos()[0]
    card = Card(architecture="vavit", settings=SMALL, info=info)
    torch.manual_seed(0)
    network = build_from_card(card, torch.device("cpu"))
    path, exported = folder / "small.safetensors", folder / "small.onnx"
    save_checkpoint(path, network_tensors(network.state_dict()), card)
    export_onnx(path, exported)
    by = {
        "torch": Segmenter.load(path, device="cpu"),
        "onnxruntime": Segmenter.load(exported),
    }
    found: dict[str, list[float]] = {name: [] for name in by}
    for _ in range(repeats):
        for name, segmenter in by.items():
            start = time.perf_counter()
            segmenter(points)
            found[name].append(1000 * (time.perf_counter() - start))
    ratios = [b / a for a, b in zip(found["onnxruntime"], found["torch"], strict=True)]
    return {
        "threads": torch.get_num_threads(),
        "torch_ms": median(found["torch"]),
        "onnxruntime_ms": median(found["onnxruntime"]),
        "torch_over_onnxruntime": median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = sample_root(folder)
        file = min(root.glob("**/velodyne/*.bin"))
        points = np.fromfile(file, "<f4").reshape(-1, 4)
        plain, stored = folder, folder
        if {"cache", "evaluation", "steps"} & {*given.only}:
            plain, stored = caches(root, folder)
        work: dict[str, Callable[[], dict[str, float]]] = {
            "inputs": lambda: inputs(points, given.repeats),
            "forms": lambda: forms(points, given.repeats),
            "cache": lambda: of_cache(stored, given.repeats),
            "evaluation": lambda: evaluations(plain, stored, given.repeats),
            "steps": lambda: steps(plain, given.repeats),
            "predictions": lambda: predictions(points, given.repeats, folder),
        }
        found = {part: work[part]() for part in PARTS if part in given.only}
    text = json.dumps(found, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
