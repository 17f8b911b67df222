"""2DPASS, one training step: the plain formulation beside ours, interleaved, with memory.

    python -m bench.bench_networks [--device cuda] [--scans 4] [--repeats 5] [--json FILE]

Both use the same weights and the same batch, and must give the same numbers. Wall and CPU seconds
are given (CPU seconds hardly depend on what else the machine does); peak memory is that of a fresh
process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.plain_twodpass import plain_forward, plain_loss, plain_voxels
from pass2d.models.inputs import Grid, ImageBatch, PointBatch
from pass2d.models.registry import build_network
from pass2d.models.twodpass.hierarchy import build_levels
from pass2d.models.twodpass.twodpass import TwoDPass
from pass2d.train.optim.losses import LossConfig, compute_loss

GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
N_CLASSES = 20
SEEN_PER_SCAN = 8000  # points that a 480 x 320 crop of a SemanticKITTI picture sees
SCALES = (1, 2, 4, 8, 16)
KERNELS = ([1, 1], [3, 3], [7, 7])
"""Sides of ResNet's and the decoders' kernels."""


def street_scan(seed: int) -> np.ndarray:
    """(N, 4) about 120k points: 64 beams over a road between walls, with boxes on it."""
    rng = np.random.default_rng(seed)
    pitch, yaw = np.meshgrid(
        np.radians(np.linspace(2.0, -24.8, 64)), np.linspace(-np.pi, np.pi, 2000, endpoint=False)
    )
    ray = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], -1)
    ray = ray.reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = [np.where(ray[:, 2] < 0, -1.73 / ray[:, 2], np.inf)]
        wave = 2.0 * np.sin(np.arange(len(ray)) / 700.0)
        for side in (-1, 1):
            along = side * (11.0 + wave) / ray[:, 1]
            hits.append(np.where(along > 0, along, np.inf))
        for _ in range(60):
            x, y, radius = rng.uniform(-40, 40), rng.uniform(-10, 10), rng.uniform(0.1, 1.2)
            hits.append(_cylinder(ray, x, y, radius))
    distance = np.min(hits, axis=0) * (1 + rng.normal(0, 0.002, len(ray)))
    is_hit = np.isfinite(distance)
    xyz = ray * np.where(is_hit, distance, 0)[:, None]
    kept = is_hit & (rng.random(len(ray)) < 0.98)
    kept &= (xyz > np.array(GRID.low)).all(1) & (xyz < np.array(GRID.high)).all(1)
    signal = rng.random(len(ray))
    return np.column_stack([xyz, signal])[kept].astype(np.float32)


def _cylinder(ray: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    flat = ray[:, :2] / np.linalg.norm(ray[:, :2], axis=1, keepdims=True)
    ahead = flat @ np.array([x, y])
    off = np.hypot(x, y) ** 2 - ahead**2
    reach = ahead - np.sqrt(np.maximum(radius**2 - off, 0))
    distance = reach / np.linalg.norm(ray[:, :2], axis=1)
    height = ray[:, 2] * distance
    is_hit = (off < radius**2) & (ahead > 0) & (height < -0.2)
    return np.where(is_hit, distance, np.inf)


def make_batch(n_scans: int, device: str) -> PointBatch:
    rng = np.random.default_rng(7)
    scans = [street_scan(seed) for seed in range(n_scans)]
    offsets = np.cumsum([0, *(len(s) for s in scans)])
    points = np.concatenate(scans)
    x, y, z = points[:, :3].astype(np.float64).T
    labels = (np.floor(x / 5) + 3 * np.floor(y / 5) + 5 * np.floor(z)).astype(np.int64) % N_CLASSES
    seen = [
        np.sort(rng.choice(len(s), SEEN_PER_SCAN, replace=False)) + start
        for s, start in zip(scans, offsets[:-1], strict=True)
    ]
    n_seen = n_scans * SEEN_PER_SCAN
    pixels = np.column_stack([rng.integers(0, 320, n_seen), rng.integers(0, 480, n_seen)])
    noise = rng.standard_normal((n_scans, 3, 320, 480)).astype(np.float32)
    return PointBatch(
        points=torch.from_numpy(points),
        offsets=torch.from_numpy(offsets),
        labels=torch.from_numpy(labels),
        images=ImageBatch(
            images=torch.from_numpy(noise),
            image_index=torch.from_numpy(np.repeat(np.arange(n_scans), SEEN_PER_SCAN)),
            pixel_rc=torch.from_numpy(pixels),
            point_index=torch.from_numpy(np.concatenate(seen)),
        ),
    ).to(device)


class Timer:
    """Wall and CPU seconds of named steps, the device's work included."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self._wait()
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        return result

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def our_step(net: TwoDPass, batch: PointBatch, timer: Timer) -> tuple[Tensor, Tensor]:
    prepared = timer("prepare", lambda: net.prepare(batch))
    answer = timer("forward", lambda: net(prepared))
    loss = timer("losses", lambda: compute_loss(answer, prepared, config=LossConfig()))
    timer("backward", loss.total.backward)
    return answer.logits.detach(), loss.total.detach()


def their_step(net: TwoDPass, batch: PointBatch, timer: Timer) -> tuple[Tensor, Tensor]:
    found = timer("prepare", lambda: plain_voxels(batch, grid=GRID, scales=SCALES))
    answer = timer("forward", lambda: plain_forward(net, batch, found))
    total = timer("losses", lambda: plain_loss(net, batch, answer, LossConfig()))
    timer("backward", total.backward)
    return answer.logits.detach(), total.detach()


STEPS = {"plain": their_step, "ours": our_step}


def compare(net: TwoDPass, batch: PointBatch, device: str, repeats: int) -> dict[str, Any]:
    """Interleaved runs of both, and how far their numbers are apart."""
    timers = {name: Timer(device) for name in STEPS}
    results: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for repeat in range(repeats + 1):
        for name, step in STEPS.items():
            net.zero_grad(set_to_none=True)
            timer = Timer(device) if repeat == 0 else timers[name]  # the first run warms up
            logits, total = timer(
                "whole step", lambda step=step, timer=timer: step(net, batch, timer)
            )
            gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
            results[name] = (logits, total, gradient)
    voxel_timer = Timer(device)
    for _ in range(repeats):
        voxel_timer("plain", lambda: plain_voxels(batch, grid=GRID, scales=SCALES))
        voxel_timer(
            "ours", lambda: build_levels(batch.points, batch.offsets, grid=GRID, scales=SCALES)
        )
    table = {
        step: {name: _medians(timers[name], step) for name in STEPS}
        for step in ("prepare", "forward", "losses", "backward", "whole step")
    }
    table["voxeliser alone"] = {name: _medians(voxel_timer, name) for name in STEPS}
    return {"seconds": table, "relative distance": _distances(results)}


def _medians(timer: Timer, name: str) -> dict[str, float]:
    return {"wall": median(timer.wall[name]), "cpu": median(timer.cpu[name])}


def _distances(results: dict[str, tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    names = ("logits", "total loss", "gradient")
    return {
        name: float((ours - plain).norm() / plain.norm())
        for name, plain, ours in zip(names, results["plain"], results["ours"], strict=True)
    }


def shares(net: TwoDPass, batch: PointBatch) -> dict[str, float]:
    """CPU seconds of our step by kind of operation."""
    our_step(net, batch, Timer("cpu"))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        our_step(net, batch, Timer("cpu"))
    kinds = {"ResNet": 0.0, "image decoders": 0.0, "sparse convolutions": 0.0, "all else": 0.0}
    events = profile.key_averages(group_by_input_shape=True)
    for event in events:
        if event.key in ("aten::mkldnn_convolution", "aten::convolution_backward"):
            kind = "image decoders" if _is_decoders(event.input_shapes) else "ResNet"
            kinds[kind] += event.self_cpu_time_total / 1e6
        elif event.key.startswith("_Convolution"):
            kinds["sparse convolutions"] += event.cpu_time_total / 1e6
    everything = sum(event.self_cpu_time_total for event in events) / 1e6
    kinds["all else"] = everything - sum(kinds.values())
    return kinds


def _is_decoders(shapes: list[list[int]]) -> bool:
    """A 7x7 kernel on anything but the picture itself, or a kernel that enlarges its map."""
    weight = next(shape for shape in shapes[1:] if len(shape) == 4 and shape[2:] in KERNELS)
    is_transposed = len(shapes[1]) == 4 and shapes[1] != weight and shapes[0][2] > shapes[1][2]
    return is_transposed or (weight[2] == 7 and weight[1] != 3)


def peak_mib(which: str, n_scans: int, device: str) -> float:
    """Peak memory of one step beyond what the network and the batch take, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", which, "--scans", str(n_scans)]
    done = subprocess.run(
        [*command, "--device", device], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def measure_peak(which: str, net: TwoDPass, batch: PointBatch, device: str) -> float:
    small = make_batch(1, device)
    STEPS[which](net, _first_points(small, 2000), Timer(device))  # libraries load, gradients exist
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        STEPS[which](net, batch, Timer(device))
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before_kib = _status_kib("VmRSS")
    STEPS[which](net, batch, Timer(device))
    return (_status_kib("VmHWM") - before_kib) / 1024


def _first_points(batch: PointBatch, n: int) -> PointBatch:
    images = batch.images
    assert images is not None
    assert batch.labels is not None
    return PointBatch(
        points=batch.points[:n],
        offsets=torch.tensor([0, n], device=batch.points.device),
        labels=batch.labels[:n],
        images=ImageBatch(
            images=images.images[:, :, :64, :64].contiguous(),
            image_index=images.image_index[:100] * 0,
            pixel_rc=images.pixel_rc[:100] % 64,
            point_index=torch.arange(100, device=batch.points.device),
        ),
    )


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def show(result: dict[str, Any]) -> None:
    print(f"{'':18}{'plain':>20}{'ours':>20}{'ratio':>16}    wall s (CPU s)")
    for step, pair in result["seconds"].items():
        cells = [f"{pair[n]['wall']:.3f} ({pair[n]['cpu']:.3f})" for n in STEPS]
        ratio = [pair["plain"][k] / max(pair["ours"][k], 1e-9) for k in ("wall", "cpu")]
        print(f"{step:18}{cells[0]:>20}{cells[1]:>20}{f'{ratio[0]:.1f} ({ratio[1]:.1f})':>16}")
    memory = result["peak MiB"]
    cells = [f"{memory[name]:.0f}" for name in STEPS]
    ratio = memory["plain"] / memory["ours"]
    print(f"{'peak memory, MiB':18}{cells[0]:>20}{cells[1]:>20}{ratio:>16.1f}")
    print("relative distance: ", {k: f"{v:.1e}" for k, v in result["relative distance"].items()})
    if "share" in result:
        print("our step, s:       ", {k: round(v, 3) for k, v in result["share"].items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--network", default="2dpass-small")
    parser.add_argument("--scans", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = build_network(options.network, {}, grid=GRID, n_classes=N_CLASSES, device=options.device)
    assert isinstance(net, TwoDPass)
    net.train()
    batch = make_batch(options.scans, options.device)
    if options.memory_of:
        print(measure_peak(options.memory_of, net, batch, options.device))
        return
    result = compare(net, batch, options.device, options.repeats)
    if options.device == "cpu":
        result["share"] = shares(net, batch)
    result["peak MiB"] = {n: peak_mib(n, options.scans, options.device) for n in STEPS}
    result["facts"] = {
        "device": options.device,
        "threads": options.threads,
        "scans": options.scans,
        "points": len(batch.points),
        "torch": torch.__version__,
    }
    print(result["facts"])
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
