"""Motion blur, lost beams, crosstalk, incomplete echo, another sensor; names and chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from corruption_samples import BICYCLE, CAR, SENSOR, chance, points_at, street, without_labels

from pass2d.common.errors import ConfigError, DataError, ShapeError
from pass2d.corruptions.beam_missing import BeamMissingSettings, beam_missing
from pass2d.corruptions.beams import beams_by_elevation, beams_of
from pass2d.corruptions.cloud import Cloud
from pass2d.corruptions.cross_sensor import CrossSensorSettings, cross_sensor
from pass2d.corruptions.crosstalk import CrosstalkSettings, crosstalk
from pass2d.corruptions.incomplete_echo import IncompleteEchoSettings, incomplete_echo
from pass2d.corruptions.motion_blur import MotionBlurSettings, motion_blur
from pass2d.corruptions.registry import (
    CORRUPTIONS,
    SEVERITIES,
    Variant,
    corrupt,
    corruption_table,
    parse_variants,
    scan_generator,
)


def test_motion_blur_has_the_deviation_on_every_axis() -> None:
    cloud = points_at(*[10.0] * 40_000)
    after = motion_blur(cloud, MotionBlurSettings(std_m=0.25), chance())
    jitter = after.xyz - cloud.xyz
    np.testing.assert_allclose(jitter.std(1), 0.25, rtol=0.02)
    np.testing.assert_allclose(jitter.mean(1), 0, atol=0.005)
    assert np.array_equal(after.signal, cloud.signal)
    assert np.array_equal(after.source, np.arange(cloud.n))


def test_beam_missing_takes_whole_beams_of_the_range() -> None:
    cloud = street()
    for seed in range(5):
        make = BeamMissingSettings(draws=32, beam_range=(4, 58))
        after = beam_missing(cloud, make, chance(seed))
        count = np.bincount(cloud.beam[after.source], minlength=64)
        assert set(count.tolist()) == {0, 300}
        missing = np.flatnonzero(count == 0)
        # With replacement: about 55 (1 - (54/55)^32) = 24.4 different ones.
        assert 15 <= len(missing) < 32
        assert missing.min() >= 4
        assert missing.max() <= 58


def test_a_scan_of_fewer_beams_loses_the_same_share() -> None:
    cloud = street(beams=16)
    make = BeamMissingSettings(draws=32, beam_range=(4, 58))
    after = beam_missing(cloud, make, chance())
    missing = 16 - len(np.unique(cloud.beam[after.source]))
    assert 3 <= missing <= 8  # 8 draws
    half = cross_sensor(cloud, CrossSensorSettings(beams_dropped=32, every_nth_point=1), chance())
    assert len(np.unique(cloud.beam[half.source])) == 8


def test_cross_sensor_keeps_even_beams_and_every_second_of_their_points() -> None:
    cloud = street()
    make = CrossSensorSettings(beams_dropped=48, every_nth_point=2)
    after = cross_sensor(cloud, make, chance())
    kept = np.unique(cloud.beam[after.source])
    assert len(kept) == 16
    assert set(np.diff(kept).tolist()) == {4, 5}
    rows = after.source[cloud.beam[after.source] == kept[3]]
    assert rows.tolist() == list(range(300 * kept[3], 300 * (kept[3] + 1), 2))


def test_cross_sensor_steps_along_each_beam_in_files_that_go_column_by_column() -> None:
    cloud = street(beams=8, columns=6, cars=False)
    order = np.arange(48).reshape(8, 6).T.ravel()
    columns = replace(
        cloud, xyz=cloud.xyz[:, order], signal=cloud.signal[order], beam=cloud.beam[order],
        label=None, instance=None,
    )  # fmt: skip
    make = CrossSensorSettings(beams_dropped=0, every_nth_point=2)
    after = cross_sensor(columns, make, chance())
    assert np.bincount(columns.beam[after.source]).tolist() == [3] * 8
    assert after.source.tolist() == [r for r in range(48) if (r // 8) % 2 == 0]


def test_crosstalk_moves_exactly_the_fraction() -> None:
    cloud = street()
    after = crosstalk(cloud, CrosstalkSettings(fraction=0.01, std_m=3.0), chance())
    changed = (after.xyz != cloud.xyz).any(0)
    assert changed.sum() == round(0.01 * cloud.n) == 192
    assert np.array_equal(changed, after.is_noise)
    assert (after.xyz - cloud.xyz)[:, changed].std() == pytest.approx(3.0, rel=0.1)
    assert not after.carried(cloud.label)[changed].any()
    assert np.array_equal(after.carried(cloud.label)[~changed], cloud.label[~changed])


@pytest.mark.parametrize("ratio", [0.75, 0.85, 0.95])
def test_incomplete_echo_takes_the_ratio_of_each_vehicle_with_enough_points(ratio: float) -> None:
    cloud = street()
    after = incomplete_echo(
        cloud, IncompleteEchoSettings(drop_ratio=ratio, min_points=11), chance()
    )
    before = np.bincount(cloud.instance)
    count = np.bincount(after.carried(cloud.instance), minlength=9)
    assert (before[7], count[7]) == (40, 40 - round(ratio * 40))
    assert (before[8], count[8]) == (6, 6)
    others = np.flatnonzero(cloud.label != CAR)
    assert np.isin(others, after.source).all()


def test_incomplete_echo_without_instances_counts_a_class_as_one() -> None:
    cloud = street()
    label = cloud.label.copy()
    label[:100] = BICYCLE
    plain = replace(cloud, label=label, instance=None)
    after = incomplete_echo(plain, IncompleteEchoSettings(drop_ratio=0.5, min_points=11), chance())
    count = np.bincount(label[after.source], minlength=20)
    assert (count[BICYCLE], count[CAR]) == (
        50,
        np.sum(label == CAR) - round(np.sum(label == CAR) / 2),
    )


def test_incomplete_echo_needs_labels() -> None:
    make = IncompleteEchoSettings(drop_ratio=0.5, min_points=11)
    with pytest.raises(DataError, match="needs labels"):
        incomplete_echo(without_labels(street()), make, chance())


def test_beams_are_read_from_the_order_of_points() -> None:
    cloud = street()
    assert np.array_equal(beams_of(replace(cloud, beam=None)), cloud.beam)
    lost = np.flatnonzero(chance(2).random(cloud.n) < 0.7)  # points without an echo
    part = replace(
        cloud,
        xyz=cloud.xyz[:, lost],
        signal=cloud.signal[lost],
        beam=None,
        label=None,
        instance=None,
    )
    assert np.array_equal(beams_of(part), cloud.beam[lost])


def test_points_in_no_order_get_their_beams_by_elevation() -> None:
    cloud = street()
    order = chance().permutation(cloud.n)
    xyz, signal = cloud.xyz[:, order], cloud.signal[order]
    mixed = replace(without_labels(cloud), xyz=xyz, signal=signal, beam=None)
    # Ours counts from the lowest beam; the street's beams lie at equal distances.
    assert np.array_equal(beams_of(mixed), 63 - cloud.beam[order])


def test_a_ring_column_of_zeros_is_not_believed() -> None:
    cloud = street()
    assert np.array_equal(beams_of(replace(cloud, beam=np.zeros(cloud.n, np.int32))), cloud.beam)


def test_beams_of_the_real_scans(real_semkitti, shared) -> None:
    points = np.fromfile(real_semkitti / "sequences/00/velodyne/000000.bin", "<f4").reshape(-1, 4)
    cloud = Cloud(xyz=points[:, :3].T.copy(), signal=points[:, 3].copy(), sensor=SENSOR)
    beam = beams_of(cloud)
    assert beam.max() == 63
    elevation = np.arctan2(cloud.xyz[2], np.hypot(cloud.xyz[0], cloud.xyz[1]))
    medians = np.array([np.median(elevation[beam == b]) for b in range(64)])
    assert (np.diff(medians) < 0).all()  # from the top to the bottom
    file = next((shared / "real/nuscenes/samples/LIDAR_TOP").glob("*.bin"))
    rows = np.fromfile(file, "<f4").reshape(-1, 5)
    sensor = corruption_table("nuscenes").sensor
    guessed = beams_by_elevation(
        rows[:, :3].T.copy(), beams=sensor.beams, elevation_deg=sensor.elevation_deg
    )
    far = np.linalg.norm(rows[:, :3], axis=1) > 3
    assert np.mean(guessed[far] == rows[far, 4]) > 0.85  # the lasers do not sit at one place
    assert np.mean(np.abs(guessed[far] - rows[far, 4]) <= 1) > 0.99


@pytest.mark.parametrize("layout", ["semantickitti", "nuscenes"])
def test_every_corruption_of_a_scan_depends_on_its_name_alone(layout: str) -> None:
    table, cloud = corruption_table(layout), street(columns=60)
    cloud = replace(cloud, sensor=table.sensor)
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            variant = Variant(name=name, severity=severity)
            chances = [scan_generator(variant, sequence="08", frame_index=f) for f in (3, 3, 4)]
            first, again, other = (corrupt(cloud, variant, table=table, rng=c) for c in chances)
            assert np.array_equal(first.xyz, again.xyz)
            assert np.array_equal(first.source, again.source)
            assert first.xyz.dtype == first.signal.dtype == np.float32
            assert first.xyz.shape == (3, len(first.source))
            assert np.isfinite(first.xyz).all()
            if name in ("snow", "motion_blur", "beam_missing", "crosstalk"):
                assert not (
                    np.array_equal(first.source, other.source)
                    and np.array_equal(first.xyz, other.xyz)
                )


def test_empty_and_tiny_scans_pass_through_every_corruption() -> None:
    table = corruption_table("semantickitti")
    for n in (0, 1, 2, 5):
        cloud = Cloud(
            xyz=np.zeros((3, n), np.float32),
            signal=np.zeros(n, np.float32),
            label=np.ones(n, np.uint8),
            instance=np.zeros(n, np.uint32),
            sensor=SENSOR,
        )
        for variant in parse_variants("all"):
            after = corrupt(cloud, variant, table=table, rng=chance())
            assert len(after.source) <= n
            assert np.isfinite(after.xyz).all()


def test_lists_of_corruptions() -> None:
    heavy = Variant(name="fog", severity="heavy")
    assert parse_variants("fog:heavy") == (heavy,)
    assert [v.slug for v in parse_variants("snow:light, fog")] == [
        "fog-light", "fog-moderate", "fog-heavy", "snow-light",
    ]  # fmt: skip
    assert len(parse_variants("all")) == 24
    assert [v.slug for v in parse_variants("all:heavy")][1] == "wet_ground-heavy"
    assert parse_variants("beam-missing:LIGHT")[0].slug == "beam_missing-light"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fogg:heavy", "did you mean 'fog'?"),
        ("fog:heavvy", "did you mean 'heavy'?"),
        ("rain", "choose from all, beam_missing"),
        ("fog:", "unknown severity ''"),
        (" , ", "expected e.g. fog:heavy"),
    ],
)
def test_wrong_names_are_said_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_variants(text)
    assert said in str(error.value)


def test_a_layout_without_a_table_and_a_cloud_of_wrong_shape() -> None:
    with pytest.raises(ConfigError, match="no corruptions for layout 'waymo'"):
        corruption_table("waymo")
    with pytest.raises(ShapeError):
        Cloud(xyz=np.zeros((4, 3), np.float32), signal=np.zeros(3, np.float32), sensor=SENSOR)


def test_severities_are_the_published_ones(shared) -> None:
    import json

    published = json.loads((shared / "spec/datasets.json").read_text())["robo3d"]["severities"]
    ours, kitti = corruption_table("semantickitti").settings, published["semantickitti"]

    def values(name: str, field: str) -> list[object]:
        return [getattr(ours[Variant(name=name, severity=s)], field) for s in SEVERITIES]

    assert values("fog", "backscatter") == kitti["fog"]["beta"]
    assert [list(v) for v in values("fog", "attenuation_choices_per_m")] == [
        kitti["fog"]["alpha_uniform_choice"]
    ] * 3
    assert values("fog", "noise_label") == [kitti["fog"]["noise_label"]] * 3
    assert values("wet_ground", "water_height_m") == kitti["wet_ground"]["water_height_m"]
    assert values("wet_ground", "noise_floor") == kitti["wet_ground"]["noise_floor"]
    assert values("wet_ground", "power_factor") == [kitti["wet_ground"]["power_factor"]] * 3
    assert values("snow", "snowfall_rate_mm_h") == kitti["snow"]["snowfall_rate_mm_h"]
    assert values("snow", "terminal_velocity_m_s") == kitti["snow"]["terminal_velocity_m_s"]
    assert values("motion_blur", "std_m") == kitti["motion_blur"]["trans_std_m"]
    assert values("beam_missing", "draws") == kitti["beam_missing"]["draws_with_replacement"]
    assert values("crosstalk", "fraction") == kitti["crosstalk"]["fraction"]
    assert values("incomplete_echo", "drop_ratio") == kitti["incomplete_echo"]["drop_ratio"]
    assert values("cross_sensor", "beams_dropped") == kitti["cross_sensor"]["beams_dropped"]
