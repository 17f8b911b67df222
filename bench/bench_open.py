"""What opening a cache and guarding its reads cost: the figures in cache/README.md.

    python -m bench.bench_open [--rounds 9] [--json out.json]

The manifest is that of 43,552 scans, as many as SemanticKITTI has, with rows of real size and no
data. Figures are medians of CPU time over rounds, in one process, each part by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.bench_growth import make_large
from bench.timing import median_ms
from pass2d.cache.check_manifest import check_tables
from pass2d.cache.codec import _SIZE, Codec
from pass2d.cache.keys import hash_bytes
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest
from pass2d.cache.reader import CacheReader

TABLE_BYTES = 20_000_000
"""Of scans.parquet with the paths and hashes of real files; those of the made-up rows compress."""
FRAMES = 20_000
"""Comparisons of a frame's size in one round."""


def measure(folder: Path, *, rounds: int) -> dict[str, float]:
    make_large(folder)
    layout = Layout(root=folder / "cache" / "semkitti")
    manifest = load_manifest(layout)
    table = np.random.default_rng(0).bytes(TABLE_BYTES)
    chunk = np.zeros((1, 3, 120_000), np.float32)
    packed = np.frombuffer(Codec(cname="lz4", clevel=5, shuffle="shuffle").encode(chunk), np.uint8)

    def compare_sizes() -> None:
        for _ in range(FRAMES):
            if _SIZE.unpack_from(packed.data, 4)[0] != chunk.nbytes:
                raise AssertionError

    def only_loop() -> None:
        for _ in range(FRAMES):
            pass

    def check() -> None:
        check_tables(manifest.tables, manifest.info, where="")

    compared = median_ms(compare_sizes, rounds) - median_ms(only_loop, rounds)
    return {
        "hash of a table of 20 MB, ms": median_ms(lambda: hash_bytes(table), rounds),
        "comparing the tables with each other, ms": median_ms(check, rounds),
        "opening, ms": median_ms(lambda: CacheReader.open(layout.root).close(), rounds),
        "size of one frame, us": 1e3 * compared / FRAMES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), rounds=options.rounds)
    for name, value in figures.items():
        sys.stdout.write(f"{name:44} {value:10.2f}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
