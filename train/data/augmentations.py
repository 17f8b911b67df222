"""Augmentations of a scan's points. A new one is a function and a line in `AUGMENTATIONS`.

Rotation, flip, scale, shift and dropout, whose numbers `sampling.draw_scan` draws, are not among
them: a batch is moved as a whole on its device (`augment.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pass2d.corruptions.registry import CORRUPTIONS, SEVERITIES, Variant
from pass2d.train.data.corrupt import corrupted_record
from pass2d.train.data.scan import LoadedScan
from pass2d.train.data.static_moving import static_moving_switch


@dataclass(frozen=True)
class Augmentation:
    """An augmentation and what it needs."""

    function: Callable[[LoadedScan, np.random.Generator], LoadedScan]
    """(scan, rng) -> scan. Leaves its argument unchanged; draws from the generator alone, which is
    the same for the same seed, epoch and scan."""
    needs_instances: bool = False
    """Whether the scan's instance ids are read."""


def corrupt_scan(scan: LoadedScan, rng: np.random.Generator, *, name: str) -> LoadedScan:
    """Corrupt a scan, at each severity equally often."""
    variant = Variant(name=name, severity=SEVERITIES[int(rng.integers(len(SEVERITIES)))])
    record = corrupted_record(
        scan.record, variant=variant, seed=int(rng.integers(2**62)), info=scan.info
    )
    return replace(scan, record=record)


AUGMENTATIONS: dict[str, Augmentation] = {
    **{
        name: Augmentation(partial(corrupt_scan, name=name), needs_instances=True)
        for name in CORRUPTIONS
    },
    "static-moving-switch": Augmentation(static_moving_switch, needs_instances=True),
}
