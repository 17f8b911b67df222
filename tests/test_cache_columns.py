"""How the numbers of .bin files lie: told rightly or not at all, whatever is written."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass2d.cache.clouds.columns import DTYPES, PointLayout, find_layout

USUAL = [PointLayout(columns=4), PointLayout(columns=5)]


def street(n: int, seed: int, *, beams: int = 32) -> np.ndarray:
    """(n, 4) ground, walls and signal around a sensor 1.7 m high, beam after beam in turn."""
    rng = np.random.default_rng(seed)
    elevation = np.deg2rad(np.linspace(-25, 5, beams))[np.arange(n) % beams]
    yaw = np.arange(n) / n * 2 * np.pi
    wall = 6 + 20 * np.abs(np.sin(3 * yaw + seed)) + rng.normal(0, 0.1, n)
    with np.errstate(divide="ignore"):
        ground = np.where(elevation < 0, -1.7 / np.sin(elevation), np.inf)
    reach = np.minimum(wall, ground)
    flat = reach * np.cos(elevation)
    signal = np.round(rng.beta(2, 5, n), 2)
    xyz = [flat * np.cos(yaw), flat * np.sin(yaw), reach * np.sin(elevation)]
    return np.stack([*xyz, signal], axis=1)


@cache
def real_scans(root: Path) -> tuple[np.ndarray, ...]:
    """(N, 4) of every kind of sensor."""
    names = {4: "*/sequences/*/velodyne/*.bin", 5: "*/samples/LIDAR_TOP/*.bin"}
    return tuple(
        np.fromfile(file, "<f4").reshape(-1, columns)[:, :4].astype(float)
        for columns, pattern in names.items()
        for file in sorted(root.glob(pattern))
    )


def extra(kind: str, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 1 or more) what files have behind x, y, z, signal."""
    n = len(points)
    part = np.linspace(0, 1, n)
    if kind == "ring":
        return (np.arange(n) % 32)[:, None]
    if kind == "time":
        return np.stack([part * 0.1, 1.6e9 + part * 0.1, 1.6e18 + part * 1e8], axis=1)
    if kind == "rgb":
        return rng.integers(0, 256, (n, 3))
    if kind == "normals":
        normals = rng.normal(size=(n, 3)) - points[:, :3]
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)
    if kind == "range":
        return np.linalg.norm(points[:, :3], axis=1, keepdims=True)
    return np.full((n, 1), {"zeros": 0.0, "ones": 1.0}[kind])


def changed(how: str, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scan as another program writes it."""
    points = points.copy()
    if how == "rotated":
        points[:, :2] = points[:, :2] @ [[0.6, 0.8], [-0.8, 0.6]]
    elif how == "cropped":
        points = points[points[:, 0] > 2]
    elif how == "shuffled":
        points = rng.permutation(points)
    elif how == "few":
        points = points[np.sort(rng.choice(len(points), min(len(points), 150), replace=False))]
    elif how == "very few":
        points = points[: rng.integers(1, 64)]
    elif how == "no signal":
        points[:, 3] = 0
    elif how == "whole signal":
        points[:, 3] = np.round(points[:, 3] * 255 / max(1, points[:, 3].max()))
    elif how == "NaN rows":
        points[rng.random(len(points)) < 0.4] = np.nan
    elif how == "millimetres":
        points[:, :3] *= 1000
    elif how == "map":
        points[:, :3] += [5e5, 4.2e6, 300]
    return points


WAYS = (
    "as it is",
    "rotated",
    "cropped",
    "shuffled",
    "few",
    "very few",
    "no signal",
    "whole signal",
    "NaN rows",
    "millimetres",
    "map",
)


def judged(points: np.ndarray, layout: PointLayout, kinds: list[str], seed: int) -> list:
    """What is found out of so many columns, expected to be of each usual layout."""
    rng = np.random.default_rng(seed)
    more = [extra(kind, points, rng) for kind in kinds]
    table = np.concatenate([points, *more, *more, *more, *more, *more], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        data = table[:, : layout.columns].astype(layout.numpy_type).tobytes()
    return [find_layout(data, usual=usual).layout for usual in USUAL]


MADE = {
    "columns": st.integers(3, 8),
    "dtype": st.sampled_from(list(DTYPES)),
    "kinds": st.lists(
        st.sampled_from(["ring", "time", "rgb", "normals", "range", "zeros", "ones"]), min_size=1
    ),
    "has_signal": st.booleans(),
    "how": st.sampled_from(WAYS),
    "seed": st.integers(0, 2**16),
}


def never_wrong(points: np.ndarray, made: dict) -> None:
    """A layout is the true one, or none is given; with a thousand points and more, it is given."""
    layout = PointLayout(columns=made["columns"], dtype=made["dtype"])
    points = changed(made["how"], points, np.random.default_rng(made["seed"]))
    n_own = 3 if made["columns"] == 3 or not made["has_signal"] else 4
    found = judged(points[:, :n_own], layout, made["kinds"], made["seed"])
    assert set(found) <= {None, layout}
    if len(points) >= 1000 and made["how"] in {"as it is", "rotated", "shuffled", "whole signal"}:
        assert set(found) == {layout}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(made=st.fixed_dictionaries(MADE), beams=st.sampled_from([16, 32, 64]))
def test_any_file_of_a_made_scan_is_told_rightly_or_not_at_all(made: dict, beams: int) -> None:
    never_wrong(street(12_000, made["seed"], beams=beams), made)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(made=st.fixed_dictionaries(MADE), place=st.integers(0, 12))
def test_any_file_of_a_real_scan_is_told_rightly_or_not_at_all(
    shared: Path, made: dict, place: int
) -> None:
    never_wrong(real_scans(shared / "real")[place], made)


def test_beams_that_take_turns_are_no_second_half_of_a_point() -> None:
    points = street(20_000, 1, beams=2)  # every other point looks at the ground
    data = points.astype("<f4").tobytes()
    assert find_layout(data, usual=USUAL[0]).layout in (USUAL[0], None)


def test_twelve_columns_are_not_taken_for_six_or_four() -> None:
    points = street(5000, 3)
    rng = np.random.default_rng(0)
    table = np.concatenate([points, rng.normal(size=(5000, 3)), rng.random((5000, 5))], axis=1)
    verdict = find_layout(table.astype("<f4").tobytes(), usual=USUAL[0])
    assert (verdict.layout, verdict.doubt) == (None, "it looks like 12 float32 per point")


@pytest.mark.parametrize("seed", range(4))
def test_numbers_without_order_are_in_doubt(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=4000).astype("<f4")
    verdict = find_layout(noise.tobytes(), usual=USUAL[0])
    assert verdict.layout is None
    assert "columns do not differ" in verdict.doubt
