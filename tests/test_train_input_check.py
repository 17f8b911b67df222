"""Input that differs from the training data is met with the option that fixes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_samples import sample_info
from numpy.typing import NDArray

from pass2d.cache.clouds.ground import find_ground
from pass2d.cache.clouds.likeness import is_plainly_alike, of_dataset
from pass2d.cache.clouds.statistics import scan_statistics
from pass2d.commands.wording import in_options
from pass2d.common.errors import ConfigError
from pass2d.points.columns import PointColumns
from pass2d.points.mapping import (
    UNITS_M,
    InputMapping,
    parse_rotation,
    parse_unit,
    rotation_angles,
)
from pass2d.synth.config import preset
from pass2d.synth.frame import render_frame
from pass2d.train.checkpoints.card import Card
from pass2d.train.inference.input_check import InputCheck, InputWarning, WarningLog

Scan = NDArray[np.float32]
CHANGES: dict[str, tuple[dict, dict]] = {
    "signal": ({"signal": True}, {"signal": "--signal-scale"}),
    "ground at 0": ({"z": 1.73}, {"z_offset": "--z-offset -1."}),
    "millimetres": ({"unit": "mm"}, {"unit": "--unit mm"}),
    "centimetres": ({"unit": "cm"}, {"unit": "--unit cm"}),
    "feet": ({"unit": "ft"}, {"unit": "--unit ft"}),
    "y up": ({"turn": "0,0,90"}, {"rotate": "--rotate 0,0,90"}),
    "y down": ({"turn": "0,0,-90"}, {"rotate": "--rotate 0,0,-90"}),
    "z down": ({"turn": "0,0,180"}, {"rotate": "--rotate 0,0,180"}),
    "x up": ({"turn": "0,-90,0"}, {"rotate": "--rotate 0,-90,0"}),
    "mm, y up, ground at 0": (
        {"unit": "mm", "turn": "0,0,90", "z": 1.73},
        {"unit": "--unit mm", "rotate": "--rotate 0,0,90", "z_offset": "--z-offset -1."},
    ),
    "a map's frame": (
        {"place": (5e5, 5.4e6, 112.0)},
        {"recenter": "--recenter", "z_offset": "--z-offset -1."},
    ),
}
"""Name to how a scan is changed, and which options must be named."""


def card_of(scans: list[Scan], signal_name: str = "remission") -> Card:
    facts = replace(sample_info().facts, full_scale=255.0 if signal_name == "intensity" else 1.0)
    info = replace(sample_info(), signal_name=signal_name, own_facts=facts)
    statistics = scan_statistics([scan.T for scan in scans])
    return Card(architecture="2dpass", settings={}, info=info, input_statistics=statistics)


def look(card: Card, scan: NDArray, mapping: InputMapping | None = None) -> list[InputWarning]:
    mapping = mapping or InputMapping()
    columns = PointColumns(names=("x", "y", "z", "intensity"), values=tuple(scan.T))
    points = mapping.metres(columns, where="a.bin")
    names = columns.names
    return InputCheck(card, mapping).look(points, where="a.bin", columns=names, has_signal=True)


def changed(scan: Scan, *, full_scale: float, **change: object) -> NDArray[np.float64]:
    """A scan as another sensor would write it."""
    points = scan.astype(np.float64)
    points[:, 2] += change.get("z", 0)
    if "turn" in change:  # the mapping turns it back
        points[:, :3] = points[:, :3] @ np.array(parse_rotation(change["turn"]))
    points[:, :3] += change.get("place", 0)
    points[:, :3] /= UNITS_M[change.get("unit", "m")]
    if change.get("signal"):
        points[:, 3] *= 255 if full_scale == 1 else 1 / 255
    return points


def applied(warnings: list[InputWarning]) -> InputMapping:
    """The mapping that the options ask for."""
    options = [in_options(warning.option).partition(" ") for warning in warnings]
    found = {name: value for name, _, value in options}
    return InputMapping(
        unit_m=parse_unit(found.get("--unit", "m")),
        signal_scale=float(found.get("--signal-scale", 1)),
        z_offset=float(found.get("--z-offset", 0)),
        rotation=parse_rotation(found.get("--rotate")),
        recenter="--recenter" in found,
    )


def assert_named_and_fixed(card: Card, scan: Scan, name: str, full_scale: float) -> None:
    change, expected = CHANGES[name]
    other = changed(scan, full_scale=full_scale, **change)
    warnings = look(card, other)
    assert {w.kind for w in warnings} == set(expected), [w.message for w in warnings]
    for warning in warnings:
        assert in_options(warning.option).startswith(expected[warning.kind]), warning
        assert warning.message.startswith("a.bin: ")
        assert warning.option in warning.message
        assert "\n" not in warning.message
    assert look(card, other, applied(warnings)) == []


@pytest.fixture(scope="module")
def kitti(shared: Path) -> dict[str, Scan]:
    files = sorted((shared / "real").glob("*/sequences/*/velodyne/*.bin"))
    return {str(file): np.fromfile(file, np.float32).reshape(-1, 4) for file in files}


@pytest.fixture(scope="module")
def nuscenes(shared: Path) -> dict[str, Scan]:
    files = sorted((shared / "real").glob("*/samples/LIDAR_TOP/*.bin"))
    return {str(file): np.fromfile(file, np.float32).reshape(-1, 5)[:, :4] for file in files}


@pytest.fixture(scope="module")
def kitti_card(kitti: dict[str, Scan]) -> Card:
    return card_of([scan for name, scan in kitti.items() if "real/semantickitti/" in name])


@pytest.fixture(scope="module")
def nuscenes_card(nuscenes: dict[str, Scan]) -> Card:
    scans = [scan for name, scan in nuscenes.items() if "real/nuscenes/" in name]
    return card_of(scans, "intensity")


@pytest.fixture(scope="module")
def street() -> Scan:
    """A scan of the generated world, with the beams of the small preset."""
    scan = render_frame(preset("small", scans=2), "00", 0).scan
    return scan.points


def test_real_scans_like_the_training_data_raise_no_alarm(
    kitti: dict[str, Scan], nuscenes: dict[str, Scan], kitti_card: Card, nuscenes_card: Card
) -> None:
    assert (len(kitti), len(nuscenes)) == (8, 5)
    for card, scans in ((kitti_card, kitti), (nuscenes_card, nuscenes)):
        for name, scan in scans.items():
            assert look(card, scan) == [], name


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_real_kitti_scans_is_named_and_fixed(
    kitti: dict[str, Scan], kitti_card: Card, name: str
) -> None:
    for scan in kitti.values():
        assert_named_and_fixed(kitti_card, scan, name, 1)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_real_nuscenes_scans_is_named_and_fixed(
    nuscenes: dict[str, Scan], nuscenes_card: Card, name: str
) -> None:
    for scan in nuscenes.values():
        assert_named_and_fixed(nuscenes_card, scan, name, 255)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_a_generated_scan_is_named_and_fixed(street: Scan, name: str) -> None:
    card = card_of([street])
    assert look(card, street) == []
    assert_named_and_fixed(card, street, name, 1)


def test_scales_of_the_signal_are_named_with_their_factor(street: Scan) -> None:
    scaled = street * np.array([1, 1, 1, 255], np.float32)
    (warning,) = look(card_of([street]), scaled)
    assert warning.option == "`signal_scale=0.00392`"
    (warning,) = look(card_of([scaled], "intensity"), street)
    assert warning.option == "`signal_scale=255`"
    (warning,) = look(card_of([street]), street * np.array([1, 1, 1, 60000], np.float32))
    assert warning.option == "`signal_scale=1.53e-05`"
    (warning,) = look(card_of([street]), street * np.array([1, 1, 1, 1 / 255], np.float32))
    assert warning.option == "`signal_scale=255`"
    assert "the signal looks like 0..0.0039, the training data's is 0..1" in warning.message


@pytest.mark.parametrize("is_decibels", [False, True])
def test_signals_below_0_are_said(street: Scan, is_decibels: bool) -> None:
    other = street.copy()
    other[:, 3] = 20 * np.log10(street[:, 3] + 1e-3) if is_decibels else -street[:, 3]
    (warning,) = look(card_of([street]), other)
    assert (warning.kind, warning.option) == ("negative", "")
    assert "most signals are below 0" in warning.message
    assert not is_plainly_alike(other.T.astype(float), of_dataset(sample_info()))


def test_a_network_that_learned_without_signals_says_nothing_of_their_scale(street: Scan) -> None:
    without = street * np.array([1, 1, 1, 0], np.float32)
    assert look(card_of([without]), street) == []


def test_few_signals_below_0_are_of_a_calibration(street: Scan) -> None:
    other = street.copy()
    other[::50, 3] = -0.01
    assert look(card_of([street]), other) == []


def test_options_that_were_given_are_counted_in(street: Scan) -> None:
    card = card_of([street])
    (warning,) = look(card, street, InputMapping(signal_scale=255))
    assert warning.option == "`signal_scale=1`"
    (warning,) = look(card, street, InputMapping(z_offset=1.7))
    assert warning.option in {"`z_offset=0.00`", "`z_offset=-0.00`"}
    (warning,) = look(card, street, InputMapping(unit_m=0.001))
    assert warning.option == "`unit=m`"
    for unit_m in (0.01, 10, 100):
        (warning,) = look(card, street, InputMapping(unit_m=unit_m))
        assert warning.option == "`unit=m`"
    assert "100 times as far away" in warning.message
    (warning,) = look(card, street, InputMapping(rotation=parse_rotation("0,0,-90")))
    assert warning.option == "`rotate=0,0,0`"


def test_far_fewer_and_far_more_points_are_said(street: Scan) -> None:
    card = card_of([street])
    few, many = look(card, street[::5]), look(card, np.tile(street, (5, 1)))
    assert [warning.kind for warning in (*few, *many)] == ["density", "density"]
    assert "far fewer points" in few[0].message
    assert "far more points" in many[0].message
    assert look(card, street[::2]) == []


def test_missing_signal_is_said(street: Scan) -> None:
    without = street * np.array([1, 1, 1, 0], np.float32)
    (warning,) = look(card_of([street]), without)
    assert (warning.kind, warning.option) == ("no_signal", "`map=signal=NAME`")
    check = InputCheck(card_of([street]), InputMapping())
    points = street[:20].T.astype(float)
    columns = ("x", "y", "z", "ring")
    (_, warning) = check.look(points, where="a.ply", columns=columns, has_signal=False)
    assert warning.kind == "no_signal"
    assert "no column of the signal among x, y, z, ring: taken as 0" in warning.message


def test_cards_without_statistics_know_the_signal_alone(street: Scan) -> None:
    card = replace(card_of([street]), input_statistics=None)
    assert look(card, street * np.array([1000, 1000, 1000, 1], np.float32)) == []
    (warning,) = look(card, street * np.array([1, 1, 1, 255], np.float32))
    assert warning.option == "`signal_scale=0.00392`"


def test_cards_of_before_ground_heights_compare_the_rest(street: Scan) -> None:
    card = card_of([street])
    kept = {name: s for name, s in card.input_statistics.items() if name != "ground_z"}
    old = replace(card, input_statistics=kept)
    assert look(old, street + np.array([0, 0, 1.73, 0], np.float32)) == []
    (warning,) = look(old, street * np.array([1000, 1000, 1000, 1], np.float32))
    assert warning.option == "`unit=mm`"


@pytest.mark.parametrize("scan", [np.zeros((0, 4)), np.zeros((1, 4)), np.full((2000, 4), np.nan)])
def test_odd_scans_raise_no_error(street: Scan, scan: NDArray) -> None:
    warnings = look(card_of([street]), scan)
    assert {warning.kind for warning in warnings} <= {"density", "zeros", "no_signal"}


def test_no_unit_is_proposed_for_numbers_that_are_no_coordinates(street: Scan) -> None:
    (warning,) = [w for w in look(card_of([street]), street * 1e12) if w.kind in {"unit", "range"}]
    assert (warning.kind, warning.option) == ("range", "")
    assert "1e+12 times as far" in warning.message


def test_points_at_one_place_raise_no_error(street: Scan) -> None:
    look(card_of([street]), np.ones((5000, 4)))
    look(card_of([street]), np.zeros((5000, 4)))


def test_one_warning_of_a_difference_is_kept_and_counted() -> None:
    log = WarningLog()
    first = InputWarning(kind="unit", option="`unit=mm`", message="a.bin: ...")
    assert [log.add(first), log.add(replace(first, message="b.bin: ...")), log.add(first)] == [
        True,
        False,
        False,
    ]
    assert log.all() == (replace(first, scans=3),)
    other = replace(first, option="`unit=cm`")
    heights = [InputWarning(kind="z_offset", option=f"`z_offset=-1.{i}`", message="") for i in "78"]
    assert [log.add(warning) for warning in (other, *heights)] == [True, True, False]
    assert [warning.scans for warning in log.all()] == [3, 1, 2]


def test_ground_of_a_made_up_plane() -> None:
    rng = np.random.default_rng(0)
    xyz = np.vstack([rng.uniform(-30, 30, (2, 20_000)), rng.normal(-1.5, 0.01, 20_000)])
    ground = find_ground(xyz)
    assert ground.z == pytest.approx(-1.513, abs=0.005)  # the 10th percentile: 1.28 deviations
    assert ground.agreement == 1
    assert find_ground(np.zeros((3, 0))).cells == 0


@pytest.mark.parametrize("angles", ["30,20,-10", "0,0,90", "90,-90,0", "180,0,180", "0,90,45"])
def test_angles_of_a_rotation_give_it_back(angles: str) -> None:
    matrix = np.array(parse_rotation(angles))
    again = np.array(parse_rotation(rotation_angles(matrix)))
    assert np.allclose(again, matrix, atol=1e-5)


def test_recentring_keeps_the_order_and_the_millimetres() -> None:
    rng = np.random.default_rng(1)
    near = np.column_stack([rng.uniform(-30, 30, (4000, 2)), rng.uniform(0, 0.2, 4000)])
    place = np.array([512_345.678, 5_412_345.678, 345.6])
    found = PointColumns(names=("x", "y", "z"), values=tuple((near + place).T))
    xyz = InputMapping(recenter=True).apply(found, where="a")[:, :3]
    shift = (xyz - near)[0]
    assert np.abs(xyz - near - shift).max() < 1e-5
    assert np.abs(np.median(xyz[:, :2], axis=0)).max() < 1e-5
    assert 0 < -xyz[:, 2].min() < 0.1  # the ground is the low part, not the lowest point
    far = PointColumns(names=("x", "y", "z"), values=(np.full(2, np.nan),) * 3)
    assert np.isnan(InputMapping(recenter=True).apply(far, where="a")[:, 0]).all()


def test_wrong_offset_is_refused() -> None:
    with pytest.raises(ConfigError, match="z_offset"):
        InputMapping(z_offset=np.inf)


@pytest.mark.parametrize("z_offset", [0.0, 0.3])
def test_points_at_zero_are_said_and_change_no_other_comparison(
    kitti: dict[str, Scan], kitti_card: Card, z_offset: float
) -> None:
    """As organised clouds have them where nothing came back."""
    scan = next(scan for name, scan in kitti.items() if "real/semantickitti/" in name).copy()
    assert look(kitti_card, scan) == []
    scan[::3] = 0
    scan[:, 2] -= np.where(scan.any(axis=1), np.float32(z_offset), 0)
    (warning,) = look(kitti_card, scan, InputMapping(z_offset=z_offset))
    assert (warning.kind, warning.option) == ("zeros", "")
    assert (
        "33% of the points lie at 0, 0, 0, as if nothing came back: leave them" in warning.message
    )
    assert not is_plainly_alike(scan.T, of_dataset(kitti_card.info))
