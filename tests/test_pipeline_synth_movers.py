"""Mixed traffic of the synthetic world: what moves, what stands, and one scan does not tell."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import semkitti_table
from pass2d.synth.camera import draw_light
from pass2d.synth.config import preset
from pass2d.synth.frame import camera_model, lidar_pose, render_frame, sequence_world
from pass2d.synth.generate import generate
from pass2d.synth.labels import MOVING, Raw
from pass2d.synth.motion import camera_poses
from pass2d.synth.parts import Brush, pack
from pass2d.synth.street import CentreLine, Street, plan_street
from pass2d.synth.surfaces import Surface
from pass2d.synth.traffic import MARGIN_M, Mover, mixed_traffic
from pass2d.synth.world import World, build_world, solids_at

DRIVE = preset("movers", beams=64, columns=1024)
MOVING_IDS = {int(raw) for raw in MOVING.values()}


def straight_street() -> Street:
    rng = np.random.default_rng(0)
    street = plan_street(rng, begin=-MARGIN_M, end=200.0)
    line = CentreLine(amplitude_m=(0.0, 0.0), wave_per_m=(0.01, 0.02), phase=(0.0, 0.0))
    return Street(**{**street.__dict__, "line": line})


def test_mover_is_where_its_speed_takes_it_and_a_standing_thing_stays() -> None:
    box = Brush(label=Raw.CAR, surface=Surface.PAINT, color=(0.5, 0.5, 0.5)).box
    parts = (box((1.0, 0.5, 0.7), (4.0, 2.0, 1.4)),)
    lane = {"parts": parts, "t": 1.75}
    world = World(
        street=straight_street(),
        light=draw_light(np.random.default_rng(0)),
        standing=pack([]),
        movers=(
            Mover(**lane, s=10.0, speed_mps=-4.0, turn_rad=np.pi, instance=1),
            Mover(**lane, s=20.0, speed_mps=0.0, turn_rad=np.pi, instance=2),
            Mover(**lane, s=30.0, speed_mps=3.0, turn_rad=0.0, instance=3),
        ),
        sway=np.zeros(6),
    )
    # 10 - 4 * 1.5 = 4; turned round, the box lies 1 m behind and 0.5 m right of its foot.
    expected = {
        0.0: [(9, 1.25), (19, 1.25), (31, 2.25)],
        1.5: [(3, 1.25), (19, 1.25), (35.5, 2.25)],
    }
    for time_s, places in expected.items():
        solids = solids_at(world, time_s=time_s, center_xy=(0.0, 0.0), reach_m=100.0)
        np.testing.assert_allclose(solids.center[:, :2], places, atol=1e-9)
        assert solids.instance.tolist() == [1, 2, 3]


def world_from_lidar(sequence: str, count: int) -> np.ndarray:
    """As a reader of poses.txt and calib.txt has them: (count, 4, 4), from the first lidar."""
    camera = camera_model(DRIVE)
    lidar = np.stack([lidar_pose(DRIVE, sequence, i) for i in range(count)])
    cam0 = np.tile(np.eye(4), (count, 1, 1))
    cam0[:, :3] = camera_poses(lidar, camera)
    return np.linalg.inv(camera.cam0_from_lidar) @ cam0 @ camera.cam0_from_lidar


def test_points_of_a_mover_are_displaced_by_its_way_and_those_of_a_standing_thing_are_not() -> None:
    street = sequence_world(DRIVE, "05").street
    things = {mover.instance: mover for mover in sequence_world(DRIVE, "05").movers}
    poses = world_from_lidar("05", 10)
    start = lidar_pose(DRIVE, "05", 0)  # the files' frame in the world
    clouds: list[dict[int, np.ndarray]] = []
    for number in (4, 6):
        scan = render_frame(DRIVE, "05", number).scan
        pose = start @ poses[number]
        xyz = scan.points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
        instance = scan.labels >> 16
        clouds.append({key: xyz[instance == key] for key in things})
        # The label says whether it moves, in every scan.
        for key, thing in things.items():
            raw = set((scan.labels[instance == key] & 0xFFFF).tolist())
            assert raw <= MOVING_IDS if thing.speed_mps else not raw & MOVING_IDS
    duration_s = 2 * DRIVE.interval_s
    seen = Counter[bool]()
    for key, thing in things.items():
        before, after = (cloud[key] for cloud in clouds)
        if min(len(before), len(after)) < 60:
            continue
        x0, y0, _ = street.line.world_from_street(thing.s + thing.speed_mps * 4 * 0.2, thing.t)
        x1, y1, _ = street.line.world_from_street(thing.s + thing.speed_mps * 6 * 0.2, thing.t)
        way = np.array([x1 - x0, y1 - y0, 0.0])
        assert np.linalg.norm(way) == pytest.approx(abs(thing.speed_mps) * duration_s, rel=0.1)
        with_way, without = (
            float(np.median(cKDTree(before).query(after - shift)[0])) for shift in (way, 0 * way)
        )
        assert with_way < 0.12  # between beams
        if thing.speed_mps:
            assert without > with_way
        seen[thing.speed_mps != 0] += 1
    assert min(seen[True], seen[False]) >= 2


def test_every_kind_moves_and_stands_under_the_ids_of_the_files() -> None:
    raw_ids = Counter[int]()
    for sequence in range(8):
        world = build_world(0, sequence, length_m=32.0, speed_mps=8.0, traffic="mixed")
        raw_ids.update(int(mover.parts[0].label) for mover in world.movers)
    for standing, moving in MOVING.items():
        assert raw_ids[standing] > 0
        assert raw_ids[moving] > 0
        assert (
            semkitti_table().raw_names[moving] == f"moving-{semkitti_table().raw_names[standing]}"
        )


def reach_m(mover: Mover) -> float:
    return max(abs(part.center[0]) + max(part.half[:2]) for part in mover.parts)


def test_nothing_runs_into_anything() -> None:
    world = build_world(3, 0, length_m=32.0, speed_mps=8.0, traffic="mixed")
    for time_s in (0.0, 1.3, 4.0):
        lanes: dict[float, list[tuple[float, float]]] = {}
        for mover in world.movers:
            s = mover.s + mover.speed_mps * time_s
            lanes.setdefault(round(mover.t / 1.6), []).append(
                (s - reach_m(mover), s + reach_m(mover))
            )
        assert len(lanes) >= 4
        for spans in lanes.values():
            spans.sort()
            assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_place_kind_shape_and_direction_do_not_tell_what_moves() -> None:
    street, rng = straight_street(), np.random.default_rng(1)
    what: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    for _ in range(120):
        movers = mixed_traffic(rng, street, length_m=32.0, speed_mps=8.0, first=1)
        time_s = rng.uniform(0, 4.0)
        for mover in movers:
            ahead = np.cos(mover.turn_rad)
            s = mover.s + mover.speed_mps * time_s
            kind = mover.parts[0].label not in (Raw.PERSON, Raw.MOVING_PERSON)
            what[mover.speed_mps != 0].append((s, mover.t, ahead, reach_m(mover), kind))
    moving, standing = (np.array(what[is_moving]) for is_moving in (True, False))
    assert len(moving) / (len(moving) + len(standing)) == pytest.approx(0.5, abs=0.02)
    for column in range(5):
        # Kolmogorov-Smirnov: the largest distance of the two distributions.
        grid = np.unique(np.concatenate([moving[:, column], standing[:, column]]))
        shares = [
            np.searchsorted(np.sort(rows[:, column]), grid, "right") / len(rows)
            for rows in (moving, standing)
        ]
        assert np.abs(shares[0] - shares[1]).max() < 0.04


def test_folder_says_the_traffic_and_is_not_mixed_with_another(tmp_path: Path) -> None:
    small = {"scans": 1, "sequences": ("08",), "beams": 4, "columns": 16, "image_hw": (8, 8)}
    for preset_name, folder in (("tiny", "flowing"), ("movers", "mixed")):
        generate(tmp_path / folder, preset(preset_name, **small, interval_s=0.2), Silent())
    flowing, mixed = (
        json.loads((tmp_path / f / "synth.json").read_text()) for f in ("flowing", "mixed")
    )
    assert "traffic" not in flowing  # as in worlds that were made before there was a choice
    assert mixed == {**flowing, "traffic": "mixed"}
    for preset_name, folder in (("movers", "flowing"), ("tiny", "mixed")):
        with pytest.raises(DataError, match="traffic"):
            generate(tmp_path / folder, preset(preset_name, **small, interval_s=0.2), Silent())


def test_unknown_traffic_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'wild'.*flowing, mixed"):
        preset("tiny", traffic="wild")
