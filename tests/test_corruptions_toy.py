"""A corruption costs a file and a line: a made-up one beside those that there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pipeline_files import write_sequence
from typer.testing import CliRunner

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.common.errors import ConfigError
from pass2d.corruptions.cloud import Cloud, Corrupted, keep
from pass2d.corruptions.corruption import Corruption
from pass2d.corruptions.registry import (
    KNOWN,
    Variant,
    corrupt,
    corruption_table,
    parse_variants,
    scan_generator,
)
from pass2d.pipeline.compose import lidar_record
from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.datasets.semkitti import list_semkitti


@dataclass(frozen=True, kw_only=True)
class FewerSettings:
    """How many points stay."""

    every: int


def fewer(cloud: Cloud, settings: FewerSettings, rng: np.random.Generator) -> Corrupted:
    """Keep every n-th point, from one that chance decides."""
    first = int(rng.integers(settings.every))
    return keep(cloud, np.arange(cloud.n) % settings.every == first)


FEWER = Corruption(name="fewer", settings=FewerSettings, apply=fewer, usual={"every": [2, 5, 10]})


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    KNOWN["fewer"] = FEWER  # the line
    yield
    KNOWN.pop("fewer", None)


@pytest.mark.parametrize("layout", ["semantickitti", "nuscenes"])
def test_a_corruption_has_its_severities_in_every_layout(layout: str) -> None:
    table = corruption_table(layout)
    cloud = Cloud(
        xyz=np.arange(300, dtype=np.float32).reshape(3, 100),
        signal=np.zeros(100, np.float32),
        sensor=table.sensor,
    )
    variants = parse_variants("fewer")
    assert [variant.slug for variant in variants] == [
        "fewer-light",
        "fewer-moderate",
        "fewer-heavy",
    ]
    left = []
    for variant in variants:
        rng = scan_generator(variant, sequence="08", frame_index=0)
        left.append(corrupt(cloud, variant, table=table, rng=rng).xyz.shape[1])
    assert left == [50, 20, 10]
    assert table.parameters(variants[2])["settings"] == {"every": 10}


def test_all_is_all_of_them_and_the_others_stay_as_they_are() -> None:
    assert len(parse_variants("all:heavy")) == len(KNOWN)
    fog = Variant(name="fog", severity="heavy")
    more = corruption_table("nuscenes").parameters(fog)
    del KNOWN["fewer"]
    assert corruption_table("nuscenes").parameters(fog) == more


def test_it_goes_through_prepare(tmp_path: Path) -> None:
    write_sequence(tmp_path / "raw", "08", (0, 1), n=60)
    words = ["prepare", "semkitti", "--root", tmp_path / "raw", "--cache", tmp_path / "cache"]
    words += ["--workers", "0", "--corrupt", "fewer:moderate"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    (corrupted,) = tmp_path.glob("cache/*fewer*")
    clean = lidar_record(list_semkitti(tmp_path / "raw").scans[0], DATASETS["semkitti"].table.info)
    with CacheReader.open(tmp_path / "cache", dataset=corrupted.name) as reader:
        record = reader.read(0, Fields(outside=True))
    assert (clean.n_raw, record.n_raw) == (60, 12)
    assert {*record.xyz[0].tolist()} <= {*clean.xyz[0].tolist()}


def test_a_corruption_that_nobody_offers_is_refused() -> None:
    del KNOWN["fewer"]
    with pytest.raises(ConfigError, match="unknown corruption 'fewer'"):
        parse_variants("fewer")
