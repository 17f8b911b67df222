"""Sparse convolutions of each network's layers: backend `native` beside `spconv`, in one run.

    python -m bench.bench_backends [--scan FILE.bin] [--scans 1] [--repeats 5] [--networks ...]

Every sparse layer that a network applies to a real scan (a random one without ../shared) is run by
both backends in turn, forward and backward, on one thread of a CPU; times are medians of CPU time,
so trust the ratios. A line is a form of layer (kind, voxels, widths) and how many have it.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from bench.bench_sparse_unets import GRID, load_points
from bench.timing import spent_ms
from pass2d.models.backends.interface import ConvTable
from pass2d.models.backends.native import NativeTable
from pass2d.models.backends.spconv import PairTable
from pass2d.models.inputs import PointBatch
from pass2d.models.network import Network, Prepared
from pass2d.models.registry import build_network

TABLES = {"native": NativeTable, "spconv": PairTable}
SIDES = tuple(TABLES)
NETWORKS = ("baseline", "minkowskinet", "spvcnn")
"""The 3D network of 2dpass-small is the baseline."""


@dataclass
class Layer:
    """One sparse layer as a network applied it, in both backends."""

    tables: dict[str, ConvTable] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.zeros(0))
    weight: Tensor = field(default_factory=lambda: torch.zeros(0))
    rows: int = 0

    @property
    def form(self) -> tuple[str, int, int, int, int]:
        n_out, size, *_, n_in = self.weight.shape
        kind = "around" if size == 3 else "up" if self.rows > len(self.features) else "down"
        return kind, len(self.features), self.rows, n_in, n_out


def record(
    kind: str, batch: PointBatch, repeats: int
) -> tuple[list[Layer], dict[str, dict[str, float]]]:
    """The layers, and per side the milliseconds of `prepare` and of a whole inference."""
    torch.manual_seed(0)
    network = build_network(kind, {}, grid=GRID, n_classes=20).eval()
    layers: list[Layer] = []
    times: dict[str, dict[str, list[float]]] = {s: {"prepare": [], "forward": []} for s in SIDES}
    answers = {}
    with torch.no_grad():
        for _ in range(repeats):
            for side in SIDES:
                network.backend = side
                prepared = network.prepare(batch)
                times[side]["prepare"].append(spent_ms(lambda: network.prepare(batch)))
                times[side]["forward"].append(spent_ms(lambda p=prepared: network(p)))
                answers[side] = network(prepared).row_logits
        for side in SIDES:
            network.backend = side
            watch(network, network.prepare(batch), side, layers)
    off = (answers["native"] - answers["spconv"]).abs().max() / answers["spconv"].abs().max()
    print(f"{kind}: {len(layers)} sparse layers, logits differ by {float(off):.0e}")
    medians = {
        side: {part: statistics.median(of) for part, of in parts.items()}
        for side, parts in times.items()
    }
    return layers, medians


def watch(network: Network, prepared: Prepared, side: str, layers: list[Layer]) -> None:
    """Run a network; its layers, in their order, become or join those of the other side."""
    convolve = TABLES[side].convolve
    seen = 0

    def watched(table: ConvTable, features: Tensor, weight: Tensor) -> Tensor:
        nonlocal seen
        if seen == len(layers):
            layers.append(Layer(features=features.clone(), weight=weight))
        layer = layers[seen]
        layer.tables[side] = table
        result = convolve(table, features, weight)
        layer.rows = len(result)
        seen += 1
        return result

    with mock.patch.object(TABLES[side], "convolve", watched):
        network(prepared)


def time_layer(layer: Layer, repeats: int) -> dict[str, tuple[float, float]]:
    """Per side the milliseconds forward and backward."""
    features = layer.features.clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    towards = torch.randn(layer.rows, len(weight))
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            results: list[Tensor] = []
            ahead = spent_ms(
                lambda s=side, r=results: r.append(layer.tables[s].convolve(features, weight))
            )
            back = spent_ms(
                lambda r=results: torch.autograd.grad(r[0], (features, weight), towards)
            )
            times[side].append((ahead, back))
    return {
        side: (statistics.median(a for a, _ in of), statistics.median(b for _, b in of))
        for side, of in times.items()
    }


def compare(kind: str, batch: PointBatch, repeats: int) -> None:
    layers, whole = record(kind, batch, repeats)
    forms: dict[tuple[str, int, int, int, int], list[Layer]] = {}
    for layer in layers:
        forms.setdefault(layer.form, []).append(layer)
    print(
        "| layer | voxels | widths | times | forward native / spconv | backward native / spconv |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    totals = {side: [0.0, 0.0] for side in SIDES}
    for (name, rows_in, rows_out, n_in, n_out), group in forms.items():
        times = time_layer(group[0], repeats)
        for side in SIDES:
            for part in (0, 1):
                totals[side][part] += len(group) * times[side][part]
        cells = [
            f"{times['native'][part]:.1f} / {times['spconv'][part]:.1f} ms, "
            f"{times['spconv'][part] / times['native'][part]:.2f}x"
            for part in (0, 1)
        ]
        voxels = f"{rows_in} to {rows_out}" if rows_in != rows_out else f"{rows_in}"
        print(f"| {name} | {voxels} | {n_in} to {n_out} | {len(group)} | {' | '.join(cells)} |")
    ratios = [totals["spconv"][part] / totals["native"][part] for part in (0, 1)]
    print(
        f"{kind}: all sparse layers "
        f"forward {totals['native'][0]:.0f} / {totals['spconv'][0]:.0f} ms "
        f"({ratios[0]:.2f}x), backward {totals['native'][1]:.0f} / {totals['spconv'][1]:.0f} ms "
        f"({ratios[1]:.2f}x); "
        + ", ".join(
            f"{part} {whole['native'][part]:.0f} / {whole['spconv'][part]:.0f} ms"
            for part in ("prepare", "forward")
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--scans", type=int, default=1, help="copies of it in a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    points = load_points(args.scan)
    for kind in args.networks:
        mine = points
        if kind == "baseline":  # takes the points of the volume alone
            low, high = torch.tensor(GRID.low), torch.tensor(GRID.high)
            mine = points[((points[:, :3] > low) & (points[:, :3] < high)).all(1)]
        offsets = torch.arange(args.scans + 1) * len(mine)
        compare(kind, PointBatch(points=mine.repeat(args.scans, 1), offsets=offsets), args.repeats)


if __name__ == "__main__":
    main()
