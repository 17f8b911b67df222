"""Mixes: what of a second scan joins the first. A new one is a function and a line in `MIXES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pass2d.train.data.scan import LoadedScan


@dataclass(frozen=True)
class Mix:
    """A mix and what it needs."""

    function: Callable[[LoadedScan, LoadedScan, np.random.Generator], LoadedScan]
    """(scan, partner, rng) -> scan. Leaves both unchanged; draws from the generator alone, which is
    the same for the same seed, epoch and scan."""
    partner: Literal["stored", "augmented"] = "stored"
    """"stored": the partner is as the cache holds it, and what joins the scan is augmented with it;
    "augmented": scan and partner have each their own augmentation."""
    needs_instances: bool = False
    """Whether the partner's instance ids are read."""
    takes_outside: bool = True
    """Whether the partner's points outside the volume are read too, for networks that see them."""


def copy_instances(scan: LoadedScan, partner: LoadedScan, _rng: np.random.Generator) -> LoadedScan:
    """Add all points of the partner that belong to an instance, as 2DPASS does."""
    return scan.joined(partner.kept(partner.instance != 0))


MIXES: dict[str, Mix] = {
    # The cache holds no instance ids of points outside the volume.
    "instance-copy": Mix(
        copy_instances, partner="augmented", needs_instances=True, takes_outside=False
    ),
}
