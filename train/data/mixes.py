"""Mixes of a scan with a second one. A new mix is a function and a line in `MIXES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.clouds.instance_bank import InstanceBank
from pass2d.train.data.placing import ground_places, thing_maps
from pass2d.train.data.scan import LoadedScan, whole_record
from pass2d.train.data.sectors import in_half_circle, pitch_bands, square_owners, turned_about_z

CUTMIX_LIMIT = 40
"""0 to 39 objects of each class, each number equally likely."""


@dataclass(frozen=True)
class Mix:
    """A mix and what it needs."""

    function: Callable[..., LoadedScan]
    """(scan, partner, rng) -> scan. Leaves both unchanged; draws from the generator alone, which is
    the same for the same seed, epoch and scan. With two partners (scan, first, second, rng)."""
    partner: Literal["stored", "augmented", "bank", "batch"] = "stored"
    """"stored": the partner is unaugmented, and its points are augmented together with the scan;
    "augmented": scan and partner each have their own augmentation; "bank": not a scan but the
    plan's `InstanceBank`, with unaugmented objects; "batch": a whole batch is mixed or not: its
    scans, each with its own augmentation, are merged in pairs."""
    n_partners: int = 1
    """1 or 2 other scans; 1 for "batch"."""
    needs_instances: bool = False
    """Whether the partner's instance ids are read."""
    takes_outside: bool = True
    """Whether the partner's points outside the volume are read too, for networks that see them."""


def copy_instances(scan: LoadedScan, partner: LoadedScan, _rng: np.random.Generator) -> LoadedScan:
    """Add all points of the partner that belong to an instance, as 2DPASS does."""
    return scan.joined(partner.kept(partner.instance != 0))


def laser_mix(scan: LoadedScan, partner: LoadedScan, rng: np.random.Generator) -> LoadedScan:
    """Take every second of 3 to 6 bands of pitch from the partner; the top one is the scan's."""
    low, high = _field_of_view(scan)
    n_bands = int(rng.choice(LASER_BANDS))

    def is_odd(xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
        return (pitch_bands(xyz, n_bands, low_rad=low, high_rad=high) & 1).astype(bool)

    return scan.mixed(~is_odd(scan.xyz), (partner, is_odd(partner.xyz)))


def polar_mix(scan: LoadedScan, partner: LoadedScan, rng: np.random.Generator) -> LoadedScan:
    """Swap half a turn with probability 1/2; paste the partner's movable objects three times."""
    swap, start, first, second = rng.uniform(0, 1, 4).tolist()
    own, added = None, list[tuple[LoadedScan, NDArray[np.bool_] | None]]()
    if swap < POLAR_SWAP:
        start_rad = (start - 1) * math.pi
        own = ~in_half_circle(scan.xyz, start_rad)
        added.append((partner, in_half_circle(partner.xyz, start_rad)))
    things = partner.kept(is_one_of(partner.label, partner.info.facts.movable))
    if things.n:
        turned = (
            things.moved_to(turned_about_z(things.xyz, turn * 2 * math.pi / 3))
            for turn in (first, 1 + second)
        )
        added += [(copy, None) for copy in (things, *turned)]
    return scan.mixed(own, *added)


def frustum_mix(scan: LoadedScan, partner: LoadedScan, rng: np.random.Generator) -> LoadedScan:
    """Take bands of pitch or half a turn from the partner, with equal probability."""
    if rng.uniform() < 0.5:
        return laser_mix(scan, partner, rng)
    start_rad = (rng.uniform() - 1) * math.pi
    own, others = (in_half_circle(xyz, start_rad) for xyz in (scan.xyz, partner.xyz))
    return scan.mixed(~own, (partner, others))


def pillar_mix(scan: LoadedScan, partner: LoadedScan, rng: np.random.Generator) -> LoadedScan:
    """Give each square of 7.5 m that the scan occupies to the scan or the partner."""
    own, others = square_owners((scan.xyz, partner.xyz), side_m=PILLAR_M, rng=rng)
    return scan.mixed(own, (partner, others))


def pillar_mix_three(
    scan: LoadedScan, first: LoadedScan, second: LoadedScan, rng: np.random.Generator
) -> LoadedScan:
    """As `pillar_mix`, with two partners."""
    clouds = [cloud.xyz for cloud in (scan, first, second)]
    own, of_first, of_second = square_owners(clouds, side_m=PILLAR_M, rng=rng)
    return scan.mixed(own, (first, of_first), (second, of_second))


def cut_mix(
    scan: LoadedScan, bank: InstanceBank, rng: np.random.Generator, *, limit: int = CUTMIX_LIMIT
) -> LoadedScan:
    """Place fewer than ``limit`` objects of each scarce class at random on the ground."""
    facts = scan.info.facts
    places = ground_places(scan.xyz, is_one_of(scan.label, facts.grounds), rng=rng)
    placed: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    n_free = places.shape[1]
    for class_id in facts.pasted:
        things = bank.of_class(class_id)
        if len(things):
            n = min(int(rng.integers(0, limit)), n_free)
            chosen = things[rng.integers(0, len(things), n)]
            placed.append((chosen, thing_maps(n, rng)))
            n_free -= n
    if n_free == places.shape[1]:
        return scan
    chosen = np.concatenate([numbers for numbers, _ in placed])
    maps = np.concatenate([of_class for _, of_class in placed])
    return scan.joined(_things(scan, bank, chosen, maps, places[:, : len(chosen)]))


def _things(
    scan: LoadedScan,
    bank: InstanceBank,
    chosen: NDArray[np.int64],
    maps: NDArray[np.float64],
    places: NDArray[np.float32],
) -> LoadedScan:
    """Objects of the bank as a scan of their own, which moves as `scan` does."""
    sizes = np.diff(bank.offsets)[chosen]
    # Rows of the bank, object by object: each object's first row, and on from there.
    thing = np.repeat(np.arange(len(chosen)), sizes)
    begin = np.cumsum(sizes) - sizes
    rows = np.arange(len(thing)) + (bank.offsets[chosen] - begin)[thing]
    x, y, z = bank.xyz.take(rows, axis=1)
    # No map mixes z with the others.
    a, b, c, d, height = np.repeat(maps.reshape(-1, 9)[:, [0, 1, 3, 4, 8]].T, sizes, axis=1)
    xyz = np.stack([a * x + b * y, c * x + d * y, height * z])
    xyz += np.repeat(places, sizes, axis=1)
    record = replace(
        whole_record(scan.record),
        n_raw=len(rows),
        xyz=xyz.astype(np.float32),
        signal=bank.signal[rows],
        raw_index=np.arange(len(rows), dtype=np.int32),
        label=bank.class_id[chosen][thing],
        instance=None if scan.record.instance is None else _new_ids(scan.instance, thing),
        time=None if scan.record.time is None else np.zeros(len(rows), np.float32),
        cameras=(),
        voxels=(),
        thinned=None,
    )
    return replace(scan, record=record, added=())


def _new_ids(used: NDArray[np.uint32], thing: NDArray[np.int64]) -> NDArray[np.uint32]:
    return (thing + 1 + int(used.max(initial=0))).astype(np.uint32)


def whole_scans(scan: LoadedScan, partner: LoadedScan, _rng: np.random.Generator) -> LoadedScan:
    """Two augmented scans as one, as Mix3D does."""
    return scan.joined(partner)


def is_one_of(label: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.bool_]:
    """(N,) whether a training id is one of these: a lookup, faster than `np.isin`."""
    return np.isin(np.arange(256), classes).take(label)


def _field_of_view(scan: LoadedScan) -> tuple[float, float]:
    low, high = scan.info.facts.pitch_deg
    return math.radians(low), math.radians(high)


LASER_BANDS = (3, 4, 5, 6)
POLAR_SWAP = 0.5
PILLAR_M = 7.5


MIXES: dict[str, Mix] = {
    # The cache holds no instance ids of points outside the volume.
    "instance-copy": Mix(
        copy_instances, partner="augmented", needs_instances=True, takes_outside=False
    ),
    "laser-mix": Mix(laser_mix),
    "polar-mix": Mix(polar_mix),
    "frustum-mix": Mix(frustum_mix),
    "pillar-mix": Mix(pillar_mix),
    "pillar-mix-3": Mix(pillar_mix_three, n_partners=2),
    "instance-cutmix": Mix(cut_mix, partner="bank", needs_instances=True),
    "mix3d": Mix(whole_scans, partner="batch"),
}
