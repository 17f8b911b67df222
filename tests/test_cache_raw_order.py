"""The order of a raw file: points inside and outside the volume, back in their places."""

from __future__ import annotations

import numpy as np
import pytest

from pass2d.cache.raw_order import RawOrder


@pytest.mark.parametrize("inside", [[], [0], [3], [0, 1, 2, 3], [1, 2], [0, 3], [2, 3], [0, 2]])
def test_rows_outside_are_those_that_are_not_inside(inside: list[int]) -> None:
    order = RawOrder.of(np.array(inside, np.int32), 4)
    assert order.outside.tolist() == [row for row in range(4) if row not in inside]
    assert np.flatnonzero(order.is_inside).tolist() == inside


def test_values_are_laid_where_the_raw_file_has_them() -> None:
    rng = np.random.default_rng(1)
    for n in (0, 1, 50, 3000):
        raw = rng.normal(size=(3, n)).astype(np.float32)
        is_inside = rng.random(n) < 0.9
        order = RawOrder.of(np.flatnonzero(is_inside).astype(np.int32), n)
        assert np.array_equal(order.laid(raw[:, is_inside], raw[:, ~is_inside]), raw)
        out = np.full((5, n), 7, np.float32)
        order.laid(raw[0, is_inside], raw[0, ~is_inside], out=out[4])
        assert np.array_equal(out[4], raw[0])
        assert (out[:4] == 7).all()
        unknown = order.laid(np.ones(is_inside.sum(), np.uint8), None)
        assert np.array_equal(unknown, is_inside)
        assert unknown.dtype == np.uint8
