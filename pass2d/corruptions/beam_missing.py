"""Beam missing: some lasers are dead or covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pass2d.corruptions.beams import beam_count, beams_of
from pass2d.corruptions.cloud import Cloud, Corrupted, keep
from pass2d.corruptions.corruption import Corruption


@dataclass(frozen=True, kw_only=True)
class BeamMissingSettings:
    """How many beams are missing."""

    draws: int
    """Beams drawn, with replacement: fewer may be missing."""
    beam_range: tuple[int, int]
    """First and last beam that may be drawn. Both, and ``draws``, are meant for ``sensor.beams``; a
    scan that shows another number of beams gets the same shares."""


def beam_missing(
    cloud: Cloud, settings: BeamMissingSettings, rng: np.random.Generator
) -> Corrupted:
    """Drop whole beams.

    Source: Kong et al., Robo3D, ICCV 2023.
    """
    beam = beams_of(cloud)
    share = beam_count(beam) / cloud.sensor.beams
    first, last = (round(bound * share) for bound in settings.beam_range)
    missing = rng.integers(first, max(first, last) + 1, round(settings.draws * share))
    is_missing = np.zeros(max(beam_count(beam), last + 1), bool)
    is_missing[missing] = True
    return keep(cloud, ~is_missing[beam])


CORRUPTION = Corruption(name="beam_missing", settings=BeamMissingSettings, apply=beam_missing)
