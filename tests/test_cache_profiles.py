"""Which profile suits a machine: the rule by hand, and what is measured of a cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cache_samples import write_sample_cache
from typer.testing import CliRunner

from pass2d.cache.inspection.profiles import ProfileCost, best_profile
from pass2d.commands.app import app

MB, GB = 1e6, 1e9
COSTS = (
    ProfileCost(profile="speed", cpu_ms=0.7, stored_bytes=2 * MB),
    ProfileCost(profile="size", cpu_ms=4.0, stored_bytes=1.5 * MB),
    ProfileCost(profile="raw", cpu_ms=0.2, stored_bytes=5 * MB),
)


@pytest.mark.parametrize(
    ("n_scans", "disk", "memory", "best"),
    [
        # All in memory: 0.7, 4.0 and 0.2 ms.
        (1000, 0.1 * GB, 16 * GB, "raw"),
        # From an NVMe disk of 10 GB/s: 0.7 + 0.2, 4.0 + 0.15, 0.2 + 0.5 ms.
        (20000, 10 * GB, 16 * GB, "raw"),
        # 1 GB/s: 0.7 + 2, 4.0 + 1.5, 0.2 + 5 ms.
        (40000, 1 * GB, 16 * GB, "speed"),
        # 0.1 GB/s: 0.7 + 20, 4.0 + 15, 0.2 + 50 ms.
        (40000, 0.1 * GB, 16 * GB, "size"),
        # `speed` takes 8 of 16 GB and stays in memory, `raw` would not.
        (4000, 1 * GB, 16 * GB, "speed"),
    ],
)
def test_the_rule(n_scans: int, disk: float, memory: float, best: str) -> None:
    assert best_profile(COSTS, n_scans=n_scans, disk=disk, memory=memory) == best


def test_bench_names_the_profile_that_the_rule_chooses(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=3, sequences=("00",), n_points=2000)
    words = ["cache", "bench", "--cache", str(tmp_path), "--limit", "3", "--rounds", "2"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    lines = [line for line in found.output.splitlines() if line.startswith("profile")]
    assert [line.split()[1] for line in lines[:3]] == ["speed", "size", "raw"]
    assert lines[3].startswith("profile for this machine: ")
    advice = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["advice"]
    costs = [ProfileCost(**cost) for cost in advice["costs"]]
    disk = advice["disk_bytes_per_s"]
    assert advice["best"] == best_profile(costs, n_scans=3, disk=disk, memory=GB)
    speed, size, raw = (cost.stored_bytes for cost in costs)
    assert size < speed < raw
