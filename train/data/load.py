"""Loads scans from the cache as a recipe specifies: read, corrupted, mixed, augmented.

A scan is a function of (seed, epoch, scan), a batch one of (seed, epoch, step, scans), whichever
thread loads it, and when. Each mix and each augmentation has its own generator, so that adding or
removing one does not change the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pass2d.cache.fields import Fields
from pass2d.cache.reader import CacheReader
from pass2d.cache.reading.chunks import AllocateArray
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import CacheError
from pass2d.train.data.augmentations import AUGMENTATIONS
from pass2d.train.data.collate import place_crop
from pass2d.train.data.corrupt import corrupted_record
from pass2d.train.data.lattice import leaves_grid
from pass2d.train.data.mixes import MIXES, Mix
from pass2d.train.data.plan import Batch, StreamPlan, mix_partner
from pass2d.train.data.sampling import draw_scan, without_symmetry
from pass2d.train.data.scan import Crop, LoadedScan, Part, ScanDraw, whole_record, without_dropped
from pass2d.train.stacks.build import past_record, shared_voxels, with_time
from pass2d.train.stacks.choose import past_scans
from pass2d.train.stacks.predictions import earlier_classes

_PARTNER = 1
"""Salt of the draw for the partner in the first group of mixes; incremented for later groups."""
_MIXES, _EXTRA, _BATCH, _PAIR = 1, 2, 3, 4
"""Fifth number of a generator's seed; those of `draw_scan` have four."""


def load_batch(
    reader: CacheReader,
    plan: StreamPlan,
    batch: Batch,
    *,
    allocate: AllocateArray = np.empty,
    is_wanted: Callable[[], bool] = lambda: True,
) -> list[LoadedScan] | None:
    """Load the scans of a batch.

    Mixes of scans of the batch come last. Whether they are applied is drawn once for all scans of
    an optimizer step, so that ranks and accumulated batches agree. The first scan is then merged
    with the second, the third with the fourth; the last of an odd number stays alone.

    Args:
        reader: of the cache.
        plan: what the stream delivers.
        batch: which scans.
        allocate: gives the arrays to decode into.
        is_wanted: called before each scan.

    Returns:
        The scans, fewer than in the batch if pairs were merged; None: no longer wanted.

    Raises:
        CacheError: the cache is damaged or cannot be read; names scan and field.
    """
    mixes = _batch_mixes(plan, batch)
    source = _Source(
        reader=reader, plan=plan, epoch=batch.epoch, allocate=allocate, mixed_groups=set(mixes)
    )
    scans: list[LoadedScan] = []
    for place, position in enumerate(batch.positions.tolist()):
        if not is_wanted():
            return None
        # Scans that are added to another one have no pixels there: their pictures are not read.
        joins = place % 2 ** len(mixes) > 0
        scans.append(_load(replace(source, reads_pictures=not joins), position))
    for group, mix in mixes.items():
        scans = [
            _paired(source, scans[place : place + 2], group, mix)
            for place in range(0, len(scans), 2)
        ]
    return scans


def load_scan(
    reader: CacheReader,
    plan: StreamPlan,
    position: int,
    *,
    epoch: int,
    allocate: AllocateArray = np.empty,
) -> LoadedScan:
    """Load one scan of the plan, without mixes that take their partner from the batch.

    Mixes with stored partners come first, then the augmentations of `augment.extra`, then the
    mixes with augmented partners; dropout and movement follow when the batch is put together.

    Args:
        reader: of the cache.
        plan: what the stream delivers.
        position: row in the scan table.
        epoch: of the draw.
        allocate: gives the arrays to decode into.

    Raises:
        CacheError: the cache is damaged or cannot be read; names scan and field.
    """
    return _load(_Source(reader=reader, plan=plan, epoch=epoch, allocate=allocate), position)


def _load(source: _Source, position: int) -> LoadedScan:
    scan = _stacked(source, _own_scan(source, position))
    chosen = [
        mix
        for group, names in enumerate(source.plan.augment.mixes)
        if (mix := _choose(source, scan, group, names)) is not None
    ]
    for mix in chosen:
        if mix.entry.partner != "augmented":
            scan = _mixed(source, scan, mix)
    scan = _augmented(source, scan)
    for mix in chosen:
        if mix.entry.partner == "augmented":
            scan = _mixed(source, scan, mix)
    return scan


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where scans come from."""

    reader: CacheReader
    plan: StreamPlan
    epoch: int
    allocate: AllocateArray
    mixed_groups: Collection[int] = ()
    """Groups of mixes in which a batch mix was drawn, so that none is drawn for the scan."""
    reads_pictures: bool = True

    def draw(self, position: int, *, seed: int, salt: int = 0) -> ScanDraw:
        return draw_scan(
            self.plan.augment,
            seed=seed,
            epoch=self.epoch,
            scan=position,
            grid=self.reader.info.grid,
            salt=salt,
        )

    def read(
        self, position: int, fields: Fields, *, columns: tuple[int, int] | None = None
    ) -> ScanRecord:
        try:
            record = self.reader.read(position, fields, columns=columns, allocate=self.allocate)
        except OSError as error:
            scan = self.reader.scans.scan_id[position]
            wanted = [name for name, value in vars(fields).items() if value is True]
            raise CacheError(
                f"{self.reader.root}: scan {scan}: reading xyz, signal, {', '.join(wanted)} "
                f"failed: {error}. Run `verify`."
            ) from error
        return without_dropped(record) if self.reader.info.drops_invalid else record

    def corrupted(self, record: ScanRecord, draw: ScanDraw) -> ScanRecord:
        if draw.corruption is None:
            return record
        return corrupted_record(
            record, variant=draw.corruption, seed=draw.corruption_seed, info=self.reader.info
        )

    @property
    def extra_needs_instances(self) -> bool:
        return any(AUGMENTATIONS[name].needs_instances for name in self.plan.augment.extra)

    @property
    def pairs_need_instances(self) -> bool:
        return any(
            MIXES[name].needs_instances and MIXES[name].partner == "batch"
            for mix in self.plan.augment.mixes
            for name in mix
        )

    @property
    def mixes_need_instances(self) -> bool:
        return any(MIXES[name].needs_instances for mix in self.plan.augment.mixes for name in mix)


class _ChosenMix(NamedTuple):
    """A mix that was drawn for a scan."""

    entry: Mix
    group: int
    """Its group's place in `AugmentConfig.mixes`."""
    share: float
    """0..1: picks the partner."""
    rng: np.random.Generator
    """For the mix itself."""


def _own_scan(source: _Source, position: int) -> LoadedScan:
    """The scan itself: its picture cropped, corrupted where mode noise says so."""
    reader, plan = source.reader, source.plan
    draw = source.draw(position, seed=plan.seed)
    camera, crop = _camera_and_crop(source, position, draw)
    fields = Fields(
        label=True,
        instance=draw.corruption is not None
        or source.extra_needs_instances
        or source.pairs_need_instances,
        image=crop is not None,
        pixels=crop is not None,
        camera=camera,
        voxels=bool(plan.scales),
        outside=plan.with_outside,
        thinned=plan.thinning is not None and plan.thinning.is_stored,
    )
    record = source.read(position, fields, columns=None if crop is None else crop.columns)
    record = source.corrupted(record, draw)
    if plan.scales:
        levels = tuple(level for level in record.voxels if level.scale in plan.scales)
        record = replace(record, voxels=levels)
        if draw.symmetry and leaves_grid(levels, reader.info.grid):
            draw = without_symmetry(draw)
    return LoadedScan(position=position, info=reader.info, record=record, draw=draw, crop=crop)


def _stacked(source: _Source, scan: LoadedScan) -> LoadedScan:
    """A scan followed by its past ones in its frame; each drops points by its own draw."""
    reader, plan, draw = source.reader, source.plan, scan.draw
    stack = plan.stack
    if not stack.past:
        return scan
    needs_instances = source.extra_needs_instances or source.mixes_need_instances
    fields = Fields(instance=draw.corruption is not None or needs_instances, outside=True)
    parts = []
    shares = stack.points == "shared-voxels"
    shared = shared_voxels(whole_record(scan.record).xyz, stack) if shares else None
    for past in past_scans(reader.scans, scan.position, stack):
        record = source.corrupted(source.read(past.position, fields), draw)
        record = past_record(
            record,
            past,
            config=stack,
            shared=shared,
            classes=earlier_classes(reader, past.position, record, stack),
            volume=None if plan.with_outside else reader.info.grid,
        )
        if stack.loss == "current" and record.label is not None:
            record = replace(record, label=np.zeros_like(record.label))
        seed = (draw.point_seed + past.lag) % 2**62
        parts.append(Part(record=record, draw=replace(draw, point_seed=seed), lag=past.lag))
    return replace(scan, record=with_time(scan.record, stack), added=(*parts, *scan.added))


def _camera_and_crop(
    source: _Source, position: int, draw: ScanDraw
) -> tuple[int | None, Crop | None]:
    """Which camera's picture is read, None for all, and which part of it; None without pictures."""
    plan, image_hw = source.plan, source.reader.scans.camera_hw[position]
    cameras = np.flatnonzero(image_hw[:, 0])
    if plan.size_hw is None or not len(cameras) or not source.reads_pictures:
        return None, None
    drawn = int(cameras[min(int(draw.camera_share * len(cameras)), len(cameras) - 1)])
    height, width = (int(side) for side in image_hw[drawn])
    crop = place_crop(plan.size_hw, image_hw=(height, width), share=draw.crop_share)
    return drawn if plan.augment.cameras == "one" else None, crop


def _choose(
    source: _Source, scan: LoadedScan, group: int, names: Mapping[str, float]
) -> _ChosenMix | None:
    """At most one mix of a group, each with its probability."""
    if group in source.mixed_groups:
        return None
    seed = [source.plan.seed, source.epoch, scan.position, group, _MIXES]
    rng = np.random.default_rng(seed)
    pick, share = rng.uniform(0, 1, 2).tolist()
    if group == 0:
        share = scan.draw.partner_share
    # The batch was not mixed: what is left of the probability is shared by the mixes of scans.
    of_batch = _of_batch(names)
    name = _pick(
        {name: p for name, p in names.items() if name not in of_batch},
        pick * (1 - sum(of_batch.values())),
    )
    return None if name is None else _ChosenMix(MIXES[name], group, share, rng)


def _batch_mixes(plan: StreamPlan, batch: Batch) -> dict[int, Mix]:
    """The mixes that were drawn for a batch, by their groups: at most one of each."""
    drawn: dict[int, Mix] = {}
    for group, names in enumerate(plan.augment.mixes):
        rng = np.random.default_rng([plan.seed, batch.epoch, batch.step, group, _BATCH])
        if (name := _pick(_of_batch(names), rng.uniform())) is not None:
            drawn[group] = MIXES[name]
    return drawn


def _of_batch(names: Mapping[str, float]) -> dict[str, float]:
    return {name: p for name, p in names.items() if MIXES[name].partner == "batch"}


def _pick(names: Mapping[str, float], pick: float) -> str | None:
    """One of several names, each with its probability, by a number in 0..1."""
    for name, probability in names.items():
        pick -= probability
        if pick < 0:
            return name
    return None


def _paired(source: _Source, scans: list[LoadedScan], group: int, mix: Mix) -> LoadedScan:
    """Merge two scans of a batch; a single one is returned unchanged."""
    if len(scans) == 1:
        return scans[0]
    first, second = scans
    rng = np.random.default_rng([source.plan.seed, source.epoch, first.position, group, _PAIR])
    mixed = mix.function(first, second, rng)
    paired = (*first.paired, second.position, *second.paired)
    return replace(mixed if mixed.n else first, paired=paired)


def _mixed(source: _Source, scan: LoadedScan, mix: _ChosenMix) -> LoadedScan:
    """The scan after a mix; the scan itself if the plan has no other, or nothing would be left."""
    plan, entry = source.plan, mix.entry
    if entry.partner == "bank":
        return scan if plan.bank is None else entry.function(scan, plan.bank, mix.rng)
    other = mix_partner(plan, scan.position, mix.share, epoch=source.epoch)
    if other is None:
        return scan
    partners = [_partner(source, scan, mix, other)]
    if entry.n_partners == 2:
        share = mix.rng.uniform()
        third = mix_partner(plan, scan.position, share, epoch=source.epoch, taken=other)
        assert third is not None
        partners.append(_partner(source, scan, mix, third))
    if entry.partner == "augmented":
        mixed = entry.function(scan, *partners, mix.rng)
        return mixed if mixed.n else scan
    whole = scan.whole()  # a mix looks at the points more than once
    mixed = entry.function(whole, *(partner.whole() for partner in partners), mix.rng)
    return scan if mixed is whole or not mixed.n else mixed


def _partner(source: _Source, scan: LoadedScan, mix: _ChosenMix, position: int) -> LoadedScan:
    """Another scan as the mix wants it: as stored, or augmented in its own way."""
    plan, entry = source.plan, mix.entry
    is_augmented = entry.partner == "augmented"
    fields = Fields(
        label=True,
        instance=entry.needs_instances or (is_augmented and source.extra_needs_instances),
        outside=plan.with_outside and entry.takes_outside,
    )
    record = source.read(position, fields)
    draw = scan.draw
    seed = plan.seed + draw.point_seed  # each scan sees its partner augmented in its own way
    if is_augmented:
        draw = source.draw(position, seed=seed, salt=_PARTNER + mix.group)
        record = source.corrupted(record, draw)
    partner = LoadedScan(
        position=position, info=source.reader.info, record=record, draw=draw, crop=None
    )
    partner = _stacked(source, partner)
    if is_augmented:
        partner = _augmented(source, partner, seed=seed, salt=_PARTNER + mix.group)
    return partner


def _augmented(
    source: _Source, scan: LoadedScan, *, seed: int | None = None, salt: int = 0
) -> LoadedScan:
    """The scan after the augmentations of `augment.extra`, in the recipe's order."""
    seed = source.plan.seed if seed is None else seed
    for name, probability in source.plan.augment.extra.items():
        number = zlib.crc32(name.encode())
        rng = np.random.default_rng([seed, source.epoch, scan.position, salt, _EXTRA, number])
        if rng.uniform() < probability:
            after = AUGMENTATIONS[name].function(scan, rng)
            scan = after if after.n else scan
    return scan
