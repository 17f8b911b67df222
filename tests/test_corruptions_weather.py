"""Fog, wet ground and snow against their formulas, point by point where a hand can work it out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from corruption_samples import BUILDING, ROAD, SENSOR, chance, points_at, street, without_labels

from pass2d.corruptions.cloud import Cloud, Corrupted
from pass2d.corruptions.fog import LIGHT_M_S, PULSE_S, FogSettings, fog, soft_response
from pass2d.corruptions.ground import fit_ground
from pass2d.corruptions.reach import weakest_reflectivity
from pass2d.corruptions.registry import Variant, corrupt, corruption_table
from pass2d.corruptions.snow import SnowSettings, flakes_in_air, snow
from pass2d.corruptions.wet_ground import (
    WetGroundSettings,
    film_factor,
    fresnel_reflectance,
    wet_ground,
)

BETA_0 = 1e-6 / math.pi


def settings(name, severity):
    return corruption_table("semantickitti").settings[Variant(name=name, severity=severity)]


def run(cloud: Cloud, name, severity, seed: int = 0) -> Corrupted:
    table = corruption_table("semantickitti")
    return corrupt(cloud, Variant(name=name, severity=severity), table=table, rng=chance(seed))


def same(cloud: Cloud, after: Corrupted) -> bool:
    return (
        np.array_equal(after.xyz, cloud.xyz)
        and np.array_equal(after.signal, cloud.signal)
        and np.array_equal(after.source, np.arange(cloud.n))
    )


def make_snow(rate: float, **changes: float) -> SnowSettings:
    values = {"terminal_velocity_m_s": 1.6, "beam_divergence_rad": 0.003, "noise_floor": 0.7}
    return SnowSettings(snowfall_rate_mm_h=rate, **{**values, **changes})


def make_film(height_m: float, floor: float = 0.3) -> WetGroundSettings:
    return WetGroundSettings(
        water_height_m=height_m, noise_floor=floor, pavement_depth_m=0.0012, power_factor=15.0
    )


def test_without_fog_snow_or_water_nothing_changes() -> None:
    cloud = street()
    clear = FogSettings(backscatter=0.0, attenuation_choices_per_m=(0.0,))
    assert same(cloud, fog(cloud, clear, chance()))
    assert same(cloud, snow(cloud, make_snow(0.0), chance()))
    assert same(cloud, wet_ground(cloud, make_film(0.0), chance()))


def test_fog_alone_attenuates_by_the_way_there_and_back() -> None:
    thin = FogSettings(backscatter=0.0, attenuation_choices_per_m=(0.03,))
    after = fog(points_at(10, 20, 50), thin, chance())
    # 0.4 exp(-2 x 0.03 x R): 0.4 x 0.548812, x 0.301194, x 0.049787
    np.testing.assert_allclose(after.signal, [0.219525, 0.120478, 0.019915], rtol=1e-4)
    assert after.source.tolist() == [0, 1, 2]


def plain_soft_response(range_m: float, alpha: float, steps: int = 20001) -> float:
    """I(R) by the rectangle rule, one range at a time."""
    total, step = 0.0, 2 * PULSE_S / (steps - 1)
    for i in range(steps):
        t = i * step
        r = range_m - LIGHT_M_S * t / 2
        overlap = min(max((r - 0.9) / 0.1, 0.0), 1.0)
        if overlap:
            pulse = math.sin(math.pi * t / (2 * PULSE_S)) ** 2
            total += pulse * math.exp(-2 * alpha * r) / r**2 * overlap * step
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.06])
def test_the_table_of_the_soft_response_is_the_integral(alpha: float) -> None:
    table = soft_response(alpha)
    for range_m in (0.8, 1.5, 3.0, 4.2, 7.0, 20.0):
        expected = plain_soft_response(range_m, alpha)
        row = round(range_m / 0.02)
        assert table.value[row] == pytest.approx(expected, rel=2e-2, abs=1e-12)
    assert table.largest[-1] == table.value.max()


def test_fog_returns_where_its_own_answer_is_the_stronger_one() -> None:
    # At 20 m and alpha = 0.06 the target keeps 0.4 exp(-2.4) = 0.0363; beta decides the rest.
    largest = max(plain_soft_response(r / 10, 0.06, 2001) for r in range(10, 80))
    needed = math.exp(-2 * 0.06 * 20) * BETA_0 / (20**2 * largest)
    for factor, is_fog in ((0.97, False), (1.03, True)):
        thick = FogSettings(backscatter=factor * needed, attenuation_choices_per_m=(0.06,))
        after = fog(points_at(20), thick, chance())
        assert after.is_noise.tolist() == [is_fog]
        assert after.signal[0] == pytest.approx(0.4 * math.exp(-2.4) * max(1, factor), rel=1e-2)
        assert (after.xyz[0, 0] < 20) == is_fog
        assert np.array_equal(after.xyz[1:], [[0], [0]])


def test_fog_noise_lies_before_targets_with_the_response_as_density() -> None:
    thick = FogSettings(backscatter=1.0, attenuation_choices_per_m=(0.06,))
    after = fog(points_at(*[12.0] * 20_000), thick, chance())
    assert after.is_noise.all()
    noise_m = after.xyz[0]
    assert noise_m.min() > 0.9
    assert noise_m.max() <= 12
    value = soft_response(0.06).value[:600].astype(float)  # up to 12 m in steps of 0.02
    expected = value[150:300].sum() / value.sum()
    share = np.mean((noise_m >= 3.0) & (noise_m < 6.0))
    assert share == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("name", ["fog", "snow"])
def test_noise_grows_with_severity_and_moves_towards_the_sensor(name: str) -> None:
    cloud = street()
    shares = []
    for severity in ("light", "moderate", "heavy"):
        noise, total = 0, 0
        for seed in range(12):
            after = run(cloud, name, severity, seed)
            noise, total = noise + after.is_noise.sum(), total + len(after.source)
            kept = ~after.is_noise
            assert np.array_equal(after.xyz[:, kept], cloud.xyz[:, after.source[kept]])
            far = np.linalg.norm(after.xyz, axis=0)
            assert far.max() <= cloud.range_m().max() * 1.0001
            # Noise stays on its beam: the farthest target of any beam is beyond it.
            assert not after.carried(cloud.label)[after.is_noise].any()
        shares.append(noise / total)
    assert 0 < shares[0] < shares[1] < shares[2] < 0.9


def test_noise_is_nearer_than_the_point_that_its_beam_would_have_measured() -> None:
    cloud = street()
    for name in ("fog", "snow"):
        after = run(cloud, name, "heavy", 3)
        assert len(after.source) == cloud.n, "nothing was lost: rows can be compared"
        noise = after.is_noise
        direction = cloud.xyz / cloud.range_m()
        range_m = np.linalg.norm(after.xyz, axis=0)
        np.testing.assert_allclose(after.xyz, direction * range_m, atol=1e-4)
        assert (range_m[noise] <= cloud.range_m()[noise]).all()


def test_snowflakes_per_cubic_metre_carry_the_water_that_falls() -> None:
    flakes = flakes_in_air(make_snow(2.5))
    # slope 2.55 x 2.5^-0.48 = 1.6426 per mm; water 2.5e-3 / 3600 / 1.6 = 4.3403e-7;
    # a mean drop has pi / 6 x 6 / 1.6426³ = 0.70882 mm³: 612.3 flakes per m³.
    assert flakes.slope_per_mm == pytest.approx(1.6426, rel=1e-4)
    assert flakes.per_m3 == pytest.approx(612.3, rel=1e-3)


def plain_blocked(range_m: float, make: SnowSettings, n: int, seed: int) -> float:
    """Mean of what all flakes block of n beams, each flake drawn in a box around the beam."""
    flakes, rng, half = flakes_in_air(make), chance(seed), make.beam_divergence_rad / 2
    side = 2 * (half * range_m + 0.01)
    blocked = 0.0
    for _ in range(n):
        count = rng.poisson(flakes.per_m3 * side**2 * range_m)
        x = rng.uniform(0, range_m, count)
        away = np.hypot(*rng.uniform(-side / 2, side / 2, (2, count)))
        radius = rng.exponential(1 / flakes.slope_per_mm, count) * flakes.width * 5e-4
        hit = away < np.maximum(half * x, radius)
        part = np.minimum((radius[hit] / np.maximum(half * x[hit], 1e-9)) ** 2, 1)
        blocked += part.sum()
    return blocked / n


def test_mean_extinction_is_number_times_cross_section() -> None:
    make = make_snow(2.5)
    expected = flakes_in_air(make).extinction_per_m * 15
    assert plain_blocked(15, make, 4000, 1) == pytest.approx(expected, rel=0.15)
    # Few flakes are stronger than a bright target at 15 m: its signal tells of the others.
    after = snow(points_at(*[15.0] * 200_000, signal=1.0), make, chance())
    signal = after.signal[~after.is_noise]
    assert len(signal) > 190_000
    # Flakes that took over the beam had blocked the most: the others keep a little more.
    assert signal.mean() == pytest.approx((1 - expected) ** 2, abs=0.02)
    assert signal.mean() > (1 - expected) ** 2


def test_snow_grows_with_the_rate() -> None:
    cloud = street()
    counts = [snow(cloud, make_snow(rate), chance(1)).is_noise.sum() for rate in (0.1, 1, 5, 25)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] / 2


def test_snow_loses_what_falls_below_the_noise_floor() -> None:
    # Targets at the noise: whatever dims them by more than the floor loses them.
    weak = points_at(*[60.0] * 5000, signal=0.0)
    lost = [
        5000 - len(snow(weak, make_snow(25.0, noise_floor=f), chance()).source) for f in (0.3, 0.9)
    ]
    assert lost[0] < lost[1]


def test_fresnel_and_the_film_at_steep_and_grazing_incidence() -> None:
    # At the vertical ((1.33 - 1) / (1.33 + 1))² = 0.020059; at grazing incidence all is reflected.
    cosine = np.array([1.0, 1e-9])
    np.testing.assert_allclose(fresnel_reflectance(cosine), [0.020059, 1.0], atol=1e-5)
    full = film_factor(cosine, make_film(0.0012))
    # (1 - 0.020059)² exp(-2 x 6.8 x 0.0012) / 1.33² / (1 - 0.47 x 0.2) = 0.5895
    np.testing.assert_allclose(full, [0.5895, 0.0], atol=1e-4)
    # A sixth of the depth of the texture: a sixth of the ground is under water.
    thin = film_factor(cosine, make_film(0.0002))
    assert thin[1] == pytest.approx(5 / 6, abs=1e-6)


def test_water_dims_ground_alone_and_more_of_it_dims_more() -> None:
    cloud = street()
    is_road = cloud.label == ROAD
    last = cloud.signal[is_road].mean()
    for severity in ("light", "moderate", "heavy"):
        after = run(cloud, "wet_ground", severity)
        kept_road = is_road[after.source]
        wall = after.source[~kept_road]
        assert len(wall) == (~is_road).sum()
        assert np.array_equal(after.signal[~kept_road], cloud.signal[wall])
        assert np.array_equal(after.xyz, cloud.xyz[:, after.source])
        assert (after.signal[kept_road] < cloud.signal[after.source[kept_road]]).all()
        assert after.signal[kept_road].mean() < last
        last = after.signal[kept_road].mean()


def test_far_ground_is_lost_first_and_never_what_stays_bright() -> None:
    cloud = street()
    after = run(cloud, "wet_ground", "heavy")
    lost = np.setdiff1d(np.arange(cloud.n), after.source)
    assert 0 < len(lost) < (cloud.label == ROAD).sum()
    range_m = cloud.range_m()
    assert range_m[lost].mean() > range_m[cloud.label == ROAD].mean()
    # By hand: cos = 1.7 / R, signal / white x factor below 0.7 (R / 40)² / 15.
    film = settings("wet_ground", "heavy")
    factor = film_factor(1.7 / range_m[lost], film)
    power = np.maximum(
        cloud.signal[lost] / SENSOR.white_signal,
        weakest_reflectivity(range_m[lost], power_factor=15),
    )
    assert (power * factor < 0.7 * (range_m[lost] / 40) ** 2 / 15 * 1.01).all()


def test_without_labels_the_ground_is_a_plane() -> None:
    cloud = street()
    plane = fit_ground(cloud.xyz, chance())
    assert plane is not None
    np.testing.assert_allclose(plane, [0, 0, 1, 1.7], atol=0.02)
    after = run(without_labels(cloud), "wet_ground", "moderate")
    touched = after.signal != cloud.signal[after.source]
    is_road = cloud.label[after.source] == ROAD
    assert np.mean(touched[is_road]) > 0.99
    assert np.mean(touched[cloud.label[after.source] == BUILDING]) < 0.1


def test_no_ground_no_plane() -> None:
    assert fit_ground(np.zeros((3, 0), np.float32), chance()) is None
    assert fit_ground(np.ones((3, 2), np.float32), chance()) is None
    wall = chance().uniform(-10, 10, (3, 500)).astype(np.float32)
    wall[0] = 5
    assert fit_ground(wall, chance()) is None
