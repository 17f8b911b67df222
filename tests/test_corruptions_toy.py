"""A corruption costs a file and a line: a made-up one beside those that there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

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


@dataclass(frozen=True, kw_only=True)
class FewerSettings:
    """How many points stay."""

    every: int


def fewer(cloud: Cloud, settings: FewerSettings, rng: np.random.Generator) -> Corrupted:
    """Keep every n-th point, from one that chance decides."""
    first = int(rng.integers(settings.every))
    return keep(cloud, np.arange(cloud.n) % settings.every == first)


FEWER = Corruption(name="fewer", settings=FewerSettings, apply=fewer, usual={"every": [2, 5, 10]})
WITH_TOY = (*KNOWN, FEWER)


@pytest.mark.parametrize("layout", ["semantickitti", "nuscenes"])
def test_a_corruption_has_its_severities_in_every_layout(layout: str) -> None:
    table = corruption_table(layout, WITH_TOY)
    cloud = Cloud(
        xyz=np.arange(300, dtype=np.float32).reshape(3, 100),
        signal=np.zeros(100, np.float32),
        sensor=table.sensor,
    )
    variants = parse_variants("fewer", WITH_TOY)
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
    assert len(parse_variants("all:heavy", WITH_TOY)) == len(KNOWN) + 1
    fog = Variant(name="fog", severity="heavy")
    plain, more = (corruption_table("nuscenes", known) for known in (KNOWN, WITH_TOY))
    assert plain.parameters(fog) == more.parameters(fog)


def test_a_corruption_that_nobody_offers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no corruption 'fewer'"):
        parse_variants("fewer")
