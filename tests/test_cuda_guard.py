"""The logical CUDA device itself: faults that it must find, made on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_samples import write_sample_cache
from logical_cuda import Device, DeviceTensor, WrongDeviceError, logical_cuda
from logical_runs import a_gpu, assert_same_numbers, require_waits, small_recipe, take_steps

from pass2d.models.backends import spconv
from pass2d.models.backends.implicit_gemm import gemm_neighbours
from pass2d.train.data import augment
from pass2d.train.data.stream import BatchStream
from pass2d.train.optim import losses, optimizer
from pass2d.train.run import ahead, step

PLAIN = ("augment.mode=none",)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=6, sequences=("00", "08"), n_points=100)
    return root


@pytest.fixture
def gpu() -> Iterator[Device]:
    with a_gpu() as here:
        yield here


def baseline(*overrides: str) -> Any:
    return small_recipe("baseline", *PLAIN, *overrides)


def test_memory_that_is_used_again_before_an_event(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release_at_once(self: BatchStream, slot: Any) -> None:
        self._slots.append(slot)

    monkeypatch.setattr(BatchStream, "_release", release_at_once)
    with pytest.raises(AssertionError, match=r"asked for at .*: its source changed"), a_gpu() as on:
        take_steps(data, baseline(), on, n=6)


def test_a_second_stream_without_an_event(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_gpu() as here:
        take_steps(data, baseline(), here, n=3)
        assert here.streams.count == 2
        stream = type(torch.cuda.current_stream())
        monkeypatch.setattr(stream, "wait_event", lambda *_: None)
        with pytest.raises(WrongDeviceError, match=r"stream 0 uses .* without an event"):
            take_steps(data, baseline(), here, n=3)


def test_memory_of_a_second_stream_that_may_be_given_away(
    data: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_used_on", lambda *_: None)
    with pytest.raises(WrongDeviceError, match=r"memory .* of stream 1 .* without record_stream"):
        take_steps(data, baseline(), gpu, n=3)


def test_weights_are_not_looked_at_on_a_second_stream(
    data: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ahead.prepared_batch

    def with_weights(job: Any, raw: Any, *, seed: int) -> Any:
        next(job.network.parameters()).detach().sum()
        return real(job, raw, seed=seed)

    monkeypatch.setattr(ahead, "prepared_batch", with_weights)
    with pytest.raises(WrongDeviceError, match=r"stream 1 uses .* of stream 0"):
        take_steps(data, baseline(), gpu, n=3)


def test_the_event_for_pinned_memory_belongs_to_the_stream_that_copies(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_the_first(self: Any) -> None:
        self.stream.wait()  # gives the last batch's memory back by an event of the first stream
        real(self)

    real = ahead.Batches._prepare
    monkeypatch.setattr(ahead.Batches, "_prepare", on_the_first)
    with pytest.raises(AssertionError, match="its source changed"), a_gpu() as here:
        take_steps(data, baseline("stream.prefetch=1"), here, n=8)


def test_numpy_of_a_device_tensor(data: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    real = step.compute_loss

    def with_numpy(segmentation: Any, prepared: Any, **settings: Any) -> Any:
        segmentation.row_logits.detach().numpy()
        return real(segmentation, prepared, **settings)

    monkeypatch.setattr(step, "compute_loss", with_numpy)
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        take_steps(data, baseline(), gpu, n=1)


def test_a_tensor_that_was_not_moved(
    data: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "host_values", lambda values, _, dtype=None: torch.tensor(values))
    recipe = baseline("augment.mode=full", "augment.dropout_ratio=0.5")
    with pytest.raises(WrongDeviceError, match=r"same device.*train/data/augment\.py:\d+"):
        take_steps(data, recipe, gpu, n=1)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda logits: logits[torch.ones(len(logits), dtype=torch.bool)], "index of the host"),
        (lambda logits: logits[logits[:, 0] > 0], "index by a mask"),
        (lambda logits: float(logits.sum()), "_local_scalar_dense"),
        (lambda logits: logits.cpu(), "copy to the host"),
        (lambda logits: torch.ones(1).to(logits.device), "blocking copy to the device"),
        (lambda logits: logits.masked_fill_(logits > 9, logits[0, 0]), "masked_fill"),
    ],
)
def test_waits_in_the_losses_name_their_line(
    data: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch, fault: Any, what: str
) -> None:
    real = losses.full_precision

    def full_precision(values: torch.Tensor) -> torch.Tensor:
        fault(values.detach())
        return real(values)

    monkeypatch.setattr(losses, "full_precision", full_precision)
    record = take_steps(data, baseline(), gpu, n=1).records[-1]
    with pytest.raises(AssertionError, match=rf"losses: .*{what}.* at train/optim/losses\.py:\d+"):
        require_waits(record, prepare=None)


def test_a_wrong_table(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mirrored(*given: Any, **options: Any) -> Any:
        table = gemm_neighbours(*given, **options)
        return replace(table, pair_fwd=table.pair_bwd, pair_bwd=table.pair_fwd)

    monkeypatch.setattr(spconv, "gemm_neighbours", mirrored)
    recipe = small_recipe("minkowskinet", *PLAIN, "network.settings.voxel_m=8.0")
    on_cpu = take_steps(data, recipe, None, n=1)
    with a_gpu() as here:
        on_gpu = take_steps(data, recipe, here, n=1)
    with pytest.raises(AssertionError):
        assert_same_numbers(on_cpu, on_gpu)


def test_strides_that_fused_optimizers_do_not_take(
    gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).to("cuda:0")
    chosen = optimizer.build_optimizer(layer, optimizer.OptimizerConfig())
    layer.weight.grad = torch.ones_like(layer.weight, memory_format=torch.contiguous_format)
    layer.bias.grad = torch.ones_like(layer.bias)
    skips = optimizer.no_skips(gpu.torch_device)
    optimizer.guarded_step(chosen, skips, rate=0.1, clip_norm=1.0)
    monkeypatch.setattr(optimizer, "lay_out", lambda _: None)
    layer.weight.grad = torch.ones_like(layer.weight, memory_format=torch.contiguous_format)
    with pytest.raises(WrongDeviceError, match=r"_fused_sgd_.*strides"):
        optimizer.guarded_step(chosen, skips, rate=0.1, clip_norm=1.0)


def test_kernels_on_another_gpu_than_the_current_one(data: Path) -> None:
    recipe = baseline()
    with a_gpu(index=1) as here:
        take_steps(data, recipe, here, n=1)
        torch.cuda.device = lambda _: torch.no_grad()  # the device's own, put back at its end
        with pytest.raises(WrongDeviceError, match=r"on cuda:0.*tensors lie on cuda:1"):
            take_steps(data, recipe, here, n=1)


def test_the_device_computes_as_the_cpu_and_says_that_it_is_a_gpu() -> None:
    with logical_cuda() as here:
        weight = torch.arange(6.0).view(2, 3).to("cuda:0", non_blocking=True).requires_grad_()
        assert weight.device == torch.device("cuda:0")
        assert weight.is_cuda
        (weight.exp().sum() * 2).backward()
        assert isinstance(weight.grad, DeviceTensor)
        assert not here.record.waits
        gradient = weight.grad.cpu()
        assert sum(here.record.waits.values()) == 1
    assert torch.allclose(gradient, 2 * torch.arange(6.0).view(2, 3).exp())
    assert torch.zeros(1).device.type == "cpu"
    assert not torch.cuda.is_available() or torch.cuda.device_count() > 0
