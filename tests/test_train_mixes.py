"""Mixes: what leaves, what comes, what travels along."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from mix_samples import loaded
from numpy.typing import NDArray

from pass2d.cache.schema import CameraView
from pass2d.train.data.mixes import MIXES, laser_mix, pillar_mix, pillar_mix_three, polar_mix
from pass2d.train.data.scan import LoadedScan
from pass2d.train.data.sectors import in_half_circle, pitch_bands, square_owners, turned_about_z

N = 600
MIXED = [name for name in MIXES if not MIXES[name].needs_instances]


def sample(seed: int, n: int = N, *, name: str = "semkitti", is_seen: bool = False) -> LoadedScan:
    """Points around a sensor, classes 0..16; the signal tells the scan (seed) and the row."""
    rng = np.random.default_rng(seed)
    yaw, distance = rng.uniform(-np.pi, np.pi, n), rng.uniform(2, 40, n)
    pitch = np.radians(rng.uniform(-28, 6, n))
    x, y = distance * np.cos(yaw), distance * np.sin(yaw)
    points = np.column_stack([x, y, distance * np.tan(pitch), seed + np.arange(n) / 1024])
    rows = np.sort(rng.choice(n, 50, replace=False)).astype(np.int32)
    pixels = np.stack([rows % 32, rows // 32]).astype(np.uint16)
    view = CameraView(image=np.zeros((32, 64, 3), np.uint8), point_index=rows, pixel_rc=pixels)
    return loaded(
        points.astype(np.float32),
        rng.integers(0, 17, n).astype(np.uint8),
        name=name,
        cameras=(view,) if is_seen else (),
    )


def mix(name: str, scan: LoadedScan, partner: LoadedScan, seed: int) -> LoadedScan:
    """A mix with as many partners as it takes, all the same."""
    entry = MIXES[name]
    return entry.function(scan, *[partner] * entry.n_partners, np.random.default_rng(seed))


def rows_of(scan: LoadedScan) -> Counter[tuple[float, ...]]:
    signal = np.concatenate([part.record.signal for part in scan.parts])
    rows = np.column_stack([scan.xyz.T, signal, scan.label]).astype(np.float64)
    return Counter(map(tuple, rows.tolist()))


@pytest.mark.parametrize("name", MIXED)
def test_labels_and_pixels_travel_with_points(name: str) -> None:
    scan, partner = sample(1, is_seen=True), sample(2)
    mixed = mix(name, scan, partner, 7)
    own = {(s, c) for s, c in zip(scan.record.signal, scan.label, strict=True)}
    other = {(s, c) for s, c in zip(partner.record.signal, partner.label, strict=True)}
    signal = np.concatenate([part.record.signal for part in mixed.parts])
    assert {(s, c) for s, c in zip(signal, mixed.label, strict=True)} <= own | other
    (view,), (before,) = mixed.record.cameras, scan.record.cameras
    pixel_of = dict(
        zip(scan.record.signal[before.point_index], before.pixel_rc.T.tolist(), strict=True)
    )
    shown = mixed.record.signal[view.point_index]
    assert len(shown)
    assert [pixel_of[s] for s in shown] == view.pixel_rc.T.tolist()
    assert all(not part.record.cameras for part in mixed.added)


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("dataset", ["semkitti", "nuscenes"])
def test_a_mix_is_a_function_of_its_generator_and_changes_no_argument(
    name: str, dataset: str
) -> None:
    scan, partner = sample(3, name=dataset), sample(4, name=dataset)
    before = rows_of(scan), rows_of(partner)
    mixed = [rows_of(mix(name, scan, partner, seed)) for seed in (5, 5, 6)]
    assert mixed[0] == mixed[1]
    assert (rows_of(scan), rows_of(partner)) == before
    assert name == "mix3d" or mixed[0] != mixed[2]


@pytest.mark.parametrize("function", [laser_mix, pillar_mix])
def test_a_scan_mixed_with_itself_is_itself(function) -> None:
    scan = sample(8)
    for seed in range(4):
        if function is pillar_mix:
            # Squares are shared out as wholes: each point comes from exactly one of the two.
            own, others = square_owners(
                (scan.xyz, scan.xyz), side_m=7.5, rng=np.random.default_rng(seed)
            )
            assert np.array_equal(own, ~others)
        assert rows_of(function(scan, scan, np.random.default_rng(seed))) == rows_of(scan)


def test_bands_of_pitch_are_equal_in_angle_and_partition_the_points() -> None:
    degrees = np.array([10.0, 3.0, 2.999, -4.001, -3.999, -11.1, -24.9, -60.0])
    xyz = np.stack([np.cos(np.radians(degrees)), 0 * degrees, np.sin(np.radians(degrees))])
    bands = pitch_bands(xyz.astype(np.float32), 4, low_rad=np.radians(-25), high_rad=np.radians(3))
    assert bands.tolist() == [0, 0, 0, 1, 0, 2, 3, 3]
    spread = np.linspace(-24.99, 2.99, 2801)
    xyz = np.stack([np.cos(np.radians(spread)), 0 * spread, np.sin(np.radians(spread))])
    for n in (3, 4, 5, 6):
        counts = np.bincount(
            pitch_bands(xyz.astype(np.float32), n, low_rad=np.radians(-25), high_rad=np.radians(3))
        )
        assert len(counts) == n
        assert counts.min() > 0.98 * counts.max()


def test_laser_mix_takes_about_half_from_each() -> None:
    scan, partner = sample(10, 4000), sample(20, 4000)
    mixed = laser_mix(scan, partner, np.random.default_rng(0))
    from_partner = np.concatenate([part.record.signal for part in mixed.parts]) >= 20
    assert 0.25 < from_partner.mean() < 0.6


def test_a_half_circle_holds_half_of_a_circle() -> None:
    yaw = np.linspace(-np.pi, np.pi, 720, endpoint=False) + 1e-3
    circle = np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw]).astype(np.float32)
    for start in (-np.pi, -2.0, -0.01):
        assert in_half_circle(circle, start).sum() == 360
    # Clockwise seen from above: from ahead on to the right.
    ahead_right = np.array([[1.0, 0.0], [-1.0, -1.0], [0.0, 0.0]], np.float32)
    assert in_half_circle(ahead_right, -1e-3).tolist() == [True, True]


def test_polar_mix_pastes_things_three_times_and_swaps_every_second_time() -> None:
    scan, partner = sample(12), sample(13)
    things = int(((partner.label >= 1) & (partner.label <= 8)).sum())
    swaps = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        is_swap, start = rng.uniform(0, 1, 2)
        mixed = polar_mix(scan, partner, np.random.default_rng(seed))
        inside = in_half_circle(scan.xyz, (start - 1) * np.pi)
        other = in_half_circle(partner.xyz, (start - 1) * np.pi)
        base = (~inside).sum() + other.sum() if is_swap < 0.5 else N
        assert mixed.n == base + 3 * things
        swaps += is_swap < 0.5
    assert 18 < swaps < 42


def test_a_turn_is_counter_clockwise_seen_from_above() -> None:
    turned = turned_about_z(np.array([[1.0], [0.0], [5.0]], np.float32), np.pi / 2)
    np.testing.assert_allclose(turned, [[0], [1], [5]], atol=1e-7)


def test_squares_that_the_scan_leaves_empty_stay_empty() -> None:
    scan = np.array([[1.0, 9.0], [1.0, 1.0], [0.0, 0.0]], np.float32)
    partner = np.array([[1.0, 1.0, 30.0], [2.0, 3.0, 30.0], [0.0, 0.0, 0.0]], np.float32)
    owners = Counter()
    for seed in range(200):
        own, others = square_owners((scan, partner), side_m=7.5, rng=np.random.default_rng(seed))
        assert own[1]
        assert not others[2]
        assert own[0] != others[0] == others[1]
        owners[bool(own[0])] += 1
    assert 70 < owners[True] < 130


def test_three_clouds_share_out_the_squares_of_the_first() -> None:
    scans = [sample(seed) for seed in (21, 22, 23)]
    squares = [{tuple(p) for p in np.floor(s.xyz[:2] / 7.5).T.tolist()} for s in scans]
    owners = Counter()
    for seed in range(40):
        mixed = pillar_mix_three(*scans, np.random.default_rng(seed))
        place = [tuple(p) for p in np.floor(mixed.xyz[:2] / 7.5).T.tolist()]
        signal = np.concatenate([part.record.signal for part in mixed.parts])
        pairs = set(zip(place, np.floor(signal).astype(int).tolist(), strict=True))
        assert len(pairs) == len(set(place))  # one owner each
        assert set(place) == squares[0]
        shared = squares[0] & squares[1] & squares[2]
        owners.update(owner for where, owner in pairs if where in shared)
    total = sum(owners.values())
    assert all(abs(owners[seed] / total - 1 / 3) < 0.05 for seed in (21, 22, 23))


def test_without_things_nothing_is_pasted() -> None:
    scan, partner = sample(14), sample(15)
    ground = np.full(N, 9, np.uint8)
    bare = replace(partner, record=replace(partner.record, label=ground))
    for seed in range(5):
        assert polar_mix(scan, bare, np.random.default_rng(seed)).n <= 2 * N


def test_real_label_type_is_kept() -> None:
    labels: NDArray[np.uint8] = laser_mix(sample(1), sample(2), np.random.default_rng(0)).label
    assert labels.dtype == np.uint8
