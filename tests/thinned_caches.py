"""Caches with stored neighbours, those of `prepare` or others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pass2d.cache.fields import Fields
from pass2d.cache.layout import Layout
from pass2d.cache.reader import CacheReader
from pass2d.cache.writing.writer import write_thinned_shard
from pass2d.common.progress import Silent
from pass2d.common.thinning import ThinnedScan
from pass2d.pipeline.prepare import PrepareConfig, prepare
from pass2d.pipeline.run.jobs import thinned_header
from pass2d.pipeline.source import SourceListing
from pass2d.pipeline.stages.thinning import thin_raw_scan

INLINE = PrepareConfig(workers=0, shard_scans=2)


def with_thinned(listing: SourceListing) -> SourceListing:
    """As `prepare --neighbours`."""
    return replace(listing, info=replace(listing.info, has_thinned=True))


def prepare_changed(
    listing: SourceListing, out: Path, change: Callable[[ThinnedScan], ThinnedScan]
) -> None:
    """Prepare with other neighbours than the stage finds, under the keys of the right ones."""
    prepare(listing, out, INLINE, Silent())
    with CacheReader.open(out) as reader:
        keys = reader._shards.keys()
        for shard, key in ((shard, key) for container, shard, key in keys if container == "lidar"):
            places = [p for p, s in enumerate(reader.scans.shard.tolist()) if s == shard]
            scans = []
            for place in places:
                record = reader.read(place, Fields(outside=True))
                found = thin_raw_scan(record.raw().points[:, :3].T)
                assert found is not None
                scans.append(change(found))
            write_thinned_shard(
                Layout(root=out),
                shard=shard,
                header=thinned_header(lidar_key=key, profile="speed"),
                scan_ids=reader.scans.scan_id[places].tolist(),
                scans=scans,
            )
    assert prepare(with_thinned(listing), out, INLINE, Silent()).written_shards == 0
