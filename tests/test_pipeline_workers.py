"""Ray starts where it is faster than this process, and only there."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from heard import Heard
from nuscenes_files import NuscenesFolder
from pipeline_files import shards, write_sequence

from pass2d.cache.fields import CONTAINERS
from pass2d.corruptions.registry import parse_variants
from pass2d.pipeline.corrupted import corrupted_listings
from pass2d.pipeline.datasets.nuscenes import list_nuscenes
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import plan, prepare_all
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.run.plan import PlannedTask, PreparePlan
from pass2d.pipeline.run.workers import RAY_START_SECONDS, decided


def plan_of(*shards_s: tuple[float, float, float]) -> PreparePlan:
    """Shards of 10 scans with these seconds of lidar, camera, voxel."""
    tasks = [
        PlannedTask(
            container=name,
            shard=shard,
            sequence="00",
            scans=10,
            reason="",
            nbytes=0,
            seconds=seconds,
        )
        for shard, parts_s in enumerate(shards_s)
        for name, seconds in zip(CONTAINERS, parts_s, strict=False)
    ]
    return PreparePlan(
        jobs=(), tasks=tuple(tasks), keys={}, dropped=(), staying=(), has_panoptic=False
    )


CPUS = 4


def test_ray_starts_where_the_time_that_it_saves_is_longer_than_its_start() -> None:
    even = RAY_START_SECONDS / (1 - 1 / CPUS)  # S = start + S / n
    for seconds, chosen in ((even - 1, 0), (even + 1, CPUS)):
        heard = Heard()
        todo = plan_of(*[(seconds / 300, seconds / 300, seconds / 300)] * 100)
        assert decided(PrepareConfig(), [todo], heard, n_cpus=CPUS).workers == chosen
        (line,) = heard.lines
        assert line.startswith("1,000 scans, about ")
        assert "`workers=" in line


def test_one_shard_gains_nothing_from_many_workers() -> None:
    # lidar 30 s, then camera and voxel at once: 40 s + start; inline 45 s
    assert decided(PrepareConfig(), [plan_of((30, 10, 5))], Heard(), n_cpus=CPUS).workers == 0
    two = plan_of((30, 10, 5), (30, 10, 5))
    assert decided(PrepareConfig(), [two], Heard(), n_cpus=CPUS).workers == CPUS


def test_one_cpu_never_gains() -> None:
    todo = plan_of(*[(9, 9, 9)] * 1000)
    assert decided(PrepareConfig(), [todo], Heard(), n_cpus=1).workers == 0


def test_what_was_asked_for_is_obeyed_in_silence() -> None:
    heard = Heard()
    for config in (PrepareConfig(workers=3), PrepareConfig(ray_address="auto")):
        assert decided(config, [plan_of((0, 0, 0))], heard) == config
    assert decided(PrepareConfig(), [plan_of()], heard) == PrepareConfig()  # nothing to do
    assert heard.lines == []


def test_the_whole_amount_counts() -> None:
    small = plan_of(*[(1, 1, 1)] * 2)
    assert decided(PrepareConfig(), [small], Heard(), n_cpus=CPUS).workers == 0
    assert decided(PrepareConfig(), [small] * 9, Heard(), n_cpus=CPUS).workers == CPUS


def test_pictures_are_counted_one_by_one(tmp_path: Path) -> None:
    write_sequence(tmp_path / "kitti", "08", (0, 1))
    write_sequence(tmp_path / "bare", "08", (0, 1), images=False)
    NuscenesFolder(tmp_path / "nuscenes").write()
    listings = {
        1: list_semkitti(tmp_path / "kitti"),
        0: list_semkitti(tmp_path / "bare"),
        6: list_nuscenes(tmp_path / "nuscenes"),
    }
    for pictures, listing in listings.items():
        tasks = plan(listing, tmp_path / "cache", PrepareConfig()).tasks
        assert tasks
        for task in tasks:
            if task.container == "camera":
                assert task.seconds == pytest.approx(0.02 * pictures * task.scans)


class NoRayError(Exception):
    pass


def test_a_handful_of_scans_starts_no_ray_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise NoRayError

    monkeypatch.setattr(subprocess, "Popen", start)
    write_sequence(tmp_path / "raw", "08", (0, 1, 2, 3))
    clean = list_semkitti(tmp_path / "raw")
    listings = [clean, *corrupted_listings(clean, parse_variants("fog:heavy"))]
    heard = Heard()
    config = PrepareConfig(shard_scans=2)
    prepare_all(listings, tmp_path / "left_out", config, heard)
    prepare_all(listings, tmp_path / "none", replace(config, workers=0), Heard())
    assert [line for line in heard.lines if "Ray" in line] == [
        "8 scans, about 0.5 s of work: done in this process, Ray would take longer "
        "(`workers=N` starts it)"
    ]
    for name in ("semkitti", "semkitti-fog-heavy"):
        made = shards(tmp_path / "left_out" / name)
        assert made
        assert made == shards(tmp_path / "none" / name)
    with pytest.raises(NoRayError):
        prepare_all(listings, tmp_path / "asked", replace(config, workers=1), Heard())
    plans = [plan(clean, tmp_path / "worth", config)]
    assert decided(config, plans, Heard(), n_cpus=CPUS, start_s=0.0).workers == CPUS
