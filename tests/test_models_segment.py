"""The one kernel under all means, sums and look-ups."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pass2d.models import segment
from pass2d.models.segment import bag_sum, segment_sum
from pass2d.models.twodpass.links import Link, lookup_link, mean_link


def plain_bag_sum(
    features: Tensor, index: Tensor | None, offsets: Tensor | None, weight: Tensor | None
) -> Tensor:
    rows = features if index is None else features[index]
    rows = rows if weight is None else rows * weight[:, None].to(rows)
    if offsets is None:
        return rows
    pairs = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return torch.stack([rows[start:stop].sum(0) for start, stop in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_index", [False, True])
@pytest.mark.parametrize("with_offsets", [False, True])
@pytest.mark.parametrize("with_weight", [False, True])
def test_bag_sum_equals_the_plain_sum(
    *, dtype: torch.dtype, with_index: bool, with_offsets: bool, with_weight: bool
) -> None:
    features = torch.randn(30, 6, dtype=dtype)
    index = torch.randint(30, (50,)) if with_index else None
    n = 50 if with_index else 30
    offsets = torch.tensor([0, 1, 9, 9, n]) if with_offsets else None  # one sum is empty
    weight = torch.rand(n) if with_weight else None
    ours = bag_sum(features, index=index, offsets=offsets, weight=weight)
    torch.testing.assert_close(ours, plain_bag_sum(features, index, offsets, weight))


def check_gradient(link: Link, n_rows: int) -> None:
    features = torch.randn(n_rows, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: link @ rows, (features,))


def test_gradients_of_means_and_look_ups() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    link_segment = torch.tensor([0, 1, 2, 0, 1])
    offsets = torch.tensor([0, 2, 4, 5])
    check_gradient(mean_link(link_segment, order=order, offsets=offsets), 5)
    check_gradient(lookup_link(link_segment, order=order, offsets=offsets), 3)
    ordered = torch.tensor([0, 0, 1, 1, 2])
    check_gradient(mean_link(ordered, order=None, offsets=offsets), 5)
    check_gradient(lookup_link(ordered, order=None, offsets=offsets), 3)


@pytest.mark.parametrize(("cuda_version", "is_used"), [(-1, False), (11080, True)])
def test_a_torch_scatter_for_cpus_is_left_alone_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, *, cuda_version: int, is_used: bool
) -> None:
    namespace = SimpleNamespace(cuda_version=lambda: cuda_version)
    monkeypatch.setattr(torch.ops, "torch_scatter", namespace, raising=False)
    assert segment._serves(torch.device("cuda")) == is_used
    assert segment._serves(torch.device("cpu"))


@pytest.mark.scatter
def test_torch_scatter_gives_the_same_sums() -> None:
    pytest.importorskip("torch_scatter")
    features, offsets = torch.randn(500, 16), torch.arange(0, 501, 10)
    assert segment.scatter_library() is not None
    torch.testing.assert_close(
        segment_sum(features, offsets), plain_bag_sum(features, None, offsets, None)
    )
    # What tells a build for CPUs from one for GPUs.
    assert isinstance(torch.ops.torch_scatter.cuda_version(), int)


def test_torch_scatter_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Library:
        @staticmethod
        def segment_csr(rows: Tensor, offsets: Tensor, reduce: str) -> Any:
            calls.append(reduce)
            return plain_bag_sum(rows, None, offsets, None)

    monkeypatch.setattr(segment, "scatter_library", lambda: Library)
    features, offsets = torch.randn(6, 2), torch.tensor([0, 2, 6])
    torch.testing.assert_close(
        segment_sum(features, offsets), plain_bag_sum(features, None, offsets, None)
    )
    assert calls == ["sum"]
