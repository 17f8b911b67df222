"""Lists a raw data set as it was listed for a cache, for `cache plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pass2d.cache.manifest import Manifest
from pass2d.common.errors import CacheError, ConfigError, DataError
from pass2d.common.progress import Progress
from pass2d.pipeline.corrupted import corrupted_listings, variant_of
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.registry import DATASETS, Datasets
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.pipeline.source import SourceListing


def list_again(
    root: Path,
    manifest: Manifest | None,
    *,
    version: str | None,
    progress: Progress,
    datasets: Datasets = DATASETS,
) -> SourceListing:
    """List all of a raw data set with a cache's own settings: sweeps, neighbours, corruption, ...

    Args:
        root: the raw data set.
        manifest: of the cache; None before there is one: the settings that `prepare` has.
        version: of nuScenes, where several are in the root.
        progress: receives the reading of tables.
        datasets: those that are known.

    Raises:
        CacheError: the cache is of another data set than the root.
        ConfigError: a version is given of a data set that has none.
        DataError: as the readers of raw data sets.
    """
    info = None if manifest is None else manifest.info
    found = datasets.at(root) if root.is_dir() else None
    dataset = (found or datasets.default) if info is None else datasets.of(info)
    if found is not None and info is not None and found.layout.name != info.layout:
        raise CacheError(
            f"{root}: looks like {found.table.info.facts.title}, but data set {info.name} is of "
            f"{dataset.table.info.facts.title}. Give the `root` that it was made from, or another "
            "`dataset`."
        )
    if version is not None and not dataset.layout.has_versions:
        raise ConfigError(
            f"`version={version}`: {dataset.table.info.facts.title} has none: leave it out."
        )
    wanted = Wanted(
        version=version,
        stored_hw=_stored_hw(manifest, dataset.table),
        sweeps=0 if info is None else info.sweeps,
    )
    listing = dataset.list_scans(root, wanted, progress=progress)
    if info is not None:
        asked = replace(
            listing.info, drops_invalid=info.drops_invalid, has_thinned=info.has_thinned
        )
        listing = replace(listing, info=asked)
    if lost := [failed for failed in listing.failed if failed.container == "lidar"]:
        raise DataError(lost[0].reason)  # a scan that may be whole in the cache is not gone
    variant = None if info is None else variant_of(info)
    return listing if variant is None else corrupted_listings(listing, (variant,))[0]


def profile_of(manifest: Manifest | None) -> str:
    """The cache's profile; `prepare`'s own where there is none or more than one."""
    found = set() if manifest is None else set(manifest.tables.shards["profile"].to_pylist())
    return str(found.pop()) if len(found) == 1 else "speed"


def _stored_hw(manifest: Manifest | None, table: DatasetTable) -> tuple[int, int] | None:
    if manifest is None:
        return table.stored_hw
    containers, texts = (manifest.tables.shards[n].to_pylist() for n in ("stage", "parameters"))
    for container, text in zip(containers, texts, strict=True):
        if container == "camera":
            stored = json.loads(text).get("stored_hw")
            if stored is None:
                return None
            if not isinstance(stored, list) or [type(size) for size in stored] != [int, int]:
                raise CacheError(
                    f"shards.parquet: stored_hw is {stored!r:.40}, expected height and width. "
                    "Prepare again into a new `cache_root`."
                )
            return (stored[0], stored[1])
    return table.stored_hw
