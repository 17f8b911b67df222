"""Labelling scans on one CPU thread: this checkout beside another one, in turn, in one run.

    python -m bench.bench_inference --cache DIR --before CHECKOUT [--scans 2] [--repeats 3]

Each side is a process that has loaded its code and network; they work alternately. Given is the
CPU time per scan, so trust the ratios: "predict" is what `Segmenter` does with raw points, "eval"
what `evaluate_network` does, reading and counting included. Networks have random weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

NETWORKS = ("2dpass-small", "minkowskinet", "spvcnn")
WAYS = ("predict", "eval")


def serve(cache: str, kind: str, n_scans: int) -> None:
    """Work off what the standard input asks for; print the CPU seconds per scan."""
    import torch

    from pass2d.cache.fields import Fields
    from pass2d.cache.reader import CacheReader
    from pass2d.models.inputs import Grid
    from pass2d.models.registry import build_network
    from pass2d.train.checkpoints.card import Card
    from pass2d.train.data.positions import labelled_positions
    from pass2d.train.evaluation.evaluate import evaluate_network
    from pass2d.train.inference.segmenter import Segmenter

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with CacheReader.open(cache) as reader:
        info = reader.info
        grid = Grid(low=info.grid.low, high=info.grid.high, shape=info.grid.shape)
        settings = {"image_branch": False} if kind.startswith("2dpass") else {}
        network = build_network(kind, settings, grid=grid, n_classes=info.labels.n_classes).eval()
        card = Card(architecture=network.kind, settings=network.config.settings(), info=info)
        segmenter = Segmenter(network, card)
        splits = ("train", "val")
        positions = [p for s in splits for p in labelled_positions(reader, s)[0]][:n_scans]
        scans = [reader.read(int(p), Fields(outside=True)).raw().points for p in positions]

        def work(way: str) -> None:
            if way == "eval":
                evaluate_network(network, reader, positions)
            else:
                for points in scans:
                    segmenter(points)

        work("predict")
        print("ready", flush=True)
        for line in sys.stdin:
            start = time.process_time()
            work(line.strip())
            print((time.process_time() - start) / len(positions), flush=True)


class Side:
    """A process with the code of one checkout."""

    def __init__(self, checkout: Path, options: list[str]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", *options]
        self.process = subprocess.Popen(
            command,
            cwd=checkout,
            env={"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{checkout}: did not start")

    def seconds(self, way: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(way, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(str(args.cache), args.networks[0], args.scans)
        return
    print("| network | way | before, s per scan | now | ratio (median of pairs) |")
    print("|---|---|---|---|---|")
    for kind in args.networks:
        options = ["--cache", str(args.cache.resolve()), "--scans", str(args.scans)]
        options += ["--networks", kind]
        here = Path(__file__).resolve().parents[1]
        sides = [Side(checkout, options) for checkout in (args.before.resolve(), here)]
        for way in WAYS:
            pairs = [[side.seconds(way) for side in sides] for _ in range(args.repeats)]
            before, now = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"| {kind} | {way} | {before:.2f} | {now:.2f} | {ratio:.2f} |", flush=True)
        for side in sides:
            side.close()


if __name__ == "__main__":
    main()
