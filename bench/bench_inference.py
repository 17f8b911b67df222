"""Labelling scans on one CPU thread: this checkout beside another one, in turn, in one run.

    python -m bench.bench_inference --cache DIR --before CHECKOUT [--scans 2] [--repeats 3]
    python -m bench.bench_inference --cache DIR --before CHECKOUT --ways beside

Each side is a process that has loaded its code and network; they work alternately. Given is the
CPU time per scan of all threads, so trust the ratios: "predict" is what `Segmenter` does with raw
points, "eval" what `evaluate_network` does, reading and counting included, "beside" what of this is
not the network's `prepare` and `forward`. Networks have random weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NETWORKS = ("2dpass-small", "minkowskinet", "spvcnn")
WAYS = ("predict", "eval", "beside")
PLACES = {
    "Fields": ("pass2d.cache.fields", "cache.reader"),
    "CacheReader": ("pass2d.cache.reader", "cache.reader"),
    "Grid": ("pass2d.models.inputs", "pass2d_models.inputs"),
    "build_network": ("pass2d.models.registry", "pass2d_models.registry"),
    "Card": ("pass2d.train.checkpoints.card", "train.card"),
    "labelled_positions": ("pass2d.train.data.positions", "train.positions"),
    "evaluate_network": ("pass2d.train.evaluation.evaluate", "train.evaluate"),
    "Segmenter": ("pass2d.train.inference.segmenter", "train.segmenter"),
}
"""Where this checkout has what is measured, and where one from before the rooms had it."""


def _find(name: str) -> Any:
    """A name of the checkout in the current folder, never that of an installed package."""
    here = Path.cwd()
    module = import_module(PLACES[name][0 if (here / "pass2d").is_dir() else 1])
    if not Path(module.__file__ or "").is_relative_to(here):
        raise SystemExit(f"{here}: found {module.__file__} instead of its own")
    return getattr(module, name)


def raw_points(record: Any) -> Any:
    """(N, 4) of a prepared scan as in its raw file, whatever the checkout offers for it."""
    import numpy as np

    parts = ((record.xyz, record.signal), (record.outside_xyz, record.outside_signal))
    points = np.concatenate([np.concatenate([xyz, of[None]]).T for xyz, of in parts])
    outside = np.setdiff1d(np.arange(len(points)), record.raw_index)
    return np.ascontiguousarray(points[np.argsort(np.concatenate([record.raw_index, outside]))])


def serve(cache: str, kind: str, n_scans: int, n_threads: int) -> None:
    """Work off what the standard input asks for; print the CPU seconds per scan."""
    import torch

    of = SimpleNamespace(**{name: _find(name) for name in PLACES})
    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    with of.CacheReader.open(cache) as reader:
        info = reader.info
        grid = of.Grid(low=info.grid.low, high=info.grid.high, shape=info.grid.shape)
        settings = {"image_branch": False} if kind.startswith("2dpass") else {}
        network = of.build_network(
            kind, settings, grid=grid, n_classes=info.labels.n_classes
        ).eval()
        card = of.Card(architecture=network.kind, settings=network.config.settings(), info=info)
        segmenter = of.Segmenter(network, card)
        splits = ("train", "val")
        positions = [p for s in splits for p in of.labelled_positions(reader, s)[0]][:n_scans]
        records = [reader.read(int(p), of.Fields(outside=True)) for p in positions]
        scans = [raw_points(record) for record in records]

        in_network = [0.0]

        def timed(call: Any) -> Any:
            def run(*args: Any) -> Any:
                begin = time.thread_time()
                try:
                    return call(*args)
                finally:
                    in_network[0] += time.thread_time() - begin

            return run

        network.prepare, network.forward = timed(network.prepare), timed(network.forward)

        def seconds(way: str) -> float:
            in_network[0], start = 0.0, time.process_time()
            if way == "predict":
                for points in scans:
                    segmenter(points)
            else:
                of.evaluate_network(network, reader, positions)
            spent = time.process_time() - start
            return (spent - in_network[0] if way == "beside" else spent) / len(positions)

        for way in WAYS:
            seconds(way)
        print("ready", flush=True)
        for line in sys.stdin:
            print(seconds(line.strip()), flush=True)


class Side:
    """A process with the code of one checkout."""

    def __init__(self, checkout: Path, options: list[str], threads: str) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", *options]
        self.process = subprocess.Popen(
            command,
            cwd=checkout,
            env={"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": threads, "PATH": "/usr/bin:/bin"},
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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:2])
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(str(args.cache), args.networks[0], args.scans, args.threads)
        return
    if "beside" in args.ways and args.threads > 1:
        parser.error("--ways beside needs --threads 1: it is the network's thread that is measured")
    if args.before is None:
        parser.error("--before is needed")
    print("| network | way | before, ms per scan | now | ratio (median of pairs) |")
    print("|---|---|---|---|---|")
    for kind in args.networks:
        options = ["--cache", str(args.cache.resolve()), "--scans", str(args.scans)]
        options += ["--networks", kind, "--threads", str(args.threads)]
        here = Path(__file__).resolve().parents[1]
        sides = [
            Side(checkout, options, str(args.threads)) for checkout in (args.before.resolve(), here)
        ]
        for way in args.ways:
            pairs = [[side.seconds(way) for side in sides] for _ in range(args.repeats)]
            before, now = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"| {kind} | {way} | {before:.1f} | {now:.1f} | {ratio:.2f} |", flush=True)
        for side in sides:
            side.close()


if __name__ == "__main__":
    main()
