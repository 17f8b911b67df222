"""Mixes and an augmentation as a user would add them: functions here, a line each in the tables."""

from __future__ import annotations

import numpy as np

from pass2d.train.data.scan import LoadedScan


def swap_sides(scan: LoadedScan, partner: LoadedScan, rng: np.random.Generator) -> LoadedScan:
    """Half of the plane from each scan: what lies to one side of a line through the sensor."""
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])
    return scan.kept(normal @ scan.xyz[:2] >= 0).joined(partner.kept(normal @ partner.xyz[:2] < 0))


def add_all(scan: LoadedScan, partner: LoadedScan, _rng: np.random.Generator) -> LoadedScan:
    """Two scans as one."""
    return scan.joined(partner)


def lift(scan: LoadedScan, rng: np.random.Generator) -> LoadedScan:
    """Raise a scan by up to half a metre."""
    shift_m = np.array([[0], [0], [rng.uniform(0, 0.5)]], np.float32)
    return scan.moved_to(scan.xyz + shift_m)
