"""MinkowskiNet and SPVCNN beside their plain formulation: preparing, forward, backward, in one run.

    python -m bench.bench_sparse_unets [--scan FILE.bin] [--scans 1] [--repeats 3] [--device cpu]

Without --scan a real scan of ../shared is taken when it is there, else a random one. Both sides run
alternately, so other work on the machine meets them alike; trust the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.plain_sparse_unet import plain_forward
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.registry import build_network
from pass2d.models.sparse_unets.sparse_unet import SparseUNet

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "semantickitti" / "sequences"
GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))


def load_points(scan: Path | None) -> Tensor:
    scan = scan or next(iter(sorted(REAL.glob("*/velodyne/*.bin"))), None)
    if scan is not None:
        return torch.from_numpy(np.fromfile(scan, "<f4").reshape(-1, 4))
    rng = np.random.default_rng(0)
    range_m, yaw = rng.exponential(12, 124_000) + 2, rng.uniform(-np.pi, np.pi, 124_000)
    xyz = [range_m * np.cos(yaw), range_m * np.sin(yaw), rng.uniform(-2, 2, 124_000)]
    return torch.from_numpy(np.stack([*xyz, rng.random(124_000)], 1).astype(np.float32))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU time of the process on a CPU, wall time on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


class Side:
    """One formulation of a training step, timed in parts."""

    def __init__(self, network: SparseUNet, batch: PointBatch, *, is_plain: bool) -> None:
        self.network, self.batch, self.is_plain = network, batch, is_plain
        self.times: dict[str, list[float]] = {"prepare": [], "forward": [], "backward": []}
        self.logits = torch.zeros(0)

    def step(self) -> None:
        device = self.batch.points.device
        self.network.zero_grad()
        if self.is_plain:
            self.times["prepare"].append(0.0)
            self.times["forward"].append(seconds(self._plain, device))
        else:
            self.times["prepare"].append(seconds(self._prepare, device))
            self.times["forward"].append(seconds(self._ours, device))
        self.times["backward"].append(seconds(self.logits.square().mean().backward, device))

    def _plain(self) -> None:
        self.logits = plain_forward(self.network, self.batch)

    def _prepare(self) -> None:
        self.prepared = self.network.prepare(self.batch)

    def _ours(self) -> None:
        self.logits = self.network(self.prepared).row_logits

    def median(self, part: str) -> float:
        return statistics.median(self.times[part])


def compare(kind: str, batch: PointBatch, repeats: int) -> None:
    torch.manual_seed(0)
    network = build_network(kind, {}, grid=GRID, n_classes=20, device=batch.points.device)
    assert isinstance(network, SparseUNet)
    network.eval()  # neither running statistics nor dropout may tell the sides apart
    plain, ours = (Side(network, batch, is_plain=flag) for flag in (True, False))
    for _ in range(repeats):
        plain.step()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        ours.step()
        own = torch.cat([p.grad.flatten() for p in network.parameters()])
    off = (plain.logits - ours.logits).detach().abs().max() / plain.logits.abs().max()
    off_gradient = (gradient - own).norm() / gradient.norm()
    totals = {}
    for name, side in (("plain", plain), ("ours", ours)):
        parts = {part: side.median(part) for part in side.times}
        totals[name] = sum(parts.values())
        shown = "  ".join(f"{part} {value:6.2f} s" for part, value in parts.items())
        print(f"{kind:13s} {name:6s} {shown}  step {totals[name]:6.2f} s")
    print(
        f"{kind:13s} ratio  step {totals['plain'] / totals['ours']:.2f}x, everything but backward "
        f"{plain.median('forward') / (ours.median('prepare') + ours.median('forward')):.2f}x; "
        f"logits differ by {float(off):.1e}, gradients by {float(off_gradient):.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--scans", type=int, default=1, help="copies of it in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    points = load_points(args.scan)
    offsets = torch.arange(args.scans + 1) * len(points)
    batch = PointBatch(points=points.repeat(args.scans, 1), offsets=offsets).to(args.device)
    print(f"{len(points)} points x {args.scans}, {args.device}, {torch.get_num_threads()} threads")
    for kind in ("minkowskinet", "spvcnn"):
        compare(kind, batch, args.repeats)


if __name__ == "__main__":
    main()
