"""Static-moving switch: each thing by its definition, all else untouched."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from pass2d.cache.motion import with_moving_classes
from pass2d.cache.schema import ScanRecord
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.train.data.sampling import AugmentConfig, draw_scan
from pass2d.train.data.scan import LoadedScan, Part
from pass2d.train.data.static_moving import STEP_M, static_moving_switch

INFO = with_moving_classes(DATASETS["semkitti"].table.info)
CAR, ROAD, MOVING_CAR = 1, 9, 20


def record(lag: int, *, labels: tuple[int, int, int], shift: float = 0.0, n: int = 4) -> ScanRecord:
    """Three things of n points at x = 0, 10 and 20 (the third without an id), and road."""
    rng = np.random.default_rng(lag)
    xyz = rng.uniform(-0.5, 0.5, (3, 4 * n)).astype(np.float32)
    xyz[0] += np.repeat([0, 10 + shift * lag, 20, 30], n)
    return ScanRecord(
        scan_id=str(lag),
        n_raw=4 * n,
        xyz=xyz,
        signal=np.zeros(4 * n, np.float32),
        raw_index=np.arange(4 * n, dtype=np.int32),
        label=np.repeat([*labels, ROAD], n).astype(np.uint8),
        instance=np.repeat([7, 8, 0, 0], n).astype(np.uint32),
    )


def stack(*, loss: str = "all") -> LoadedScan:
    """A parked car (7), a car that drives backwards in x (8), a car without an id."""
    draw = draw_scan(AugmentConfig(), seed=0, epoch=0, scan=0, grid=INFO.grid)
    labels = (CAR, MOVING_CAR, CAR)
    parts = [
        Part(record=record(lag, labels=labels, shift=2.0), draw=draw, lag=lag) for lag in (1, 2)
    ]
    if loss == "current":
        parts = [
            replace(part, record=replace(part.record, label=np.zeros(16, np.uint8)))
            for part in parts
        ]
    own = record(0, labels=labels, shift=2.0)
    return LoadedScan(position=0, info=INFO, record=own, draw=draw, crop=None, added=tuple(parts))


always = partial(static_moving_switch, probability=1.0)


def test_a_parked_car_drives_off_by_equal_steps() -> None:
    before = stack()
    after = always(before, np.random.default_rng(3))
    shifts = [
        (after.parts[lag].record.xyz - before.parts[lag].record.xyz)[:, :4] for lag in range(3)
    ]
    assert not shifts[0].any()
    np.testing.assert_allclose(shifts[1], shifts[1][:, :1] * np.ones(4), atol=1e-5)
    np.testing.assert_allclose(shifts[2], 2 * shifts[1], atol=1e-5)
    assert not shifts[1][2].any()  # level
    assert STEP_M[0] <= np.hypot(*shifts[1][:2, 0]) <= STEP_M[1]
    for part in after.parts:
        assert part.record.label[:4].tolist() == [MOVING_CAR] * 4


def test_a_driving_car_stands_where_it_is_now() -> None:
    after = always(stack(), np.random.default_rng(3))
    middles = [part.record.xyz[:2, 4:8].mean(axis=1) for part in after.parts]
    np.testing.assert_allclose(middles[1:], [middles[0]] * 2, atol=1e-5)
    for part in after.parts:
        assert part.record.label[4:8].tolist() == [CAR] * 4


def test_what_has_no_id_or_cannot_move_stays() -> None:
    before = stack()
    after = always(before, np.random.default_rng(3))
    for old, new in zip(before.parts, after.parts, strict=True):
        np.testing.assert_array_equal(old.record.xyz[:, 8:], new.record.xyz[:, 8:])
        np.testing.assert_array_equal(old.record.label[8:], new.record.label[8:])
    np.testing.assert_array_equal(before.record.xyz, stack().record.xyz)  # a new scan is made


def test_past_points_without_a_label_move_too_and_stay_without() -> None:
    after = always(stack(loss="current"), np.random.default_rng(3))
    plain = always(stack(), np.random.default_rng(3))
    for part, same in zip(after.parts[1:], plain.parts[1:], strict=True):
        np.testing.assert_allclose(part.record.xyz[:, :8], same.record.xyz[:, :8], atol=1e-5)
        assert not part.record.label.any()
    assert after.record.label[:8].tolist() == [MOVING_CAR] * 4 + [CAR] * 4


def test_half_of_the_things_are_switched_and_one_scan_never() -> None:
    counts = []
    for seed in range(200):
        after = static_moving_switch(stack(), np.random.default_rng(seed))
        counts.append(int((after.record.label[:4] == MOVING_CAR).all()))
    assert 75 < sum(counts) < 125
    single = replace(stack(), added=())
    assert static_moving_switch(single, np.random.default_rng(0)) is single
    static = replace(stack(), info=DATASETS["semkitti"].table.info)
    assert static_moving_switch(static, np.random.default_rng(0)) is static
