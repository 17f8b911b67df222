"""Mixes equal the recordings of the references' code, whatever cases the folder holds."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mix_samples import loaded
from numpy.typing import NDArray

from pass2d.cache.clouds.instance_bank import InstanceBank
from pass2d.train.data.mixes import cut_mix, laser_mix, polar_mix
from pass2d.train.data.sectors import in_half_circle, pitch_bands, square_owners

SHARED = Path(__file__).resolve().parents[1] / "../shared"
FOLDER = Path(os.environ.get("PASS2D_GOLDEN_MIXES", SHARED / "golden_mixes"))
PILLARS = Path(os.environ.get("PASS2D_GOLDEN_VAVIT", SHARED / "golden_vavit"))
if not (FOLDER / "draws.json").exists():
    pytest.skip(f"no recordings of mixes in {FOLDER}", allow_module_level=True)

DRAWS: dict[str, Any] = json.loads((FOLDER / "draws.json").read_text())
LASER = [name for name in DRAWS if name.startswith("laser")]
POLAR = [name for name in DRAWS if name.startswith("polar")]
TURNED_M = 2e-5
"""How far a turned copy may lie from the recorded one, as the recording says."""


@cache
def arrays(name: str) -> dict[str, NDArray[Any]]:
    with np.load(FOLDER / name) as file:
        return dict(file)


class Recorded(np.random.Generator):
    """Gives recorded numbers in the order in which they were drawn."""

    def __init__(self, numbers: list[Any]) -> None:
        super().__init__(np.random.PCG64(0))
        self._numbers = list(numbers)

    def uniform(self, low: float = 0, high: float = 1, size: Any = None) -> Any:
        assert (low, high) == (0, 1)
        taken = [self._numbers.pop(0) for _ in range(size or 1)]
        return np.array(taken) if size else taken[0]

    def integers(self, low: int, high: Any, size: Any = None) -> Any:  # type: ignore[override]
        assert (low, size) == (0, None)
        drawn = [self._numbers.pop(0) for _ in high]
        assert all(np.array(drawn) < high)
        return np.array(drawn)

    def choice(self, _options: Any) -> Any:  # type: ignore[override]
        return self._numbers.pop(0)


def cloud(letter: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(N, 4) points and (N,) training ids: theirs are one lower, 19 is ignored."""
    labels = arrays("clouds.npz")[f"labels_{letter}"]
    return arrays("clouds.npz")[f"points_{letter}"], np.where(labels == 19, 0, labels + 1)


def as_rows(points: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    return np.column_stack([points, labels]).astype(np.float64)


def assert_same_points(got: NDArray[np.float64], want: NDArray[np.float64]) -> None:
    """Both hold the same rows, in any order; turned ones within `TURNED_M`."""
    assert len(got) == len(want)
    exact, recorded = ({tuple(row) for row in rows.tolist()} for rows in (got, want))
    left = np.array(sorted(exact - recorded)).reshape(-1, 5)
    there = np.array(sorted(recorded - exact)).reshape(-1, 5)
    assert len(left) == len(there)
    used = set()
    for row in left:
        apart = np.abs(there[:, :3] - row[:3]).max(1) + 1e3 * (there[:, 3:] != row[3:]).any(1)
        nearest = int(apart.argmin())
        assert apart[nearest] <= TURNED_M, row
        used.add(nearest)
    assert len(used) == len(there)


def out(name: str) -> NDArray[np.float64]:
    labels = arrays("mmdet3d_mixes.npz")[f"{name}_out_labels"]
    return as_rows(
        arrays("mmdet3d_mixes.npz")[f"{name}_out"], np.where(labels == 19, 0, labels + 1)
    )


@pytest.mark.parametrize("name", LASER)
def test_laser_mix(name: str) -> None:
    recorded = arrays("mmdet3d_mixes.npz")
    n_bands = DRAWS[name]["num_areas"]
    high, low = (DRAWS[name]["thresholds_radian"][i] for i in (0, -1))
    for letter in "ab":
        bands = pitch_bands(cloud(letter)[0].T[:3], n_bands, low_rad=low, high_rad=high)
        np.testing.assert_array_equal(bands, recorded[f"{name}_band_{letter}"])
    mixed = laser_mix(loaded(*cloud("a")), loaded(*cloud("b")), Recorded([n_bands]))
    signal = np.concatenate([part.record.signal for part in mixed.parts])
    assert_same_points(as_rows(np.vstack([mixed.xyz, signal]).T, mixed.label), out(name))


@pytest.mark.parametrize("name", POLAR)
def test_polar_mix(name: str) -> None:
    recorded, case = arrays("mmdet3d_mixes.npz"), DRAWS[name]
    if case["swap"]:
        for letter, field in (("a", "keep_a"), ("b", "sector_b")):
            there = in_half_circle(cloud(letter)[0].T[:3], case["start"])
            want = recorded[f"{name}_{field}"]
            np.testing.assert_array_equal(there, want if letter == "b" else ~want)
    draws = case["draws"]
    # The recording draws the start only after a swap, and one number before pasting.
    mine = [draws[0], draws[1] if case["swap"] else 0.5, *draws[-2:]]
    mixed = polar_mix(loaded(*cloud("a")), loaded(*cloud("b")), Recorded(mine))
    signal = np.concatenate([part.record.signal for part in mixed.parts])
    assert_same_points(as_rows(np.vstack([mixed.xyz, signal]).T, mixed.label), out(name))


@pytest.mark.skipif(not (PILLARS / "pillarmix.npz").exists(), reason="no recording of PillarMix")
def test_pillar_mix() -> None:
    case = json.loads((PILLARS / "pillarmix.json").read_text())
    order = [0, *(1 + number for number in case["picked_from_memory"])]
    draws = [draw[2][0] for draw in case["draws"][2:]]
    with np.load(PILLARS / "pillarmix.npz") as file:
        clouds = [file[f"cloud{number}_points"].T for number in order]
        want = [file[f"keep{number}"] for number in order]
    got = square_owners(clouds, side_m=case["side_length"], rng=Recorded(draws))
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)


CUTMIX = [name for name in DRAWS if "cutmix" in name]


class RecordedCutMix(np.random.Generator):
    """Gives the recorded draws of a CutMix, those of a class together as we draw them."""

    def __init__(self, name: str) -> None:
        super().__init__(np.random.PCG64(0))
        stored = arrays("waffleiron_mixes.npz")
        # The recording's names lack the prefix of the case in this file.
        self._orders = [
            stored[f"{name.removeprefix('waffle_')}_perm_{what}"] for what in ("points", "surface")
        ]
        self._left = [values for _, values in DRAWS[name]["draws_after_the_two_permutations"]]
        self._counts: list[int] = []
        self._things: list[list[float]] = []
        self._is_count = True

    def permutation(self, n: int) -> Any:  # type: ignore[override]
        order = self._orders.pop(0)
        assert len(order) == n
        return order

    def integers(self, low: int, high: int, size: int | None = None) -> Any:  # type: ignore[override]
        assert low == 0
        if size is None:  # how many of a class
            return self._left.pop(0)[0]
        if high != 2 or self._is_count:  # which ones
            ids = self._left.pop(0)
            self._is_count = False
            assert len(ids) == size
            self._things = [[self._left.pop(0)[0] for _ in range(3)] for _ in ids]
            return np.array(ids, np.int64)
        self._is_count = True
        return np.array([thing[0] for thing in self._things], np.int64)

    def uniform(self, low: float = 0, high: float = 1, size: Any = None) -> Any:
        assert (low, high, size[0]) == (0, 1, 2)
        return np.array([[thing[k] for thing in self._things] for k in (1, 2)]).reshape(size)


def recorded_bank() -> InstanceBank:
    stored = arrays("waffleiron_mixes.npz")
    points = stored["bank_points"]
    return InstanceBank(
        position=np.zeros(len(stored["bank_class"]), np.int32),
        class_id=stored["bank_class"] + 1,
        offsets=stored["bank_offsets"].astype(np.int64),
        rows=np.zeros(len(points), np.int32),
        xyz=np.ascontiguousarray(points[:, :3].T),
        signal=points[:, 3],
    )


@pytest.mark.parametrize("name", CUTMIX)
def test_instance_cutmix(name: str) -> None:
    stored = arrays("waffleiron_mixes.npz")
    out = name.removeprefix("waffle_")
    scan = loaded(*cloud(DRAWS[name].get("scan", "a")))
    mixed = cut_mix(scan, recorded_bank(), RecordedCutMix(name), limit=DRAWS[name]["num_to_add"])
    signal = np.concatenate([part.record.signal for part in mixed.parts])
    got = np.vstack([mixed.xyz, signal]).T
    want = stored[f"{out}_out"]
    assert got.shape == want.shape == (DRAWS[name]["points_out"], 4)
    np.testing.assert_array_equal(got[: scan.n], want[: scan.n])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    labels = stored[f"{out}_out_labels"].astype(np.int64)
    np.testing.assert_array_equal(mixed.label, np.where(labels == 255, 0, labels + 1))
