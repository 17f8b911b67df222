"""`NarrowLinear` is `nn.Linear`, computed the other way round."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pass2d.models.linear import NarrowLinear


@pytest.mark.parametrize("bias", [True, False])
def test_results_and_gradients_are_those_of_linear(bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(10, 6, bias=bias).double()
    narrow = NarrowLinear(10, 6, bias=bias).double()
    narrow.load_state_dict(plain.state_dict())  # the same names
    rows = torch.randn(50, 10, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(50, 6, dtype=torch.float64)
    found = []
    for layer in (plain, narrow):
        rows.grad = None
        result = layer(rows)
        (result * factor).sum().backward()
        found.append([result, rows.grad, *(p.grad for p in layer.parameters())])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_bfloat16_under_autocast() -> None:
    layer = NarrowLinear(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(torch.randn(20, 4))
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.shape == (8, 4)
