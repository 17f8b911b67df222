"""The training step of each network beside its plain formulation: same weights, same batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor

from bench.bench_networks import GRID, N_CLASSES, STEPS, Timer, make_batch
from bench.gpu.setup import Clock, Row, Setup, attempted
from bench.plain_sparse_unet import plain_forward
from pass2d.models.inputs import ImageBatch, PointBatch
from pass2d.models.network import Network
from pass2d.models.registry import build_network
from pass2d.models.sparse_unets.sparse_unet import SparseUNet
from pass2d.models.twodpass.twodpass import TwoDPass

GOAL = 6.0
"""Times faster than the plain formulation, on an H100."""
FARTHEST = (1e-5, 1e-3)
"""Logits and gradients from those of the plain formulation, in parts of them."""
_SMALL_POINTS = 1500


def steps(setup: Setup, clock: Clock) -> Iterator[Row]:
    """Seconds, peak memory and how far the results are apart."""
    batch = made_batch(setup)
    narrow = {"hidden": 4} if setup.is_small else {}
    thin = {"width_factor": 0.0625} if setup.is_small else {}
    for kind, settings in (("2dpass-small", narrow), ("minkowskinet", thin), ("spvcnn", thin)):
        yield from attempted("steps", kind, compared(setup, clock, kind, batch, settings))


def made_batch(setup: Setup) -> PointBatch:
    """Street scans on the device."""
    if not setup.is_small:
        return make_batch(setup.batch, setup.device)
    whole = make_batch(1, "cpu")
    images = whole.images
    assert images is not None
    assert whole.labels is not None
    return PointBatch(
        points=whole.points[:_SMALL_POINTS],
        offsets=torch.tensor([0, _SMALL_POINTS]),
        labels=whole.labels[:_SMALL_POINTS],
        images=ImageBatch(
            images=images.images[:, :, :32, :32].contiguous(),
            image_index=images.image_index[:50] * 0,
            pixel_rc=images.pixel_rc[:50] % 32,
            point_index=torch.arange(50),
        ),
    ).to(setup.device)


def compared(
    setup: Setup, clock: Clock, kind: str, batch: PointBatch, settings: dict[str, object]
) -> Iterator[Row]:
    """One network: after a warm-up both sides in turn, as often as the time allows, at most 5."""
    torch.manual_seed(0)
    net = build_network(kind, settings, grid=GRID, n_classes=N_CLASSES, device=setup.device)
    net.train(isinstance(net, TwoDPass))  # of the U-Nets neither dropout nor statistics shall tell
    sides = sides_of(net, batch, setup.device)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    answers: dict[str, tuple[Tensor, Tensor]] = {}
    for repeat in range(1 if setup.is_small else 6):
        if repeat > 1 and clock.left < 5:
            break
        for name, step in sides.items():
            net.zero_grad(set_to_none=True)
            gc.collect()
            if setup.is_cuda:
                torch.cuda.reset_peak_memory_stats(setup.torch_device)
            timer = Timer(setup.torch_device.type)
            logits = timer("step", step)
            gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
            answers[name] = logits, gradient
            peaks[name] = peak_gib(setup)
            if repeat or setup.is_small:  # else the first warms up
                seconds[name].append(timer.wall["step"][0])
    ms = {name: 1000 * median(values) for name, values in seconds.items()}
    what = f"{kind}, {len(batch.offsets) - 1} scans, {len(batch.points):,} points"
    ratio = ms["plain"] / ms["ours"]
    yield Row(
        part="steps",
        what=f"{what}: prepare, forward, losses, backward",
        measured=f"{ms['ours']:.1f} ms; plain formulation {ms['plain']:.1f} ms: {ratio:.1f} times "
        "as fast",
        beside=f"goal on an H100: {GOAL:g} times as fast",
        is_reached=setup.judged(ratio >= GOAL, on="H100"),
    )
    far = [
        float((own - other).norm() / other.norm())
        for own, other in zip(answers["ours"], answers["plain"], strict=True)
    ]
    yield Row(
        part="steps",
        what=f"{kind}: relative distance of logits and gradients to the plain formulation's",
        measured=f"{far[0]:.1e} and {far[1]:.1e}",
        beside=f"goal: at most {FARTHEST[0]:.0e} and {FARTHEST[1]:.0e}",
        is_reached=setup.judged(far[0] <= FARTHEST[0] and far[1] <= FARTHEST[1]),
    )
    yield Row(
        part="steps",
        what=f"{kind}: peak memory, network and batch included",
        measured=f"{peaks['ours']:.2f} GiB" if setup.is_cuda else "not measured on a CPU",
        beside=f"plain formulation: {peaks['plain']:.2f} GiB" if setup.is_cuda else "",
    )


def sides_of(net: Network, batch: PointBatch, device: str) -> dict[str, Callable[[], Tensor]]:
    """Steps that end with gradients and return logits."""
    kind = torch.device(device).type
    if isinstance(net, TwoDPass):
        return {
            name: lambda step=step: step(net, batch, Timer(kind))[0] for name, step in STEPS.items()
        }
    assert isinstance(net, SparseUNet)

    def ended(logits: Tensor) -> Tensor:
        logits.square().mean().backward()
        return logits.detach()

    return {
        "plain": lambda: ended(plain_forward(net, batch)),
        "ours": lambda: ended(net(net.prepare(batch)).row_logits),
    }


def peak_gib(setup: Setup) -> float:
    """Of the device, since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(setup.torch_device) / 2**30 if setup.is_cuda else 0.0
