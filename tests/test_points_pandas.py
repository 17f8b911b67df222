"""Pickled tables of pandas as columns: of several versions, and nothing of them is run."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pandas_samples import LAYOUTS, Called, Named, Writer, table, write_table

from pass2d.common.errors import DataError
from pass2d.points.registry import read_columns

DATA = Path(__file__).parent / "data" / "pandas"
RNG = np.random.default_rng(0)
SOME = {
    **{name: RNG.normal(size=7) for name in "xyzit"},
    "d": np.array([0, 0, 1, 1, 0, 1, 0]),
    "on": np.array([True, False] * 3 + [True]),
    "late": np.arange(7.0),
}


@pytest.mark.parametrize("version", ["1.5.3", "2.2.3"])
def test_tables_that_pandas_wrote(version: str) -> None:
    """Written by those versions: normal numbers of a seed, i from 0 on, t from 1e9 on, d, index 10
    to 14."""
    found = read_columns(DATA / f"{version}.pkl")
    assert found.names == ("x", "y", "z", "i", "t", "d")
    rng = np.random.default_rng(0)
    for values in found.values[:3]:
        assert np.array_equal(values, rng.normal(size=5))
    assert found.values[3].tolist() == [0, 1, 2, 3, 4]
    assert found.values[4].tolist() == [1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3, 1e9 + 4]
    assert found.values[5].tolist() == [0, 0, 1, 1, 0]
    assert found.values[5].dtype == np.int64


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".pkl", ".pkl.gz"])
def test_layouts_of_blocks(layout: str, suffix: str, tmp_path: Path) -> None:
    found = read_columns(write_table(tmp_path / f"a{suffix}", SOME, layout))
    assert found.names == tuple(SOME)
    for values, expected in zip(found.values, SOME.values(), strict=True):
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected)


def test_table_without_rows(tmp_path: Path) -> None:
    found = read_columns(
        write_table(tmp_path / "a.pkl", {"x": np.zeros(0), "d": np.zeros(0, "i8")})
    )
    assert (found.names, found.n) == (("x", "d"), 0)


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def refused(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_columns(tmp_path / "a.pkl")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a.pkl'}: ")
    assert "\n" not in text
    assert len(text) < 700
    return text


def written(value: Any, protocol: int = 4) -> bytes:
    file = io.BytesIO()
    Writer(file, protocol=protocol).dump(value)
    return file.getvalue()


def test_nothing_is_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for evil in (
        Evil(os.mkdir, str(made)),
        Evil(eval, f"__import__('os').mkdir({str(made)!r})"),
        Evil(getattr, "os", "mkdir"),
    ):
        for protocol in (0, 2, 4):
            said = refused(tmp_path, pickle.dumps(evil, protocol))
            assert "refused" in said
            assert "Nothing of the pickle was run" in said
    hidden = {**{name: SOME[name] for name in "xyz"}}
    whole = table(hidden, "2.2")
    whole.state["attrs"] = Evil(os.mkdir, str(made))
    assert "refused" in refused(tmp_path, written(whole))
    assert not made.exists()


def test_what_no_table_is(tmp_path: Path) -> None:
    frame = "pandas.core.frame", "DataFrame"
    managers = "pandas.core.internals.managers", "BlockManager"
    for value, words in (
        (3, "it holds int, a DataFrame"),
        (np.zeros(3), "it holds numpy"),
        (Called(*frame), "has no state"),
        (Called(*frame, state={"_mgr": 3}), "has no blocks"),
        (Called(*frame, state={"_mgr": Called(*managers)}), "not enough values"),
        (Called(*frame, state={"_mgr": Called(*managers, state=(1, 2, 3, {}))}), "0.14.1"),
        (Called("os", "system", "true"), "it names"),
        (Named("pandas.io.common", "urlopen"), "it names pandas.io.common.urlopen"),
        ({(1, 2): 3}, "neither words nor numbers"),
        ({1, 2}, "a step that no table"),
    ):
        assert words in refused(tmp_path, written(value))


def test_tables_whose_parts_do_not_fit(tmp_path: Path) -> None:
    index = ("pandas.core.indexes.base", "_new_Index")
    good = table({"x": np.zeros(3)}, "2.2")
    manager = good.state["_mgr"]
    for values, where in (
        (np.zeros((2, 3)), slice(0, 1, 1)),
        (np.zeros(3), slice(0, 1, 1)),
        (np.zeros((1, 3)), np.array([5])),
        (np.array([["a", "b"]], object), slice(0, 1, 1)),
    ):
        block = Called("pandas._libs.internals", "_unpickle_block", values, where, 2)
        manager.arguments = ((block,), manager.arguments[1])
        refused(tmp_path, written(good))
    lone = Called(*index, Named("x", "y"), {"name": None})
    manager.arguments = (manager.arguments[0], [lone])
    refused(tmp_path, written(good))


def test_small_pickles_take_no_time_and_no_memory(tmp_path: Path) -> None:
    deep: Any = ()
    for _ in range(200):
        deep = (deep, deep)
    assert "keys" in refused(tmp_path, b"\x80\x04}" + pickle.dumps(deep, 4)[2:-1] + b"K\x01s.")
    assert "more bytes" in refused(
        tmp_path, b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"."
    )
    refused(tmp_path, b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.")
    refused(tmp_path, b"(" * 100_000)
    refused(tmp_path, b"]" + b"(" * 50_000 + b"l" * 50_000 + b".")


def test_damage_of_every_kind_is_one_error(tmp_path: Path) -> None:
    whole = write_table(tmp_path / "b.pkl", SOME, "2.2").read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(whole), 150).tolist():
        (tmp_path / "a.pkl").write_bytes(whole[:place])
        with pytest.raises(DataError):
            read_columns(tmp_path / "a.pkl")
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        (tmp_path / "a.pkl").write_bytes(changed)
        with contextlib.suppress(DataError):  # no other error; other numbers are no damage
            read_columns(tmp_path / "a.pkl")
    (tmp_path / "c.pkl.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(DataError, match="gzip"):
        read_columns(tmp_path / "c.pkl.gz")
