"""The image network as it trains, compiled, and captured as a CUDA graph: whether either pays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.gpu.setup import Clock, Row, Setup, attempted
from pass2d.models.twodpass.encoder2d import Encoder2D

Way = Callable[[Encoder2D, Tensor], Callable[[Tensor], Sequence[Tensor]]]
"""Makes of the network and an example what is then called instead of it."""
PAYS = 1.1
"""Times faster; less is not worth another way of running it."""


def captured(network: Encoder2D, images: Tensor) -> Any:
    return torch.cuda.make_graphed_callables(network, (images,))


def compiled(network: Encoder2D, _: Tensor) -> Any:
    return torch.compile(network)


WAYS: dict[str, Way] = {"captured as a CUDA graph": captured, "by torch.compile": compiled}


def image_network(setup: Setup, clock: Clock, *, ways: dict[str, Way] = WAYS) -> Iterator[Row]:
    """Forward and backward of the pictures of a batch; training calls the network as it is."""
    hidden, size_hw = (4, (32, 96)) if setup.is_small else (64, (320, 480))
    images = torch.rand(setup.batch, 3, *size_hw, device=setup.device)
    what = f"{setup.batch} pictures of {size_hw[0]} x {size_hw[1]}, forward and backward"
    plain_ms = milliseconds(fresh(hidden, setup), images, setup, clock)
    yield Row(part="image", what=f"{what}: as it is", measured=f"{plain_ms:.1f} ms")
    for name, way in ways.items():
        if not setup.is_cuda and ways is WAYS:
            yield Row(part="image", what=f"{what}: {name}", measured="not measured on a CPU")
            continue
        rows = compared(way, images, setup, clock, hidden=hidden, plain_ms=plain_ms)
        for row in attempted("image", "", rows):
            yield replace(row, what=f"{what}: {name}")


def compared(
    way: Way, images: Tensor, setup: Setup, clock: Clock, *, hidden: int, plain_ms: float
) -> Iterator[Row]:
    begin = time.perf_counter()
    ms = milliseconds(way(fresh(hidden, setup), images), images, setup, clock)
    verdict = "pays" if plain_ms / ms >= PAYS else "does not pay"
    yield Row(
        part="image",
        what="",
        measured=f"{ms:.1f} ms, {plain_ms / ms:.2f} times as fast: {verdict}; "
        f"{time.perf_counter() - begin:.0f} s until then",
        beside=f"pays from {PAYS} times on",
    )


def fresh(hidden: int, setup: Setup) -> Encoder2D:
    torch.manual_seed(0)
    return Encoder2D(hidden).to(setup.torch_device).train()


def milliseconds(
    network: Callable[[Tensor], Sequence[Tensor]], images: Tensor, setup: Setup, clock: Clock
) -> float:
    """Of one call with its backward: the median of at most 10 after 3 that warm up."""
    took = []
    for number in range(2 if setup.is_small else 13):
        if number > 4 and clock.left < 0:
            break
        setup.wait()
        begin = time.perf_counter()
        torch.stack([maps.square().mean() for maps in network(images)]).sum().backward()
        setup.wait()
        took.append(time.perf_counter() - begin)
    return 1000 * median(took[1 if setup.is_small else 3 :])
