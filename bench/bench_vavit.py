"""VaViT: its inputs by a tree or from a cache, and the exported network beside torch.

    OMP_NUM_THREADS=1 python -m bench.bench_vavit [--repeats 3] [--json FILE] [--inputs-only]

On one scan of ``../shared`` or of a generated world. CPU milliseconds of thinning, of the tree, of
the 16 neighbours of each thinned point and of the nearest thinned point of each raw point; bytes of
the neighbours as a cache would hold them (zstd, the best of three orders) and the milliseconds of
reading them. Then whole predictions (`Segmenter`) by the small network, by torch and by onnxruntime
in turn, with the same threads.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from bench.sample_root import sample_root
from pass2d.cache.codec import CRC_BYTES, Codec, decode_into
from pass2d.common.thinning import thin_rows, tree_of, tree_rows
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.exporting.export import export_onnx
from pass2d.train.inference.segmenter import Segmenter

SMALL = {
    **{"point_width": 32, "point_layers": 3, "width": 96, "depth": 4, "heads": 4},
    **{"head_width": 32, "head_out": 48},
}
"""As `vavit-small`."""


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of this thread, median."""
    found = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        found.append(1000 * (time.thread_time() - start))
    return median(found)


def inputs(points: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """What VaViT's inputs cost, computed and read."""
    xyz = np.ascontiguousarray(points[:, :3])
    near = xyz[thin_rows(xyz, cell_m=0.1)]
    tree = tree_of(near)
    rows = tree_rows(tree, near, k=17)[:, 1:]
    # Thinned points lie in the order of cells: rows as differences from the own row are smallest.
    apart = (rows - np.arange(len(near))[:, None]).astype(np.int32)
    codec = Codec(cname="zstd", clevel=5, shuffle="bitshuffle")
    kept = {"rows": rows.astype(np.int32), "differences": apart, "by rank": apart.T.copy()}
    packed = {name: codec.encode(np.ascontiguousarray(values)) for name, values in kept.items()}
    best = min(packed, key=lambda name: len(packed[name]))
    out = np.empty_like(np.ascontiguousarray(kept[best]))
    stored = np.frombuffer(packed[best], np.uint8)[:-CRC_BYTES]
    return {
        "raw_points": len(xyz),
        "thinned_points": len(near),
        "thin_ms": cpu_ms(lambda: thin_rows(xyz, cell_m=0.1), repeats),
        "tree_ms": cpu_ms(lambda: tree_of(near), repeats),
        "neighbours_ms": cpu_ms(lambda: tree_rows(tree, near, k=17), repeats),
        "nearest_of_raw_ms": cpu_ms(lambda: tree_rows(tree, xyz, k=1), repeats),
        "points_bytes": len(codec.encode(np.ascontiguousarray(points))),
        "neighbours_bytes": len(packed[best]),
        "read_neighbours_ms": cpu_ms(lambda: decode_into(stored, out), repeats),
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
    parser.add_argument("--inputs-only", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        file = min(sample_root(Path(folder)).glob("**/velodyne/*.bin"))
        points = np.fromfile(file, "<f4").reshape(-1, 4)
        found: dict[str, object] = {"inputs": inputs(points, given.repeats)}
        if not given.inputs_only:
            found["predictions"] = predictions(points, given.repeats, Path(folder))
    text = json.dumps(found, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
